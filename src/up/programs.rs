//! Finding the programs of others that `up` runs beside its own.

use std::path::{Path, PathBuf};

use anyhow::bail;

/// A program that somebody else has made.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    pub name: &'static str,
    pub flag: &'static str,
    pub env: &'static str,
}

impl Program {
    /// The binary to run: the one named, else on PATH, else where `make setup` puts it.
    ///
    /// # Errors
    /// One line that says what to do when there is none.
    pub fn find(&self, named: Option<&Path>) -> anyhow::Result<PathBuf> {
        let Self { name, flag, env } = self;
        if let Some(path) = named {
            if !path.is_file() {
                bail!("there is no {name} at {}; correct {flag} / {env}", path.display());
            }
            return Ok(std::path::absolute(path)?);
        }
        let on_path =
            std::env::var_os("PATH").into_iter().flat_map(|path| std::env::split_paths(&path).collect::<Vec<_>>());
        // target/release/forebay → the project's .cache
        let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("../../.cache/bin")));
        let folders = on_path.chain([PathBuf::from(".cache/bin")]).chain(beside);
        match folders.map(|folder| folder.join(name)).find(|path| path.is_file()) {
            Some(path) => Ok(path.canonicalize()?),
            None => bail!(
                "cannot find {name} on PATH or in .cache/bin; run `make setup`, or install it and set {env} to its path"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Program = Program { name: "no-such-program", flag: "--it", env: "FOREBAY_IT" };

    #[test]
    fn what_is_not_there_is_reported_with_a_remedy() {
        let named = NONE.find(Some(Path::new("/no/such/file"))).unwrap_err().to_string();
        assert_eq!(named, "there is no no-such-program at /no/such/file; correct --it / FOREBAY_IT");
        let searched = NONE.find(None).unwrap_err().to_string();
        assert!(searched.ends_with("run `make setup`, or install it and set FOREBAY_IT to its path"), "{searched}");
    }
}
