//! Models and answers that the binary brings along, so that it can test a device on a machine that has nothing else.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Deserialize;
use tempfile::TempDir;

/// The served name of the fixture that is inside the binary.
pub const TINY: &str = "tiny-bert-embed";

/// A model whose answers are inside the binary while its weights are not: 90 MB are too many.
const MINILM: &str = "all-MiniLM-L6-v2";
/// sha256 of its `model.safetensors`: it is recognised under any name.
const MINILM_DIGEST: &str = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db";

macro_rules! fixture {
    ($path:literal) => {
        include_bytes!(concat!("../../../tests/fixtures/", $path))
    };
}

const FILES: [(&str, &[u8]); 6] = [
    ("config.json", fixture!("tiny-bert-embed/config.json")),
    ("model.safetensors", fixture!("tiny-bert-embed/model.safetensors")),
    ("modules.json", fixture!("tiny-bert-embed/modules.json")),
    ("sentence_bert_config.json", fixture!("tiny-bert-embed/sentence_bert_config.json")),
    ("tokenizer.json", fixture!("tiny-bert-embed/tokenizer.json")),
    ("1_Pooling/config.json", fixture!("tiny-bert-embed/1_Pooling/config.json")),
];
const TINY_ANSWERS: &[u8] = fixture!("tiny-bert-embed/expected.json");
const MINILM_ANSWERS: &[u8] = fixture!("minilm/expected.json");

/// What the reference implementation answers.
#[derive(Debug, Clone, Deserialize)]
pub struct References {
    /// Whose answers these are: the name of a model's folder.
    #[serde(default)]
    pub model: Option<String>,
    pub rows: Vec<ReferenceRow>,
}

/// One text with its answer.
#[derive(Debug, Clone, Deserialize)]
pub struct ReferenceRow {
    pub text: String,
    /// Token ids, where they are told.
    #[serde(default)]
    pub ids: Vec<u32>,
    /// Number of tokens, where it is told.
    #[serde(default)]
    pub tokens: usize,
    pub embedding: Vec<f32>,
}

impl References {
    fn parse(text: &[u8]) -> anyhow::Result<Self> {
        let parsed: Self = serde_json::from_slice(text)?;
        anyhow::ensure!(!parsed.rows.is_empty(), "there are no rows");
        Ok(parsed)
    }

    /// # Errors
    /// If the file cannot be read or is not what `tests/fixtures/minilm/expected.json` is.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let read = || Self::parse(&std::fs::read(path)?);
        read().with_context(|| format!("cannot use the references {}", path.display()))
    }

    /// Those inside the binary for the model inside the binary.
    ///
    /// # Errors
    /// Never in a binary that was built from its repository.
    pub fn tiny() -> anyhow::Result<Self> {
        Self::parse(TINY_ANSWERS)
    }

    /// Those inside the binary for a model outside of it, if they are there.
    ///
    /// # Errors
    /// As above.
    pub fn known(name: &str, weights_digest: &str) -> anyhow::Result<Option<Self>> {
        let is_minilm = name.rsplit('/').next() == Some(MINILM) || weights_digest == MINILM_DIGEST;
        is_minilm.then(|| Self::parse(MINILM_ANSWERS)).transpose()
    }
}

/// Texts for a model that nobody has references for.
pub fn texts() -> anyhow::Result<Vec<String>> {
    Ok(References::parse(MINILM_ANSWERS)?.rows.into_iter().map(|row| row.text).collect())
}

/// The model inside the binary as a folder, which is gone when this is dropped.
pub struct Unpacked(TempDir);

impl Unpacked {
    /// # Errors
    /// If there is no place for temporary files.
    pub fn new() -> io::Result<Self> {
        let home = tempfile::Builder::new().prefix("forebay-self-test-").tempdir()?;
        for (name, content) in FILES {
            let path = home.path().join(TINY).join(name);
            std::fs::create_dir_all(path.parent().unwrap_or(home.path()))?;
            std::fs::write(path, content)?;
        }
        Ok(Self(home))
    }

    pub fn folder(&self) -> PathBuf {
        self.0.path().join(TINY)
    }
}
