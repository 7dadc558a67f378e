//! Dead letters: jobs that were started more than once and never ended, put aside with everything needed to look at
//! them and to run them again.
//!
//! ```text
//! worker ──write──▶ FOREBAY_DEAD ──list, show──▶ operators (`forebay dead`), owners (`GET /v1/dead`)
//!                        └──replay──▶ asynchronous work of the next generation, and the letter is removed
//! ```
//! A letter holds the input, because a replay needs it; nothing else that is read here does. Each message carries its
//! [`Summary`] in a header, so a list is made of headers alone: the inputs do not even cross the network. A summary tells
//! an input's size and a digest, never its text.
//!
//! A letter is filed under the id of its job, which is the one that callers know ([`crate::async_jobs::job_of_row`]).
//!
//! Written once per row and generation: the message id makes a repeat within the duplicate window one message, and the
//! worker's record of attempts tells that a letter was written before ([`crate::streams::Bucket::Attempts`]).

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::async_jobs::job_of_row;
use crate::codec::Wire;
use crate::ids::{BootId, JobId, Lane, ModelName, ModelToken, ProcessName, TenantName, hex};
use crate::job::{Input, Job};

mod reading;
mod replay;
mod store;
mod undeliverable;

pub use replay::{ReplayError, Replayed};
pub use store::{DeadError, DeadLetters, Filter};
pub use undeliverable::{Undeliverable, undeliverable};

/// Header with the letter's [`Summary`] as JSON.
pub const SUMMARY_HEADER: &str = "Forebay-Dead";

/// A job that was put aside. Crosses NATS and stays in its stream for `dead_letters_keep`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// With its input: a replay needs it.
    pub job: Job,
    pub model: ModelName,
    pub token: ModelToken,
    pub lane: Lane,
    /// The api that had sent it.
    pub api: BootId,
    /// Broker time in microseconds since the Unix epoch when it was put aside.
    pub died_us: u64,
    pub reason: DeadReason,
    /// Who had started it and never ended it, oldest first.
    pub starts: Vec<Start>,
}

impl Wire for DeadLetter {}

/// Why a job was put aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeadReason {
    /// Several workers started it, alone, and none lived to end it.
    RepeatedStarts,
    /// From a newer process.
    #[serde(other)]
    Other,
}

impl DeadReason {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RepeatedStarts => "repeated_starts",
            Self::Other => "other",
        }
    }
}

/// One start of a job in quarantine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    pub process: ProcessName,
    pub boot: BootId,
    /// Number of the delivery that it was run for, from 2 on: the first delivery runs among others and is not recorded.
    pub attempt: u32,
    /// Broker time in microseconds since the Unix epoch.
    pub at_us: u64,
}

/// What may be shown of a dead letter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The job's, as its caller was told: the rows of one asynchronous job share it.
    pub id: JobId,
    pub generation: u32,
    pub tenant: TenantName,
    pub model: ModelName,
    pub token: ModelToken,
    pub lane: Lane,
    pub task: String,
    pub reason: DeadReason,
    pub starts: Vec<Start>,
    /// Broker time in microseconds since the Unix epoch when the api accepted it.
    pub enqueued_us: u64,
    /// Broker time in microseconds since the Unix epoch when it was put aside.
    pub died_us: u64,
    pub input_bytes: usize,
    /// First 16 hexadecimal digits of the SHA-256 of the input: the same input has the same digest.
    pub input_digest: String,
}

impl DeadLetter {
    pub fn summary(&self) -> Summary {
        let Self { job, model, token, lane, api: _, died_us, reason, starts } = self;
        Summary {
            id: job_of_row(&job.id),
            generation: job.generation,
            tenant: job.tenant.clone(),
            model: model.clone(),
            token: token.clone(),
            lane: *lane,
            task: job.task.as_str().to_owned(),
            reason: *reason,
            starts: starts.clone(),
            enqueued_us: job.enqueued_us,
            died_us: *died_us,
            input_bytes: job.input.len_bytes(),
            input_digest: digest(&job.input),
        }
    }

    /// Names this letter in the stream: one per row and generation.
    pub fn message_id(&self) -> String {
        format!("{}:{}:dead", self.job.id, self.job.generation)
    }
}

/// Key of a job's record of attempts in [`crate::streams::Bucket::Attempts`].
pub fn attempts_key(job: &JobId, generation: u32) -> String {
    format!("{job}.{generation}")
}

fn digest(input: &Input) -> String {
    let mut sha = Sha256::new();
    match input {
        Input::Text(text) => sha.update(text.as_bytes()),
        Input::Tokens(ids) => ids.iter().for_each(|id| sha.update(id.to_le_bytes())),
    }
    hex(&sha.finalize()[..8])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{decode, encode};
    use crate::job::{EmbedParams, Task};

    pub(super) fn letter() -> DeadLetter {
        let start = |process: &str, boot, attempt| Start {
            process: process.into(),
            boot: BootId::from_bytes([boot; 16]),
            attempt,
            at_us: 1_800_000_010_000_000,
        };
        DeadLetter {
            job: Job {
                id: JobId::from_bytes([2; 16]),
                generation: 1,
                tenant: TenantName::default(),
                enqueued_us: 1_800_000_000_000_000,
                deadline_us: 1_800_000_030_000_000,
                trace: None,
                task: Task::Embed(EmbedParams::default()),
                input: Input::Text("a secret".into()),
            },
            model: "m".into(),
            token: "m-0123456789".into(),
            lane: Lane::Normal,
            api: BootId::from_bytes([1; 16]),
            died_us: 1_800_000_020_000_000,
            reason: DeadReason::RepeatedStarts,
            starts: vec![start("worker-1", 3, 2), start("worker-2", 4, 3)],
        }
    }

    /// These bytes lie in streams for days: a change here needs a new wire version.
    #[test]
    fn the_bytes_of_a_letter_are_frozen() {
        let bytes = encode(&letter()).unwrap();
        assert_eq!(hex(&bytes), LETTER_V1);
        assert_eq!(decode::<DeadLetter>(&bytes).unwrap(), letter());
    }

    #[test]
    fn a_summary_survives_its_header_and_does_not_hold_the_input() {
        let text = serde_json::to_string(&letter().summary()).unwrap();
        assert!(!text.contains("secret"), "{text}");
        assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "a header holds printable characters: {text}");
        assert_eq!(serde_json::from_str::<Summary>(&text).unwrap(), letter().summary());
        assert_eq!(letter().summary().input_bytes, 8);
        assert_eq!(letter().summary().id, job_of_row(&letter().job.id));
    }

    #[test]
    fn a_reason_of_a_newer_process_is_read_as_another() {
        assert_eq!(serde_json::from_str::<DeadReason>(r#""too_large""#).unwrap(), DeadReason::Other);
    }

    #[test]
    fn the_same_input_has_the_same_digest() {
        assert_eq!(digest(&Input::Text("a".into())), digest(&Input::Text("a".into())));
        assert_ne!(digest(&Input::Text("a".into())), digest(&Input::Text("b".into())));
        assert_eq!(digest(&Input::Tokens(vec![1])).len(), 16);
    }

    const LETTER_V1: &str = "\
        019898c4100202020202020202020202020202020201a764656661756c74cf0006651728988000cf000665172a624380\
        c081a5456d62656493c2c0c081a454657874a86120736563726574a16dac6d2d30313233343536373839a66e6f726d61\
        6cc41001010101010101010101010101010101cf0006651729c9ad00af72657065617465645f7374617274739294a877\
        6f726b65722d31c4100303030303030303030303030303030302cf000665172931168094a8776f726b65722d32c41004\
        04040404040404040404040404040403cf0006651729311680";
}
