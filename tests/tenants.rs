//! Tenants on two apis: one quota, divided limits, keys that change without a restart.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Answer, Client, Cluster, ClusterOptions, eventually};

const LONG: Duration = Duration::from_secs(20);

/// SHA-256 of `one` and of `two`.
const ONE: &str = "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed";
const TWO: &str = "3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3";

fn keys(hashes: &[&str]) -> Value {
    hashes.iter().map(|hash| json!({ "id": hash[..4], "sha256": hash })).collect()
}

fn write(file: &Path, tenants: Value) {
    // In one step, as an orchestrator would: nobody reads half of it.
    let new = file.with_extension("new");
    std::fs::write(&new, json!({ "tenants": tenants }).to_string()).unwrap();
    std::fs::rename(new, file).unwrap();
}

async fn start(file: &Path, tenants: Value) -> Cluster {
    write(file, tenants);
    let api_args = vec!["--api-keys".to_owned(), file.display().to_string()];
    let options = ClusterOptions { apis: 2, api_args, ..ClusterOptions::default() };
    let cluster = Cluster::start(options).await;
    // Apis know of each other by their reports, one a second.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    cluster
}

async fn embed(cluster: &Cluster, api: usize, key: &str, input: &str) -> Answer {
    let mut client = Client::new(cluster.api(api).addr()).header("authorization", &format!("Bearer {key}"));
    client.post("/v1/embeddings", &json!({ "model": "identity", "input": input })).await.unwrap()
}

#[tokio::test]
async fn a_changed_file_of_keys_is_in_force_without_a_restart_and_a_broken_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    let cluster = start(&file, json!([{ "name": "a", "keys": keys(&[ONE]) }])).await;

    let refused = embed(&cluster, 0, "two", "x").await;
    assert_eq!((refused.status, refused.header("www-authenticate")), (401, Some("Bearer")), "{}", refused.text());
    assert_eq!(cluster.post("/v1/embeddings", &json!({})).await.status, 401);
    assert_eq!(cluster.get("/v1/models").await.status, 401);
    assert_eq!(cluster.get("/health/ready").await.status, 200);
    for api in [0, 1] {
        assert_eq!(embed(&cluster, api, "one", "x").await.status, 200);
    }

    write(&file, json!([{ "name": "a", "keys": keys(&[ONE, TWO]), "highest_lane": "low", "models": ["other"] }]));
    for api in [0, 1] {
        eventually("the second key opens", LONG, || async { embed(&cluster, api, "two", "x").await.status == 403 })
            .await;
        assert_eq!(embed(&cluster, api, "one", "x").await.status, 403, "the right to the model is gone");
    }

    std::fs::write(&file, "{ \"tenants\": [").unwrap();
    let warned = || async { cluster.get("/health/ready").await.text().contains("API keys") };
    eventually("the health page tells of the broken file", LONG, warned).await;
    assert_eq!(embed(&cluster, 0, "two", "x").await.status, 403, "the last good one is in force");
    assert!(cluster.api(0).log().contains("the API keys cannot be used"), "{}", cluster.api(0).log_tail(20));

    write(&file, json!([{ "name": "a", "keys": keys(&[TWO]) }]));
    eventually("the first key is gone", LONG, || async { embed(&cluster, 0, "one", "x").await.status == 401 }).await;
    assert_eq!(embed(&cluster, 0, "two", "x").await.status, 200);
    cluster.stop().await;
}

#[tokio::test]
async fn a_quota_is_shared_by_the_apis_and_outlives_them() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    let tenants = json!([
        { "name": "a", "keys": keys(&[ONE]), "tokens_per_day": 400 },
        { "name": "b", "keys": keys(&[TWO]), "tokens_per_day": 400 },
    ]);
    let cluster = start(&file, tenants).await;
    // Used up at one api ...
    let mut used = 0;
    let refused = loop {
        let answer = embed(&cluster, 0, "one", "words and words and words").await;
        match answer.status {
            200 => used += answer.json()["usage"]["total_tokens"].as_u64().unwrap(),
            _ => break answer,
        }
        assert!(used <= 400, "{used} tokens");
    };
    assert_eq!(refused.status, 429, "{}", refused.text());
    assert_eq!(refused.json()["error"]["code"], "insufficient_quota");
    assert!(refused.header("retry-after").is_some_and(|wait| wait.parse::<u32>().unwrap() <= 86_400), "{refused:?}");
    assert!(used > 300, "{used} tokens");
    // ... it is used up at the other, too, which looks once somebody has asked and never let in that much itself.
    let told = || tokio::time::sleep(Duration::from_millis(2_500));
    told().await;
    embed(&cluster, 1, "one", "words").await;
    told().await;
    assert_eq!(embed(&cluster, 1, "one", "words and words and words").await.status, 429);
    assert_eq!(embed(&cluster, 1, "two", "words").await.status, 200, "nobody else's quota is touched");
    // A restart forgets nothing that was told.
    cluster.api(0).kill9();
    cluster.api(0).restart();
    cluster.ready().await;
    assert_eq!(embed(&cluster, 0, "one", "words and words and words").await.status, 429);
    let page = cluster.get("/metrics").await.text();
    assert!(page.contains("forebay_api_tenant_requests_total{outcome=\"quota_exceeded\",tenant=\"a\"} 1\n"), "{page}");
    cluster.stop().await;
}

#[tokio::test]
async fn a_replay_is_not_charged() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    let tenants = json!([{ "name": "a", "keys": keys(&[ONE]), "tokens_per_minute": 6000 }]);
    let cluster = start(&file, tenants).await;
    let input = vec!["a sentence that is not short, so that it costs something"; 50];
    let body = json!({ "model": cluster.model_name(), "input": input });
    let mut client = Client::new(cluster.api(0).addr());
    for (header, value) in [("authorization", "Bearer one"), ("idempotency-key", "k")] {
        client = client.header(header, value);
    }
    // A minute's worth at this api is 3 000 tokens: charged, the third replay would be refused. What is given back comes into
    // the reckoning of the next request.
    let mut left = Vec::new();
    for replayed in [None].into_iter().chain([Some("true"); 8]) {
        let answer = client.post("/v1/embeddings", &body).await.unwrap();
        assert_eq!((answer.status, answer.header("idempotent-replayed")), (200, replayed), "{}", answer.text());
        left.push(answer.header("x-ratelimit-remaining-tokens").unwrap().parse::<u32>().unwrap());
    }
    assert!(left[0] < 2_500, "the first is charged: {left:?}");
    assert!(left[1..].iter().all(|now| *now >= left[1]), "{left:?}");
    cluster.stop().await;
}

#[tokio::test]
async fn limits_are_divided_among_the_apis_that_are_there() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    let tenants = json!([{ "name": "a", "keys": keys(&[ONE]), "requests_per_second": 10, "tokens_per_minute": 6000 }]);
    let cluster = start(&file, tenants).await;
    for api in [0, 1] {
        let half =
            || async { embed(&cluster, api, "one", "x").await.header("x-ratelimit-limit-requests") == Some("5") };
        eventually("each api has a half", LONG, half).await;
    }
    let answer = embed(&cluster, 0, "one", "x").await;
    assert_eq!(answer.header("x-ratelimit-limit-tokens"), Some("3000"), "{answer:?}");
    let (mut refused, began) = (0, Instant::now());
    for _ in 0..20 {
        let answer = embed(&cluster, 1, "one", "x").await;
        if answer.status == 429 {
            refused += 1;
            assert!(answer.header("retry-after").is_some(), "{answer:?}");
            assert_eq!(answer.header("x-ratelimit-remaining-requests"), Some("0"), "{answer:?}");
        }
    }
    // At most a full bucket of 5, and what came meanwhile.
    let let_in = 20 - refused;
    let most = 5.0 + 5.0 * began.elapsed().as_secs_f64() + 1.0;
    assert!(f64::from(let_in) <= most, "{let_in} of 20 were let in, at most {most}");
    cluster.api(1).kill9();
    let alone = || async { embed(&cluster, 0, "one", "x").await.header("x-ratelimit-limit-requests") == Some("10") };
    eventually("the remaining api has the whole", LONG, alone).await;
}

#[tokio::test]
async fn work_for_later_is_charged_what_it_used() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    let tenants = json!([{ "name": "a", "keys": keys(&[ONE]), "tokens_per_day": 1_000_000 }]);
    write(&file, tenants);
    let api_args = vec!["--api-keys".to_owned(), file.display().to_string()];
    let cluster = Cluster::start(ClusterOptions { api_args, ..ClusterOptions::default() }).await;
    let mut client = Client::new(cluster.api(0).addr()).header("authorization", "Bearer one");
    let body = json!({ "model": "identity", "input": "words and words and words" });
    let used = client.post("/v1/embeddings", &body).await.unwrap().json()["usage"]["total_tokens"].as_u64().unwrap();
    let counted = |times: u64| {
        let line = format!("forebay_api_tenant_tokens_total{{kind=\"prompt\",tenant=\"a\"}} {}\n", times * used);
        let cluster = &cluster;
        async move { cluster.get("/metrics").await.text().contains(&line) }
    };
    assert!(counted(1).await);
    let job = json!({ "task": "embed", "model": "identity", "input": "words and words and words" });
    assert_eq!(client.post("/v1/jobs", &job).await.unwrap().status, 202);
    eventually("the job is counted", LONG, || counted(2)).await;
    let mut keyed =
        Client::new(cluster.api(0).addr()).header("authorization", "Bearer one").header("idempotency-key", "once");
    for _ in 0..2 {
        assert_eq!(keyed.post("/v1/embeddings", &body).await.unwrap().status, 200);
        eventually("a keyed request is counted once", LONG, || counted(3)).await;
    }
    cluster.stop().await;
}
