//! No fleet counter ever falls, on any aggregator, whoever dies.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::client;

const LOOK: Duration = Duration::from_millis(500);

/// Counters that an aggregator keeps of itself: they begin anew with its process, as Prometheus expects.
const ITS_OWN: [&str; 6] =
    ["process_", "forebay_reports_", "forebay_series_", "forebay_broker_", "forebay_recovery_", "forebay_reap"];

pub struct Counters {
    stop: Arc<AtomicBool>,
    found: Arc<Mutex<Found>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

#[derive(Debug, Default, Clone)]
pub struct Found {
    pub pages: usize,
    /// What fell, and from where to where.
    pub fallen: Vec<String>,
    /// The last page that could be read.
    pub last: BTreeMap<String, f64>,
}

impl Counters {
    pub fn watch(aggregators: Vec<SocketAddr>) -> Self {
        let (stop, found) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Found::default())));
        let tasks =
            aggregators.into_iter().map(|addr| tokio::spawn(follow(addr, Arc::clone(&stop), Arc::clone(&found))));
        Self { tasks: tasks.collect(), stop, found }
    }

    pub fn last(&self) -> BTreeMap<String, f64> {
        self.found.lock().unwrap().last.clone()
    }

    pub async fn stop(self) -> Found {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("the watch does not panic");
        }
        std::mem::take(&mut *self.found.lock().unwrap())
    }
}

async fn follow(addr: SocketAddr, stop: Arc<AtomicBool>, found: Arc<Mutex<Found>>) {
    let mut highest: BTreeMap<String, f64> = BTreeMap::new();
    while !stop.load(Ordering::Relaxed) {
        let answer = tokio::time::timeout(Duration::from_secs(2), client::get(addr, "/metrics")).await;
        if let Ok(Ok(answer)) = answer
            && answer.status == 200
        {
            let page = samples(&answer.text());
            let mut found = found.lock().unwrap();
            found.pages += 1;
            for (series, value) in page.iter().filter(|(series, _)| is_fleet_counter(series)) {
                let before = highest.get(series).copied().unwrap_or(0.0);
                // Sums of floating point numbers are added up in no fixed order.
                if *value < before - before.abs() * 1e-9 {
                    found.fallen.push(format!("{series}: {before} → {value}"));
                }
                highest.insert(series.clone(), before.max(*value));
            }
            let gone = highest.keys().filter(|series| !page.contains_key(*series));
            found.fallen.extend(gone.map(|series| format!("{series} is gone")));
            found.last = page;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Series → value of a page.
fn samples(page: &str) -> BTreeMap<String, f64> {
    let lines = page.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let pairs = lines.filter_map(|line| line.rsplit_once(' '));
    pairs.filter_map(|(series, value)| Some((series.to_owned(), value.parse().ok()?))).collect()
}

fn is_fleet_counter(series: &str) -> bool {
    let name = series.split('{').next().unwrap_or(series);
    let counts = ["_total", "_bucket", "_sum", "_count"].iter().any(|suffix| name.ends_with(suffix));
    counts && name.starts_with("forebay_") && !ITS_OWN.iter().any(|own| name.starts_with(own))
}

/// Sum over all series of `name`.
pub fn total(page: &BTreeMap<String, f64>, name: &str) -> f64 {
    let of = |series: &str| series == name || series.strip_prefix(name).is_some_and(|rest| rest.starts_with('{'));
    page.iter().filter(|(series, _)| of(series)).map(|(_, value)| value).sum()
}
