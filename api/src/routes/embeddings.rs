//! `POST /v1/embeddings`, as OpenAI: <https://platform.openai.com/docs/api-reference/embeddings/create>.
//!
//! `user` is accepted and not used. `encoding_format` is `float` unless asked otherwise; OpenAI's own clients ask for
//! `base64`.

use super::inference;
use crate::dialect::Dialect;
use crate::http::Backend;
use crate::http::endpoint::{Answer, Call};

pub async fn create<B: Backend>(call: Call<B>) -> Answer {
    inference::embed(call, Dialect::OpenAi).await
}
