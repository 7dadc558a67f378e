//! Fixtures and comparisons shared by the engine's tests.
#![allow(dead_code)] // every test binary uses its part

use std::path::{Path, PathBuf};

use forebay_worker::device::Device;
use forebay_worker::models::{self, LoadedModel, ModelSource, TokenBatch};
use serde::Deserialize;

/// One row of an `expected.json`.
#[derive(Deserialize)]
pub struct Row {
    pub text: String,
    #[serde(default)]
    pub ids: Vec<u32>,
    #[serde(default)]
    pub tokens: usize,
    pub embedding: Vec<f32>,
}

#[derive(Deserialize)]
struct Expected {
    rows: Vec<Row>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A file or folder of the fixtures that the repository ships.
pub fn fixture(name: &str) -> PathBuf {
    root().join("tests/fixtures").join(name)
}

/// What the reference implementation answers.
pub fn expected(fixture_name: &str) -> Vec<Row> {
    let text =
        std::fs::read(fixture(fixture_name).join("expected.json")).expect("the fixture is part of the repository");
    let expected: Expected = serde_json::from_slice(&text).expect("the fixture is JSON");
    expected.rows
}

/// Folder of all-MiniLM-L6-v2, which is too large for the repository.
pub fn minilm() -> PathBuf {
    let folder = std::env::var_os("FOREBAY_TEST_MODEL")
        .map_or_else(|| root().join(".cache/models/all-MiniLM-L6-v2"), Into::into);
    assert!(
        folder.join("model.safetensors").is_file(),
        "{} is not there: run `make test`, which fetches it, or set FOREBAY_TEST_MODEL to a folder of sentence-transformers/all-MiniLM-L6-v2",
        folder.display()
    );
    folder
}

/// Loads a folder on a CPU of two threads.
pub fn load(folder: &Path) -> LoadedModel {
    let device = Device::cpu(Some(2)).expect("two threads");
    models::load(&ModelSource::Folder(folder.to_owned()), &device, &|_| ()).unwrap_or_else(|error| panic!("{error}"))
}

/// A copy of a fixture folder, to be broken.
pub fn copy(name: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a temporary folder");
    copy_folder(&fixture(name), copy.path());
    copy
}

fn copy_folder(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("the fixture is a folder").flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            std::fs::create_dir(&target).expect("a new folder");
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::write(&target, std::fs::read(entry.path()).expect("readable")).expect("writable");
        }
    }
}

/// Ids of texts, packed.
pub fn batch<'a>(model: &LoadedModel, texts: impl IntoIterator<Item = &'a str>) -> TokenBatch {
    let mut batch = TokenBatch::new();
    let mut ids = Vec::new();
    for text in texts {
        ids.clear();
        model.tokenizer.encode(text, true, &mut ids).expect("plain text");
        batch.push(&ids);
    }
    batch
}

/// Asserts what "the same embedding" means: cosine at least 0.99999, no number off by more than 1e-4.
#[track_caller]
pub fn assert_same(got: &[f32], expected: &[f32], what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| *a as f64 * *b as f64).sum::<f64>();
    let cosine = dot(got, expected) / (dot(got, got) * dot(expected, expected)).sqrt();
    let worst = got.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(cosine >= 0.99999 && worst <= 1e-4, "{what}: cosine {cosine}, worst difference {worst}");
}
