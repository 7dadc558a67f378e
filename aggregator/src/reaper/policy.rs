//! When a worker counts as dead, and what is given back then. Pure; told the time.
//!
//! ```text
//!          its connection is gone            100 ms without a return
//!  Alive ───────────────────────────▶ Gone ──────────────────────────▶ claim ──won, within 500 ms──▶ nak all it held
//!    │  ▲                              │                                 ▲
//!    │  └── connects, or a newer epoch ┘                                 │ its connection is gone
//!    └── 2.75 intervals without a word ──▶ Kicked (asked the broker to drop it) ──┘
//! ```
//!
//! Invariants:
//! - A message is naked only while the worker to be reaped is its latest known holder: what has moved on to another is
//!   that one's ([`Ledger`]).
//! - What a worker held in an earlier epoch is void for itself too (its own fence), so a kicked worker's work is given
//!   back even when it has returned in the meantime.
//! - Only a reaper that has heard a full list of the epoch, and every message since, may claim: the claim decides between
//!   reapers, so the winner must know everything.
//! - Nobody naks when it looks like the broker: more than max(3, 20 %) of the workers vanished within a second, a broker
//!   is shutting down, or our own connection was lost, or we were stopped ourselves. The work comes back after `ack_wait`.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use forebay_shared::ids::{BootId, ModelToken};
use forebay_shared::job::{HELD_INTERVAL, Held};
use rustc_hash::FxHashMap;

use super::ledger::{Holding, Ledger};

/// A worker whose connection was lost has this long to come back.
const GRACE: Duration = Duration::from_millis(100);
/// A worker that says nothing for so long is frozen: less than three heartbeats, so that its work moves within three.
const SILENCE: Duration = Duration::from_millis(HELD_INTERVAL.as_millis() as u64 * 11 / 4);
/// The broker answers a kick sooner, or it is forgotten.
const KICK_LIMIT: Duration = Duration::from_secs(1);
/// From the claim to the naks; later, they might hit what others have taken since.
const CLAIM_LIMIT: Duration = Duration::from_millis(500);
/// Vanishings within this are judged together.
const STORM_WINDOW: Duration = Duration::from_secs(1);
/// How long nobody is reaped after it looked like the broker.
const QUIET: Duration = Duration::from_secs(2);
/// After so long without a disturbance every worker has said all that it holds.
const SETTLED: Duration = Duration::from_millis(HELD_INTERVAL.as_millis() as u64 * 2);
/// Longer between two polls means that we were stopped ourselves.
const OWN_GAP: Duration = Duration::from_secs(1);

/// One connection of one broker's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Connection {
    pub(super) server: String,
    pub(super) cid: u64,
}

/// What the shell is to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Drop this worker's pull connection, and tell by [`Policy::kicked`]. `None`: find it first.
    Kick { boot: BootId, connection: Option<Connection> },
    /// Create the claim, and tell by [`Policy::claimed`].
    Claim { boot: BootId, epoch: u64 },
    /// Nothing: so many have vanished that it must be the broker. For the log.
    StandBack { vanished: usize },
}

/// What is given back to the queue.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reap {
    pub(super) boot: BootId,
    pub(super) token: ModelToken,
    /// Its last sign of life, or the loss of its connection.
    pub(super) since: Instant,
    pub(super) acks: Vec<String>,
}

#[derive(Debug)]
struct Worker {
    token: ModelToken,
    epoch: u64,
    number: u64,
    /// We know all that it holds.
    complete: bool,
    heard: Instant,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Alive,
    Gone { since: Instant },
    Kicked { at: Instant },
}

/// A worker that is dealt with.
#[derive(Debug)]
struct Claiming {
    boot: BootId,
    epoch: u64,
    token: ModelToken,
    since: Instant,
    at: Instant,
    held: Vec<Holding>,
}

/// What is known of the workers, and who of them is dealt with.
#[derive(Debug)]
pub(super) struct Policy {
    workers: FxHashMap<BootId, Worker>,
    connections: FxHashMap<BootId, Connection>,
    ledger: Ledger,
    claiming: Vec<Claiming>,
    actions: Vec<Action>,
    /// When workers were lost or fell silent, within [`STORM_WINDOW`].
    vanished: VecDeque<Instant>,
    quiet_until: Option<Instant>,
    /// The last disturbance, or the beginning.
    disturbed: Instant,
    polled: Instant,
    /// There may be connections that we have not heard of.
    blind: bool,
}

impl Policy {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            workers: FxHashMap::default(),
            connections: FxHashMap::default(),
            ledger: Ledger::default(),
            claiming: Vec::new(),
            actions: Vec::new(),
            vanished: VecDeque::new(),
            quiet_until: None,
            disturbed: now,
            polled: now,
            blind: true,
        }
    }

    /// A worker says what it holds.
    pub(super) fn heard(&mut self, held: Held, now: Instant) {
        let Held { boot, token, epoch, number, full, goodbye, acks, .. } = held;
        if goodbye {
            self.workers.remove(&boot);
            self.ledger.forget(boot);
            return;
        }
        match self.workers.get(&boot).map(|worker| worker.epoch) {
            // On its way when the connection was made anew.
            Some(known) if epoch < known => return,
            Some(known) if epoch > known => self.returned(boot, now),
            Some(_) => {}
            // Somebody new, or somebody whose end is being dealt with and whose last words are late.
            None if self.claiming.iter().any(|claim| claim.boot == boot && claim.epoch >= epoch) => return,
            None => {
                let (complete, state) = (false, State::Alive);
                self.workers.insert(boot, Worker { token, epoch, number, complete, heard: now, state });
            }
        }
        let Some(worker) = self.workers.get_mut(&boot) else { return };
        let missed = number > worker.number + 1;
        if epoch > worker.epoch {
            worker.epoch = epoch;
            worker.complete = false;
        } else if number < worker.number {
            return;
        }
        worker.complete = full || (worker.complete && !missed);
        (worker.number, worker.heard) = (number, now);
        if full { self.ledger.replace(boot, acks) } else { self.ledger.take(boot, acks) }
    }

    /// A worker's pull connection was made.
    pub(super) fn connected(&mut self, boot: BootId, connection: Connection, now: Instant) {
        self.connections.insert(boot, connection);
        self.returned(boot, now);
    }

    /// Whether the shell is to list the connections that there are, and tell by [`Self::listed`]. Once.
    pub(super) fn must_list(&mut self, now: Instant) -> bool {
        self.blind && !is_quiet(self.quiet_until, now) && std::mem::take(&mut self.blind)
    }

    /// A broker has this pull connection of a worker. What was heard of it since is newer.
    pub(super) fn listed(&mut self, boot: BootId, connection: Connection) {
        self.connections.entry(boot).or_insert(connection);
    }

    /// It was lost.
    pub(super) fn disconnected(&mut self, boot: BootId, connection: &Connection, now: Instant) {
        let is_known = match self.connections.get(&boot) {
            // The one before; the worker has another by now.
            Some(known) if known != connection => return,
            Some(_) => self.connections.remove(&boot).is_some(),
            None => false,
        };
        let Some(worker) = self.workers.get_mut(&boot) else { return };
        match worker.state {
            _ if is_quiet(self.quiet_until, now) => {
                self.workers.remove(&boot);
                self.ledger.forget(boot);
            }
            // Perhaps one before that was half open until now. Only a hint, then: who does not speak up within a
            // heartbeat is silent.
            State::Alive if !is_known => {
                if let Some(hinted) = now.checked_sub(SILENCE - HELD_INTERVAL - GRACE) {
                    worker.heard = worker.heard.min(hinted);
                }
            }
            State::Alive => {
                worker.state = State::Gone { since: now };
                self.vanished.push_back(now);
            }
            State::Gone { .. } => {}
            State::Kicked { .. } => self.claim(boot, now),
        }
    }

    /// The broker has dropped a worker that was to be kicked, or does not know it any more; or it did not answer.
    pub(super) fn kicked(&mut self, boot: BootId, is_gone: bool, now: Instant) {
        let Some(worker) = self.workers.get_mut(&boot) else { return };
        match worker.state {
            State::Kicked { .. } if is_gone => {
                self.connections.remove(&boot);
                self.claim(boot, now);
            }
            // Tried again after another silence.
            State::Kicked { .. } => (worker.state, worker.heard) = (State::Alive, now),
            State::Alive | State::Gone { .. } => {}
        }
    }

    /// The claim was made, by us or by somebody else.
    pub(super) fn claimed(&mut self, boot: BootId, epoch: u64, won: bool, now: Instant) -> Option<Reap> {
        let position = self.claiming.iter().position(|claim| claim.boot == boot && claim.epoch == epoch)?;
        let Claiming { token, since, at, held, .. } = self.claiming.swap_remove(position);
        if !won || now.saturating_duration_since(at) > CLAIM_LIMIT || self.is_storm(now) {
            return None;
        }
        let ours = held.into_iter().filter(|held| !self.ledger.is_held(&held.key));
        Some(Reap { boot, token, since, acks: ours.map(|held| held.ack).collect() })
    }

    /// The broker is in trouble, or our own way to it was: what is missing now says nothing about workers.
    pub(super) fn disturbed(&mut self, now: Instant) {
        self.quiet_until = Some(now + QUIET);
        self.disturbed = now;
        // Whoever came back before us did so unheard: what we remember may be the connection before.
        self.connections.clear();
        self.blind = true;
        self.claiming.clear();
        let suspects: Vec<BootId> =
            self.workers.iter().filter(|(_, worker)| worker.state != State::Alive).map(|(boot, _)| *boot).collect();
        for boot in suspects {
            self.workers.remove(&boot);
            self.ledger.forget(boot);
        }
        for worker in self.workers.values_mut() {
            (worker.heard, worker.complete) = (now, false);
        }
    }

    /// Lets time pass.
    pub(super) fn poll(&mut self, now: Instant) -> Vec<Action> {
        if now.saturating_duration_since(self.polled) > OWN_GAP {
            self.disturbed(now);
        }
        self.polled = now;
        if self.is_storm(now) {
            self.actions.push(Action::StandBack { vanished: self.vanished.len() });
            self.vanished.clear();
            self.disturbed(now);
        }
        if is_quiet(self.quiet_until, now) {
            // Whoever was heard last before the trouble gets a whole interval after it.
            self.workers.values_mut().for_each(|worker| worker.heard = now);
            return std::mem::take(&mut self.actions);
        }
        let (mut dead, mut silent) = (Vec::new(), Vec::new());
        for (boot, worker) in &mut self.workers {
            match worker.state {
                State::Gone { since } if now.saturating_duration_since(since) >= GRACE => dead.push(*boot),
                State::Alive if now.saturating_duration_since(worker.heard) >= SILENCE => silent.push(*boot),
                State::Kicked { at } if now.saturating_duration_since(at) >= KICK_LIMIT => {
                    (worker.state, worker.heard) = (State::Alive, now);
                }
                State::Alive | State::Gone { .. } | State::Kicked { .. } => {}
            }
        }
        self.vanished.extend(silent.iter().map(|_| now));
        if self.is_storm(now) {
            return self.poll(now);
        }
        for boot in dead {
            self.claim(boot, now);
        }
        for boot in silent {
            if let Some(worker) = self.workers.get_mut(&boot) {
                worker.state = State::Kicked { at: now };
                let connection = self.connections.get(&boot).cloned();
                self.actions.push(Action::Kick { boot, connection });
            }
        }
        std::mem::take(&mut self.actions)
    }

    /// When [`Self::poll`] has something to do, unless something happens before. What workers say moves it no further than
    /// a fixed time after the last poll: under constant traffic a poll would never come, and be taken for a stop of ours.
    pub(super) fn wake(&self) -> Instant {
        let due = self.workers.values().map(|worker| match worker.state {
            State::Alive => worker.heard + SILENCE,
            State::Gone { since } => since + GRACE,
            State::Kicked { at } => at + KICK_LIMIT,
        });
        let tick = self.polled + OWN_GAP / 4;
        due.min().map_or(tick, |due| due.min(tick))
    }

    /// What is held of a stream, in ascending order; `None` while somebody may hold what we have not heard of.
    pub(super) fn held_of(&self, stream: &str, now: Instant) -> Option<Vec<u64>> {
        let settled = now.saturating_duration_since(self.disturbed) >= SETTLED && !is_quiet(self.quiet_until, now);
        let complete = self.workers.values().all(|worker| worker.complete || worker.state != State::Alive);
        (settled && complete).then(|| self.ledger.sequences(stream))
    }

    /// Takes the worker out of the books and asks for the claim.
    fn claim(&mut self, boot: BootId, now: Instant) {
        let Some(Worker { token, epoch, complete, heard, state, .. }) = self.workers.remove(&boot) else { return };
        let held = self.ledger.forget(boot);
        if !complete || is_quiet(self.quiet_until, now) {
            return;
        }
        let since = match state {
            State::Gone { since } => since,
            State::Alive | State::Kicked { .. } => heard,
        };
        self.claiming.push(Claiming { boot, epoch, token, since, at: now, held });
        self.actions.push(Action::Claim { boot, epoch });
    }

    /// A worker is there again on another connection: what it held over the former is void.
    fn returned(&mut self, boot: BootId, now: Instant) {
        let Some(worker) = self.workers.get(&boot) else { return };
        match worker.state {
            // We have cut that connection ourselves; what it held is for others, whether or not it is back.
            State::Kicked { .. } => {
                let (token, state) = (worker.token.clone(), State::Alive);
                let back = Worker { token, complete: false, state, heard: now, ..*worker };
                self.claim(boot, now);
                self.workers.insert(boot, back);
            }
            State::Alive | State::Gone { .. } => {
                self.ledger.forget(boot);
                if let Some(worker) = self.workers.get_mut(&boot) {
                    (worker.state, worker.heard, worker.complete) = (State::Alive, now, false);
                }
            }
        }
    }

    /// More have vanished within a second than workers die on their own.
    fn is_storm(&mut self, now: Instant) -> bool {
        while self.vanished.front().is_some_and(|at| now.saturating_duration_since(*at) > STORM_WINDOW) {
            self.vanished.pop_front();
        }
        let gone = self.workers.values().filter(|worker| worker.state != State::Alive).count();
        let fleet = self.workers.len() - gone + self.vanished.len();
        self.vanished.len() > (fleet / 5).max(3)
    }
}

fn is_quiet(until: Option<Instant>, now: Instant) -> bool {
    until.is_some_and(|until| now < until)
}

#[cfg(test)]
mod tests;
