//! `forebay self-test` and `forebay device-bench` as they are typed: what they print, and when they fail.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn forebay(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("FOREBAY_")) {
        command.env_remove(name);
    }
    command.args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-bert-embed")
}

/// The small model under another name, which is a model's whose answers are known.
fn impostor(home: &Path) -> PathBuf {
    let folder = home.join("all-MiniLM-L6-v2");
    std::fs::create_dir_all(folder.join("1_Pooling")).unwrap();
    for file in ["config.json", "model.safetensors", "modules.json", "tokenizer.json", "1_Pooling/config.json"] {
        std::fs::copy(fixture().join(file), folder.join(file)).unwrap();
    }
    folder
}

#[test]
fn a_good_device_passes_and_says_what_was_tested() {
    let output = forebay(&["self-test", "--threads", "2", "--batches", "40"]);
    let printed = text(&output.stdout);
    assert!(output.status.success(), "{printed}{}", text(&output.stderr));
    let last = printed.lines().last().unwrap();
    let counts: Vec<&str> = last.strip_prefix("passed: ").unwrap().split(" of ").collect();
    assert!(counts[0] == counts[1] && printed.starts_with("self-test of cpu, 2 threads"), "{printed}");
    for case in
        ["linear gelu, 384 to 1536", "attention, 12 heads of 64", "tiny-bert-embed: ragged rows", "memory after"]
    {
        assert!(printed.contains(case), "{case}\n{printed}");
    }
}

#[test]
fn a_device_that_computes_wrongly_fails_in_json_too() {
    let output = forebay(&["self-test", "--threads", "2", "--batches", "5", "--json", "--sabotage", "attention, 3"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(report["of"].as_u64().unwrap() - report["passed"].as_u64().unwrap(), 1, "{report}");
    let missed = report["cases"].as_array().unwrap().iter().find(|case| case["verdict"] == "missed").unwrap();
    assert_eq!(missed["name"], "attention, 3 heads of 5");
}

#[test]
fn no_speed_is_told_of_a_device_that_answers_wrongly() {
    let home = tempfile::tempdir().unwrap();
    let folder = impostor(home.path());
    let output = forebay(&["device-bench", "--threads", "2", "--model", folder.to_str().unwrap()]);
    let error = text(&output.stderr);
    assert!(!output.status.success() && output.stdout.is_empty(), "{}", text(&output.stdout));
    assert!(error.contains("no speed means anything") && error.contains("all-MiniLM-L6-v2: texts together"), "{error}");
}

#[test]
fn a_bench_says_how_fast_what_was_tested_is() {
    let folder = fixture();
    let shapes = ["--rows", "1,5", "--lengths", "3,100,4000", "--seconds", "0.05", "--bandwidth", "0.1", "--json"];
    let model = ["device-bench", "--threads", "2", "--model", folder.to_str().unwrap()];
    let output = forebay(&[&model[..], &shapes].concat());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)));
    assert_eq!(report["self_test"][0], report["self_test"][1]);
    let cells = report["cells"].as_array().unwrap();
    assert_eq!(cells.len(), 4, "4000 tokens are more than the model takes");
    for cell in cells {
        let figures = &cell["figures"];
        assert!(figures["tokens_per_second"].as_f64().unwrap() > 100.0, "{cell}");
        let qkv = &figures["ops"][1];
        assert!(qkv["op"] == "qkv" && qkv["floor_by"] == "memory" && qkv["seconds"].as_f64().unwrap() > 0.0, "{qkv}");
    }
    assert!(report["start"]["ready_seconds"].as_f64().unwrap() < 60.0, "{report}");
}

#[test]
fn a_device_that_is_not_there_is_named() {
    let output = forebay(&["self-test", "--device", "cuda:31"]);
    let error = text(&output.stderr);
    assert!(!output.status.success() && output.stdout.is_empty(), "{}", text(&output.stdout));
    assert!(error.starts_with("error: ") && error.contains("31") && error.lines().count() == 1, "{error}");
}
