//! Instant recovery: gives what a dead or frozen worker held back to the queue, so that nobody waits for `ack_wait`.
//!
//! ```text
//! broker's system account ── who came, who went ──▶ ┌────────┐ ── kick ──▶ broker
//! workers ── forebay.held.<boot> ─────────────────▶ │ policy │ ── claim (KV create) ──▶ -NAK to every delivery
//!                                                   └────────┘ ── and to what nobody has announced ([`orphans`])
//! ```
//!
//! Two connections: one as a user of the broker's system account, who hears of every disconnection within a millisecond
//! and may drop clients, and one in the fleet's own account. Several reapers may run; a claim per worker and epoch decides
//! who acts. Nothing depends on it: without a reaper the work comes back after `ack_wait`, and a worker's own fence
//! keeps it from speaking for what was given away.

mod ledger;
mod orphans;
mod policy;
mod system;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use async_nats::jetstream::kv;
use async_nats::{Message, Subscriber};
use forebay_shared::broker::{self, Link};
use forebay_shared::codec;
use forebay_shared::ids::{BootId, ModelToken, ProcessName};
use forebay_shared::job::Held;
use forebay_shared::metrics::AggregatorMetrics;
use forebay_shared::planted::Bug;
use forebay_shared::settings::{BrokerArgs, StoreArgs};
use forebay_shared::streams::{self, Bucket, Stores};
use forebay_shared::subjects;
use futures::{FutureExt, StreamExt};
use tokio::sync::mpsc;

use orphans::{Orphan, Reach};
use policy::{Action, Policy, Reap};

/// More than the claims and kicks that can be under way.
const RESULTS: usize = 4_096;
/// The whole of a recovery ends so long after its claim.
const RECOVERY_LIMIT: Duration = Duration::from_millis(500);
/// Pause before the bucket of claims is tried again.
const BUCKET_PAUSE: Duration = Duration::from_secs(1);

/// How an aggregator brings back the work of dead workers.
#[derive(clap::Args, Debug, Clone, Default)]
#[command(next_help_heading = "Recovery")]
pub struct ReaperArgs {
    /// File with the nkey seed of a user in the broker's system account. With it, the work of a worker that dies or
    /// freezes goes to others at once; without it, after 5 seconds.
    #[arg(long, env = "FOREBAY_SYSTEM_CREDENTIALS", value_name = "FILE")]
    pub system_credentials: Option<PathBuf>,
    /// File with the nkey seed of the user that gives work back; default: the one of --broker-credentials.
    #[arg(long, env = "FOREBAY_REAPER_CREDENTIALS", value_name = "FILE")]
    pub reaper_credentials: Option<PathBuf>,
}

/// The two connections of a reaper.
pub(crate) struct Reaper {
    system: Link,
    account: Link,
    process: ProcessName,
}

/// What a task has found out.
enum Found {
    Kicked { boot: BootId, is_gone: bool },
    Claimed { boot: BootId, epoch: u64, won: bool },
    Listed(Vec<(BootId, policy::Connection)>),
    Reached { token: ModelToken, reaches: Vec<Reach>, since: Instant, until: Instant },
    Orphans { token: ModelToken, orphans: Vec<Orphan>, since: Instant, until: Instant },
}

impl Reaper {
    /// Connects, if there are credentials for it.
    ///
    /// # Errors
    /// The broker refuses the credentials or cannot be reached.
    pub(crate) async fn connect(
        args: &ReaperArgs,
        broker: &BrokerArgs,
        boot: BootId,
        process: &ProcessName,
    ) -> Result<Option<Self>, broker::ConnectError> {
        let Some(system) = &args.system_credentials else {
            tracing::info!("no --system-credentials: the work of a dead worker comes back after ack_wait, not at once");
            return Ok(None);
        };
        let account = match &args.reaper_credentials {
            Some(file) => broker.with_credentials(file),
            None => broker.clone(),
        };
        Ok(Some(Self {
            system: broker::connect(&broker.with_credentials(system), boot, process.as_str(), "system").await?,
            account: broker::connect(&account, boot, process.as_str(), "reaper").await?,
            process: process.clone(),
        }))
    }

    /// Watches until the process ends.
    pub(crate) async fn run(self, metrics: AggregatorMetrics, stores: StoreArgs) {
        let stores = Stores::new(self.account.jetstream(), &stores);
        let claims = loop {
            match stores.bucket(Bucket::Reaps).await {
                Ok(bucket) => break bucket,
                Err(error) => tracing::error!(%error, "cannot open the bucket of claims; trying again"),
            }
            tokio::time::sleep(BUCKET_PAUSE).await;
        };
        match Ears::open(&self).await {
            Ok(ears) => Shell { reaper: self, claims, metrics }.run(ears).await,
            Err(error) => tracing::error!(%error, "cannot listen for the end of workers"),
        }
    }
}

/// What is listened to.
struct Ears {
    held: Subscriber,
    connects: Subscriber,
    disconnects: Subscriber,
    shutdowns: Subscriber,
}

impl Ears {
    async fn open(reaper: &Reaper) -> Result<Self, async_nats::SubscribeError> {
        Ok(Self {
            connects: reaper.system.client.subscribe(subjects::SYS_CONNECTS).await?,
            disconnects: reaper.system.client.subscribe(subjects::SYS_DISCONNECTS).await?,
            shutdowns: reaper.system.client.subscribe(subjects::SYS_SHUTDOWNS).await?,
            held: reaper.account.client.subscribe(subjects::HELD_ALL).await?,
        })
    }
}

struct Shell {
    reaper: Reaper,
    claims: kv::Store,
    metrics: AggregatorMetrics,
}

impl Shell {
    async fn run(self, mut ears: Ears) {
        let mut policy = Policy::new(Instant::now());
        let (finder, mut found) = mpsc::channel(RESULTS);
        let (mut system, mut account) = (self.reaper.system.epochs(), self.reaper.account.epochs());
        tracing::info!("the work of workers that die or freeze is given back at once");
        loop {
            let wake = policy.wake();
            tokio::select! {
                Some(message) = ears.connects.next() => on_connect(&mut policy, &message),
                Some(message) = ears.disconnects.next() => on_disconnect(&mut policy, &message),
                Some(_) = ears.shutdowns.next() => policy.disturbed(Instant::now()),
                Some(message) = ears.held.next() => {
                    self.on_held(&mut policy, &message).await;
                    // Nothing is due because somebody lives; what time brings is due at `wake`, whoever speaks until then.
                    continue;
                }
                Some(result) = found.recv() => {
                    // What the living have said by now comes first: it may be about what was found.
                    while let Some(Some(message)) = ears.held.next().now_or_never() {
                        self.on_held(&mut policy, &message).await;
                    }
                    self.on_found(&mut policy, result, &finder).await;
                }
                Ok(()) = system.changed() => policy.disturbed(Instant::now()),
                Ok(()) = account.changed() => policy.disturbed(Instant::now()),
                () = tokio::time::sleep_until(wake.into()) => {}
                else => return tracing::error!("the connections of the reaper are closed"),
            }
            for action in policy.poll(Instant::now()) {
                self.act(action, &finder);
            }
            if policy.must_list(Instant::now()) {
                let (client, finder) = (self.reaper.system.client.clone(), finder.clone());
                tokio::spawn(async move { finder.send(Found::Listed(system::list(&client).await)).await });
            }
        }
    }

    async fn on_held(&self, policy: &mut Policy, message: &Message) {
        match codec::decode::<Held>(&message.payload) {
            Ok(held) => {
                if Bug::NakOfLiveJob.is_planted() {
                    give_back(&self.reaper.account, &self.metrics, held.acks.clone(), Instant::now()).await;
                }
                policy.heard(held, Instant::now());
            }
            Err(error) => tracing::debug!(%error, "cannot read what a worker holds"),
        }
    }

    fn act(&self, action: Action, finder: &mpsc::Sender<Found>) {
        let finder = finder.clone();
        match action {
            Action::StandBack { vanished } => {
                tracing::warn!(vanished, "too many workers vanished at once: left to ack_wait, it is the broker");
            }
            Action::Kick { boot, connection } => {
                tracing::warn!(%boot, "a worker says nothing any more: dropping its connection");
                let client = self.reaper.system.client.clone();
                tokio::spawn(async move {
                    let is_gone = system::kick(&client, boot, connection).await;
                    finder.send(Found::Kicked { boot, is_gone }).await
                });
            }
            Action::Claim { boot, epoch } => {
                let (claims, process) = (self.claims.clone(), self.reaper.process.to_string());
                let failed = self.metrics.broker_write_errors_total.with(&());
                tokio::spawn(async move {
                    let claimed = claims.create(format!("reap.{boot}.{epoch}"), process.into()).await;
                    if claimed.as_ref().is_err_and(|error| error.kind() != kv::CreateErrorKind::AlreadyExists) {
                        failed.inc();
                    }
                    let won = claimed.is_ok();
                    finder.send(Found::Claimed { boot, epoch, won }).await
                });
            }
        }
    }

    async fn on_found(&self, policy: &mut Policy, found: Found, finder: &mpsc::Sender<Found>) {
        let now = Instant::now();
        match found {
            Found::Listed(connections) => {
                connections.into_iter().for_each(|(boot, connection)| policy.listed(boot, connection));
            }
            Found::Kicked { boot, is_gone } => policy.kicked(boot, is_gone, now),
            Found::Claimed { boot, epoch, won } => {
                if let Some(reap) = policy.claimed(boot, epoch, won, now) {
                    self.reap(reap, finder).await;
                }
            }
            Found::Reached { token, reaches, since, until } => {
                if let Some(held) = policy.held_of(&streams::jobs_stream(&token), now) {
                    let (client, finder) = (self.reaper.account.client.clone(), finder.clone());
                    tokio::spawn(async move {
                        let orphans = orphans::orphans(&client, &token, &reaches, &held, until).await;
                        let _ended = finder.send(Found::Orphans { token, orphans, since, until }).await;
                    });
                }
            }
            Found::Orphans { token, orphans, since, until } => {
                // The broker may have taken its time to answer.
                if let Some(held) = policy.held_of(&streams::jobs_stream(&token), now) {
                    let acks = orphans::still_lost(orphans, &held, now, until);
                    give_back(&self.reaper.account, &self.metrics, acks, since).await;
                }
            }
        }
    }

    /// Gives back what the worker said, then looks for what it had no time to say.
    async fn reap(&self, reap: Reap, finder: &mpsc::Sender<Found>) {
        let Reap { boot, token, since, acks } = reap;
        tracing::warn!(%boot, deliveries = acks.len(), after = ?since.elapsed(), "a worker is dead: giving back what it held");
        let until = Instant::now() + RECOVERY_LIMIT;
        give_back(&self.reaper.account, &self.metrics, acks, since).await;
        let (client, finder) = (self.reaper.account.client.clone(), finder.clone());
        tokio::spawn(async move {
            let reaches = orphans::reach(&client, &token).await;
            if !reaches.is_empty() {
                tokio::time::sleep(orphans::SETTLING).await;
                let _ended = finder.send(Found::Reached { token, reaches, since, until }).await;
            }
        });
    }
}

/// Hands the deliveries to other workers.
async fn give_back(account: &Link, metrics: &AggregatorMetrics, acks: Vec<String>, since: Instant) {
    if acks.is_empty() || !account.is_up() {
        return;
    }
    metrics.recovery_naks_total.with(&()).inc_by(acks.len() as u64);
    for ack in acks {
        let _lost = account.client.publish(ack, "-NAK".into()).await;
    }
    metrics.recovery_seconds.with(&()).observe(since.elapsed().as_secs_f64());
}

fn on_connect(policy: &mut Policy, message: &Message) {
    if let Some(notice) = system::parse_notice(&message.payload) {
        policy.connected(notice.boot, notice.connection, Instant::now());
    }
}

fn on_disconnect(policy: &mut Policy, message: &Message) {
    let Some(notice) = system::parse_notice(&message.payload) else { return };
    if notice.is_shutdown {
        policy.disturbed(Instant::now());
    }
    policy.disconnected(notice.boot, &notice.connection, Instant::now());
}
