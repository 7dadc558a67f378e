//! `/v1/files…` and `/v1/batches…`, as OpenAI's. The types here are what the routes read and write, for description only.
#![allow(dead_code)]

use std::collections::BTreeMap;

use utoipa::ToSchema;

use super::Operation;
use super::operation::{number, one_of};
use crate::dialect::Dialect::OpenAi;

const FILES: &str = "files";
const BATCHES: &str = "batches";

pub fn operations() -> Vec<Operation> {
    let file = |operation: Operation| operation.in_path("id", "The file's id. Another tenant's file does not exist.");
    let batch =
        |operation: Operation| operation.in_path("id", "The batch's id. Another tenant's batch does not exist.");
    [
        Operation::post("/v1/files", OpenAi, FILES)
            .about("upload_file", "Upload a file of requests", "One JSON object per line, for `/v1/batches`.")
            .body_as::<Upload>("multipart/form-data")
            .answer::<File>(200, "The file.")
            .errors(&[400, 408, 413, 415, 500, 503, 507]),
        Operation::get("/v1/files", OpenAi, FILES)
            .about("list_files", "List files", "")
            .in_query("purpose", "Only files with this purpose.")
            .in_query_as("limit", "Most files on a page.", number(1, 10_000))
            .in_query("after", "The `last_id` of the page before.")
            .in_query_as("order", "By time of creation; desc unless said otherwise.", one_of(&["asc", "desc"]))
            .answer::<FileList>(200, "A page of files.")
            .errors(&[400, 500, 503]),
        file(Operation::get("/v1/files/{id}", OpenAi, FILES))
            .about("show_file", "Show a file", "")
            .answer::<File>(200, "The file.")
            .errors(&[404, 500, 503]),
        file(Operation::delete("/v1/files/{id}", OpenAi, FILES))
            .about("delete_file", "Delete a file", "")
            .answer::<Deleted>(200, "It is gone.")
            .errors(&[404, 500, 503]),
        file(Operation::get("/v1/files/{id}/content", OpenAi, FILES))
            .about("read_file", "Read a file", "")
            .answer_as::<String>(200, "application/octet-stream", "Its bytes.")
            .answer_header(200, "content-disposition", "`attachment`")
            .errors(&[404, 500, 503]),
        Operation::post("/v1/batches", OpenAi, BATCHES)
            .about("create_batch", "Begin a batch", "Every line of the file is a request, run in the lane `low`.")
            .body::<BatchRequest>()
            .answer::<Batch>(200, "The batch.")
            .errors(&[400, 408, 413, 415, 500, 503, 507]),
        Operation::get("/v1/batches", OpenAi, BATCHES)
            .about("list_batches", "List batches", "Newest first.")
            .in_query_as("limit", "Most batches on a page; 20 unless said otherwise.", number(1, 100))
            .in_query("after", "The `last_id` of the page before.")
            .answer::<BatchList>(200, "A page of batches.")
            .errors(&[400, 500, 503]),
        batch(Operation::get("/v1/batches/{id}", OpenAi, BATCHES))
            .about("show_batch", "Show a batch", "")
            .answer::<Batch>(200, "The batch.")
            .errors(&[404, 500, 503]),
        batch(Operation::post("/v1/batches/{id}/cancel", OpenAi, BATCHES))
            .about("cancel_batch", "Cancel a batch", "What has been done stays in its output.")
            .answer::<Batch>(200, "The batch, being cancelled.")
            .errors(&[404, 409, 500, 503]),
    ]
    .map(Operation::keyed)
    .into()
}

/// A form.
#[derive(ToSchema, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upload {
    purpose: Purpose,
    #[serde(rename = "expires_after[anchor]")]
    #[schema(value_type = Anchor, required = false)]
    anchor: Option<Anchor>,
    /// Seconds until the file is removed.
    #[serde(rename = "expires_after[seconds]")]
    #[schema(value_type = u64, required = false, minimum = 3600, maximum = 2592000)]
    seconds: Option<u64>,
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
}

#[derive(ToSchema, serde::Deserialize)]
#[schema(rename_all = "lowercase")]
pub enum Purpose {
    Batch,
}

#[derive(ToSchema, serde::Deserialize)]
pub enum Anchor {
    #[schema(rename = "created_at")]
    CreatedAt,
}

/// Times are Unix seconds.
#[derive(ToSchema)]
pub struct File {
    id: String,
    /// `file`
    object: String,
    bytes: u64,
    created_at: u64,
    expires_at: u64,
    filename: String,
    /// `batch` or `batch_output`
    purpose: String,
    /// `processed`
    status: String,
    #[schema(required)]
    status_details: Option<String>,
}

#[derive(ToSchema)]
pub struct FileList {
    /// `list`
    object: String,
    data: Vec<File>,
    #[schema(required)]
    first_id: Option<String>,
    #[schema(required)]
    last_id: Option<String>,
    has_more: bool,
}

#[derive(ToSchema)]
pub struct Deleted {
    id: String,
    /// `file`
    object: String,
    deleted: bool,
}

#[derive(ToSchema)]
pub struct BatchRequest {
    input_file_id: String,
    endpoint: BatchEndpoint,
    completion_window: Window,
    /// At most 16 strings.
    metadata: Option<BTreeMap<String, String>>,
    output_expires_after: Option<Expiry>,
}

#[derive(ToSchema)]
pub enum BatchEndpoint {
    #[schema(rename = "/v1/embeddings")]
    Embeddings,
}

#[derive(ToSchema)]
pub enum Window {
    #[schema(rename = "24h")]
    Day,
}

#[derive(ToSchema)]
pub struct Expiry {
    #[schema(minimum = 3600, maximum = 2592000)]
    seconds: u64,
}

/// Times are Unix seconds.
#[derive(ToSchema)]
pub struct Batch {
    id: String,
    /// `batch`
    object: String,
    endpoint: String,
    #[schema(required)]
    errors: Option<BatchErrors>,
    input_file_id: String,
    completion_window: String,
    status: String,
    #[schema(required)]
    output_file_id: Option<String>,
    #[schema(required)]
    error_file_id: Option<String>,
    created_at: u64,
    #[schema(required)]
    in_progress_at: Option<u64>,
    expires_at: u64,
    #[schema(required)]
    finalizing_at: Option<u64>,
    #[schema(required)]
    completed_at: Option<u64>,
    #[schema(required)]
    failed_at: Option<u64>,
    #[schema(required)]
    expired_at: Option<u64>,
    #[schema(required)]
    cancelling_at: Option<u64>,
    #[schema(required)]
    cancelled_at: Option<u64>,
    request_counts: Counts,
    #[schema(required)]
    metadata: Option<BTreeMap<String, String>>,
}

#[derive(ToSchema)]
pub struct BatchErrors {
    /// `list`
    object: String,
    data: Vec<serde_json::Value>,
}

#[derive(ToSchema)]
#[schema(as = RequestCounts)]
pub struct Counts {
    total: u64,
    completed: u64,
    failed: u64,
}

#[derive(ToSchema)]
pub struct BatchList {
    /// `list`
    object: String,
    data: Vec<Batch>,
    #[schema(required)]
    first_id: Option<String>,
    #[schema(required)]
    last_id: Option<String>,
    has_more: bool,
}
