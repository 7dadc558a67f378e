//! `values.yml`: every threshold and duration of the rules, in one place.

use std::path::Path;

use anyhow::Context;
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Values {}

impl Values {
    /// # Errors
    /// The file cannot be read, or something in it is missing, unknown or of the wrong type.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_saphyr::from_str(&text).with_context(|| format!("{} is not as expected", path.display()))
    }
}
