//! Generated files: write them, or find the stale ones.

use std::path::{Path, PathBuf};

use anyhow::Context;

/// One generated file.
#[derive(Debug)]
pub struct Page {
    /// Relative to the folder of monitoring.
    pub path: PathBuf,
    pub text: String,
}

impl Page {
    pub fn new(path: impl Into<PathBuf>, text: impl Into<String>) -> Self {
        Self { path: path.into(), text: text.into() }
    }
}

/// Writes the files that are not yet as they should be.
///
/// # Errors
/// A folder or a file cannot be written.
pub fn write(dir: &Path, pages: &[Page]) -> anyhow::Result<()> {
    for page in pages {
        let path = dir.join(&page.path);
        if is_current(&path, page) {
            continue;
        }
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        std::fs::write(&path, &page.text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("wrote {}", path.display());
    }
    Ok(())
}

/// The files that are not what would be written now.
pub fn stale(dir: &Path, pages: &[Page]) -> Vec<PathBuf> {
    pages
        .iter()
        .map(|page| (dir.join(&page.path), page))
        .filter(|(path, page)| !is_current(path, page))
        .map(|(path, _)| path)
        .collect()
}

fn is_current(path: &Path, page: &Page) -> bool {
    std::fs::read_to_string(path).is_ok_and(|text| text == page.text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_stale_until_it_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let pages = [Page::new("a/b.yml", "text")];
        assert_eq!(stale(dir.path(), &pages), [dir.path().join("a/b.yml")]);
        write(dir.path(), &pages).unwrap();
        assert!(stale(dir.path(), &pages).is_empty());
        std::fs::write(dir.path().join("a/b.yml"), "edited by hand").unwrap();
        assert_eq!(stale(dir.path(), &pages).len(), 1);
    }
}
