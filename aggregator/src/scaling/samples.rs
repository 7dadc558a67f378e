//! Reads what [`super::measure`] wants to know out of what the aggregator has.

use std::collections::BTreeMap;

use forebay_shared::ids::{ModelName, Role};
use forebay_shared::metrics::{JobSource, Refusal, UNKNOWN_MODEL};
use forebay_shared::stats::ProcessState;

use super::Seen;
use crate::merge::{Member, Presence, Totals};
use crate::queue::QueueView;

/// Every registered model, as it is now. `None` while the broker does not answer: then depths are old and reports do not come.
pub fn look(totals: &Totals, queue: &QueueView, members: &[Member<'_>]) -> Option<BTreeMap<ModelName, Seen>> {
    if !queue.broker_up {
        return None;
    }
    let mut models: BTreeMap<ModelName, Seen> = BTreeMap::new();
    let mut add = |values: BTreeMap<String, f64>, to: fn(&mut Seen, f64)| {
        // Without a name nothing was said of a model, and `unknown` is what nobody registered.
        for (model, value) in values.into_iter().filter(|(model, _)| !model.is_empty() && model != UNKNOWN_MODEL) {
            to(models.entry(ModelName::new(model)).or_default(), value);
        }
    };
    let of = |stem: &str, label: &'static str, value: &'static str| {
        totals.sum_by(stem, "model", move |labels| labels.iter().any(|(l, v)| l == label && v == value))
    };
    let all = |stem: &str| totals.sum_by(stem, "model", |_| true);
    add(of("jobs_admitted_total", "source", JobSource::Request.as_str()), |seen, jobs| {
        seen.sample.arrived += jobs;
        seen.sample.asked += jobs;
    });
    add(of("jobs_admitted_total", "source", JobSource::Stored.as_str()), |seen, jobs| seen.sample.asked += jobs);
    add(all("queue_rejected_total"), |seen, jobs| {
        seen.sample.arrived += jobs;
        seen.sample.asked += jobs;
    });
    // How many jobs the request would have been is not known; that somebody asked is.
    let no_worker = of("admission_refused_total", "reason", Refusal::NoWorker.as_str());
    add(no_worker, |seen, requests| seen.sample.asked += requests);
    add(all("rows_total"), |seen, rows| seen.sample.rows += rows);
    add(all("async_waiting_rows"), |seen, rows| seen.sample.stored += rows.max(0.0));
    let observed = |stem| {
        let by_model = totals.observed_by(stem, "model").into_iter();
        by_model.map(|(model, (sum, count))| ((model.clone(), sum), (model, count))).unzip()
    };
    let (seconds, batches) = observed("inference_seconds");
    add(seconds, |seen, seconds| seen.sample.busy_seconds += seconds);
    add(batches, |seen, batches| seen.sample.batches += batches);
    let (fill, begun) = observed("batch_fill_ratio");
    add(fill, |seen, fill| seen.sample.fill += fill);
    add(begun, |seen, begun| seen.sample.begun += begun);

    for member in members.iter().filter(|one| one.head.role == Role::Worker && one.presence == Presence::Live) {
        for served in &member.head.served {
            let seen = models.entry(served.model.clone()).or_default();
            seen.workers += u32::from(matches!(member.head.state, ProcessState::Starting | ProcessState::Ready));
            seen.sample.ready += u32::from(member.head.state == ProcessState::Ready);
        }
    }
    for (model, depth) in &queue.models {
        // A queue that is named by its token belongs to weights that nobody remembers, and that nobody can be asked to serve.
        if let Some(seen) = models.get_mut(model) {
            seen.sample.waiting = depth.lanes.iter().map(|lane| lane.pending_jobs as f64).sum();
            seen.sample.depth = depth.lanes.iter().map(|lane| (lane.pending_jobs + lane.in_flight_jobs) as f64).sum();
        }
    }
    Some(models)
}
