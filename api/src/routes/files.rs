//! `/v1/files`, as OpenAI keeps files: <https://platform.openai.com/docs/api-reference/files>.
//!
//! Only `purpose=batch` can be uploaded. A file of another tenant does not exist.

use axum::body::Body;
use axum::extract::{FromRequestParts, Path};
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Response, StatusCode};
use forebay_shared::error::JobError;
use forebay_shared::ids::TenantName;
use serde::{Deserialize, Serialize};

use super::form::{Form, Part, announced};
use super::{json, query};
use crate::error::Failure;
use crate::files::{FileRecord, Files, PURPOSE_BATCH, Upload};
use crate::http::endpoint::{Answer, Call};
use crate::http::{Backend, media};

const MAX_FILENAME_CHARS: usize = 255;
/// Longest part of a field's name that is repeated in an error.
const MAX_NAME_CHARS: usize = 64;
/// From when on the time is counted after which a file is removed.
const ANCHOR: &str = "created_at";
/// Most files in one page, and as many if the client does not say.
const MAX_PAGE: usize = 10_000;

/// A file as OpenAI shows it.
#[derive(Serialize)]
struct File<'a> {
    id: &'a str,
    object: &'static str,
    bytes: u64,
    created_at: u64,
    expires_at: u64,
    filename: &'a str,
    purpose: &'a str,
    status: &'static str,
    status_details: Option<&'static str>,
}

impl<'a> From<&'a FileRecord> for File<'a> {
    fn from(file: &'a FileRecord) -> Self {
        Self {
            id: &file.id,
            object: "file",
            bytes: file.bytes,
            created_at: file.created_at,
            expires_at: file.expires_at,
            filename: &file.filename,
            purpose: &file.purpose,
            status: "processed",
            status_details: None,
        }
    }
}

/// One page of a list.
#[derive(Serialize)]
pub(super) struct Page<'a, T> {
    pub object: &'static str,
    pub data: Vec<T>,
    pub first_id: Option<&'a str>,
    pub last_id: Option<&'a str>,
    pub has_more: bool,
}

#[derive(Deserialize)]
struct ListQuery {
    purpose: Option<String>,
    limit: Option<String>,
    after: Option<String>,
    order: Option<String>,
}

/// Files, or why there are none.
fn files_of<B: Backend>(call: &Call<B>) -> Result<&Files, Failure> {
    call.state.backend.batches().map(|batches| &batches.files).ok_or(Failure::Job(JobError::BrokerUnavailable))
}

/// The id in the path.
pub(super) async fn id_of(parts: &mut Parts) -> String {
    Path::<String>::from_request_parts(parts, &()).await.map(|Path(id)| id).unwrap_or_default()
}

fn no_such_file(id: &str) -> Failure {
    Failure::NotFound { kind: "file", id: id.chars().take(100).collect() }
}

async fn find<B: Backend>(call: &mut Call<B>) -> Result<FileRecord, Failure> {
    let id = id_of(&mut call.parts).await;
    files_of(call)?.find(&call.caller.tenant, &id).await?.ok_or_else(|| no_such_file(&id))
}

pub async fn list<B: Backend>(call: Call<B>) -> Answer {
    let said: ListQuery = query::read(&call.parts, "purpose, limit, after and order")?;
    let oldest_first = match said.order.as_deref() {
        None | Some("desc") => false,
        Some("asc") => true,
        Some(_) => return Err(Failure::invalid("order", "`order` must be asc or desc")),
    };
    let limit = query::limit(said.limit.as_deref(), MAX_PAGE, MAX_PAGE)?;
    let purpose = query::not_empty("purpose", said.purpose.as_deref())?;
    let after = query::not_empty("after", said.after.as_deref())?;
    let (files, has_more) = files_of(&call)?.list(&call.caller.tenant, purpose, after, limit, oldest_first).await?;
    let page = Page {
        object: "list",
        data: files.iter().map(File::from).collect(),
        first_id: files.first().map(|file| file.id.as_str()),
        last_id: files.last().map(|file| file.id.as_str()),
        has_more,
    };
    json(StatusCode::OK, &page)
}

pub async fn show<B: Backend>(mut call: Call<B>) -> Answer {
    let file = find(&mut call).await?;
    json(StatusCode::OK, &File::from(&file))
}

pub async fn content<B: Backend>(mut call: Call<B>) -> Answer {
    let file = find(&mut call).await?;
    let content = files_of(&call)?.open(&file).await?;
    let mut response = Response::new(Body::from_stream(content.frames()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    // A body that ends early is seen to have ended early.
    headers.insert(CONTENT_LENGTH, HeaderValue::from(file.bytes));
    headers.insert(CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    Ok(response)
}

pub async fn remove<B: Backend>(mut call: Call<B>) -> Answer {
    #[derive(Serialize)]
    struct Deleted<'a> {
        id: &'a str,
        object: &'static str,
        deleted: bool,
    }
    let file = find(&mut call).await?;
    files_of(&call)?.remove(&file).await?;
    json(StatusCode::OK, &Deleted { id: &file.id, object: "file", deleted: true })
}

/// What an upload says about its file.
#[derive(Default)]
struct Said {
    purpose: Option<String>,
    filename: String,
    keep_seconds: Option<u64>,
}

pub async fn create<B: Backend>(call: Call<B>) -> Answer {
    media::plain(&call.parts.headers)?;
    let Call { state, caller, parts, body, .. } = call;
    let Some(batches) = state.backend.batches() else { return Err(JobError::BrokerUnavailable.into()) };
    batches.admit(&caller.tenant, announced(&parts.headers).unwrap_or_default()).await?;
    let form = Form::open(parts, body, batches.files.max_bytes).await?;
    let file = receive(&batches.files, &caller.tenant, form).await?;
    json(StatusCode::OK, &File::from(&file))
}

async fn receive(files: &Files, tenant: &TenantName, mut form: Form) -> Result<FileRecord, Failure> {
    let (mut said, mut upload) = (Said::default(), None);
    while let Some(mut part) = form.next().await? {
        match part.name() {
            "file" if upload.is_none() => {
                let filename = part.file_name().unwrap_or("upload.jsonl");
                said.filename = filename.chars().filter(|c| !c.is_control()).take(MAX_FILENAME_CHARS).collect();
                if said.purpose.is_some() {
                    check_purpose(&said)?;
                }
                upload = Some(take(files.upload(), &mut part).await?);
            }
            "file" => return Err(Failure::invalid("file", "one file at a time")),
            "purpose" => said.purpose = Some(part.text("purpose").await?),
            "expires_after[seconds]" => {
                let seconds = part.text("expires_after").await?;
                said.keep_seconds = Some(keep_seconds(seconds.parse().ok())?);
            }
            "expires_after[anchor]" => {
                if part.text("expires_after").await? != ANCHOR {
                    return Err(Failure::invalid("expires_after", format!("`expires_after.anchor` must be {ANCHOR}")));
                }
            }
            other => {
                let name: String = other.chars().take(MAX_NAME_CHARS).collect();
                let message = format!("no such field: '{name}'; there are `purpose`, `file` and `expires_after`");
                return Err(Failure::invalid("file", message));
            }
        }
    }
    check_purpose(&said)?;
    let upload = upload.ok_or_else(|| Failure::invalid("file", "you must provide a file"))?;
    Ok(files.finish(upload, tenant, said.filename, PURPOSE_BATCH, said.keep_seconds).await?)
}

fn check_purpose(said: &Said) -> Result<(), Failure> {
    match said.purpose.as_deref() {
        Some(PURPOSE_BATCH) => Ok(()),
        None => Err(Failure::invalid("purpose", "you must provide a `purpose`; the one that is supported is batch")),
        Some(_) => Err(Failure::invalid("purpose", "`purpose` must be batch: files are used for batches only")),
    }
}

/// From an hour to 30 days, as OpenAI.
pub(super) fn keep_seconds(seconds: Option<u64>) -> Result<u64, Failure> {
    seconds.filter(|seconds| (3_600..=2_592_000).contains(seconds)).ok_or_else(|| {
        Failure::invalid("expires_after", "`expires_after.seconds` must be from 3600 (an hour) to 2592000 (30 days)")
    })
}

/// Writes a field into an upload.
async fn take(mut upload: Upload, part: &mut Part<'_>) -> Result<Upload, Failure> {
    while let Some(piece) = part.piece().await? {
        upload.write(piece).await?;
    }
    Ok(upload)
}
