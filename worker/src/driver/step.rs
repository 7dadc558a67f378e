//! One step of the driver: choose a batch, hand it to the device, and see what came of one that has landed.
//!
//! What to do is decided by the plain values of [`forebay_sched`]; here it is done.

use std::time::Instant;

use forebay_sched::{Batch, Wanted};

use super::landing::{Landed, UnderWay};
use super::load::{self, Load, guarded};
use super::{DeviceGone, Driver};
use crate::models::EngineError;
use crate::prepare::Work;
use crate::spans::{self, Pass};

impl Driver {
    /// What goes to the device now, if anything does.
    pub(super) fn choose(&mut self, now: Instant) -> Option<Load> {
        if self.waits_to_be_alone() && !self.pipeline.is_idle() {
            return None;
        }
        if let Some((jobs, round)) = self.retries.pop() {
            return Some(Load::again(jobs, round));
        }
        let batch = match self.held.take() {
            Some(suspect) => suspect,
            None => match self.pipeline.wanted(now) {
                Wanted::Any => self.batcher.poll(now),
                Wanted::Full => self.batcher.poll_full(now),
                Wanted::Nothing => None,
            }?,
        };
        if batch.reason == forebay_sched::CloseReason::Isolated && !self.pipeline.is_idle() {
            self.held = Some(batch);
            return None;
        }
        self.begin(batch, now)
    }

    /// Something waits until the device has nothing else.
    fn waits_to_be_alone(&self) -> bool {
        self.held.is_some() || !self.retries.is_empty()
    }

    /// When [`Self::choose`] or an expiry has something to say without an arrival or a landing.
    pub(super) fn next_change(&self, now: Instant) -> Option<Instant> {
        let expiry = self.batcher.next_expiry();
        if self.waits_to_be_alone() {
            return expiry;
        }
        match self.pipeline.wanted(now) {
            Wanted::Any => self.batcher.next_deadline(),
            Wanted::Full if !self.batcher.is_empty() => expiry.into_iter().chain(self.pipeline.next_change()).min(),
            Wanted::Full | Wanted::Nothing => expiry,
        }
    }

    /// Books a batch. `None` if all of it belongs to other workers by now.
    fn begin(&mut self, mut batch: Batch<Work>, now: Instant) -> Option<Load> {
        let parts = &self.parts;
        load::book(&mut batch.jobs, &parts.limits, &parts.clock, &parts.counters, now);
        for forebay_sched::QueuedJob { payload: work, .. } in &batch.jobs {
            parts.waiting.remove(work.delivery.lane, 1, work.estimated_tokens);
        }
        parts.waiting.announce_room();
        let mut load = Load::new(batch);
        let before = load.jobs.len();
        load.jobs.retain_mut(|work| {
            let over = work.delivery.lease_over(now);
            if over {
                spans::lost(&mut work.span);
                load.tokens -= work.ids.len();
                parts.deliveries.finished(&work.delivery, 1);
            }
            !over
        });
        let over = before - load.jobs.len();
        if over > 0 {
            tracing::warn!(jobs = over, "held for too long: another worker has them by now");
            parts.counters.cancelled.inc_by(over as u64);
        }
        if load.jobs.is_empty() {
            return None;
        }
        parts.counters.closed(load.reason);
        Some(load)
    }

    /// Hands a batch to the device.
    pub(super) fn submit(&mut self, mut load: Load) -> Result<(), DeviceGone> {
        let (model, rows, tokens) = (self.parts.counters.model(), load.jobs.len(), load.tokens);
        let span = tracing::debug_span!("batch", %model, rows, tokens);
        let _entered = span.enter();
        load.write_to(&mut self.tokens);
        load.begins();
        let at = Instant::now();
        if self.pipeline.is_idle() {
            self.parts.pulse.step_begins(at);
        }
        self.parts.counters.in_flight.inc();
        let (encoder, tokens) = (&mut self.parts.encoder, &self.tokens);
        let submitted = guarded(&self.parts.counters, || encoder.submit(tokens));
        let took = at.elapsed();
        match submitted {
            Ok(flight) => {
                self.pipeline.submitted(load.tokens, load.is_alone(), at, took);
                match self.landings.take(UnderWay { load, flight, submitted: at }) {
                    Some(landed) => self.landed(landed),
                    None => Ok(()),
                }
            }
            Err(error) => {
                self.parts.counters.in_flight.dec();
                self.parts.counters.steps.inc();
                let pass = Pass { begun: at, took, reason: load.reason };
                spans::pass(self.parts.counters.model(), &mut load.jobs, pass, true);
                self.show_pulse();
                self.failed(load, error)
            }
        }
    }

    /// The oldest batch under way is under way no more.
    pub(super) fn landed(&mut self, landed: Landed) -> Result<(), DeviceGone> {
        let Landed { at, failed } = landed;
        self.pipeline.landed(at, failed.is_none());
        self.show_pulse();
        match failed {
            Some((load, error)) => self.failed(load, error),
            None => {
                if self.ceiling.passed() {
                    self.narrow("batches may have more tokens again");
                }
                Ok(())
            }
        }
    }

    fn show_pulse(&self) {
        match self.pipeline.oldest_began() {
            Some(began) => self.parts.pulse.step_begins(began),
            None => self.parts.pulse.step_ends(),
        }
    }

    fn failed(&mut self, load: Load, error: EngineError) -> Result<(), DeviceGone> {
        if let EngineError::DeviceLost(reason) = error {
            tracing::error!(reason, rows = load.jobs.len(), "the device is lost; its jobs go back to the queue");
            self.lost.push(load);
            return Err(DeviceGone(reason));
        }
        let fault = load::fault(&error);
        if load.jobs.len() > 1 {
            let (rows, tokens) = (load.jobs.len(), load.tokens);
            tracing::warn!(%error, rows, tokens, "a batch failed; its rows are run again in parts");
        }
        if fault == forebay_sched::Fault::Memory && self.ceiling.failed(load.tokens) {
            self.narrow("memory did not suffice: batches have fewer tokens from now on");
        }
        let rejected = self.retries.failed(load.jobs, load.round, fault, |work| work.ids.len());
        if let Some(work) = rejected {
            load::fail(work, &error, &self.parts.replies);
        }
        Ok(())
    }

    fn narrow(&mut self, why: &str) {
        let max_tokens = self.ceiling.tokens();
        tracing::warn!(max_tokens, configured = self.parts.limits.max_tokens, "{why}");
        self.batcher.narrow(max_tokens);
    }
}
