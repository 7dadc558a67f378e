//! What waits in the queue for a job: its input and how to answer. One message, written once, never changed.

use serde::{Deserialize, Serialize};

use crate::codec::Wire;
use crate::ids::{JobId, Lane, ModelName, ModelToken, TenantName};
use crate::job::{Input, Task};
use crate::trace::TraceContext;

/// The answer that is written down: what the synchronous route would have sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AnswerForm {
    /// OpenAI's, vectors as JSON numbers.
    OpenAiFloat,
    /// OpenAI's, vectors in base64.
    OpenAiBase64,
    /// text-embeddings-inference's.
    Tei,
}

/// One message of the queue `FOREBAY_ASYNC`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    pub job: JobId,
    pub generation: u32,
    pub tenant: TenantName,
    pub model: ModelName,
    /// The weights that were there when it was accepted.
    pub token: ModelToken,
    /// In which lane its rows are submitted.
    pub lane: Lane,
    /// Broker time in microseconds since the Unix epoch.
    pub deadline_us: u64,
    pub trace: Option<TraceContext>,
    pub task: Task,
    pub form: AnswerForm,
    pub rows: Vec<Input>,
}

impl Wire for Envelope {}

impl Envelope {
    /// Identifies this message to the broker: a repeat within its window is stored once.
    pub fn message_id(&self) -> String {
        format!("{}:{}", self.job, self.generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{decode, encode};
    use crate::ids::hex;
    use crate::job::EmbedParams;

    fn envelope() -> Envelope {
        Envelope {
            job: JobId::from_bytes([2; 16]),
            generation: 1,
            tenant: TenantName::default(),
            model: "m".into(),
            token: "m-0123456789".into(),
            lane: Lane::Low,
            deadline_us: 1_800_000_030_000_000,
            trace: TraceContext::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
            task: Task::Embed(EmbedParams { truncate: true, normalize: None, dimensions: Some(64) }),
            form: AnswerForm::OpenAiFloat,
            rows: vec![Input::Text("gate".into()), Input::Tokens(vec![101, 7])],
        }
    }

    /// These bytes are on disks for as long as a job may wait: a change here needs a new wire version.
    #[test]
    fn the_bytes_of_version_1_are_frozen() {
        assert_eq!(hex(&encode(&envelope()).unwrap()), V1);
        assert_eq!(decode::<Envelope>(&encode(&envelope()).unwrap()).unwrap(), envelope());
    }

    #[test]
    fn each_generation_is_another_message() {
        let again = Envelope { generation: 2, ..envelope() };
        assert_ne!(again.message_id(), envelope().message_id());
    }

    const V1: &str = "\
        019bc4100202020202020202020202020202020201a764656661756c74a16dac6d2d30313233343536373839a36c6f77\
        cf000665172a62438093c4104bf92f3577b34da6a3ce929d0e0e4736c40800f067aa0ba902b70181a5456d62656493c3\
        c040ab4f70656e4169466c6f61749281a454657874a46761746581a6546f6b656e73926507";
}
