//! The protocols that clients speak to us (step ① of the data path): what a field is called and how an error is written.
//!
//! A dialect is a column of the table in [`crate::error`]; it holds no status codes itself.

use bytes::Bytes;
use serde::Serialize;

/// A protocol with its own field names and error bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// <https://platform.openai.com/docs/api-reference/embeddings>
    OpenAi,
    /// text-embeddings-inference: <https://huggingface.github.io/text-embeddings-inference/>
    Tei,
}

/// What an error body says; each dialect shows the part that it knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint<'a> {
    pub message: String,
    /// `type` for OpenAI, `error_type` for text-embeddings-inference.
    pub kind: &'static str,
    pub code: Option<&'static str>,
    pub param: Option<&'a str>,
}

impl Dialect {
    pub const ALL: [Self; 2] = [Self::OpenAi, Self::Tei];

    /// Whose errors a path without an endpoint answers with.
    pub fn of_path(path: &str) -> Self {
        if path.starts_with("/v1") { Self::OpenAi } else { Self::Tei }
    }

    /// The field that carries what is to be embedded.
    pub const fn input_field(self) -> &'static str {
        match self {
            Self::OpenAi => "input",
            Self::Tei => "inputs",
        }
    }

    /// The JSON body of an error.
    pub fn error_body(self, complaint: &Complaint<'_>) -> Bytes {
        #[derive(Serialize)]
        struct OpenAi<'a> {
            error: OpenAiError<'a>,
        }
        #[derive(Serialize)]
        struct OpenAiError<'a> {
            message: &'a str,
            r#type: &'static str,
            param: Option<&'a str>,
            code: Option<&'static str>,
        }
        #[derive(Serialize)]
        struct Tei<'a> {
            error: &'a str,
            error_type: &'static str,
        }
        let Complaint { message, kind, code, param } = complaint;
        let text = match self {
            Self::OpenAi => {
                serde_json::to_vec(&OpenAi { error: OpenAiError { message, r#type: kind, param: *param, code: *code } })
            }
            Self::Tei => serde_json::to_vec(&Tei { error: message, error_type: kind }),
        };
        // Strings always serialise; an empty body is still better than a panic.
        Bytes::from(text.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_dialect_writes_errors_in_its_own_shape() {
        let complaint = Complaint {
            message: "say \"what\"".to_owned(),
            kind: "invalid_request_error",
            code: Some("bad"),
            param: Some("input"),
        };
        assert_eq!(
            Dialect::OpenAi.error_body(&complaint),
            r#"{"error":{"message":"say \"what\"","type":"invalid_request_error","param":"input","code":"bad"}}"#
        );
        assert_eq!(
            Dialect::Tei.error_body(&complaint),
            r#"{"error":"say \"what\"","error_type":"invalid_request_error"}"#
        );
    }

    #[test]
    fn paths_below_v1_belong_to_openai() {
        assert_eq!(Dialect::of_path("/v1/nothing"), Dialect::OpenAi);
        assert_eq!(Dialect::of_path("/nothing"), Dialect::Tei);
    }
}
