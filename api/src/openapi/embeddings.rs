//! Embeddings, in both dialects. The types here are what `validate` reads and `vectors` writes, for description only.
#![allow(dead_code)]

use utoipa::openapi::schema::{AnyOfBuilder, ArrayBuilder, ObjectBuilder, OneOfBuilder, SchemaType, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::Operation;
use crate::dialect::Dialect::{OpenAi, Tei};

const TAG: &str = "embeddings";

pub fn operations() -> Vec<Operation> {
    let openai = Operation::post("/v1/embeddings", OpenAi, TAG)
        .about("create_embeddings", "Embed texts, as OpenAI", "`user` is accepted and not used.")
        .body::<EmbeddingRequest>()
        .answer::<EmbeddingList>(200, "A vector per input, in order.")
        .errors(&[400, 404, 408, 409, 413, 415, 422, 500, 503, 504]);
    let tei = |path, id, summary| {
        Operation::post(path, Tei, TAG)
            .about(id, summary, "The protocol names no model: where several are served, the query or the body must.")
            .in_query_as("model", "The model, where several are served and the body names none.", text())
            .body::<EmbedRequest>()
            .answer::<Vec<Vec<f32>>>(200, "A vector per input, in order; an array of one for a single text.")
            .errors(&[400, 404, 408, 409, 413, 415, 422, 424, 500, 503, 504])
    };
    [
        openai,
        tei("/embed", "embed", "Embed texts, as text-embeddings-inference"),
        tei("/", "embed_at_root", "The same as /embed"),
    ]
    .map(|operation| {
        let operation = super::jobs::idempotent(urgency(operation));
        operation
            .header("cache-control", "`no-cache`: compute anew. `no-store`: nor keep the answer.", text())
            .answer_header(
                200,
                "x-forebay-cache",
                "`hit` or `miss`, where answers are kept and no idempotency key came.",
            )
            .answer_header(200, "idempotent-replayed", super::jobs::REPLAYED)
            .keyed()
    })
    .into()
}

/// The headers of everything that becomes a job.
pub fn urgency(operation: Operation) -> Operation {
    operation
        .header("x-request-timeout", "Time for the request: seconds such as 2.5, or 500ms.", time())
        .header("x-priority", "The lane.", text().enum_values(Some(["high", "normal", "low"])))
        .header("x-request-id", "Comes back with the answer; visible ASCII, at most 128.", text())
        .header("traceparent", "W3C trace context.", text())
}

fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(SchemaType::Type(Type::String))
}

/// Zero is no time; more than the longest allowed is cut to that.
pub fn time() -> ObjectBuilder {
    super::operation::pattern("^([1-9][0-9]{0,3}(\\.[0-9]{1,3}|ms|s|m)?|0\\.[0-9]{0,2}[1-9])$")
}

/// Body of `POST /v1/embeddings`.
#[derive(ToSchema)]
pub struct EmbeddingRequest {
    /// As listed by `/v1/models`.
    model: String,
    input: Inputs,
    /// Shorter vectors, where the model was trained for them.
    #[schema(minimum = 1, maximum = 4294967295u64)]
    dimensions: Option<u32>,
    encoding_format: Option<EncodingFormat>,
    /// Accepted, whatever it is, and not used.
    user: Option<serde_json::Value>,
}

/// Body of `POST /embed`.
#[derive(ToSchema)]
pub struct EmbedRequest {
    inputs: Inputs,
    model: Option<String>,
    /// Cut inputs that are longer than the model reads, instead of refusing them.
    truncate: Option<bool>,
    /// Vectors of length one; on unless said otherwise.
    normalize: Option<bool>,
    truncation_direction: Option<TruncationDirection>,
    #[schema(minimum = 1, maximum = 4294967295u64)]
    dimensions: Option<u32>,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum EncodingFormat {
    Float,
    Base64,
}

#[derive(ToSchema)]
pub enum TruncationDirection {
    Right,
    #[schema(rename = "right")]
    Lower,
}

/// A text, several, or token ids in place of a text.
pub struct Inputs;

impl PartialSchema for Inputs {
    fn schema() -> RefOr<Schema> {
        let input = OneOfBuilder::new().item(a_text()).item(token_ids());
        let several = ArrayBuilder::new().items(RefOr::T(Schema::OneOf(input.build()))).min_items(Some(1));
        // No `oneOf`: an array may not be empty, so it is of one kind only, but a checker has to try both.
        let any = AnyOfBuilder::new().item(a_text()).item(several).item(token_ids());
        RefOr::T(Schema::AnyOf(any.description(Some("A text, several, or token ids in place of a text.")).build()))
    }
}

impl ToSchema for Inputs {}

fn a_text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(SchemaType::Type(Type::String)).min_length(Some(1))
}

fn token_ids() -> ArrayBuilder {
    let id = ObjectBuilder::new().schema_type(SchemaType::Type(Type::Integer));
    ArrayBuilder::new().items(id.minimum(Some(0)).maximum(Some(u32::MAX))).min_items(Some(1))
}

/// Answer of `POST /v1/embeddings`.
#[derive(ToSchema)]
pub struct EmbeddingList {
    /// `list`
    object: String,
    data: Vec<Embedding>,
    model: String,
    usage: Usage,
}

#[derive(ToSchema)]
pub struct Embedding {
    /// `embedding`
    object: String,
    index: u32,
    embedding: Vector,
}

/// Numbers, or base64 of little-endian 32-bit floats.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum Vector {
    Float(Vec<f32>),
    Base64(String),
}

#[derive(ToSchema)]
pub struct Usage {
    prompt_tokens: u64,
    total_tokens: u64,
}

/// An error below `/v1`.
#[derive(ToSchema)]
#[schema(as = OpenAiError)]
pub struct OpenAiErrorBody {
    error: OpenAiComplaint,
}

#[derive(ToSchema)]
pub struct OpenAiComplaint {
    message: String,
    r#type: String,
    #[schema(required)]
    param: Option<String>,
    #[schema(required)]
    code: Option<String>,
}

/// An error elsewhere.
#[derive(ToSchema)]
#[schema(as = TeiError)]
pub struct TeiErrorBody {
    error: String,
    error_type: String,
}
