//! What `--model` names, seen from outside a worker: the name that clients use, and whether the files are there at all.
//!
//! Looks at names and sizes only; whether a file makes sense is found out by the worker that loads it.

use std::fs::File;
use std::path::{Path, PathBuf};

use forebay_worker::models::ModelSource;

const DEMO_FOLDER: &str = ".cache/models/all-MiniLM-L6-v2";
const DEMO_ID: &str = "sentence-transformers/all-MiniLM-L6-v2";

/// One value of `--model`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// What a worker is started with.
    pub source: String,
    /// What clients ask for.
    pub name: String,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Folder(PathBuf),
    Hub,
    BuiltIn,
}

impl Model {
    pub fn parse(source: &str) -> Self {
        let (name, kind) = match ModelSource::parse(source) {
            ModelSource::Folder(path) => {
                let last =
                    path.canonicalize().ok().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
                (last.unwrap_or_else(|| source.to_owned()), Kind::Folder(path))
            }
            ModelSource::Hub { id, .. } => (id, Kind::Hub),
            ModelSource::Identity | ModelSource::Simulated(_) => (source.to_owned(), Kind::BuiltIn),
        };
        Self { source: source.to_owned(), name, kind }
    }

    /// A small model that was fetched before, else the same from the hub.
    pub fn demo() -> Self {
        Self::parse(if Path::new(DEMO_FOLDER).is_dir() { DEMO_FOLDER } else { DEMO_ID })
    }

    /// What is missing in the model's folder; nothing for what a worker brings along or downloads.
    pub fn problem(&self) -> Option<String> {
        match &self.kind {
            Kind::Folder(path) => folder_problem(path),
            Kind::Hub | Kind::BuiltIn => None,
        }
    }

    pub fn is_folder(&self) -> bool {
        matches!(self.kind, Kind::Folder(_))
    }

    pub fn is_built_in(&self) -> bool {
        matches!(self.kind, Kind::BuiltIn)
    }
}

fn folder_problem(folder: &Path) -> Option<String> {
    let shown = folder.display();
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => return Some(format!("cannot read the model folder {shown}: {error}")),
    };
    for name in ["config.json", "tokenizer.json"] {
        if let Err(error) = File::open(folder.join(name)) {
            return Some(format!("cannot read {shown}/{name}: {error}"));
        }
    }
    let weights =
        entries.flatten().map(|entry| entry.path()).find(|path| path.extension() == Some("safetensors".as_ref()));
    match weights {
        None => Some(format!("there is no *.safetensors in {shown}")),
        Some(path) => match File::open(&path) {
            Ok(_) => None,
            Err(error) => Some(format!("cannot read {}: {error}", path.display())),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_served_under_its_folders_name_or_its_hub_id() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("my-model");
        std::fs::create_dir(&folder).unwrap();
        assert_eq!(Model::parse(&format!("{}/", folder.display())).name, "my-model");
        assert_eq!(Model::parse("owner/name@main").name, "owner/name");
        assert_eq!(Model::parse("identity").name, "identity");
    }

    #[test]
    fn the_first_missing_file_of_a_folder_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let model = Model::parse(&dir.path().display().to_string());
        assert!(model.problem().unwrap().contains("config.json"));
        std::fs::write(dir.path().join("config.json"), "{}").unwrap();
        assert!(model.problem().unwrap().contains("tokenizer.json"));
        std::fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
        assert!(model.problem().unwrap().contains("safetensors"));
        std::fs::write(dir.path().join("model.safetensors"), "").unwrap();
        assert_eq!(model.problem(), None);
    }
}
