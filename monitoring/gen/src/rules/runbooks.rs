//! Every alert has a page in docs/runbooks, and every page there belongs to an alert.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Context;

/// The page that lists them.
const INDEX: &str = "README";

/// One line for each page or alert that is alone.
///
/// # Errors
/// The folder cannot be read.
pub fn faults(folder: &Path, alerts: &BTreeSet<&'static str>) -> anyhow::Result<Vec<String>> {
    let reading = || format!("cannot read {}", folder.display());
    let mut pages = BTreeSet::new();
    for entry in std::fs::read_dir(folder).with_context(reading)? {
        let name = entry.with_context(reading)?.file_name().to_string_lossy().into_owned();
        if let Some(stem) = name.strip_suffix(".md")
            && stem != INDEX
        {
            pages.insert(stem.to_owned());
        }
    }
    let without = alerts.iter().filter(|alert| !pages.contains(**alert));
    let left = pages.iter().filter(|page| !alerts.contains(page.as_str()));
    let path = |name: &str| folder.join(format!("{name}.md")).display().to_string();
    Ok(without
        .map(|alert| format!("{} is missing: every alert has a page", path(alert)))
        .chain(left.map(|page| format!("{} belongs to no alert", path(page))))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alert_without_a_page_and_a_page_without_an_alert_are_found() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["A.md", "C.md", "README.md"] {
            std::fs::write(dir.path().join(name), "text").unwrap();
        }
        let faults = faults(dir.path(), &BTreeSet::from(["A", "B"])).unwrap();
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(faults[0].contains("B.md is missing") && faults[1].contains("C.md belongs to no alert"));
    }
}
