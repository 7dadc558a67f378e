//! `forebay reference`: the pages that are written from the code, so that they cannot say anything else.
//!
//! `--check` writes nothing and names the pages that are not what the code would write now.

mod settings;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

#[derive(Args, Debug)]
pub struct ReferenceArgs {
    /// Write nothing; list the pages that are stale and fail if there are any.
    #[arg(long)]
    check: bool,
    /// Folder of the pages.
    #[arg(default_value = "docs/reference", value_name = "DIR")]
    dir: PathBuf,
}

fn pages() -> [(&'static str, String); 2] {
    [("settings.md", settings::markdown()), ("metrics.md", forebay_shared::metrics::reference_markdown())]
}

pub fn run(args: &ReferenceArgs) -> anyhow::Result<ExitCode> {
    let paths = pages().map(|(name, text)| (args.dir.join(name), text));
    let stale: Vec<_> =
        paths.iter().filter(|(path, text)| std::fs::read_to_string(path).ok().as_ref() != Some(text)).collect();
    if args.check {
        for (path, _) in &stale {
            println!("{} is stale; run `forebay reference {}`", path.display(), args.dir.display());
        }
        return Ok(if stale.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    std::fs::create_dir_all(&args.dir).with_context(|| format!("cannot create {}", args.dir.display()))?;
    for (path, text) in stale {
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("wrote {}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_stale_until_they_are_written() {
        let dir = tempfile::tempdir().unwrap();
        let args = |check| ReferenceArgs { check, dir: dir.path().join("reference") };
        assert_eq!(run(&args(true)).unwrap(), ExitCode::FAILURE);
        assert_eq!(run(&args(false)).unwrap(), ExitCode::SUCCESS);
        assert_eq!(run(&args(true)).unwrap(), ExitCode::SUCCESS);
        std::fs::write(dir.path().join("reference/settings.md"), "edited by hand").unwrap();
        assert_eq!(run(&args(true)).unwrap(), ExitCode::FAILURE);
    }
}
