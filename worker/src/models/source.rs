//! Where a model comes from: a folder, the Hugging Face hub, or one of the built-in encoders.

use std::path::{Path, PathBuf};

use super::SimulatedConfig;

/// What to load. Parsed from the one string a worker is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelSource {
    /// A folder in Hugging Face layout.
    Folder(PathBuf),
    /// A repository on the hub (or in its local cache), at a revision (branch, tag or commit; the main branch if none).
    Hub { id: String, revision: Option<String> },
    /// Answers without computing: measures everything around the engine.
    Identity,
    /// Answers like `Identity` after a while: a device of known speed.
    Simulated(SimulatedConfig),
}

impl ModelSource {
    /// `identity` and `simulated` are built in; an existing folder, or anything that looks like a path, is a folder;
    /// the rest is a hub id, optionally `owner/name@revision`.
    pub fn parse(text: &str) -> Self {
        match text {
            "identity" => return Self::Identity,
            "simulated" => return Self::Simulated(SimulatedConfig::default()),
            _ => {}
        }
        let is_path = text.starts_with(['/', '.', '~']) || text.ends_with('/') || text.matches('/').count() > 1;
        if is_path || Path::new(text).is_dir() {
            return Self::Folder(expand_home(text));
        }
        match text.split_once('@') {
            Some((id, revision)) => Self::Hub { id: id.to_owned(), revision: Some(revision.to_owned()) },
            None => Self::Hub { id: text.to_owned(), revision: None },
        }
    }
}

fn expand_home(text: &str) -> PathBuf {
    match (text.strip_prefix("~/"), std::env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_says_where_a_model_comes_from() {
        let hub =
            |id: &str, revision: Option<&str>| ModelSource::Hub { id: id.into(), revision: revision.map(Into::into) };
        assert_eq!(ModelSource::parse("identity"), ModelSource::Identity);
        assert!(matches!(ModelSource::parse("simulated"), ModelSource::Simulated(_)));
        assert_eq!(ModelSource::parse("owner/name"), hub("owner/name", None));
        assert_eq!(ModelSource::parse("owner/name@v2"), hub("owner/name", Some("v2")));
        assert_eq!(ModelSource::parse("./owner/name"), ModelSource::Folder("./owner/name".into()));
        assert_eq!(ModelSource::parse("/no/such/folder"), ModelSource::Folder("/no/such/folder".into()));
        assert_eq!(ModelSource::parse("models/of/mine"), ModelSource::Folder("models/of/mine".into()));
    }
}
