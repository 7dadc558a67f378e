//! `GET /v1/models` and `GET /v1/models/{id}`, as OpenAI lists models.
//!
//! The list holds what the fleet can serve at this moment and the caller may use. An id may contain slashes, plain or as `%2F`.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Path};
use axum::http::StatusCode;
use forebay_shared::error::JobError;
use forebay_shared::model::ModelRecord;
use serde::Serialize;
use utoipa::ToSchema;

use super::inference::unknown_model;
use super::json;
use crate::http::Backend;
use crate::http::endpoint::{Answer, Call};

#[derive(Serialize, ToSchema)]
#[schema(as = ModelList)]
pub struct List<'a> {
    object: &'static str,
    data: Vec<Model<'a>>,
}

#[derive(Serialize, ToSchema)]
pub struct Model<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
}

impl<'a> From<&'a Arc<ModelRecord>> for Model<'a> {
    fn from(record: &'a Arc<ModelRecord>) -> Self {
        Self { id: record.name.as_str(), object: "model", created: record.created, owned_by: "forebay" }
    }
}

pub async fn list<B: Backend>(call: Call<B>) -> Answer {
    let mut models = call.state.backend.list();
    models.retain(|model| call.caller.may_use_model(&model.name));
    json(StatusCode::OK, &List { object: "list", data: models.iter().map(Model::from).collect() })
}

pub async fn show<B: Backend>(mut call: Call<B>) -> Answer {
    let backend = &call.state.backend;
    let Ok(Path(id)) = Path::<String>::from_request_parts(&mut call.parts, &()).await else {
        return Err(unknown_model(backend, &call.caller, "?").into());
    };
    match backend.find(&id) {
        Some(model) if call.caller.check_model(&model.name).is_err() => {
            Err(unknown_model(backend, &call.caller, &id).into())
        }
        Some(model) => json(StatusCode::OK, &Model::from(&model)),
        None if !backend.is_ready() => Err(JobError::BrokerUnavailable.into()),
        None => Err(unknown_model(backend, &call.caller, &id).into()),
    }
}
