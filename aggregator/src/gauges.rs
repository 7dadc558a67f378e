//! What the aggregator computes from the fleet once a second, whether or not anybody scrapes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use forebay_shared::ids::{ModelName, ProcessName, Role};
use forebay_shared::metrics::{Check, DropReason, Fact, WorkerState};
use forebay_shared::stats::ProcessState;
use tokio::time::{MissedTickBehavior, interval};

use crate::hub::Hub;
use crate::merge::{Fleet, Member, Millis, Presence, Totals};
use crate::scaling;

/// A failed check is remembered this long.
const CHECK_WINDOW_MS: Millis = 5 * 60 * 1000;

pub async fn run(hub: Arc<Hub>) {
    let (mut checks, mut failed_writes) = (Checks::default(), 0);
    let mut tick = interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let now = hub.now();
        let totals = {
            let mut fleet = hub.fleet();
            presence(&hub, &fleet, now);
            fleet.is_ready(now).then(|| fleet.totals(now))
        };
        // Before the bucket is read, every number would look like a jump later.
        if let Some(totals) = totals {
            hub.rates().observe(&totals, now);
            checks.observe(&totals, now);
            hub.metrics.validation_checks.replace(checks.passing(now));
            dropped(&hub, DropReason::Conflict, totals.conflicts());
            failed_writes = add_failed_writes(&hub, &totals, failed_writes);
            advise(&hub, &totals, now);
        }
    }
}

/// Who is there.
fn presence(hub: &Hub, fleet: &Fleet, now: Millis) {
    let metrics = &hub.metrics;
    let members = fleet.members(now);
    let workers = || members.iter().filter(|member| member.head.role == Role::Worker);
    let mut up: BTreeMap<(ProcessName, ModelName, Fact), f64> = BTreeMap::new();
    let mut states: BTreeMap<(ModelName, WorkerState), f64> = BTreeMap::new();
    for member in workers() {
        for served in &member.head.served {
            metrics.register_model(&served.model);
            let live = f64::from(u8::from(member.presence == Presence::Live));
            let labels = (member.head.process.clone(), served.model.clone(), Fact::new(&served.device));
            // Two boots of one name may overlap; the name is up if one of them is.
            let value = up.entry(labels).or_default();
            *value = value.max(live);
            for state in WorkerState::ALL {
                states.entry((served.model.clone(), *state)).or_default();
            }
            *states.entry((served.model.clone(), state(member))).or_default() += 1.0;
        }
    }
    let mut last: BTreeMap<ProcessName, f64> = BTreeMap::new();
    for member in workers() {
        let sent = last.entry(member.head.process.clone()).or_default();
        *sent = sent.max(member.head.sent_ms as f64 / 1000.0);
    }
    let cut = up.len().saturating_sub(hub.process_cap) + last.len().saturating_sub(hub.process_cap);
    dropped(hub, DropReason::ProcessCap, cut);
    metrics.worker_up.replace(up.into_iter().take(hub.process_cap));
    let last = last.into_iter().take(hub.process_cap).map(|(name, at)| ((name,), at));
    metrics.worker_last_report_timestamp_seconds.replace(last);
    metrics.workers.replace(states);
    let oldest = members.iter().map(|member| member.head.age(now)).max().unwrap_or(0);
    metrics.reports_age_seconds.set(oldest as f64 / 1000.0);
}

fn state(member: &Member<'_>) -> WorkerState {
    match (member.presence, member.head.state) {
        (Presence::Silent, _) => WorkerState::Silent,
        (Presence::Live, ProcessState::Starting) => WorkerState::Starting,
        (Presence::Live, ProcessState::Ready) => WorkerState::Ready,
        (Presence::Live, ProcessState::Draining | ProcessState::Goodbye) => WorkerState::Draining,
    }
}

/// How many workers each model should have.
fn advise(hub: &Hub, totals: &Totals, now: Millis) {
    let queue = hub.queue().clone();
    let seen = scaling::look(totals, &queue, &hub.fleet().members(now));
    let mut scaling = hub.scaling();
    scaling.observe(seen, now);
    let metrics = &hub.metrics;
    scaling.advice().for_each(|(model, _)| metrics.register_model(model));
    metrics.desired_workers.replace(scaling.advice().map(|(model, one)| ((model.clone(),), f64::from(one.workers))));
    let known = scaling.advice().filter_map(|(model, one)| Some(((model.clone(),), one.capacity?)));
    metrics.worker_capacity_jobs_per_second.replace(known);
}

/// Adds what apis and workers could not write since `before` of their failures were known; returns how many are now.
fn add_failed_writes(hub: &Hub, totals: &Totals, before: u64) -> u64 {
    let all = totals.sum_by("store_write_errors_total", "kind", |_| true).into_values().sum::<f64>() as u64;
    hub.metrics.broker_write_errors_total.inc_by(all.saturating_sub(before));
    all.max(before)
}

/// Adds what is being cut at this moment; the counter rises as long as something is.
fn dropped(hub: &Hub, reason: DropReason, count: usize) {
    hub.metrics.series_dropped_total.with(&(reason,)).inc_by(count as u64);
}

/// When each check last failed.
#[derive(Default)]
struct Checks(BTreeMap<Check, (f64, Option<Millis>)>);

impl Checks {
    fn observe(&mut self, totals: &Totals, now: Millis) {
        let failed = |labels: &[(String, String)]| labels.iter().any(|(l, v)| l == "result" && v == "failed");
        let failures = totals.sum_by("input_checks_total", "check", failed);
        for check in Check::ALL {
            let count = failures.get(check.as_str()).copied().unwrap_or(0.0);
            self.note(*check, count, now);
        }
    }

    fn note(&mut self, check: Check, count: f64, now: Millis) {
        // What was counted before this aggregator looked first happened at an unknown time.
        let (last, failed) = self.0.entry(check).or_insert((count, None));
        if count > *last {
            *failed = Some(now);
        }
        *last = count;
    }

    fn passing(&self, now: Millis) -> impl Iterator<Item = ((Check,), f64)> + '_ {
        self.0.iter().map(move |(check, (_, failed))| {
            let passing = failed.is_none_or(|at| now.saturating_sub(at) >= CHECK_WINDOW_MS);
            ((*check,), f64::from(u8::from(passing)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_check_recovers_after_five_minutes() {
        let mut checks = Checks::default();
        let passing = |checks: &Checks, now| checks.passing(now).map(|(_, value)| value).next();
        checks.note(Check::Json, 7.0, 0);
        assert_eq!(passing(&checks, 0), Some(1.0), "failures of unknown age do not alarm");
        checks.note(Check::Json, 8.0, 1_000);
        assert_eq!(passing(&checks, 1_000 + CHECK_WINDOW_MS - 1), Some(0.0));
        assert_eq!(passing(&checks, 1_000 + CHECK_WINDOW_MS), Some(1.0));
    }
}
