//! What counting costs: the operations of one answered request, and one page.
//!
//! `cargo bench -p forebay-shared --bench metrics`. Median of many rounds, on one core.

use std::hint::black_box;
use std::time::Instant;

use forebay_shared::ids::ModelName;
use forebay_shared::metrics::{ApiMetrics, Check, CheckResult, Outcome, Task, TokenKind, WorkerMetrics};

const ROUNDS: usize = 101;

fn main() {
    let model: ModelName = "all-MiniLM-L6-v2".into();
    let (api, worker) = (ApiMetrics::new(), WorkerMetrics::new());
    api.register_model(&model);
    worker.register_model(&model);

    // As in the api: handles that are made once per model, and what every answered request touches.
    let requests = api.requests_total.with(&(model.clone(), Task::Embed, Outcome::Ok));
    let duration = api.request_duration_seconds.with(&(model.clone(), Task::Embed));
    let predictions = api.predictions_total.with(&(model.clone(), Task::Embed));
    let tokens = api.tokens_total.with(&(model.clone(), TokenKind::Prompt));
    let rows = api.bundle_rows.with(&(model.clone(),));
    let in_progress = api.http_requests_in_progress.with(&());
    let checks = [
        Check::BodySize,
        Check::Json,
        Check::Model,
        Check::Parameters,
        Check::InputCount,
        Check::InputEmpty,
        Check::InputLength,
    ]
    .map(|check| api.input_checks_total.with(&(check, CheckResult::Passed)));
    let request = nanoseconds(10_000, || {
        in_progress.inc();
        checks.iter().for_each(|check| check.inc());
        rows.observe(1.0);
        requests.inc();
        duration.observe(black_box(0.004));
        duration.observe(black_box(0.004));
        predictions.inc();
        tokens.inc_by(24);
        in_progress.dec();
    });
    let looked_up =
        nanoseconds(10_000, || api.requests_total.with(&(model.clone(), Task::Embed, Outcome::Failed)).inc());
    println!("| what | cost |\n|---|---|");
    println!("| all counters and histograms of an answered request, in the api | {request:.0} ns |");
    println!("| one counter that is looked up by its labels (what rarely happens) | {looked_up:.0} ns |");
    for (role, page) in [("api", &(|| api.render()) as &dyn Fn() -> String), ("worker", &|| worker.render())] {
        let bytes = page().len();
        let took = nanoseconds(20, || {
            black_box(page());
        });
        println!("| the page of one {role} with one model, {:.0} KiB | {:.0} µs |", bytes as f64 / 1024.0, took / 1e3);
    }
}

/// Median time of one call.
fn nanoseconds(calls: u32, mut what: impl FnMut()) -> f64 {
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let begin = Instant::now();
            (0..calls).for_each(|_| what());
            begin.elapsed().as_nanos() as f64 / f64::from(calls)
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[ROUNDS / 2]
}
