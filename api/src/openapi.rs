//! The API's description of itself: OpenAPI 3.1, made from the code that answers.
//!
//! One file per family of endpoints, each a list of [`Operation`]s; [`document`] puts them together. Where an answer is
//! written from a type, that type is the schema; what is read or written by hand (inputs, vectors) has a type here that
//! exists only to be described. A test holds the list against the table of routes, in both directions.
//!
//! A new endpoint: add its operation to its family's file, or a new file to [`operations`].

mod batches;
mod dead;
mod embeddings;
mod health;
mod jobs;
mod models;
mod operation;
mod pages;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use bytes::Bytes;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{ComponentsBuilder, InfoBuilder, License, OpenApi, OpenApiBuilder, PathItem, PathsBuilder};

pub use operation::Operation;

use crate::tenants::X_API_KEY;

/// What the API is, for those who read the document first.
const ABOUT: &str = "Queue-backed inference. Every answer carries `x-request-id` and `traceparent`. Errors below `/v1` \
    are written as OpenAI writes them, all others as text-embeddings-inference does. A request is answered once or fails \
    with a clear error by its deadline; 503 and 429 say when to come back.";

/// Families in the order of the page, with what they are for.
const FAMILIES: [(&str, &str); 8] = [
    ("embeddings", "Vectors for texts, as OpenAI or as text-embeddings-inference."),
    ("jobs", "Work that is accepted now and done later."),
    ("files", "Files of requests, and of answers, as OpenAI's."),
    ("batches", "Many requests in one file, as OpenAI's."),
    ("dead", "Jobs that ended their workers and were put aside."),
    ("models", "What is served at this moment."),
    ("health", "For orchestrators and load balancers."),
    ("pages", "This description, metrics, and what this process is."),
];

/// Everything that is served.
pub fn operations() -> Vec<Operation> {
    [
        embeddings::operations(),
        jobs::operations(),
        batches::operations(),
        dead::operations(),
        models::operations(),
        health::operations(),
        pages::operations(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The whole document.
pub fn document() -> OpenApi {
    let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    let api_key = SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new(X_API_KEY.as_str())));
    let mut components = ComponentsBuilder::new()
        .security_scheme(operation::BEARER, bearer)
        .security_scheme(operation::API_KEY, api_key);
    let mut items: BTreeMap<&str, PathItem> = BTreeMap::new();
    for operation in operations() {
        let (path, item, schemas) = operation.finish();
        for (name, schema) in schemas {
            components = components.schema(name, schema);
        }
        match items.entry(path) {
            std::collections::btree_map::Entry::Vacant(free) => {
                free.insert(item);
            }
            std::collections::btree_map::Entry::Occupied(mut taken) => taken.get_mut().merge_operations(item),
        }
    }
    let paths = items.into_iter().fold(PathsBuilder::new(), |paths, (path, item)| paths.path(path, item));
    let tags = FAMILIES.map(|(name, about)| TagBuilder::new().name(name).description(Some(about)).build());
    let info = InfoBuilder::new()
        .title("forebay")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(ABOUT))
        .license(Some(License::new("Apache-2.0")));
    OpenApiBuilder::new().info(info.build()).paths(paths).components(Some(components.build())).tags(Some(tags)).build()
}

/// The document as it is served; written once.
pub fn text() -> Bytes {
    static TEXT: LazyLock<Bytes> = LazyLock::new(|| {
        // A document without non-finite numbers and with string keys always serialises; a test reads it.
        Bytes::from(serde_json::to_vec(&document()).unwrap_or_default())
    });
    TEXT.clone()
}
