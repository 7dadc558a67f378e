//! What one aggregator costs for a large fleet: 1 000 processes with 200 exposed series each, reporting every second,
//! with 1 % and with 100 % of the values changing; `/metrics` is scraped every 250 ms.
//!
//! `cargo bench -p forebay-aggregator --bench fleet [-- --processes 1000 --seconds 30]`; with `QUICK=1` a smoke run. `BENCH_OUT=<file>`
//! appends the table there too.
//!
//! The aggregator runs as a process of its own (this binary again), so that its processor time and memory are its own.

#![allow(clippy::unwrap_used, reason = "a measurement fails loudly")]

#[path = "../tests/support/nats.rs"]
mod nats;
#[path = "../tests/support/page.rs"]
#[allow(dead_code, reason = "tests use the rest")]
mod page;

use std::fs::OpenOptions;
use std::io::Write;
use std::net::SocketAddr;
use std::process::{Child, Command};
use std::time::Duration;

use forebay_aggregator::{AggregatorArgs, ReaperArgs, ScalingArgs};
use forebay_shared::clock::BrokerClock;
use forebay_shared::ids::{BootId, Role};
use forebay_shared::metrics::{Kind, Merge, WorkerMetrics};
use forebay_shared::stats::{
    FamilyInfo, Layout, LayoutHash, ProcessState, SeriesInfo, Served, Snapshot, WIRE_VERSION, encode_cells,
};
use forebay_shared::subjects;
use nats::{Nats, free_port};
use page::get;
use tokio::runtime::Builder;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

const HEAD: &str = "\
| changing | reports/s | CPU of one core | broker CPU | /metrics p50 | p99 | max | page | peak RSS |
|---|---|---|---|---|---|---|---|---|";
const WARM_UP: Duration = Duration::from_secs(8);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |name: &str, default: u64| {
        let at = args.iter().position(|arg| arg == name);
        at.map_or(default, |at| args[at + 1].parse().unwrap())
    };
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    if let [role, url, address] = args.as_slice()
        && role == "aggregator"
    {
        runtime.block_on(aggregate(url, address.parse().unwrap()));
    } else if args.iter().any(|arg| arg == "--bench") {
        let quick = std::env::var("QUICK").is_ok_and(|value| !["", "0"].contains(&value.as_str()));
        let (processes, seconds) = if quick { (50, 3) } else { (1_000, 30) };
        let (processes, seconds) = (number("--processes", processes), number("--seconds", seconds));
        let mut text = format!("### One aggregator, {processes} processes that report every second\n\n{HEAD}\n");
        for share in [0.01, 1.0] {
            text += &runtime.block_on(measure(processes as usize, share, Duration::from_secs(seconds)));
        }
        let flags: String = args.iter().filter(|arg| *arg != "--bench").map(|arg| format!(" {arg}")).collect();
        text += &format!(
            "\n{}\n\n{}. Command: `{}cargo bench -p forebay-aggregator --bench fleet{}{flags}`\n",
            cost_of_a_report(),
            machine(),
            if quick { "QUICK=1 " } else { "" },
            if flags.is_empty() { "" } else { " --" },
        );
        if quick {
            text += "**QUICK run: too short to mean anything.**\n";
        }
        println!("{text}");
        if let Some(path) = std::env::var_os("BENCH_OUT") {
            let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
            writeln!(file, "{text}").unwrap();
        }
    }
}

async fn aggregate(url: &str, address: SocketAddr) {
    let reaper = ReaperArgs::default();
    let args = AggregatorArgs {
        aggregator_addr: address,
        aggregator_process_series: 2_000,
        scaling: ScalingArgs::default(),
        reaper,
    };
    let client = async_nats::ConnectOptions::new().subscription_capacity(131_072).connect(url).await.unwrap();
    let never = std::future::pending();
    forebay_aggregator::run_with(args, client, BootId::random(), "aggregator-1".into(), never).await.unwrap();
}

/// The aggregator's process, gone with the value.
struct Measured(Child);

impl Drop for Measured {
    fn drop(&mut self) {
        let _gone_already = self.0.kill();
        let _reaped = self.0.wait();
    }
}

async fn measure(processes: usize, share: f64, duration: Duration) -> String {
    let nats = Nats::start().await;
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let this = std::env::current_exe().unwrap();
    let child = Measured(Command::new(this).args(["aggregator", &nats.url(), &address.to_string()]).spawn().unwrap());
    let fleet = tokio::task::spawn(simulate(nats.client().await, processes, share));
    sleep(WARM_UP).await;

    let (aggregator, broker) = (child.0.id(), nats.pid());
    let (begin, cpu, broker_cpu) = (Instant::now(), cpu_seconds(aggregator), cpu_seconds(broker));
    let reports = reports(address).await;
    let (mut times, mut size) = (Vec::new(), 0);
    let mut tick = interval(Duration::from_millis(250));
    while begin.elapsed() < duration {
        tick.tick().await;
        let asked = Instant::now();
        let answer = get(address, "/metrics").await.expect("the aggregator answers");
        times.push(asked.elapsed());
        assert_eq!(answer.status, 200, "{}", answer.body);
        size = answer.body.len();
    }
    let elapsed = begin.elapsed().as_secs_f64();
    let percent = |from: f64, pid: u32| (cpu_seconds(pid) - from) / elapsed * 100.0;
    let (cpu, broker_cpu) = (percent(cpu, aggregator), percent(broker_cpu, broker));
    let rate = (self::reports(address).await - reports) / elapsed;
    times.sort_unstable();
    let quantile = |q: f64| times[((times.len() - 1) as f64 * q).round() as usize].as_secs_f64() * 1e3;
    fleet.abort();
    format!(
        "| {:.0} % | {rate:.0} | {cpu:.1} % | {broker_cpu:.1} % | {:.1} ms | {:.1} ms | {:.1} ms | {} KiB | {} MiB |\n",
        share * 100.0,
        quantile(0.5),
        quantile(0.99),
        quantile(1.0),
        size / 1024,
        peak_memory_kib(aggregator) / 1024,
    )
}

async fn reports(address: SocketAddr) -> f64 {
    let answer = get(address, "/metrics").await.expect("the aggregator answers");
    page::Page(answer.body).value("forebay_reports_total{result=\"applied\"}").expect("the aggregator is ready")
}

/// What reporting costs a worker with one model, without the write to the socket.
fn cost_of_a_report() -> String {
    const ROUNDS: u32 = 20_000;
    let metrics = WorkerMetrics::new();
    metrics.register_model(&"all-MiniLM-L6-v2".into());
    let (series, mut cells, mut bytes) = (metrics.registry().series(), Vec::new(), 0);
    let mut snapshot = simulated(0, 0, Layout::of(&series).encode().0);
    let begin = Instant::now();
    for _ in 0..ROUNDS {
        cells.clear();
        series.iter().for_each(|series| series.read(&mut cells));
        snapshot.cells = encode_cells(&cells);
        bytes = std::hint::black_box(snapshot.encode()).len();
    }
    let each = begin.elapsed() / ROUNDS;
    format!("A worker's report: {} series, {} cells, {bytes} bytes, {each:?} to make.", series.len(), cells.len())
}

/// Where this was measured, in one line.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let cpu = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cpu = cpu.map_or(std::env::consts::ARCH, |(_, name)| name);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = read("/proc/meminfo");
    let kib = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse().ok());
    let gib = kib.unwrap_or(0.0_f64) / f64::from(1 << 20);
    format!("{cores} cores {cpu}, {gib:.0} GiB, Linux {}", read("/proc/sys/kernel/osrelease").trim())
}

/// User and system time so far, in seconds: fields 14 and 15, in ticks of 10 ms.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after_name = stat.rsplit_once(')').unwrap().1;
    let ticks: u64 = after_name.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum();
    ticks as f64 / 100.0
}

fn peak_memory_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// 80 counters, 20 gauges and 5 histograms that are 20 lines each: 200 exposed series.
fn layout() -> Layout {
    let bounds: Vec<f64> = (1..=17).map(|bound| f64::from(bound) / 10.0).collect();
    let families = [("count_total", Kind::Counter), ("level", Kind::Gauge), ("wait_seconds", Kind::Histogram)];
    let families = families.into_iter().map(|(stem, kind)| FamilyInfo {
        stem: format!("bench_{stem}"),
        help: "A simulated metric.".to_owned(),
        kind,
        merge: Merge::Sum,
        labels: vec!["model".to_owned(), "outcome".to_owned()],
        bounds: if kind == Kind::Histogram { bounds.clone() } else { Vec::new() },
    });
    let series = [80u32, 20, 5].into_iter().enumerate().flat_map(|(family, count)| {
        (0..count).map(move |number| SeriesInfo {
            family: family as u32,
            values: vec!["all-MiniLM-L6-v2".to_owned(), format!("outcome-{number}")],
        })
    });
    Layout { families: families.collect(), series: series.collect() }
}

fn simulated(number: usize, started_ms: u64, layout: LayoutHash) -> Snapshot {
    let served = Served { model: "all-MiniLM-L6-v2".into(), token: "mini-0123456789".into(), device: "cpu".into() };
    Snapshot {
        version: WIRE_VERSION,
        role: Role::Worker,
        process: format!("worker-{number:04}").as_str().into(),
        boot: BootId::random(),
        seq: 0,
        started_ms,
        sent_ms: 0,
        interval_ms: 1000,
        address: Some(format!("10.0.{}.{}:9402", number / 250, number % 250)),
        state: ProcessState::Ready,
        served: vec![served],
        layout,
        cells: Vec::new(),
        description: None,
    }
}

/// Every process reports once a second, each at its own moment of the second.
async fn simulate(client: async_nats::Client, processes: usize, share: f64) {
    let (layout, description) = layout().encode();
    let width = Layout::decode(&description).unwrap().width();
    let clock = BrokerClock::from_wall_clock();
    let started_ms = clock.now_us() / 1000;
    let mut fleet: Vec<(Snapshot, Vec<f64>)> = (0..processes)
        .map(|number| {
            let snapshot = simulated(number, started_ms, layout);
            (Snapshot { description: Some(description.clone()), ..snapshot }, vec![0.0; width])
        })
        .collect();
    // A slice a millisecond: with 1 000 processes every report arrives alone, as from processes that know nothing of
    // each other.
    let mut tick = interval(Duration::from_millis(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let changing = ((width as f64 * share) as usize).max(1);
    let per_slice = processes.div_ceil(1_000).max(1);
    loop {
        for slice in fleet.chunks_mut(per_slice) {
            tick.tick().await;
            for (snapshot, cells) in slice {
                snapshot.seq += 1;
                snapshot.sent_ms = clock.now_us() / 1000;
                let from = (snapshot.seq as usize * 7) % width;
                (0..changing).for_each(|offset| cells[(from + offset) % width] += 1.25);
                snapshot.cells = encode_cells(cells);
                let subject = subjects::stats(snapshot.role, snapshot.boot);
                client.publish(subject, snapshot.encode().into()).await.unwrap();
                snapshot.description = None;
            }
        }
        for _ in fleet.len().div_ceil(per_slice)..1_000 {
            tick.tick().await;
        }
    }
}
