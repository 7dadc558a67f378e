//! `POST /embed` and `POST /`, as text-embeddings-inference:
//! <https://huggingface.github.io/text-embeddings-inference/>.
//!
//! The protocol names no model. Where several are served, the request must: in the query (`?model=`) or in the body.
//! A single string is answered with an array of one vector, as there.

use super::inference;
use crate::dialect::Dialect;
use crate::http::Backend;
use crate::http::endpoint::{Answer, Call};

pub async fn create<B: Backend>(call: Call<B>) -> Answer {
    inference::embed(call, Dialect::Tei).await
}
