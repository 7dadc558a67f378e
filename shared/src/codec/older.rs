//! Version 1 of the messages that have changed since, as they were.
//!
//! Version 2 added to a job its generation and its tenant, to an output the device time it took, and to an announcement
//! what the worker reads and how large its batches are.

use rmp_serde::encode::write;
use serde::{Deserialize, Serialize};

use super::{CodecError, Wire};
use crate::error::JobError;
use crate::ids::{BootId, JobId, ModelName, ModelToken, ProcessName, TenantName};
use crate::job::{Bundle, Input, Job, Live, Output, Reply, ReplyBatch, ReplyGroup, Task};
use crate::trace::TraceContext;

#[derive(Serialize, Deserialize)]
struct BundleV1 {
    api: BootId,
    number: u64,
    jobs: Vec<JobV1>,
}

#[derive(Serialize, Deserialize)]
struct JobV1 {
    id: JobId,
    enqueued_us: u64,
    deadline_us: u64,
    trace: Option<TraceContext>,
    task: Task,
    input: Input,
}

impl Wire for Bundle {
    const VERSION: u8 = 2;

    fn write_older(&self, version: u8, out: &mut Vec<u8>) -> Result<(), CodecError> {
        only_1(version)?;
        let Self { api, number, jobs } = self;
        let jobs = jobs.iter().cloned().map(|job| {
            let Job { id, enqueued_us, deadline_us, trace, task, input, generation: _, tenant: _ } = job;
            JobV1 { id, enqueued_us, deadline_us, trace, task, input }
        });
        Ok(write(out, &BundleV1 { api: *api, number: *number, jobs: jobs.collect() })?)
    }

    fn read_older(version: u8, body: &[u8]) -> Result<Self, CodecError> {
        only_1(version)?;
        let BundleV1 { api, number, jobs } = super::read(body)?;
        let jobs = jobs.into_iter().map(|job| {
            let JobV1 { id, enqueued_us, deadline_us, trace, task, input } = job;
            let (generation, tenant) = (0, TenantName::default());
            Job { id, generation, tenant, enqueued_us, deadline_us, trace, task, input }
        });
        Ok(Self { api, number, jobs: jobs.collect() })
    }
}

#[derive(Serialize, Deserialize)]
struct ReplyBatchV1 {
    groups: Vec<ReplyGroupV1>,
}

#[derive(Serialize, Deserialize)]
struct ReplyGroupV1 {
    bundle: u64,
    ack: String,
    replies: Vec<ReplyV1>,
}

#[derive(Serialize, Deserialize)]
struct ReplyV1 {
    id: JobId,
    outcome: Result<OutputV1, JobError>,
}

#[derive(Serialize, Deserialize)]
struct OutputV1 {
    tokens: u32,
    #[serde(with = "serde_bytes")]
    vector: Vec<u8>,
}

impl Wire for ReplyBatch {
    const VERSION: u8 = 2;

    fn write_older(&self, version: u8, out: &mut Vec<u8>) -> Result<(), CodecError> {
        only_1(version)?;
        let groups = self.groups.iter().map(|group| ReplyGroupV1 {
            bundle: group.bundle,
            ack: group.ack.clone(),
            replies: group.replies.iter().map(reply_v1).collect(),
        });
        Ok(write(out, &ReplyBatchV1 { groups: groups.collect() })?)
    }

    fn read_older(version: u8, body: &[u8]) -> Result<Self, CodecError> {
        only_1(version)?;
        let ReplyBatchV1 { groups } = super::read(body)?;
        let groups = groups.into_iter().map(|ReplyGroupV1 { bundle, ack, replies }| {
            let replies = replies.into_iter().map(|ReplyV1 { id, outcome }| {
                let outcome = outcome.map(|OutputV1 { tokens, vector }| Output { tokens, device_us: 0, vector });
                Reply { id, outcome }
            });
            ReplyGroup { bundle, ack, replies: replies.collect() }
        });
        Ok(Self { groups: groups.collect() })
    }
}

fn reply_v1(reply: &Reply) -> ReplyV1 {
    let outcome = match &reply.outcome {
        Ok(Output { tokens, vector, device_us: _ }) => Ok(OutputV1 { tokens: *tokens, vector: vector.clone() }),
        Err(error) => Err(error.clone()),
    };
    ReplyV1 { id: reply.id, outcome }
}

#[derive(Serialize, Deserialize)]
struct LiveV1 {
    boot: BootId,
    process: ProcessName,
    model: ModelName,
    token: ModelToken,
    ready: bool,
}

impl Wire for Live {
    const VERSION: u8 = 2;

    fn write_older(&self, version: u8, out: &mut Vec<u8>) -> Result<(), CodecError> {
        only_1(version)?;
        let Self { boot, process, model, token, ready, wire: _, max_rows: _ } = self.clone();
        Ok(write(out, &LiveV1 { boot, process, model, token, ready })?)
    }

    fn read_older(version: u8, body: &[u8]) -> Result<Self, CodecError> {
        only_1(version)?;
        let LiveV1 { boot, process, model, token, ready } = super::read(body)?;
        Ok(Self { boot, process, model, token, ready, wire: 1, max_rows: 0 })
    }
}

fn only_1(version: u8) -> Result<(), CodecError> {
    if version == 1 { Ok(()) } else { Err(CodecError::Version(version)) }
}
