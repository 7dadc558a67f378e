//! Findings about the broker: reachable, new enough, JetStream, clock.

use std::time::Duration;

use forebay_shared::broker::{self, ConnectError, Link};
use forebay_shared::clock::BrokerClock;
use forebay_shared::ids::BootId;
use forebay_shared::settings::{BrokerAccessArgs, BrokerArgs, StoreArgs};
use forebay_shared::streams::MODELS_STREAM;

use super::{Finding, Level};

const DEFAULT_URL: &str = "nats://127.0.0.1:4222";
const WAIT: Duration = Duration::from_millis(500);
/// Deadlines are in the broker's time, so an offset does no harm; it makes logs of several machines hard to read.
const LARGE_OFFSET_SECONDS: f64 = 1.0;

/// Asks the broker at `url`. Without one, the usual address is tried, and its absence is no fault.
pub(super) async fn examine(url: Option<&str>, access: BrokerAccessArgs) -> Vec<Finding> {
    let args = BrokerArgs {
        broker: url.unwrap_or(DEFAULT_URL).to_owned(),
        access,
        broker_wait: WAIT,
        stores: StoreArgs::default(),
    };
    let link = match broker::connect(&args, BootId::random(), "doctor", "examine").await {
        Ok(link) => link,
        Err(ConnectError::Unreachable { .. }) if url.is_none() => {
            return vec![Finding::ok("broker", format!("none at {DEFAULT_URL}; forebay up brings its own"))];
        }
        Err(error) => {
            let text = error.to_string();
            let (problem, remedy) = text.split_once("; ").unwrap_or((&text, "correct --broker / FOREBAY_BROKER"));
            return vec![Finding::fail("broker", problem, remedy)];
        }
    };
    let mut findings = vec![version(&link), jetstream(&link).await];
    if findings.iter().all(|finding| finding.level < Level::Fail) {
        findings.push(clock(&link).await);
    }
    findings
}

fn version(link: &Link) -> Finding {
    let info = link.client.server_info();
    let detail = format!("{}:{} answers, version {}", info.host, info.port, info.version);
    if link.client.is_server_compatible(2, 11, 0) {
        Finding::ok("broker", detail)
    } else {
        Finding::fail("broker", detail, "install nats-server 2.11 or later there")
    }
}

async fn jetstream(link: &Link) -> Finding {
    match link.jetstream().query_account().await {
        Ok(account) => {
            Finding::ok("jetstream", format!("{} streams, {} consumers", account.streams, account.consumers))
        }
        Err(error) => Finding::fail(
            "jetstream",
            format!("does not answer: {error}"),
            "start nats-server with -js, or with a jetstream block in its configuration",
        ),
    }
}

/// The broker's time comes with a stream's state, and a fresh broker has no streams.
async fn clock(link: &Link) -> Finding {
    let clock = BrokerClock::from_wall_clock();
    if clock.sync(&link.client, MODELS_STREAM).await.is_err() {
        return Finding::ok("clock", "cannot tell yet: it is read from the queue, which the first process creates");
    }
    let offset = clock.offset_seconds();
    let detail = format!("the broker's is {:+.1} ms from ours", offset * 1000.0);
    if offset.abs() < LARGE_OFFSET_SECONDS {
        Finding::ok("clock", detail)
    } else {
        Finding::warn("clock", detail, "deadlines hold all the same, logs will not line up; run an NTP client on both")
    }
}
