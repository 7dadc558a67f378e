//! `/v1/fleet`: the fleet at this moment, for people and for the status board.

use std::collections::BTreeMap;

use forebay_shared::ids::{Lane, Role};
use forebay_shared::stats::Served;
use serde::Serialize;

use crate::hub::Hub;
use crate::merge::{Member, Millis, Presence};
use crate::rates::RATES;

#[derive(Debug, Serialize)]
pub struct FleetJson {
    /// Broker time, seconds since the Unix epoch.
    time: f64,
    broker_up: bool,
    apis: Vec<ProcessJson>,
    workers: Vec<ProcessJson>,
    models: Vec<ModelJson>,
    devices: Vec<DeviceJson>,
    /// Over the last ten seconds, all models together.
    rates: BTreeMap<&'static str, f64>,
    /// Dropped before they ran because nobody wanted them any more; counted since the fleet began.
    cancelled_jobs: u64,
    /// Device seconds that were not spent since the fleet began, by why the work did not have to be done.
    work_saved_seconds: BTreeMap<String, f64>,
    queue: Vec<LaneJson>,
}

#[derive(Debug, Serialize)]
struct ProcessJson {
    process: String,
    boot: String,
    state: &'static str,
    up: bool,
    address: Option<String>,
    started: f64,
    last_report_age_seconds: f64,
    models: Vec<String>,
}

#[derive(Debug, Serialize)]
struct ModelJson {
    model: String,
    workers_ready: usize,
    workers: usize,
    /// As `forebay_desired_workers` says.
    workers_desired: u32,
    /// Jobs per second that one worker can do, once something was measured.
    worker_capacity: Option<f64>,
    rates: BTreeMap<&'static str, f64>,
    pending: u64,
    in_flight: u64,
    capacity: u64,
}

#[derive(Debug, Serialize)]
struct DeviceJson {
    worker: String,
    device: String,
    up: bool,
    models: Vec<String>,
}

/// Jobs, not messages.
#[derive(Debug, Serialize)]
struct LaneJson {
    model: String,
    lane: &'static str,
    pending: u64,
    in_flight: u64,
    oldest_age_seconds: f64,
}

pub fn fleet(hub: &Hub) -> FleetJson {
    let now = hub.now();
    let queue = hub.queue().clone();
    let rates = by_model(hub);
    let totals = hub.fleet().totals(now);
    let fleet = hub.fleet();
    let members = fleet.members(now);
    let of = |role| members.iter().filter(move |one| one.head.role == role);

    let mut models: BTreeMap<String, ModelJson> = BTreeMap::new();
    for name in queue.models.keys() {
        model(&mut models, name.as_str());
    }
    for member in of(Role::Worker) {
        for served in &member.head.served {
            let entry = model(&mut models, served.model.as_str());
            entry.workers += 1;
            entry.workers_ready += usize::from(is_ready(member));
        }
    }
    for (name, advice) in hub.scaling().advice() {
        let entry = model(&mut models, name.as_str());
        (entry.workers_desired, entry.worker_capacity) = (advice.workers, advice.capacity);
    }
    for (name, rates) in &rates {
        if let Some(entry) = models.get_mut(name) {
            entry.rates = rates.clone();
        }
    }
    for (name, depth) in &queue.models {
        let entry = model(&mut models, name.as_str());
        entry.pending = depth.lanes.iter().map(|lane| lane.pending_jobs).sum();
        entry.in_flight = depth.lanes.iter().map(|lane| lane.in_flight_jobs).sum();
        entry.capacity = depth.capacity_jobs;
    }
    let mut all: BTreeMap<&'static str, f64> = RATES.iter().map(|(name, _)| (*name, 0.0)).collect();
    for (name, rate) in rates.values().flatten() {
        *all.entry(name).or_default() += rate;
    }
    FleetJson {
        time: now as f64 / 1000.0,
        broker_up: queue.broker_up,
        apis: of(Role::Api).map(|member| process(member, now)).collect(),
        workers: of(Role::Worker).map(|member| process(member, now)).collect(),
        models: models.into_values().collect(),
        devices: of(Role::Worker).flat_map(devices).collect(),
        rates: all,
        cancelled_jobs: totals.sum_by("cancelled_total", "model", |_| true).into_values().sum::<f64>() as u64,
        work_saved_seconds: totals.sum_by("work_saved_seconds_total", "reason", |_| true),
        queue: queue.models.iter().flat_map(|(name, depth)| lanes(name.as_str(), depth)).collect(),
    }
}

fn by_model(hub: &Hub) -> BTreeMap<String, BTreeMap<&'static str, f64>> {
    hub.rates().per_second().into_iter().map(|(model, rates)| (model.to_owned(), rates)).collect()
}

fn model<'a>(models: &'a mut BTreeMap<String, ModelJson>, name: &str) -> &'a mut ModelJson {
    models.entry(name.to_owned()).or_insert_with(|| ModelJson {
        model: name.to_owned(),
        workers_ready: 0,
        workers: 0,
        workers_desired: 0,
        worker_capacity: None,
        rates: BTreeMap::new(),
        pending: 0,
        in_flight: 0,
        capacity: 0,
    })
}

fn is_ready(member: &Member<'_>) -> bool {
    member.presence == Presence::Live && member.head.state == forebay_shared::stats::ProcessState::Ready
}

fn process(member: &Member<'_>, now: Millis) -> ProcessJson {
    let head = member.head;
    let up = member.presence == Presence::Live;
    ProcessJson {
        process: head.process.to_string(),
        boot: head.boot.to_string(),
        state: if up { head.state.as_str() } else { "silent" },
        up,
        address: head.address.clone(),
        started: head.started_ms as f64 / 1000.0,
        last_report_age_seconds: head.age(now) as f64 / 1000.0,
        models: head.served.iter().map(|served| served.model.to_string()).collect(),
    }
}

fn devices(member: &Member<'_>) -> Vec<DeviceJson> {
    let mut by_device: BTreeMap<&str, Vec<&Served>> = BTreeMap::new();
    for served in &member.head.served {
        by_device.entry(&served.device).or_default().push(served);
    }
    let worker = member.head.process.to_string();
    let up = member.presence == Presence::Live;
    by_device
        .into_iter()
        .map(|(device, served)| DeviceJson {
            worker: worker.clone(),
            device: device.to_owned(),
            up,
            models: served.iter().map(|served| served.model.to_string()).collect(),
        })
        .collect()
}

fn lanes(model: &str, depth: &crate::queue::StreamDepth) -> [LaneJson; 3] {
    Lane::ALL.map(|lane| {
        let depth = depth.lanes[lane.index()];
        LaneJson {
            model: model.to_owned(),
            lane: lane.as_str(),
            pending: depth.pending_jobs,
            in_flight: depth.in_flight_jobs,
            oldest_age_seconds: depth.oldest_age_ms as f64 / 1000.0,
        }
    })
}
