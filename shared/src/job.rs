//! What the queue carries: jobs in bundles, and the answers to them.
//!
//! A **job** is one row of work for one model. Jobs of one model and lane that were ready at the same moment travel in
//! one **bundle**, which is one JetStream message: the unit of delivery, redelivery and acknowledgement. Each job keeps
//! its own identity, deadline and answer, so a bundle can be taken apart again.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::JobError;
use crate::ids::{BootId, JobId, ModelName, ModelToken, ProcessName, TenantName};
use crate::trace::TraceContext;

/// Most jobs in one message: the blast radius of a redelivery.
pub const MAX_BUNDLE_JOBS: usize = 32;
/// Most payload bytes in one message, well below the broker's `max_payload` of 1 MB.
pub const MAX_BUNDLE_BYTES: usize = 256 * 1024;
/// A single input above this is refused at the door: no model reads this much, and it must fit into one bundle.
pub const MAX_INPUT_BYTES: usize = MAX_BUNDLE_BYTES - 4096;

/// One JetStream message: jobs of one model and lane from one api.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bundle {
    /// Where the answers go, and who is asked before a redelivery is run again.
    pub api: BootId,
    /// The api's own number for this message; answers repeat it.
    pub number: u64,
    pub jobs: Vec<Job>,
}

/// One row of work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    pub id: JobId,
    /// How often it was begun anew on purpose: 0, and one more with each replay of a dead letter.
    pub generation: u32,
    /// Whose it is: what is kept of it can be found and erased by this.
    pub tenant: TenantName,
    /// Broker time in microseconds since the Unix epoch when the api accepted it.
    pub enqueued_us: u64,
    /// Broker time in microseconds since the Unix epoch after which nobody waits for the answer.
    pub deadline_us: u64,
    pub trace: Option<TraceContext>,
    pub task: Task,
    pub input: Input,
}

/// What to do with the input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Task {
    Embed(EmbedParams),
}

impl Task {
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Embed(_) => "embed",
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmbedParams {
    /// Cut inputs that are too long instead of refusing them.
    pub truncate: bool,
    /// Scale the vector to unit length; `None` = as the model's folder says.
    pub normalize: Option<bool>,
    /// Keep only the first dimensions (Matryoshka models); `None` = all.
    pub dimensions: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Input {
    Text(Arc<str>),
    /// Token ids as the model's vocabulary numbers them, special tokens included by the caller.
    Tokens(Vec<u32>),
}

impl Input {
    /// Size in bytes, for caps and credit before anything has been tokenised.
    pub fn len_bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Tokens(ids) => ids.len() * 4,
        }
    }
}

/// Answers to one api that became ready together: one core NATS message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReplyBatch {
    pub groups: Vec<ReplyGroup>,
}

/// Answers that belong to one bundle.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReplyGroup {
    /// [`Bundle::number`].
    pub bundle: u64,
    /// Where the api acknowledges the bundle once all its jobs are answered, cancelled or expired.
    pub ack: String,
    pub replies: Vec<Reply>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    pub id: JobId,
    pub outcome: Result<Output, JobError>,
}

/// The result of one job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Output {
    /// Tokens the model read, special tokens included.
    pub tokens: u32,
    /// Microseconds of the device: the batch's, divided among its jobs by tokens.
    pub device_us: u32,
    /// `f32` little endian, one after the other.
    #[serde(with = "serde_bytes")]
    pub vector: Vec<u8>,
}

/// What an api says about a job that was delivered a second time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    Wanted,
    Done,
    Cancelled,
}

/// A worker asks the api named in a redelivered bundle.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ask {
    pub jobs: Vec<JobId>,
}

/// The answer to [`Ask`], in its order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AskAnswer {
    pub verdicts: Vec<Verdict>,
}

/// An api tells the workers of a model that nobody waits for these jobs any more. Best effort: who misses it runs them.
///
/// A job is named with the bundle it travels in: what is submitted anew under the same id is not meant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cancel {
    pub api: BootId,
    /// Broker time in microseconds since the Unix epoch after which this may be forgotten.
    pub until_us: u64,
    /// [`Bundle::number`] and jobs of it.
    pub bundles: Vec<(u64, Vec<JobId>)>,
}

/// A worker's announcement, every second and when asked: how apis know who is there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Live {
    pub boot: BootId,
    pub process: ProcessName,
    pub model: ModelName,
    pub token: ModelToken,
    /// False from the moment a drain begins.
    pub ready: bool,
    /// Newest wire version that this worker reads.
    pub wire: u8,
    /// Most rows that it runs at once: of a batch, times the batches that it has under way; 0 = unknown.
    pub max_rows: u32,
}

/// What a worker holds of the queue: said when it has taken something, and in full every [`HELD_INTERVAL`]. Reapers give
/// back what a dead worker held, and take the absence of these messages for a frozen one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Held {
    pub boot: BootId,
    pub process: ProcessName,
    pub token: ModelToken,
    /// Of the connection that the deliveries came over: what an earlier one brought is not held any more.
    pub epoch: u64,
    /// One more with each of these messages of a boot, in the order in which they were sent.
    pub number: u64,
    /// `acks` is all that it holds, not only what it has just taken.
    pub full: bool,
    /// The last of its messages: everything was given back.
    pub goodbye: bool,
    /// Acknowledgement subjects of the deliveries.
    pub acks: Vec<String>,
}

/// How often a worker says all that it holds, also when that is nothing.
pub const HELD_INTERVAL: Duration = Duration::from_secs(1);
