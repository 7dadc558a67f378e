//! How many apis there are: each hears the others' reports to the aggregators.

use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_shared::broker::Link;
use forebay_shared::ids::Role;
use forebay_shared::subjects;
use futures::StreamExt;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

/// Three missed reports.
const HEARD_FOR: Duration = Duration::from_millis(3_500);

/// Apis and when they were last heard, told the time.
#[derive(Debug, Default)]
pub struct Peers(Mutex<FxHashMap<String, Instant>>);

impl Peers {
    /// Listens for as long as the process lives.
    ///
    /// # Errors
    /// The broker refused the subscription.
    pub async fn listen(link: &Link) -> Result<Arc<Self>, async_nats::SubscribeError> {
        let prefix = format!("forebay.stats.{}.", Role::Api.as_str());
        debug_assert!(subjects::STATS_ALL.starts_with("forebay.stats."));
        let mut reports = link.client.subscribe(format!("{prefix}*")).await?;
        let peers = Arc::new(Self::default());
        let heard = Arc::clone(&peers);
        tokio::spawn(async move {
            while let Some(report) = reports.next().await {
                if let Some(boot) = report.subject.strip_prefix(&prefix) {
                    heard.hear(boot, Instant::now());
                }
            }
        });
        Ok(peers)
    }

    fn hear(&self, boot: &str, now: Instant) {
        let mut apis = self.0.lock();
        apis.retain(|_, at| now.duration_since(*at) < HEARD_FOR);
        apis.insert(boot.to_owned(), now);
    }

    /// At least 1: this one.
    pub fn count(&self, now: Instant) -> usize {
        self.0.lock().values().filter(|at| now.duration_since(**at) < HEARD_FOR).count().max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_api_counts_until_three_reports_are_missed() {
        let (peers, start) = (Peers::default(), Instant::now());
        assert_eq!(peers.count(start), 1);
        peers.hear("a", start);
        peers.hear("b", start + Duration::from_secs(2));
        assert_eq!(peers.count(start + Duration::from_secs(3)), 2);
        assert_eq!(peers.count(start + Duration::from_secs(4)), 1);
    }
}
