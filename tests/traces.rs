//! Traces as a collector gets them: one from HTTP through the queue to the batch and back, and nobody waits for it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod support;

use std::process::Stdio;
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use serde_json::json;
use support::collector::{Collector, Seen};
use support::ports::Port;
use support::{Answer, Client, Cluster, ClusterOptions, client, eventually};

const LONG: Duration = Duration::from_secs(30);
/// Part of everything that clients write in these tests.
const CANARY: &str = "quetzalcoatlus";

/// A caller's own span.
fn caller(sampled: bool) -> (String, String) {
    let trace = forebay_shared::ids::hex(&rand::random::<[u8; 16]>());
    let header = format!("00-{trace}-b7ad6b7169203331-{}", if sampled { "01" } else { "00" });
    (trace, header)
}

async fn embed(cluster: &Cluster, traceparent: &str) -> Answer {
    let mut client = Client::new(cluster.api(0).addr()).header("traceparent", traceparent);
    let body = json!({ "model": cluster.model_name(), "input": format!("a {CANARY} flies") });
    client.post("/v1/embeddings", &body).await.unwrap()
}

fn options(endpoint: String, env: &[(&'static str, &str)]) -> ClusterOptions {
    let quick = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), ("OTEL_BSP_SCHEDULE_DELAY", "100")];
    let env = quick.iter().chain(env).map(|(name, value)| (*name, (*value).to_owned())).collect();
    ClusterOptions { env, ..ClusterOptions::default() }
}

/// The spans of a trace when all are there that an answered request has.
async fn whole_trace(collector: &Collector, trace: &str, model: &str) -> [Seen; 5] {
    let names = ["POST /v1/embeddings".to_owned()].into_iter();
    let names = names.chain(["dispatch", "publish", "process", "run"].map(|name| format!("{name} {model}")));
    let names: Vec<String> = names.collect();
    let complete = || async { names.iter().all(|name| collector.trace(trace).contains_key(name)) };
    eventually(&format!("all spans of {trace}"), LONG, complete).await;
    let mut spans = collector.trace(trace);
    assert_eq!(spans.len(), names.len(), "{:?}", spans.keys());
    std::array::from_fn(|index| spans.remove(&names[index]).unwrap())
}

#[tokio::test]
async fn a_request_is_one_trace_from_http_through_the_queue_to_its_run_and_back() {
    let collector = Collector::start().await;
    let cluster = Cluster::start(options(collector.endpoint(), &[])).await;
    let (trace, header) = caller(true);
    let answer = embed(&cluster, &header).await;
    assert_eq!(answer.status, 200, "{}", answer.text());

    let spans = whole_trace(&collector, &trace, "identity").await;
    let [server, dispatch, publish, process, run] = &spans;
    let kinds = spans.each_ref().map(|seen| seen.span.kind());
    use SpanKind::{Consumer, Internal, Producer, Server};
    assert_eq!(kinds, [Server, Internal, Producer, Consumer, Internal]);
    assert_eq!(server.parent(), "b7ad6b7169203331", "the caller's");
    for (above, below) in [(server, dispatch), (dispatch, publish), (publish, process), (process, run)] {
        assert_eq!(below.parent(), above.id(), "{} below {}", below.span.name, above.span.name);
    }
    assert_eq!(answer.header("traceparent").unwrap(), format!("00-{trace}-{}-01", server.id()));
    assert!(spans.iter().all(|seen| seen.span.status.as_ref().is_none_or(|status| status.code() == StatusCode::Unset)));

    let services = spans.each_ref().map(|seen| seen.resource["service.name"].as_str());
    let [api, worker] = ["forebay-api", "forebay-worker"];
    assert_eq!(services, [api, api, api, worker, worker]);
    assert_eq!(process.resource["service.instance.id"], "worker-1");

    let has = |seen: &Seen, expected: &[(&str, &str)]| {
        let attributes = seen.attributes();
        for (key, value) in expected {
            assert_eq!(attributes.get(*key).map(String::as_str), Some(*value), "{key} of {}", seen.span.name);
        }
    };
    has(
        server,
        &[("http.request.method", "POST"), ("http.route", "/v1/embeddings"), ("http.response.status_code", "200")],
    );
    has(server, &[("gen_ai.request.model", "identity"), ("forebay.rows", "1"), ("forebay.lane", "normal")]);
    has(server, &[("forebay.outcome", "ok"), ("gen_ai.operation.name", "embeddings")]);
    has(publish, &[("messaging.system", "nats"), ("messaging.batch.message_count", "1"), ("forebay.bundle_rows", "1")]);
    has(process, &[("forebay.attempt", "1"), ("forebay.outcome", "ok"), ("forebay.lane", "normal")]);
    let waits = ["forebay.queue_wait_seconds", "forebay.batch_wait_seconds"];
    assert!(waits.iter().all(|key| process.attributes()[*key].parse::<f64>().unwrap() < 10.0), "{process:?}");
    // One clock on one machine: what is below lies within, but for the moment between two readings.
    let slack = 20_000_000;
    for (above, below) in [(server, dispatch), (server, process), (process, run)] {
        let (above, below) = (&above.span, &below.span);
        assert!(above.start_time_unix_nano <= below.start_time_unix_nano + slack, "{above:?} {below:?}");
        assert!(below.end_time_unix_nano <= above.end_time_unix_nano + slack, "{above:?} {below:?}");
    }
    cluster.stop().await;
}

/// The batches that have been seen, by the spans that they link to.
fn batch_of(collector: &Collector, jobs: [&Seen; 2]) -> Option<Seen> {
    let links_to_both = |batch: &Seen| jobs.iter().all(|job| batch.links().contains(&job.id()));
    collector.spans().into_iter().find(|seen| seen.span.name.starts_with("batch ") && links_to_both(seen))
}

#[tokio::test]
async fn a_batch_is_linked_with_each_of_its_jobs() {
    let collector = Collector::start().await;
    let mut options = options(collector.endpoint(), &[]);
    options.model = "simulated".to_owned();
    options.worker_args = ["--simulated-base", "300ms"].map(str::to_owned).into();
    let cluster = Cluster::start(options).await;
    for _attempt in 0..10 {
        let [(_, first), (a, one), (b, two)] = [caller(false), caller(true), caller(true)];
        // While the device is busy with the first, the others come together.
        let (before, x, y) = tokio::join!(
            embed(&cluster, &first),
            async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                embed(&cluster, &one).await
            },
            async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                embed(&cluster, &two).await
            }
        );
        assert_eq!([before.status, x.status, y.status], [200; 3]);
        let [.., process_a, run_a] = whole_trace(&collector, &a, "simulated").await;
        let [.., process_b, run_b] = whole_trace(&collector, &b, "simulated").await;
        let Some(batch) = batch_of(&collector, [&process_a, &process_b]) else { continue };
        assert_eq!(batch.parent(), "", "its jobs are of many traces, so it is below none of them");
        assert!(![&a, &b].contains(&&batch.trace()));
        assert_eq!([run_a.links(), run_b.links()], [[batch.id()], [batch.id()]]);
        assert_eq!(
            [&process_a, &process_b].map(|job| job.attributes()["forebay.batch"].clone()),
            [batch.id(), batch.id()]
        );
        let said = batch.attributes();
        assert_eq!(said["forebay.batch.rows"], "2");
        assert!(said["forebay.device_seconds"].parse::<f64>().unwrap() >= 0.3, "{said:?}");
        assert!(
            said.contains_key("forebay.batch.tokens") && said.contains_key("forebay.batch.close_reason"),
            "{said:?}"
        );
        return cluster.stop().await;
    }
    panic!("ten attempts, and never did two jobs run together");
}

#[tokio::test]
async fn what_is_not_sampled_is_not_recorded_and_inputs_never_are() {
    let collector = Collector::start().await;
    let cluster =
        Cluster::start(options(collector.endpoint(), &[("OTEL_TRACES_SAMPLER", "parentbased_always_off")])).await;
    let (sampled, unsampled) = (caller(true), caller(false));
    // A path, a query, a model and an input that a client has written; an answer that is an error; a page.
    let mut asks = Client::new(cluster.api(0).addr()).header("traceparent", &sampled.1);
    let not_found = asks.get(&format!("/{CANARY}?{CANARY}=1")).await.unwrap();
    let no_model = asks.post("/v1/embeddings", &json!({ "model": CANARY, "input": CANARY })).await.unwrap();
    let too_many = asks.post("/v1/embeddings", &json!({ "model": "identity", "input": [CANARY, 7] })).await.unwrap();
    assert_eq!([not_found.status, no_model.status, too_many.status], [404, 404, 400]);
    for header in [&unsampled.1, &sampled.1] {
        assert_eq!(embed(&cluster, header).await.status, 200);
    }
    assert_eq!(cluster.post("/v1/embeddings", &json!({ "model": "identity", "input": CANARY })).await.status, 200);
    let job = json!({ "task": "embed", "model": "identity", "input": CANARY, "metadata": { "note": CANARY } });
    let job = asks.post("/v1/jobs", &job).await.unwrap();
    assert_eq!(job.status, 202, "{}", job.text());

    let all = |name: &str| collector.spans().into_iter().filter(|seen| seen.span.name == name).collect::<Vec<_>>();
    let there = || async { all("process identity").len() >= 2 && all("POST /v1/embeddings").len() >= 3 };
    eventually("what was asked for is recorded", LONG, there).await;
    let created = all("POST /v1/jobs");
    let below = |seen: &&Seen| seen.parent() == created[0].id();
    assert_eq!(all("dispatch identity").iter().filter(below).count(), 1, "the job goes on in the trace that began it");
    cluster.stop().await;

    let mut recorded = collector.spans();
    recorded.retain(|seen| !seen.span.name.starts_with("batch "));
    assert!(recorded.iter().all(|seen| seen.trace() == sampled.0), "{recorded:?}");
    let answered = |name: &str, status: &str| {
        let is = |seen: &Seen| seen.attributes().get("http.response.status_code").is_some_and(|code| code == status);
        assert!(recorded.iter().any(|seen| seen.span.name == name && is(seen)), "{name} with {status}: {recorded:?}");
    };
    answered("GET", "404");
    for status in ["200", "400", "404"] {
        answered("POST /v1/embeddings", status);
    }
    assert!(collector.has_heard("process identity") && !collector.has_heard(CANARY), "an input is in a span");
}

/// Waits for nothing and takes nothing: connections are accepted by the system and never served.
fn black_hole() -> std::net::TcpListener {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap()
}

#[tokio::test]
async fn a_collector_that_is_away_or_hangs_costs_spans_and_nothing_else() {
    let (nobody, hangs) = (Port::reserve(), black_hole());
    for addr in [nobody.addr(), hangs.local_addr().unwrap()] {
        let cluster = Cluster::start(options(format!("http://{addr}"), &[("OTEL_BSP_MAX_QUEUE_SIZE", "100")])).await;
        let begin = Instant::now();
        for _ in 0..300 {
            assert_eq!(embed(&cluster, &caller(true).1).await.status, 200);
        }
        assert!(begin.elapsed() < LONG, "{addr}: {:?}", begin.elapsed());
        let begin = Instant::now();
        cluster.api(0).terminate(LONG).await;
        // Half a second for late requests, a second for what is left over, two for the last spans.
        assert!(begin.elapsed() < Duration::from_secs(8), "{addr}: {:?}", begin.elapsed());
        let log = cluster.api(0).log();
        assert!(log.matches("spans were lost").count() <= 1, "{log}");
        assert!(log.contains("exported traces sent=0 "), "{log}");
        cluster.stop().await;
    }
}

#[tokio::test]
async fn up_hands_its_environment_on_and_the_last_spans_are_sent_at_the_end() {
    let collector = Collector::start().await;
    let (store, endpoint) = (tempfile::tempdir().unwrap(), collector.endpoint());
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_forebay"))
        .args(["up", "--once", "--model", "identity", "--api-addr", "127.0.0.1:0", "--aggregator-addr", "127.0.0.1:0"])
        .arg("--store")
        .arg(store.path())
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)
        // Long after the end: only the flush can send anything.
        .env("OTEL_BSP_SCHEDULE_DELAY", "600000")
        .env("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test,service.instance.id=all")
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut processes: Vec<[String; 2]> = collector
        .spans()
        .into_iter()
        .map(|seen| ["service.name", "service.instance.id"].map(|key| seen.resource[key].clone()))
        .collect();
    processes.sort();
    processes.dedup();
    let expected = [["forebay-api", "api-1"], ["forebay-worker", "worker-1"]].map(|pair| pair.map(str::to_owned));
    assert_eq!(processes, expected);
    assert!(collector.spans().iter().all(|seen| seen.resource["deployment.environment.name"] == "test"));
    let answered = collector.spans().into_iter().find(|seen| seen.span.name == "POST /v1/embeddings").unwrap();
    assert_eq!(answered.parent(), "", "nobody sent a trace: this is its root");
}

#[tokio::test]
async fn pages_and_probes_begin_no_trace() {
    let collector = Collector::start().await;
    let cluster = Cluster::start(options(collector.endpoint(), &[])).await;
    for path in ["/metrics", "/health/live", "/health/ready", "/nowhere"] {
        client::get(cluster.api(0).addr(), path).await.unwrap();
    }
    assert_eq!(cluster.get("/v1/models").await.status, 200);
    cluster.stop().await;
    let names: Vec<String> = collector.spans().into_iter().map(|seen| seen.span.name).collect();
    assert_eq!(names, ["GET /v1/models"]);
}
