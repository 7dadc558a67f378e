//! The names of other stacks, recorded from ours: one file of rules per stack, and the page that lists what each guide
//! prints beside what forebay has for it.

mod reference;
mod rules;

use std::path::Path;

use crate::output::Page;

/// `dir` is the folder of monitoring.
pub fn pages(dir: &Path) -> anyhow::Result<Vec<Page>> {
    let mut pages = rules::pages()?;
    pages.push(reference::page(dir)?);
    Ok(pages)
}
