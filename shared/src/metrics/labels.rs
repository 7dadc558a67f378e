//! Every label that is not a model, a lane or a process.

use std::borrow::Cow;
use std::sync::Arc;

use super::label::{Label, list};
use crate::error::JobError;
use crate::ids::ModelName;

macro_rules! labels {
    ($($(#[$doc:meta])* pub enum $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$vdoc])* $variant),* }

        impl $name {
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }
        }

        impl Label for $name {
            fn text(&self) -> Cow<'_, str> {
                self.as_str().into()
            }

            fn all(_: Option<&ModelName>) -> Option<Vec<Self>> {
                Some(Self::ALL.to_vec())
            }

            fn domain() -> String {
                list(Self::ALL.iter().map(|value| value.as_str()))
            }
        }
    )*};
}

labels! {
    /// How a request or a job ended.
    pub enum Outcome {
        Ok = "ok",
        Invalid = "invalid",
        Unauthorized = "unauthorized",
        RateLimited = "rate_limited",
        QuotaExceeded = "quota_exceeded",
        /// Our capacity, not the caller's limit.
        Overloaded = "overloaded",
        DeadlineExceeded = "deadline_exceeded",
        Cancelled = "cancelled",
        Failed = "failed",
    }

    /// What the model is asked to do.
    pub enum Task { Embed = "embed" }

    /// Which tokens are counted.
    pub enum TokenKind { Prompt = "prompt", Generated = "generated" }

    /// HTTP method; what is not in the list is `other`.
    pub enum Method {
        Get = "GET", Post = "POST", Put = "PUT", Delete = "DELETE", Head = "HEAD", Options = "OPTIONS", Patch = "PATCH",
        Other = "other",
    }

    /// One check of a request before it becomes jobs.
    pub enum Check {
        /// The body is not larger than allowed.
        BodySize = "body_size",
        /// The body is JSON of the right shape.
        Json = "json",
        /// The model exists.
        Model = "model",
        /// Options have values that the model supports.
        Parameters = "parameters",
        /// There is at least one input and not too many.
        InputCount = "input_count",
        /// No input is empty.
        InputEmpty = "input_empty",
        /// No input is too long.
        InputLength = "input_length",
    }

    /// Result of a [`Check`].
    pub enum CheckResult { Passed = "passed", Failed = "failed" }

    /// Why the broker did not take a publish.
    pub enum PublishFault {
        /// The stream is at its limit of messages or bytes.
        Full = "full",
        /// No answer in time; whether it was stored is unknown.
        Timeout = "timeout",
        NotConnected = "not_connected",
        /// The stream does not exist or has no leader.
        NoStream = "no_stream",
        TooLarge = "too_large",
        Other = "other",
    }

    /// Why a request was refused before anything was published.
    pub enum Refusal {
        /// Too many jobs are waiting for an answer.
        Jobs = "jobs",
        /// Their largest possible answers would not fit into memory.
        Bytes = "bytes",
        /// The broker cannot be reached.
        Broker = "broker",
        /// Nobody serves the model.
        NoWorker = "no_worker",
        /// The deadline cannot be met at the measured rate.
        Deadline = "deadline",
        /// A store that a job must leave something in is nearly full.
        Store = "store",
        /// The process is shutting down.
        Draining = "draining",
    }

    /// Who waits for a job.
    pub enum JobSource {
        /// A client, at the other end of a request.
        Request = "request",
        /// Nobody at this moment: it is part of an asynchronous job or of a batch, and is tried until it is done.
        Stored = "stored",
    }

    /// What was written to the broker.
    pub enum StoreWrite {
        /// A message of a queue.
        Publish = "publish",
        /// A value of a bucket.
        Kv = "kv",
        /// A file or a large result.
        Object = "object",
        DeadLetter = "dead_letter",
    }

    /// Which memory of a device.
    pub enum MemoryKind {
        Used = "used",
        /// Taken from the device and kept for later use.
        Reserved = "reserved",
        /// The most that was used since the process started.
        Peak = "peak",
        Capacity = "capacity",
    }

    /// Where an asynchronous job stands.
    pub enum JobState {
        Queued = "queued", Running = "running", Done = "done", Failed = "failed", Dead = "dead",
        Cancelled = "cancelled", Expired = "expired",
    }

    /// What became of one call of a webhook.
    pub enum CallOutcome {
        /// Answered with 2xx.
        Delivered = "delivered",
        /// Not answered, or with another status; tried again later.
        Retried = "retried",
        /// Not tried again.
        GivenUp = "given_up",
        /// The address is not one that may be called.
        Refused = "refused",
    }

    /// Why a batch was closed.
    pub enum CloseReason {
        Full = "full", Tokens = "tokens", DeviceIdle = "device_idle", MaxDelay = "max_delay", Deadline = "deadline",
        /// One job of a redelivered bundle, which runs alone.
        Isolated = "isolated",
    }

    /// What went wrong in the engine.
    pub enum EngineFault {
        OutOfMemory = "out_of_memory", Device = "device", Tokenizer = "tokenizer", Panic = "panic", Internal = "internal",
    }

    /// Why a job was put aside; see [`crate::dead::DeadReason`].
    pub enum DeadReason { RepeatedStarts = "repeated_starts", Other = "other" }

    /// Why a job did not have to run.
    pub enum SavedReason {
        /// Nobody waits for it any more.
        Cancelled = "cancelled",
        /// Its deadline passed before it ran.
        Expired = "expired",
        /// Delivered again although it was answered.
        Duplicate = "duplicate",
    }

    /// A model that answers without an error and says nothing.
    pub enum Anomaly { Nan = "nan", AllZero = "all_zero", Constant = "constant", Repeated = "repeated" }

    /// What became of a stats report.
    pub enum ReportResult {
        Applied = "applied",
        /// Its sequence number is not newer than the last.
        Stale = "stale",
        /// Its layout is not known yet; the sender was asked.
        Undescribed = "undescribed",
        /// The boot was folded into the total after an hour of silence.
        Folded = "folded",
        Malformed = "malformed",
        /// A wire version that this aggregator does not read.
        Version = "version",
    }

    /// What a worker is doing.
    pub enum WorkerState { Starting = "starting", Ready = "ready", Draining = "draining", Silent = "silent" }

    /// Where a message stands.
    pub enum MessageState { Pending = "pending", InFlight = "in_flight" }

    /// Why a series is missing from the fleet's page.
    pub enum DropReason {
        /// More processes than the cap on per-process series.
        ProcessCap = "process_cap",
        /// Two versions declare the stem with a different kind or merge rule.
        Conflict = "conflict",
    }

    /// What became of a line of a batch.
    pub enum LineEnd {
        Completed = "completed",
        Failed = "failed",
        /// Not run: its batch was cancelled or out of time.
        Skipped = "skipped",
    }

    /// How a batch ended.
    pub enum BatchEnd { Completed = "completed", Failed = "failed", Expired = "expired", Cancelled = "cancelled" }

    /// How full something is.
    pub enum Fullness { Used = "used", Limit = "limit" }

    /// What the broker stores where.
    pub enum StoreKind {
        FileUsed = "file_used", FileReserved = "file_reserved", FileLimit = "file_limit",
        MemoryUsed = "memory_used", MemoryReserved = "memory_reserved", MemoryLimit = "memory_limit",
    }
}

impl From<&JobError> for Outcome {
    fn from(error: &JobError) -> Self {
        match error {
            JobError::InvalidInput { .. }
            | JobError::InputTooLong { .. }
            | JobError::ModelNotFound { .. }
            | JobError::PayloadTooLarge { .. }
            | JobError::TooManyInputs { .. } => Self::Invalid,
            JobError::Overloaded { .. } | JobError::NoWorker { .. } | JobError::DeadlineUnreachable { .. } => {
                Self::Overloaded
            }
            JobError::DeadlineExceeded => Self::DeadlineExceeded,
            JobError::Cancelled => Self::Cancelled,
            JobError::BrokerUnavailable
            | JobError::BadOutput { .. }
            | JobError::DeadLettered { .. }
            | JobError::Internal => Self::Failed,
        }
    }
}

impl From<crate::dead::DeadReason> for DeadReason {
    fn from(reason: crate::dead::DeadReason) -> Self {
        match reason {
            crate::dead::DeadReason::RepeatedStarts => Self::RepeatedStarts,
            crate::dead::DeadReason::Other => Self::Other,
        }
    }
}

impl From<&crate::job::Task> for Task {
    fn from(task: &crate::job::Task) -> Self {
        match task {
            crate::job::Task::Embed(_) => Self::Embed,
        }
    }
}

impl From<crate::async_jobs::State> for JobState {
    fn from(state: crate::async_jobs::State) -> Self {
        use crate::async_jobs::State;
        match state {
            State::Queued => Self::Queued,
            State::Running => Self::Running,
            State::Done => Self::Done,
            State::Failed => Self::Failed,
            State::Dead => Self::Dead,
            State::Cancelled => Self::Cancelled,
            State::Expired => Self::Expired,
        }
    }
}

impl From<&str> for Method {
    fn from(name: &str) -> Self {
        Self::ALL.iter().copied().find(|method| method.as_str() == name).unwrap_or(Self::Other)
    }
}

/// The template of a route, e.g. `/v1/embeddings`: a literal of the program, never a path that somebody sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Route(pub &'static str);

impl Label for Route {
    fn text(&self) -> Cow<'_, str> {
        self.0.into()
    }

    fn all(_: Option<&ModelName>) -> Option<Vec<Self>> {
        None
    }

    fn domain() -> String {
        "a route template".into()
    }
}

/// A queue, bucket or object store that there is one of, by its name: a literal of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StreamName(pub &'static str);

impl Label for StreamName {
    fn text(&self) -> Cow<'_, str> {
        self.0.into()
    }

    fn all(_: Option<&ModelName>) -> Option<Vec<Self>> {
        None
    }

    fn domain() -> String {
        "a queue, bucket or object store that there is one of".into()
    }
}

/// HTTP status; outside 100 to 599 it reads `other`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Status(pub u16);

impl Label for Status {
    fn text(&self) -> Cow<'_, str> {
        if (100..600).contains(&self.0) { self.0.to_string().into() } else { "other".into() }
    }

    fn all(_: Option<&ModelName>) -> Option<Vec<Self>> {
        None
    }

    fn domain() -> String {
        "an HTTP status".into()
    }

    fn bounded(&self, _: &super::Models) -> Self {
        if (100..600).contains(&self.0) { *self } else { Self(0) }
    }
}

/// Something that a loaded model or its device says about itself: one value per model, from its files or the driver.
/// Cut at 64 bytes. Never from a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fact(Arc<str>);

impl Fact {
    pub fn new(text: &str) -> Self {
        Self(text[..text.floor_char_boundary(64)].into())
    }
}

impl From<&str> for Fact {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl Label for Fact {
    fn text(&self) -> Cow<'_, str> {
        (&*self.0).into()
    }

    fn all(_: Option<&ModelName>) -> Option<Vec<Self>> {
        None
    }

    fn domain() -> String {
        "as the model or its device says".into()
    }
}
