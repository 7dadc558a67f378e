//! Who may use this api, if it asks: keys as they were read at the start, then what was used of quotas.

use std::sync::Arc;

use forebay_shared::broker;
use forebay_shared::clock::BrokerClock;
use forebay_shared::metrics::{ApiMetrics, StoreWrite};
use forebay_shared::streams::{Bucket, Stores};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::registry::Registry;
use crate::settings::AccessArgs;
use crate::tenants::Tenants;
use crate::tenants::config::Config;
use crate::tenants::share::Sharing;
use crate::tenants::source::Source;

/// API keys as they were read at the start.
pub struct Keys {
    source: Source,
    config: Config,
    text: String,
}

impl Keys {
    /// # Errors
    /// The source of keys cannot be read, or holds what is no configuration.
    pub fn read(access: &AccessArgs) -> anyhow::Result<Option<Self>> {
        let Some(source) = Source::choose(access.api_keys.as_deref(), access.api_keys_json.as_ref())? else {
            return Ok(None);
        };
        let (config, text) = source.read()?;
        Ok(Some(Self { source, config, text }))
    }

    /// Says so if everybody may come in and that need not be meant.
    pub fn warn_if_open(keys: Option<&Self>, access: &AccessArgs, listener: &TcpListener) -> anyhow::Result<()> {
        let address = listener.local_addr()?;
        if keys.is_none() && !access.allow_open && !address.ip().is_loopback() {
            tracing::warn!(
                %address,
                "everybody who reaches this address may use it: there are no API keys; set --api-keys, or --allow-open if that is meant"
            );
        }
        Ok(())
    }

    /// Puts them in force, and their changes from now on. What was used today is known when this returns.
    ///
    /// # Errors
    /// The bucket of quotas cannot be opened.
    pub async fn follow(
        self,
        stores: &Stores,
        registry: &Registry,
        metrics: &Arc<ApiMetrics>,
        clock: &BrokerClock,
    ) -> anyhow::Result<(Arc<Tenants>, Shared)> {
        let tenants = Arc::new(Tenants::new(self.config, Arc::clone(metrics), clock.clone()));
        tokio::spawn(self.source.follow(self.text, Arc::clone(&tenants)));
        let quotas = stores.bucket(Bucket::Quotas).await?;
        let failed = metrics.store_write_errors_total.with(&(StoreWrite::Kv,));
        let mut sharing = Sharing::new(Arc::clone(&tenants), Arc::clone(registry.peers()), quotas, failed);
        sharing.once().await;
        let (served, until_served) = oneshot::channel();
        let task = tokio::spawn(sharing.run(until_served));
        Ok((tenants, Shared { task, served }))
    }
}

/// The task that tells the other apis what was used here.
pub struct Shared {
    task: JoinHandle<()>,
    served: oneshot::Sender<()>,
}

impl Shared {
    /// Tells them the last of it.
    pub async fn finish(self) {
        drop(self.served);
        let _in_vain_without_a_broker = tokio::time::timeout(broker::REQUEST_TIMEOUT, self.task).await;
    }
}
