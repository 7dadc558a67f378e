//! BERT (Devlin et al., 2018) as a sentence encoder: also MiniLM, BGE, E5, GTE and others that say `"model_type": "bert"`.
//!
//! hidden = norm(words + positions + segment 0); then per layer, in place:
//! hidden = norm(hidden + projection(attention(hidden))); hidden = norm(hidden + down(gelu(up(hidden)))).

use candle_core::{Result, Tensor};
use serde::Deserialize;

use super::ModelError;
use super::architecture::Built;
use super::folder::ModelFolder;
use super::ragged::{Forward, Head, RaggedEncoder};
use super::weights::Weights;
use crate::device::{Device, Exec, Op};
use crate::layers::attention::attention;
use crate::layers::embedding::Embedding;
use crate::layers::linear::{Finish, Linear};
use crate::layers::norm::LayerNorm;
use crate::layers::{Buffer, PackedRows};

/// The part of `config.json` that shapes the computation.
#[derive(Debug, Clone, Deserialize)]
struct Config {
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    max_position_embeddings: usize,
    type_vocab_size: usize,
    hidden_act: String,
    layer_norm_eps: f64,
    #[serde(default)]
    position_embedding_type: Option<String>,
}

impl Config {
    fn read(folder: &ModelFolder) -> std::result::Result<Self, ModelError> {
        let config: Self = folder.config()?;
        if config.hidden_act != "gelu" {
            return Err(ModelError::Unsupported {
                what: format!("the activation {:?} in config.json", config.hidden_act),
            });
        }
        if let Some(kind) = config.position_embedding_type.as_deref().filter(|kind| *kind != "absolute") {
            return Err(ModelError::Unsupported { what: format!("the position embedding {kind:?} in config.json") });
        }
        let sizes = [
            config.vocab_size,
            config.hidden_size,
            config.num_attention_heads,
            config.intermediate_size,
            config.max_position_embeddings,
            config.type_vocab_size,
        ];
        if sizes.contains(&0) || !config.hidden_size.is_multiple_of(config.num_attention_heads) {
            return Err(
                folder.bad_config("sizes are not 0, and hidden_size is a multiple of num_attention_heads".to_owned())
            );
        }
        Ok(config)
    }
}

/// Builds the encoder from a folder's configuration and weights.
///
/// # Errors
/// What is wrong with configuration or weights, in one line.
pub fn build(folder: &ModelFolder, weights: Weights, device: &Device) -> std::result::Result<Built, ModelError> {
    let config = Config::read(folder)?;
    let (dimensions, max_positions, vocab_size) =
        (config.hidden_size, config.max_position_embeddings, config.vocab_size);
    let head = Head { vocab_size, max_positions, pooling: folder.pooling };
    // With a head on top, as in a classifier, the encoder is called `bert`.
    let weights = weights.detect_prefix("bert.", "embeddings.word_embeddings.weight");
    let model = Bert::load(&config, &weights, device)?;
    let encoder = RaggedEncoder::new(model, head, device.clone()).map_err(on_device)?;
    Ok(Built { encoder: Box::new(encoder), dimensions, max_positions, vocab_size })
}

fn on_device(error: candle_core::Error) -> ModelError {
    ModelError::Device(super::error::one_line(&error.to_string()))
}

struct Bert {
    embedding: Embedding,
    device: Device,
    layers: Vec<Layer>,
    heads: usize,
    hidden: usize,
    intermediate: usize,
}

struct Layer {
    /// Query, key and value as one product.
    qkv: Linear,
    projection: Linear,
    attention_norm: LayerNorm,
    up: Linear,
    down: Linear,
    output_norm: LayerNorm,
}

/// Activations of one chunk.
struct Workspace {
    /// `[tokens, hidden]`
    hidden: Buffer,
    /// `[tokens, 3 · hidden]`
    qkv: Buffer,
    /// `[tokens, hidden]`
    context: Buffer,
    /// `[tokens, intermediate]`
    inner: Buffer,
}

impl Bert {
    fn load(config: &Config, weights: &Weights, device: &Device) -> std::result::Result<Self, ModelError> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let norm = |name: &str| -> std::result::Result<LayerNorm, ModelError> {
            let weight = weights.get(&format!("{name}.weight"), &[hidden])?;
            let bias = weights.get(&format!("{name}.bias"), &[hidden])?;
            LayerNorm::new(&weight, &bias, config.layer_norm_eps, device).map_err(on_device)
        };
        let linear = |names: &[String], inputs: usize, outputs: usize| -> std::result::Result<Linear, ModelError> {
            let get = |suffix: &str, shape: &[usize]| {
                names
                    .iter()
                    .map(|name| weights.get(&format!("{name}.{suffix}"), shape))
                    .collect::<std::result::Result<Vec<_>, _>>()
            };
            Linear::new(&get("weight", &[outputs, inputs])?, &get("bias", &[outputs])?, device).map_err(on_device)
        };
        let mut layers = Vec::with_capacity(config.num_hidden_layers);
        for i in 0..config.num_hidden_layers {
            let name = |part: &str| format!("encoder.layer.{i}.{part}");
            let qkv = ["query", "key", "value"].map(|part| name(&format!("attention.self.{part}")));
            layers.push(Layer {
                qkv: linear(&qkv, hidden, hidden)?,
                projection: linear(&[name("attention.output.dense")], hidden, hidden)?,
                attention_norm: norm(&name("attention.output.LayerNorm"))?,
                up: linear(&[name("intermediate.dense")], hidden, inner)?,
                down: linear(&[name("output.dense")], inner, hidden)?,
                output_norm: norm(&name("output.LayerNorm"))?,
            });
        }
        let words = weights.get("embeddings.word_embeddings.weight", &[config.vocab_size, hidden])?;
        let positions =
            weights.get("embeddings.position_embeddings.weight", &[config.max_position_embeddings, hidden])?;
        let segments = weights.get("embeddings.token_type_embeddings.weight", &[config.type_vocab_size, hidden])?;
        // A sentence alone is always segment 0.
        let positions =
            segments.narrow(0, 0, 1).and_then(|first| positions.broadcast_add(&first)).map_err(on_device)?;
        Ok(Self {
            embedding: Embedding::new(&words, &positions, norm("embeddings.LayerNorm")?, device).map_err(on_device)?,
            device: device.clone(),
            layers,
            heads: config.num_attention_heads,
            hidden,
            intermediate: inner,
        })
    }
}

impl Forward for Bert {
    type Workspace = Workspace;

    fn workspace(&self) -> Result<Workspace> {
        let buffer = |width| Buffer::new(width, &self.device);
        Ok(Workspace {
            hidden: buffer(self.hidden)?,
            qkv: buffer(3 * self.hidden)?,
            context: buffer(self.hidden)?,
            inner: buffer(self.intermediate)?,
        })
    }

    fn forward(&self, exec: &Exec<'_>, rows: &PackedRows, workspace: &mut Workspace) -> Result<Tensor> {
        let tokens = rows.tokens();
        let (hidden, qkv) = (workspace.hidden.rows(tokens)?, workspace.qkv.rows(tokens)?);
        let (context, inner) = (workspace.context.rows(tokens)?, workspace.inner.rows(tokens)?);
        exec.time(Op::Embedding, || self.embedding.forward(exec, rows, &hidden))?;
        let head_dim = self.hidden / self.heads;
        for layer in &self.layers {
            exec.counters().add_token_rows(tokens);
            exec.time(Op::Qkv, || layer.qkv.forward(exec, &hidden, &qkv, Finish::Store))?;
            exec.time(Op::Attention, || attention(exec, &qkv, rows, self.heads, head_dim, &context))?;
            exec.time(Op::Projection, || layer.projection.forward(exec, &context, &hidden, Finish::Add))?;
            exec.time(Op::Norm, || layer.attention_norm.forward(exec, &hidden))?;
            exec.time(Op::Up, || layer.up.forward(exec, &hidden, &inner, Finish::Gelu))?;
            exec.time(Op::Down, || layer.down.forward(exec, &inner, &hidden, Finish::Add))?;
            exec.time(Op::Norm, || layer.output_norm.forward(exec, &hidden))?;
        }
        Ok(hidden)
    }

    fn dimensions(&self) -> usize {
        self.hidden
    }
}
