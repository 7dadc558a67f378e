//! Every NATS subject, in one place.
//!
//! | subject | kind | from → to |
//! |---|---|---|
//! | `forebay.jobs.<token>.<lane>.<rows>` | JetStream | api → worker; the last token is the number of jobs in the message |
//! | `forebay.rep.<boot>` | core | worker → the api that asked |
//! | `forebay.ask.<boot>` | core request | worker → api: are these jobs still wanted? |
//! | `forebay.live.<token>` | core | worker → apis: alive, ready or draining |
//! | `forebay.roll` | core | api → workers: announce yourselves now |
//! | `forebay.stats.<role>.<boot>` | core | process → aggregators: snapshot |
//! | `forebay.holding.<token>.<lane>.<boot>` | core | api → apis: work is held back here, so the lane's room is shared |
//! | `forebay.describe.<boot>` | core | aggregator → process: send the names of your series again |
//! | `forebay.held.<boot>` | core | worker → reapers: deliveries that it holds |
//! | `forebay.cancel.<token>` | core | api → workers: nobody waits for these jobs any more |
//! | `forebay.async.<token>-turns.<tenant>` | JetStream | api → apis: asynchronous work that waits for its tenant's turn |
//! | `forebay.async.<token>.<tenant>` | JetStream | the same from apis before there were turns |
//! | `forebay.async.<token>-express.<tenant>` | JetStream | api → apis: the same, while a synchronous request waits |
//! | `forebay.parts.<step>.<tenant>` | JetStream | api → apis: a part of a batch to run, or a batch to split or finish |
//! | `forebay.webhooks.<job>` | JetStream | api → apis: a call to make |
//! | `forebay.dead.<token>.<job>` | JetStream | worker → operators: a dead letter |

use crate::ids::{BootId, JobId, Lane, ModelToken, Role, TenantName};
use crate::model::slug;

/// Subject of a bundle of `rows` jobs.
pub fn jobs(token: &ModelToken, lane: Lane, rows: usize) -> String {
    format!("forebay.jobs.{token}.{}.{rows}", lane.as_str())
}

/// All bundles of one lane: the filter of its consumer.
pub fn jobs_lane(token: &ModelToken, lane: Lane) -> String {
    format!("forebay.jobs.{token}.{}.*", lane.as_str())
}

/// All bundles of one model: the subject of its stream.
pub fn jobs_model(token: &ModelToken) -> String {
    format!("forebay.jobs.{token}.*.*")
}

/// Lane and number of jobs of a bundle's subject, if it is one.
pub fn parse_jobs(subject: &str) -> Option<(Lane, u32)> {
    let mut parts = subject.strip_prefix("forebay.jobs.")?.splitn(3, '.');
    let (_token, lane, rows) = (parts.next()?, parts.next()?, parts.next()?);
    Some((lane.parse().ok()?, rows.parse().ok()?))
}

pub fn replies(boot: BootId) -> String {
    format!("forebay.rep.{boot}")
}

pub fn ask(boot: BootId) -> String {
    format!("forebay.ask.{boot}")
}

pub fn live(token: &ModelToken) -> String {
    format!("forebay.live.{token}")
}

pub const LIVE_ALL: &str = "forebay.live.*";

/// Where an api that has just started asks every worker to announce itself at once.
pub const ROLL_CALL: &str = "forebay.roll";

pub fn stats(role: Role, boot: BootId) -> String {
    format!("forebay.stats.{}.{boot}", role.as_str())
}

pub const STATS_ALL: &str = "forebay.stats.*.*";

/// Reports of all processes of one role.
pub fn stats_of(role: Role) -> String {
    format!("forebay.stats.{}.*", role.as_str())
}

/// An api holds work back in this lane.
pub fn holding(token: &ModelToken, lane: Lane, boot: BootId) -> String {
    format!("forebay.holding.{token}.{}.{boot}", lane.as_str())
}

pub const HOLDING_ALL: &str = "forebay.holding.*.*.*";

/// Model and lane of a subject of [`holding`].
pub fn parse_holding(subject: &str) -> Option<(ModelToken, Lane)> {
    let mut parts = subject.strip_prefix("forebay.holding.")?.splitn(3, '.');
    let (token, lane) = (parts.next()?, parts.next()?);
    Some((ModelToken::from(token), lane.parse().ok()?))
}

pub fn describe(boot: BootId) -> String {
    format!("forebay.describe.{boot}")
}

/// Deliveries that a worker holds.
pub fn held(boot: BootId) -> String {
    format!("forebay.held.{boot}")
}

pub const HELD_ALL: &str = "forebay.held.*";

/// Jobs of a model that nobody waits for any more.
pub fn cancel(token: &ModelToken) -> String {
    format!("forebay.cancel.{token}")
}

/// Asynchronous work of one tenant for one model: also the filter of that tenant's consumer. A token ends in ten hexadecimal
/// digits, so this is no other model's.
pub fn async_work(token: &ModelToken, tenant: &TenantName) -> String {
    format!("forebay.async.{token}-turns.{}", tenant_in_subject(tenant))
}

/// Tenants' names come from configuration; what does not fit into a subject is replaced. Tenants whose names differ only in
/// that share a consumer.
pub fn tenant_in_subject(tenant: &TenantName) -> String {
    slug(tenant.as_str())
}

/// Asynchronous work for one model that was accepted before tenants took turns: one consumer takes all of it, and a work
/// queue has no two consumers for one subject.
pub fn async_model(token: &ModelToken) -> String {
    format!("forebay.async.{token}.*")
}

/// Work that a synchronous request waits for: it must not stand behind a backlog. A token ends in ten hexadecimal digits,
/// so this is no other model's.
pub fn async_express(token: &ModelToken, tenant: &TenantName) -> String {
    format!("forebay.async.{token}-express.{}", slug(tenant.as_str()))
}

/// All work for one model that a synchronous request waits for.
pub fn async_express_model(token: &ModelToken) -> String {
    format!("forebay.async.{token}-express.*")
}

pub const ASYNC_ALL: &str = "forebay.async.*.*";

/// A part of a tenant's batch.
pub fn batch_part(tenant: &TenantName) -> String {
    format!("forebay.parts.run.{}", slug(tenant.as_str()))
}

/// All parts of batches: the filter of their consumer.
pub const BATCH_PARTS: &str = "forebay.parts.run.*";

/// A step of a tenant's batch as a whole: to be split, or to be finished.
pub fn batch_step(tenant: &TenantName) -> String {
    format!("forebay.parts.step.{}", slug(tenant.as_str()))
}

/// All steps of batches: the filter of their consumer, which does not wait behind parts.
pub const BATCH_STEPS: &str = "forebay.parts.step.*";

pub const PARTS_ALL: &str = "forebay.parts.*.*";

pub fn webhook(job: &JobId) -> String {
    format!("forebay.webhooks.{job}")
}

pub const WEBHOOKS_ALL: &str = "forebay.webhooks.*";

pub fn dead(token: &ModelToken, job: &JobId) -> String {
    format!("forebay.dead.{token}.{job}")
}

/// The dead letters of a job, whatever its model.
pub fn dead_job(job: &JobId) -> String {
    format!("forebay.dead.*.{job}")
}

pub const DEAD_ALL: &str = "forebay.dead.*.*";

/// Where the broker says which messages it has given up delivering.
pub const ADVISORIES_MAX_DELIVERIES: &str = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>";

/// Where the broker tells its system account that a client of any account has come.
pub const SYS_CONNECTS: &str = "$SYS.ACCOUNT.*.CONNECT";
/// The same for a client that has gone.
pub const SYS_DISCONNECTS: &str = "$SYS.ACCOUNT.*.DISCONNECT";
/// A broker of the cluster that ends in order.
pub const SYS_SHUTDOWNS: &str = "$SYS.SERVER.*.SHUTDOWN";
/// Every broker answers with its clients.
pub const SYS_CONNECTIONS: &str = "$SYS.REQ.SERVER.PING.CONNZ";

/// Where one broker is asked to drop a client.
pub fn sys_kick(server: &str) -> String {
    format!("$SYS.REQ.SERVER.{server}.KICK")
}

/// The user's part of an inbox: the beginning of its public key, so that nobody can be allowed to read another's inbox
/// without being allowed to read all of them.
pub fn inbox_owner(public_key: &str) -> &str {
    public_key.get(..13).unwrap_or(public_key)
}

/// All inboxes of one user.
pub fn inboxes(public_key: &str) -> String {
    format!("_INBOX.{}.>", inbox_owner(public_key))
}

/// Prefix of a process' own inboxes: per boot, so that a late reply to an earlier life cannot be taken for ours.
pub fn inbox_prefix(public_key: Option<&str>, boot: BootId) -> String {
    match public_key {
        Some(key) => format!("_INBOX.{}.{boot}", inbox_owner(key)),
        None => format!("_INBOX.{boot}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_lane_can_be_read_back_from_a_bundle_subject() {
        let subject = jobs(&ModelToken::from("mini-0123456789"), Lane::Normal, 32);
        assert_eq!(subject, "forebay.jobs.mini-0123456789.normal.32");
        assert_eq!(parse_jobs(&subject), Some((Lane::Normal, 32)));
        assert_eq!(parse_jobs("forebay.jobs.x.urgent.1"), None);
        assert_eq!(parse_jobs("forebay.rep.x"), None);
    }

    #[test]
    fn who_holds_back_where_can_be_read_back() {
        let token = ModelToken::from("mini-0123456789");
        let subject = holding(&token, Lane::Low, BootId::from_bytes([1; 16]));
        assert_eq!(parse_holding(&subject), Some((token, Lane::Low)));
        assert_eq!(parse_holding("forebay.holding.x"), None);
    }
}
