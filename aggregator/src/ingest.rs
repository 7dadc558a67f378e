//! Takes the reports off the wire (step 8 of the data path).

use std::sync::Arc;

use async_nats::Client;
use forebay_shared::metrics::{Counter, ReportResult};
use forebay_shared::stats::{Snapshot, UnreadableSnapshot};
use forebay_shared::subjects;
use futures::StreamExt;

use crate::hub::Hub;

pub async fn run(hub: Arc<Hub>, client: Client) {
    let results: Vec<Counter> =
        ReportResult::ALL.iter().map(|result| hub.metrics.reports_total.with(&(*result,))).collect();
    loop {
        match client.subscribe(subjects::STATS_ALL).await {
            Ok(mut reports) => {
                while let Some(message) = reports.next().await {
                    let result = take(&hub, &client, &message.payload).await;
                    results[result as usize].inc();
                }
            }
            Err(error) => tracing::warn!(%error, "cannot subscribe to the stats reports"),
        }
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
}

async fn take(hub: &Hub, client: &Client, payload: &[u8]) -> ReportResult {
    let report = match Snapshot::decode(payload) {
        Ok(report) => report,
        Err(error @ UnreadableSnapshot::Version(_)) => {
            tracing::debug!(%error, "a report of another version");
            return ReportResult::Version;
        }
        Err(error) => {
            tracing::debug!(%error, "an unreadable report");
            return ReportResult::Malformed;
        }
    };
    let boot = report.boot;
    let now = hub.now();
    let accepted = hub.fleet().accept(report, now);
    if accepted.ask
        && let Err(error) = client.publish(subjects::describe(boot), Default::default()).await
    {
        tracing::debug!(%error, "could not ask for a description; the next report is a new occasion");
    }
    accepted.result
}
