//! A model folder that is wrong says what is wrong, in one line; weights that are wrong are seen in the answers.
#![allow(clippy::unwrap_used)] // helpers of tests: a panic is the report

mod support;

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device as CandleDevice, Tensor, safetensors};
use forebay_worker::device::Device;
use forebay_worker::models::{self, ModelSource, TokenBatch};
use forebay_worker::output_check::{Anomaly, OutputCheck};
use support::{copy, load};

/// The one-line error of loading `source`.
fn error_of(source: &ModelSource) -> String {
    let device = Device::cpu(Some(1)).unwrap();
    let error = match models::load(source, &device, &|_| ()) {
        Ok(_) => panic!("loaded"),
        Err(error) => error.to_string(),
    };
    assert_eq!(error.lines().count(), 1, "{error}");
    error
}

fn folder_error(folder: &Path) -> String {
    error_of(&ModelSource::Folder(folder.to_owned()))
}

fn change_config(folder: &Path, file: &str, change: impl FnOnce(&mut serde_json::Value)) {
    let path = folder.join(file);
    let mut config = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut config);
    std::fs::write(&path, config.to_string()).unwrap();
}

fn change_weights(folder: &Path, change: impl FnOnce(&mut HashMap<String, Tensor>)) {
    let path = folder.join("model.safetensors");
    let mut tensors = safetensors::load(&path, &CandleDevice::Cpu).unwrap();
    change(&mut tensors);
    std::fs::remove_file(&path).unwrap();
    safetensors::save(&tensors, &path).unwrap();
}

#[test]
fn a_missing_folder_is_named() {
    let error = folder_error(Path::new("/no/such/model"));
    assert!(error.contains("/no/such/model") && error.contains("check the path"), "{error}");
}

#[test]
fn a_missing_file_is_named_with_what_to_do() {
    for (file, hint) in [
        ("config.json", "Hugging Face layout"),
        ("tokenizer.json", "save_pretrained"),
        ("model.safetensors", "convert"),
    ] {
        let folder = copy("tiny-bert-embed");
        std::fs::remove_file(folder.path().join(file)).unwrap();
        let error = folder_error(folder.path());
        assert!(error.contains(file) && error.contains(hint), "{error}");
    }
}

#[test]
fn a_cut_off_download_is_recognised() {
    for keep in [0, 4, 1000, 500_000] {
        let folder = copy("tiny-bert-embed");
        let path = folder.path().join("model.safetensors");
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..keep]).unwrap();
        let error = folder_error(folder.path());
        assert!(error.contains("model.safetensors") && error.contains("download it again"), "{keep}: {error}");
    }
}

#[test]
fn weights_of_another_model_are_recognised() {
    let folder = copy("tiny-bert-embed");
    change_config(folder.path(), "config.json", |config| config["intermediate_size"] = 256.into());
    let error = folder_error(folder.path());
    assert!(
        error.contains("intermediate.dense.weight") && error.contains("[128, 64]") && error.contains("[256, 64]"),
        "{error}"
    );
    let folder = copy("tiny-bert-embed");
    change_config(folder.path(), "config.json", |config| config["num_hidden_layers"] = 4.into());
    let error = folder_error(folder.path());
    assert!(error.contains("encoder.layer.3."), "{error}");
}

#[test]
fn what_is_not_supported_is_named() {
    let cases = [
        ("config.json", "model_type", "gpt2", "architecture \"gpt2\""),
        ("config.json", "hidden_act", "silu", "activation \"silu\""),
        ("config.json", "hidden_size", "many", "config.json"),
    ];
    for (file, key, value, message) in cases {
        let folder = copy("tiny-bert-embed");
        change_config(folder.path(), file, |config| config[key] = value.into());
        let error = folder_error(folder.path());
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn a_head_on_top_does_not_hide_the_encoder() {
    let plain = copy("tiny-bert-embed");
    let prefixed = copy("tiny-bert-embed");
    change_weights(prefixed.path(), |tensors| {
        *tensors = tensors.drain().map(|(name, tensor)| (format!("bert.{name}"), tensor)).collect();
    });
    let batch = TokenBatch::from_rows([[5, 6, 7]]);
    let [mut plain, mut prefixed] = [load(plain.path()), load(prefixed.path())];
    assert_eq!(plain.encoder.encode(&batch).unwrap(), prefixed.encoder.encode(&batch).unwrap());
    assert_ne!(plain.info.token, prefixed.info.token, "other weights, other token");
}

#[test]
fn training_records_and_matryoshka_sizes_are_read() {
    let folder = copy("tiny-bert-embed");
    change_config(folder.path(), "config.json", |config| {
        config["matryoshka_dimensions"] = serde_json::json!([32, 16, 64])
    });
    let log = r#"{"log_history": [{"loss": 0.9}, {"eval_loss": 0.8}, {"loss": 0.5}, {"eval_loss": 0.6}, {"train_runtime": 3}]}"#;
    std::fs::write(folder.path().join("trainer_state.json"), log).unwrap();
    let info = load(folder.path()).info;
    assert_eq!(info.matryoshka_dimensions, [16, 32, 64]);
    assert_eq!((info.training_loss, info.validation_loss), (Some(0.5), Some(0.6)));
}

/// Anomalies in the answers of the tiny model after its weights were changed.
fn anomalies(change: impl FnOnce(&mut HashMap<String, Tensor>)) -> Vec<(usize, Anomaly)> {
    let folder = copy("tiny-bert-embed");
    change_weights(folder.path(), change);
    let mut model = load(folder.path());
    let batch = TokenBatch::from_rows([vec![5, 6, 7], vec![8], vec![9, 10, 11, 12]]);
    let answers = model.encoder.encode(&batch).unwrap();
    OutputCheck::new().check(&batch, &answers).to_vec()
}

#[test]
fn a_nan_among_the_weights_fails_the_rows_that_meet_it() {
    let everywhere = anomalies(|tensors| {
        let bias = tensors.get_mut("encoder.layer.1.intermediate.dense.bias").unwrap();
        *bias = (&*bias * f64::NAN).unwrap();
    });
    assert_eq!(everywhere, [(0, Anomaly::Nan), (1, Anomaly::Nan), (2, Anomaly::Nan)]);
    let one_word = anomalies(|tensors| {
        let words = tensors.get_mut("embeddings.word_embeddings.weight").unwrap();
        let mut rows = words.to_vec2::<f32>().unwrap();
        rows[8][3] = f32::NAN;
        *words = Tensor::new(rows, &CandleDevice::Cpu).unwrap();
    });
    assert_eq!(one_word, [(1, Anomaly::Nan)]);
}

#[test]
fn zeroed_weights_are_noticed() {
    let last = ["encoder.layer.2.output.LayerNorm.weight", "encoder.layer.2.output.LayerNorm.bias"];
    let zero = anomalies(|tensors| {
        last.iter().for_each(|name| *tensors.get_mut(*name).unwrap() = tensors[*name].zeros_like().unwrap())
    });
    assert_eq!(zero, [(0, Anomaly::AllZero), (1, Anomaly::AllZero), (2, Anomaly::AllZero)]);
    // Only the shift is left: the same direction for every input.
    let same = anomalies(|tensors| *tensors.get_mut(last[0]).unwrap() = tensors[last[0]].zeros_like().unwrap());
    assert_eq!(same, [(1, Anomaly::Repeated), (2, Anomaly::Repeated)]);
}
