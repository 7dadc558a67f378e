//! Keeps one process running: starts it, watches it, starts it again when it ends, stops it when told to.
//!
//! Waiting --> Starting --probe answers--> Ready
//!                ^  └────── ends ──────────┤
//!                └────── Restarting <──────┘     Restarting --3 times at start--> Failed
//!
//! from any state, when told to stop: Stopping --> Stopped

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_shared::shutdown::Shutdown;

use super::child;
use super::fleet::Shared;
use super::plan::{Kind, Spec};
use super::restart::{Restarts, START_ATTEMPTS, Verdict};
use crate::http;

const PROBE_EVERY: Duration = Duration::from_millis(50);
const PROBE_LIMIT: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// For the broker.
    Waiting,
    /// `doing`: what it says of itself meanwhile.
    Starting {
        pid: u32,
        doing: Option<String>,
    },
    Ready {
        pid: u32,
    },
    Restarting {
        reason: String,
        after: Duration,
    },
    Stopping {
        pid: u32,
    },
    Stopped,
    Failed {
        reason: String,
    },
}

impl State {
    pub fn pid(&self) -> Option<u32> {
        match self {
            Self::Starting { pid, .. } | Self::Ready { pid } | Self::Stopping { pid } => Some(*pid),
            Self::Waiting | Self::Restarting { .. } | Self::Stopped | Self::Failed { .. } => None,
        }
    }
}

/// How one start of the process ended.
enum End {
    Told,
    ByItself(String),
}

/// Runs until told to stop, or until starting the process has failed for good.
pub async fn keep(spec: Arc<Spec>, shared: Arc<Shared>, mut stop: Shutdown) {
    if spec.kind != Kind::NatsServer {
        tokio::select! {
            () = shared.broker_ready() => {}
            () = stop.fired() => return shared.set(&spec, State::Stopped),
        }
    }
    let mut restarts = Restarts::default();
    loop {
        let started = Instant::now();
        let reason = match run(&spec, &shared, &mut stop).await {
            End::Told => return shared.set(&spec, State::Stopped),
            End::ByItself(reason) => reason,
        };
        match restarts.ended(started, Instant::now(), shared.is_settled()) {
            Verdict::GiveUp => {
                let log = shared.store.log(&spec.name);
                let reason = format!(
                    "{} ended {START_ATTEMPTS} times while starting: {reason} (log: {})",
                    spec.name,
                    log.display()
                );
                return shared.set(&spec, State::Failed { reason });
            }
            Verdict::RestartAfter(after) => {
                shared.set(&spec, State::Restarting { reason, after });
                tokio::select! {
                    () = tokio::time::sleep(after) => {}
                    () = stop.fired() => return shared.set(&spec, State::Stopped),
                }
            }
        }
    }
}

/// One start of the process, to its end.
async fn run(spec: &Spec, shared: &Shared, stop: &mut Shutdown) -> End {
    let started = shared.store.append_log(&spec.name).and_then(|(log, end)| Ok((child::spawn(spec, log)?, end)));
    let (mut child, log_start) = match started {
        Ok(started) => started,
        Err(error) => return End::ByItself(format!("cannot start {}: {error}", spec.program.display())),
    };
    let pid = child.id().unwrap_or_default();
    shared.set(spec, State::Starting { pid, doing: None });
    let ended = tokio::select! {
        ended = child.wait() => ended,
        () = stop.fired() => {
            shared.set(spec, State::Stopping { pid });
            let _ended = child::stop(&mut child, shared.stop_grace).await;
            return End::Told;
        }
        never = announce_ready(spec, shared, pid) => match never {},
    };
    End::ByItself(match ended {
        Ok(status) => cause(status, shared.store.last_words(&spec.name, log_start).ok().flatten()),
        Err(error) => error.to_string(),
    })
}

/// Sets the state once the process answers; never returns, because from then on only its end is of interest.
async fn announce_ready(spec: &Spec, shared: &Shared, pid: u32) -> std::convert::Infallible {
    let (addr, path) = (spec.probe_addr(), spec.kind.probe_path());
    loop {
        match http::get(addr, path, PROBE_LIMIT).await {
            Ok(answer) if answer.status == 200 => break,
            Ok(answer) if answer.status == 503 && spec.kind == Kind::Worker => {
                let text = answer.text();
                shared.tell_doing(spec, text.lines().next().unwrap_or_default());
            }
            Ok(_) | Err(_) => {}
        }
        tokio::time::sleep(PROBE_EVERY).await;
    }
    shared.set(spec, State::Ready { pid });
    std::future::pending().await
}

/// Why it ended: what it said itself, unless it had no chance to.
fn cause(status: ExitStatus, last_words: Option<String>) -> String {
    match (status.signal(), last_words) {
        (Some(signal), _) => format!("killed by signal {signal}"),
        (None, Some(words)) => words,
        (None, None) => format!("it said nothing and ended with status {}", status.code().unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_the_last_words_unless_it_was_killed() {
        let words = || Some("no such model".to_owned());
        assert_eq!(cause(ExitStatus::from_raw(1 << 8), words()), "no such model");
        assert_eq!(cause(ExitStatus::from_raw(9), words()), "killed by signal 9");
        assert_eq!(cause(ExitStatus::from_raw(3 << 8), None), "it said nothing and ended with status 3");
    }
}
