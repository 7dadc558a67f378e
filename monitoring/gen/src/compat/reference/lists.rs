//! The two lists as they are written.

use std::path::Path;

use anyhow::Context;
use serde::Deserialize;
use serde::de::DeserializeOwned;

pub fn read<T: DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_saphyr::from_str(&text).with_context(|| format!("{} is not as expected", path.display()))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stack {
    pub stack: u8,
    pub title: String,
    pub guide: String,
    pub names: Vec<Name>,
    pub panels: Vec<Row>,
    pub alerts: Vec<Row>,
    pub commands: Vec<Row>,
    pub addresses: Vec<Row>,
    pub credentials: Vec<Row>,
    pub files: Vec<Row>,
    pub settings: Vec<Row>,
    pub dashboards: Vec<Row>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Name {
    pub printed: String,
    /// Where it comes from, if not from the table of names.
    pub here: Option<String>,
}

impl Name {
    /// Without the labels that the guide prints.
    pub fn bare(&self) -> &str {
        self.printed.split('{').next().unwrap_or_default()
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    pub printed: String,
    here: Option<String>,
    panel: Option<String>,
    alert: Option<String>,
    /// Must exist; looked at by the tests.
    #[serde(rename = "file")]
    _file: Option<String>,
    /// Run by the tests.
    #[serde(rename = "run")]
    _run: Option<String>,
}

impl Row {
    /// What forebay has for it.
    pub fn answer(&self) -> String {
        let named = match (&self.panel, &self.alert) {
            (Some(panel), _) => {
                let (dashboard, title) = panel.split_once('/').unwrap_or(("", panel));
                Some(format!("panel \"{title}\" of `{dashboard}`"))
            }
            (None, Some(alert)) => Some(format!("[`{alert}`](../../docs/runbooks/{alert}.md)")),
            (None, None) => None,
        };
        [named, self.here.clone()].into_iter().flatten().collect::<Vec<_>>().join("; ")
    }
}

/// What a printed query is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AsPrinted {
    Valid,
    Misleading,
    Invalid,
    Words,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Query {
    #[serde(rename = "id")]
    _id: String,
    pub stack: u8,
    #[serde(rename = "under")]
    _under: String,
    pub says: String,
    pub printed: String,
    pub as_printed: AsPrinted,
    pub query: Option<String>,
    #[serde(rename = "left_side")]
    _left_side: Option<String>,
    why: Option<String>,
    #[serde(rename = "agrees")]
    _agrees: String,
}

impl Query {
    pub fn why(&self) -> &str {
        self.why.as_deref().unwrap_or_default()
    }
}
