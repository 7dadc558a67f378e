//! A model folder in Hugging Face layout, as transformers and sentence-transformers write it.
//!
//! Required: `config.json`, `tokenizer.json`, and `model.safetensors` or `model.safetensors.index.json`.
//! Read if there: `sentence_bert_config.json` (longest input), `modules.json` (pooling, normalisation), `tokenizer_config.json`
//! (longest input, second choice), `trainer_state.json` (losses).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::ModelError;
use super::error::one_line;
use super::weights::Weights;
use crate::layers::pooling::Pooling;

/// A `model_max_length` above this is how transformers writes "not set" (1e30).
const NO_LIMIT: u64 = 1 << 32;

/// What the small files of a folder say; weights are mapped by [`weights`](Self::weights).
#[derive(Debug, Clone)]
pub struct ModelFolder {
    path: PathBuf,
    config: Value,
    pub model_type: String,
    /// Longest input by `sentence_bert_config.json`, else by `tokenizer_config.json`.
    max_seq_length: Option<usize>,
    pub pooling: Pooling,
    pub normalize: bool,
    pub matryoshka_dimensions: Vec<usize>,
    pub training_loss: Option<f64>,
    pub validation_loss: Option<f64>,
}

impl ModelFolder {
    /// Reads the small files.
    ///
    /// # Errors
    /// [`ModelError::FolderMissing`], [`ModelError::FileMissing`], [`ModelError::Config`], or [`ModelError::Unsupported`] for a
    /// module that is neither pooling nor normalisation.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        if !path.is_dir() {
            return Err(ModelError::FolderMissing { path: path.to_owned() });
        }
        let mut folder = Self {
            path: path.to_owned(),
            config: Value::Null,
            model_type: String::new(),
            max_seq_length: None,
            pooling: Pooling::Mean,
            normalize: false,
            matryoshka_dimensions: Vec::new(),
            training_loss: None,
            validation_loss: None,
        };
        folder.config = read_json(&folder.file("config.json")?)?;
        folder.model_type = folder.config["model_type"].as_str().unwrap_or("none").to_owned();
        folder.read_limits()?;
        folder.read_modules()?;
        folder.read_matryoshka();
        folder.read_losses()?;
        Ok(folder)
    }

    /// Path of a file that must be there.
    ///
    /// # Errors
    /// [`ModelError::FileMissing`].
    pub fn file(&self, name: &str) -> Result<PathBuf, ModelError> {
        let path = self.path.join(name);
        if path.is_file() {
            return Ok(path);
        }
        let hint = match name {
            "config.json" => "is this a model folder in Hugging Face layout?",
            "tokenizer.json" => "save it with transformers' fast tokenizer (tokenizer.save_pretrained)",
            "model.safetensors" => "convert the weights with transformers' save_pretrained (safe_serialization=True)",
            _ => "download the model again",
        };
        Err(ModelError::FileMissing { folder: self.path.clone(), file: name.to_owned(), hint })
    }

    /// `config.json` as the struct of an architecture.
    ///
    /// # Errors
    /// [`ModelError::Config`], naming the field.
    pub fn config<T: DeserializeOwned>(&self) -> Result<T, ModelError> {
        serde_json::from_value(self.config.clone()).map_err(|error| self.bad_config(error.to_string()))
    }

    /// An error about `config.json`.
    pub fn bad_config(&self, reason: String) -> ModelError {
        ModelError::Config { path: self.path.join("config.json"), reason: one_line(&reason) }
    }

    /// Maps the weight files: one file, or the parts that the index names.
    ///
    /// # Errors
    /// As [`Weights::open`], and [`ModelError::FileMissing`].
    pub fn weights(&self) -> Result<Weights, ModelError> {
        let index = self.path.join("model.safetensors.index.json");
        if !index.is_file() {
            return Weights::open(vec![self.file("model.safetensors")?]);
        }
        let parsed: Value = read_json(&index)?;
        let map = parsed["weight_map"].as_object();
        let names: BTreeSet<&str> = map.into_iter().flatten().filter_map(|(_, file)| file.as_str()).collect();
        if names.is_empty() {
            return Err(ModelError::Config { path: index, reason: "weight_map names no file".to_owned() });
        }
        Weights::open(names.into_iter().map(|name| self.file(name)).collect::<Result<_, _>>()?)
    }

    /// Longest input: what the folder asks for, never more than the model has positions.
    pub fn max_tokens(&self, max_positions: usize) -> usize {
        self.max_seq_length.map_or(max_positions, |length| length.min(max_positions)).max(1)
    }

    fn optional(&self, name: &str) -> Result<Value, ModelError> {
        let path = self.path.join(name);
        if path.is_file() { read_json(&path) } else { Ok(Value::Null) }
    }

    fn read_limits(&mut self) -> Result<(), ModelError> {
        let asked = self.optional("sentence_bert_config.json")?["max_seq_length"].as_u64();
        let second = self.optional("tokenizer_config.json")?["model_max_length"].as_u64().filter(|n| *n < NO_LIMIT);
        self.max_seq_length = asked.or(second).map(|n| n as usize);
        Ok(())
    }

    /// Pooling and normalisation. Without `modules.json` this is a plain transformer: mean pooling, as sentence-transformers does.
    fn read_modules(&mut self) -> Result<(), ModelError> {
        for module in self.optional("modules.json")?.as_array().into_iter().flatten() {
            let kind = module["type"].as_str().unwrap_or_default();
            match kind.rsplit('.').next().unwrap_or_default() {
                "Transformer" => {}
                "Normalize" => self.normalize = true,
                "Pooling" => {
                    let folder = module["path"].as_str().unwrap_or_default();
                    let path = self.file(&format!("{folder}/config.json"))?;
                    self.pooling = pooling(&path, &read_json(&path)?)?;
                }
                _ => return Err(ModelError::Unsupported { what: format!("the module {kind:?} in modules.json") }),
            }
        }
        Ok(())
    }

    fn read_matryoshka(&mut self) {
        let sizes = self.config["matryoshka_dimensions"].as_array();
        self.matryoshka_dimensions = sizes.into_iter().flatten().filter_map(|n| Some(n.as_u64()? as usize)).collect();
        // `is_matryoshka` alone promises that prefixes work, without saying which: every power of two from 32 is common practice.
        if self.matryoshka_dimensions.is_empty() && self.config["is_matryoshka"].as_bool() == Some(true) {
            let full = self.config["hidden_size"].as_u64().unwrap_or(0) as usize;
            self.matryoshka_dimensions = (5..).map(|bit| 1 << bit).take_while(|n| *n < full).collect();
            self.matryoshka_dimensions.push(full);
        }
        self.matryoshka_dimensions.retain(|n| *n > 0);
        self.matryoshka_dimensions.sort_unstable();
    }

    fn read_losses(&mut self) -> Result<(), ModelError> {
        let state = self.optional("trainer_state.json")?;
        let last = |key: &str| state["log_history"].as_array()?.iter().rev().find_map(|entry| entry[key].as_f64());
        self.training_loss = last("loss").or_else(|| last("train_loss"));
        self.validation_loss = last("eval_loss");
        Ok(())
    }
}

/// The one pooling mode that `1_Pooling/config.json` switches on.
fn pooling(path: &Path, config: &Value) -> Result<Pooling, ModelError> {
    let modes = [
        ("pooling_mode_cls_token", Pooling::Cls),
        ("pooling_mode_mean_tokens", Pooling::Mean),
        ("pooling_mode_max_tokens", Pooling::Max),
        ("pooling_mode_mean_sqrt_len_tokens", Pooling::MeanSqrtLen),
        ("pooling_mode_lasttoken", Pooling::LastToken),
    ];
    let on: Vec<Pooling> =
        modes.iter().filter(|(key, _)| config[key].as_bool() == Some(true)).map(|(_, p)| *p).collect();
    match (on.as_slice(), config["pooling_mode"].as_str()) {
        ([one], _) => Ok(*one),
        ([], Some(name)) => {
            Pooling::parse(name).ok_or_else(|| ModelError::Unsupported { what: format!("pooling {name:?}") })
        }
        ([], None) => {
            Err(ModelError::Config { path: path.to_owned(), reason: "no supported pooling mode is on".to_owned() })
        }
        _ => Err(ModelError::Unsupported { what: "the concatenation of several pooling modes".to_owned() }),
    }
}

fn read_json(path: &Path) -> Result<Value, ModelError> {
    let text = std::fs::read(path)
        .map_err(|error| ModelError::Unreadable { path: path.to_owned(), reason: error.to_string() })?;
    serde_json::from_slice(&text)
        .map_err(|error| ModelError::Config { path: path.to_owned(), reason: one_line(&error.to_string()) })
}
