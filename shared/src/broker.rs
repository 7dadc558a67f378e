//! Connections to NATS, one per purpose, so that a bulk transfer cannot delay an acknowledgement.
//!
//! async-nats reconnects by itself; this module gives every connection a name, a per-boot inbox, full-jitter back-off,
//! and a [`Link`] that tells what happened: whether it is up, its **epoch** (a lease taken in an earlier one is void),
//! and how often a subscription overflowed.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_nats::jetstream;
use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, ServerAddr};
use tokio::sync::watch;

use crate::ids::BootId;
use crate::settings::BrokerArgs;
use crate::subjects;

mod access;

pub use access::{AccessError, not_for_everybody};

/// How long a broker request may take before it counts as failed.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// Purpose of the connection over which a worker takes work: the one that a reaper watches.
pub const PULL: &str = "pull";

/// How long finding another broker of a cluster takes at most, if there is one: a reconnect or two.
const FAILOVER: Duration = Duration::from_secs(2);

/// One connection and its history.
#[derive(Debug, Clone)]
pub struct Link {
    pub client: Client,
    inbox: Arc<str>,
    state: Arc<LinkState>,
    epochs: watch::Receiver<u64>,
}

#[derive(Debug)]
struct LinkState {
    up: AtomicBool,
    /// When it was lost, while it is.
    lost: Mutex<Option<Instant>>,
    has_others: bool,
    slow_consumers: AtomicU64,
    epoch: watch::Sender<u64>,
}

impl Link {
    pub fn is_up(&self) -> bool {
        self.state.up.load(Ordering::Relaxed)
    }

    /// Up, or lost a moment ago where another broker of the cluster is there to go to: then it is worth waiting instead of
    /// turning work away.
    pub fn is_up_or_failing_over(&self) -> bool {
        let lost = || *self.state.lost.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_up() || (self.state.has_others && lost().is_some_and(|lost| lost.elapsed() < FAILOVER))
    }

    /// Waits while it is failing over, and tells whether it is up then.
    pub async fn failed_over(&self) -> bool {
        while !self.is_up() {
            if !self.is_up_or_failing_over() {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        true
    }

    /// Changes whenever this connection is made or lost. What was asked of the broker, or lent by it, in an earlier epoch
    /// is void.
    pub fn epoch(&self) -> u64 {
        *self.epochs.borrow()
    }

    /// Follows [`Self::epoch`].
    pub fn epochs(&self) -> watch::Receiver<u64> {
        self.epochs.clone()
    }

    /// Prefix of what this connection may listen on for answers to itself.
    pub fn inbox(&self) -> &str {
        &self.inbox
    }

    /// Messages dropped because a subscription's buffer was full. Anything above 0 is a sizing error.
    pub fn slow_consumers(&self) -> u64 {
        self.state.slow_consumers.load(Ordering::Relaxed)
    }

    /// Waits until everything handed to the connection is written, for [`REQUEST_TIMEOUT`] at most: the client's own flush
    /// waits for ever while the broker is away.
    pub async fn flush(&self) {
        if tokio::time::timeout(REQUEST_TIMEOUT, self.client.flush()).await.is_err() {
            tracing::warn!("the broker did not take the last messages in time");
        }
    }

    /// JetStream with a short time-out: a publish in flight when the broker dies does not fail by itself.
    pub fn jetstream(&self) -> jetstream::Context {
        jetstream::context::ContextBuilder::new()
            .timeout(REQUEST_TIMEOUT)
            .ack_timeout(Duration::from_secs(1))
            .max_ack_inflight(100_000)
            .build(self.client.clone())
    }
}

/// Why there is no connection. Each text ends with what to do, after a semicolon.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error(
        "cannot reach the broker at {url}: {cause}; start nats-server with JetStream there, or set --broker / FOREBAY_BROKER"
    )]
    Unreachable { url: String, cause: String },
    #[error("--broker {url} is no address; write nats://host:port, several separated by commas")]
    Address { url: String },
    #[error(
        "the broker at {url} refused {shown}; name this role's file with --broker-credentials / FOREBAY_BROKER_CREDENTIALS, and check \
         that the server includes the accounts.conf made with it"
    )]
    Refused { url: String, shown: &'static str },
    #[error(
        "no TLS with the broker at {url}: {cause}; name the authority of its certificate with --broker-ca / FOREBAY_BROKER_CA, \
         check that the certificate is for this host name, and show one with --broker-cert and --broker-key if it asks for one"
    )]
    Tls { url: String, cause: String },
    #[error(transparent)]
    Access(#[from] AccessError),
}

/// Connects for one purpose (`publish`, `pull`, `replies` …), trying for `args.broker_wait`.
///
/// # Errors
/// [`ConnectError`] when the broker could not be reached in that time; at once when it refused the credentials, or when
/// its certificate or a file of ours cannot be used: waiting would not help.
pub async fn connect(args: &BrokerArgs, boot: BootId, process: &str, purpose: &str) -> Result<Link, ConnectError> {
    let servers = addresses(&args.broker)?;
    let (epoch, epochs) = watch::channel(0);
    let state = Arc::new(LinkState {
        up: AtomicBool::new(false),
        lost: Mutex::new(None),
        has_others: servers.len() > 1,
        slow_consumers: AtomicU64::new(0),
        epoch,
    });
    let give_up = tokio::time::Instant::now() + args.broker_wait;
    loop {
        let user = access::public_key(&args.access)?;
        let inbox = format!("{}.{purpose}", subjects::inbox_prefix(user.as_deref(), boot));
        let options = access::apply(options(&inbox, connection_name(process, purpose, boot), &state), &args.access)?;
        match options.connect(servers.as_slice()).await {
            Ok(client) => {
                state.up.store(true, Ordering::Relaxed);
                return Ok(Link { client, inbox: inbox.into(), state, epochs });
            }
            Err(error) => match explain(args, &error) {
                ConnectError::Unreachable { .. } if tokio::time::Instant::now() < give_up => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                final_word => return Err(final_word),
            },
        }
    }
}

fn addresses(list: &str) -> Result<Vec<ServerAddr>, ConnectError> {
    let parse = |url: &str| url.parse().map_err(|_| ConnectError::Address { url: redacted(url) });
    let addresses: Vec<_> =
        list.split(',').map(str::trim).filter(|url| !url.is_empty()).map(parse).collect::<Result<_, _>>()?;
    if addresses.is_empty() { Err(ConnectError::Address { url: "(empty)".to_owned() }) } else { Ok(addresses) }
}

fn explain(args: &BrokerArgs, error: &async_nats::ConnectError) -> ConnectError {
    let url = redacted(&args.broker);
    let cause = one_line(error);
    match error.kind() {
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
            let access = &args.access;
            let shown = match (&access.broker_credentials, &access.broker_token) {
                (Some(_), _) => "these credentials",
                (None, Some(_)) => "this token",
                (None, None) => "a connection without credentials",
            };
            ConnectError::Refused { url, shown }
        }
        ConnectErrorKind::Tls => ConnectError::Tls { url, cause },
        // What the handshake says comes as an I/O error of its own kind.
        ConnectErrorKind::Io if cause.contains("certificate") || cause.contains("fatal alert") => {
            ConnectError::Tls { url, cause }
        }
        _ => ConnectError::Unreachable { url, cause },
    }
}

/// The error and what caused it, once each.
fn one_line(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let next_text = next.to_string();
        if !text.contains(&next_text) {
            text = format!("{text}: {next_text}");
        }
        cause = next.source();
    }
    text
}

fn options(inbox: &str, name: String, state: &Arc<LinkState>) -> ConnectOptions {
    let state = Arc::clone(state);
    ConnectOptions::new()
        .name(name)
        .custom_inbox_prefix(inbox)
        .client_capacity(8_192)
        .subscription_capacity(131_072)
        .read_buffer_capacity(65_535)
        .skip_subject_validation(true)
        .request_timeout(Some(REQUEST_TIMEOUT))
        .connection_timeout(Duration::from_secs(2))
        .ping_interval(Duration::from_secs(5))
        .reconnect_delay_callback(reconnect_delay)
        .event_callback(move |event| {
            let state = Arc::clone(&state);
            async move { on_event(&state, &event) }
        })
}

/// The name under which the broker knows a connection: says whose it is, for operators and reapers.
fn connection_name(process: &str, purpose: &str, boot: BootId) -> String {
    format!("forebay.{process}.{purpose}.{boot}")
}

/// Purpose and boot of a connection's name, if it is one of ours. Process names may hold dots.
pub fn parse_connection_name(name: &str) -> Option<(&str, BootId)> {
    let (rest, boot) = name.strip_prefix("forebay.")?.rsplit_once('.')?;
    let (_process, purpose) = rest.rsplit_once('.')?;
    Some((purpose, boot.parse().ok()?))
}

/// Full jitter between 50 ms and a bound that doubles up to 2 s, so that a fleet does not return in one wave.
fn reconnect_delay(attempts: usize) -> Duration {
    if attempts <= 1 {
        return Duration::from_millis(rand::random_range(0..=50));
    }
    let bound = (50u64 << attempts.min(6)).min(2_000);
    Duration::from_millis(rand::random_range(50..=bound))
}

fn on_event(state: &LinkState, event: &Event) {
    match event {
        Event::Connected => {
            state.up.store(true, Ordering::Relaxed);
            state.epoch.send_modify(|epoch| *epoch += 1);
            tracing::debug!("connected to the broker");
        }
        Event::Disconnected | Event::Closed => {
            *state.lost.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            state.up.store(false, Ordering::Relaxed);
            state.epoch.send_modify(|epoch| *epoch += 1);
            tracing::warn!("lost the broker; reconnecting");
        }
        Event::SlowConsumer(_) => {
            state.slow_consumers.fetch_add(1, Ordering::Relaxed);
            tracing::error!("a subscription overflowed and messages were dropped");
        }
        // A subject that this role may not use, above all: nothing else would say why an answer never comes.
        Event::ServerError(error) => tracing::warn!(%error, "the broker refused something"),
        other => tracing::debug!(event = %other, "broker event"),
    }
}

/// The URLs without user and password.
fn redacted(list: &str) -> String {
    let one = |url: &str| match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => format!("{}***{}", &url[..scheme + 3], &url[at..]),
        (None, Some(at)) => format!("***{}", &url[at..]),
        _ => url.to_owned(),
    };
    list.split(',').map(|url| one(url.trim())).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_in_an_url_are_not_shown() {
        assert_eq!(redacted("nats://user:secret@host:4222"), "nats://***@host:4222");
        assert_eq!(redacted("127.0.0.1:4222"), "127.0.0.1:4222");
        assert_eq!(redacted("nats://a:b@one:1, c:d@two:2"), "nats://***@one:1,***@two:2");
    }

    #[test]
    fn several_addresses_are_separated_by_commas() {
        assert_eq!(addresses("nats://a:4222, b:4223,").unwrap().len(), 2);
        for list in ["", " , ", "nats://a:1,http:// b"] {
            assert!(matches!(addresses(list), Err(ConnectError::Address { .. })), "{list:?}");
        }
    }

    #[test]
    fn a_connection_name_tells_purpose_and_boot() {
        let boot = BootId::from_bytes([7; 16]);
        let name = connection_name("worker.eu-1", PULL, boot);
        assert_eq!(parse_connection_name(&name), Some((PULL, boot)));
        assert_eq!(parse_connection_name("forebay.worker.pull"), None);
        assert_eq!(parse_connection_name("NATS CLI"), None);
    }

    #[test]
    fn reconnects_stay_between_their_bounds() {
        for attempts in 0..200 {
            assert!(reconnect_delay(attempts) <= Duration::from_secs(2));
        }
        assert!((0..100).all(|_| reconnect_delay(10) >= Duration::from_millis(50)));
    }
}
