//! What a key opens, and what is open without one.

use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use forebay_shared::clock::BrokerClock;
use forebay_shared::error::JobError;
use forebay_shared::ids::Lane;
use forebay_shared::metrics::{Outcome, Task, TokenKind};
use futures::FutureExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::fake::{FakeFleet, model};
use super::*;
use crate::tenants::Tenants;
use crate::tenants::tests::{config, key};

struct Answered {
    status: StatusCode,
    headers: axum::http::HeaderMap,
    body: Value,
}

fn api(tenants: Value) -> Arc<AppState<FakeFleet>> {
    with(FakeFleet { models: vec![model("org/m"), model("other")], ..FakeFleet::default() }, tenants)
}

fn with(fleet: FakeFleet, tenants: Value) -> Arc<AppState<FakeFleet>> {
    let state = fleet.state();
    let tenants = Tenants::new(config(tenants), Arc::clone(&state.metrics), BrokerClock::from_wall_clock());
    Arc::new(state.with_tenants(Some(Arc::new(tenants))))
}

async fn ask(state: &Arc<AppState<FakeFleet>>, method: &str, path: &str, headers: &[(&str, &str)]) -> Answered {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = if method == "POST" { json!({"model": "org/m", "input": "hi"}).to_string() } else { String::new() };
    send(state, request, body).await
}

async fn send(state: &Arc<AppState<FakeFleet>>, request: axum::http::request::Builder, body: String) -> Answered {
    let response = router(state).oneshot(request.body(Body::from(body)).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, 1 << 20).await.unwrap();
    let body = serde_json::from_slice(&body).unwrap_or_default();
    Answered { status: parts.status, headers: parts.headers, body }
}

const KEY: (&str, &str) = ("authorization", "Bearer one");

#[tokio::test]
async fn without_a_key_only_probes_and_metrics_are_served() {
    let state = api(json!([{"name": "a", "keys": key("one")}]));
    for path in ["/health", "/health/live", "/health/ready", "/metrics"] {
        assert_eq!(ask(&state, "GET", path, &[]).await.status, 200, "{path}");
    }
    assert_eq!(ask(&state, "GET", "/nowhere", &[]).await.status, 404);
    let open = ["/health", "/health/live", "/health/ready", "/metrics", "/openapi.json", "/docs"];
    let document = serde_json::to_value(crate::openapi::document()).unwrap();
    let methods = |item: &Value| -> Vec<String> {
        let listed = item.as_object().unwrap().keys().map(|method| method.to_uppercase());
        listed.filter(|method| ["GET", "POST", "DELETE", "PUT", "PATCH"].contains(&method.as_str())).collect()
    };
    let closed: Vec<(String, String)> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .filter(|(path, _)| !open.contains(&path.as_str()))
        .flat_map(|(path, item)| methods(item).into_iter().map(|method| (method, path.replace("{id}", "x"))))
        .collect();
    assert!(closed.len() > 20, "{closed:?}");
    for (method, path) in &closed {
        for headers in [&[][..], &[("authorization", "Bearer wrong")]] {
            let answered = ask(&state, method, path, headers).await;
            assert_eq!(answered.status, 401, "{method} {path}");
            assert_eq!(answered.headers["www-authenticate"], "Bearer");
            assert!(answered.headers.contains_key("x-request-id"));
        }
    }
    assert!(state.backend.submitted.lock().is_empty());
    assert_eq!(state.metrics.auth_failures_total.get(), 2 * closed.len() as u64);
    let answered = ask(&state, "POST", "/v1/embeddings", &[]).await;
    assert_eq!(answered.body["error"]["code"], "invalid_api_key");
}

#[tokio::test]
async fn with_a_key_the_work_is_its_tenants() {
    let state = api(json!([{"name": "a", "keys": key("one")}]));
    assert_eq!(ask(&state, "POST", "/v1/embeddings", &[KEY]).await.status, 200);
    assert_eq!(ask(&state, "GET", "/v1/models", &[KEY]).await.status, 200);
    assert_eq!(state.backend.submitted.lock()[0].tenant.as_str(), "a");
}

#[tokio::test]
async fn models_that_are_not_allowed_are_refused_and_not_listed() {
    let state = api(json!([{"name": "a", "keys": key("one"), "models": ["other"]}]));
    let answered = ask(&state, "POST", "/v1/embeddings", &[KEY]).await;
    assert_eq!((answered.status, &answered.body["error"]["code"]), (StatusCode::FORBIDDEN, &json!("forbidden")));
    assert!(answered.body["error"]["message"].as_str().unwrap().contains("it may use: other"));
    let models = ask(&state, "GET", "/v1/models", &[KEY]).await.body;
    assert_eq!(models["data"].as_array().unwrap().len(), 1);
    assert_eq!(models["data"][0]["id"], "other");
    assert_eq!(ask(&state, "GET", "/v1/models/org/m", &[KEY]).await.status, 404);
    assert_eq!(ask(&state, "GET", "/", &[KEY]).await.body["models"], json!(["other"]));
    for (path, body) in [
        ("/v1/embeddings", json!({"model": "none", "input": "hi"})),
        ("/embed", json!({"model": "none", "inputs": "hi"})),
        ("/embed", json!({"inputs": "hi"})),
    ] {
        let request = Request::builder().method("POST").uri(path).header(KEY.0, KEY.1);
        let said = send(&state, request, body.to_string()).await.body.to_string();
        assert!(said.contains("other") && !said.contains("org/m"), "{said}");
    }
    let said = ask(&state, "GET", "/v1/models/none", &[KEY]).await.body.to_string();
    assert!(said.contains("other") && !said.contains("org/m"), "{said}");
    assert!(state.backend.submitted.lock().is_empty());
}

#[tokio::test]
async fn a_lane_above_the_highest_is_refused_and_never_chosen_by_itself() {
    let state = api(json!([{"name": "a", "keys": key("one"), "highest_lane": "low"}]));
    let answered = ask(&state, "POST", "/v1/embeddings", &[KEY, ("x-priority", "normal")]).await;
    assert_eq!(answered.status, 403);
    assert!(answered.body["error"]["message"].as_str().unwrap().contains("at most 'low'"));
    assert_eq!(ask(&state, "POST", "/v1/embeddings", &[KEY]).await.status, 200);
    assert_eq!(state.backend.submitted.lock()[0].lane, Lane::Low);
}

#[tokio::test]
async fn a_file_that_cannot_be_used_shows_in_the_health_page() {
    let state = api(json!([{"name": "a", "keys": key("one")}]));
    assert_eq!(ask(&state, "GET", "/health/ready", &[]).await.body, json!({"status": "ready"}));
    state.tenants.as_ref().unwrap().set_stale(true);
    let answered = ask(&state, "GET", "/health/ready", &[]).await;
    assert!(answered.body["warning"].as_str().unwrap().contains("API keys"));
    assert_eq!(ask(&state, "POST", "/v1/embeddings", &[KEY]).await.status, 200);
}

#[tokio::test]
async fn a_limited_tenant_is_told_where_it_stands_and_refused_beyond() {
    let state = api(json!([{"name": "a", "keys": key("one"), "requests_per_second": 2, "tokens_per_minute": 60}]));
    let answered = ask(&state, "POST", "/v1/embeddings", &[KEY]).await;
    assert_eq!(answered.status, 200);
    let header = |answered: &Answered, name: &str| answered.headers[name].to_str().unwrap().to_owned();
    assert_eq!(header(&answered, "x-ratelimit-limit-requests"), "2");
    assert_eq!(header(&answered, "x-ratelimit-remaining-requests"), "1");
    assert!(header(&answered, "x-ratelimit-reset-requests").ends_with("ms"));
    assert_eq!(header(&answered, "x-ratelimit-limit-tokens"), "60");
    // Estimated at 2, used 3; one comes back each second.
    let left: u32 = header(&answered, "x-ratelimit-remaining-tokens").parse().unwrap();
    assert!((57..60).contains(&left), "{left}");
    assert!(header(&answered, "x-ratelimit-reset-tokens").ends_with('s'));
    // However slow this machine is, it asks faster than twice a second at some point.
    let mut let_in = 1;
    let refused = loop {
        let answered = ask(&state, "POST", "/v1/embeddings", &[KEY]).await;
        if answered.status != 200 {
            break answered;
        }
        let_in += 1;
        assert!(let_in < 19, "never refused");
    };
    assert!(let_in >= 2, "a second's worth may come at once");
    assert_eq!(
        (refused.status, &refused.body["error"]["code"]),
        (StatusCode::TOO_MANY_REQUESTS, &json!("rate_limit_exceeded"))
    );
    assert_eq!(header(&refused, "retry-after"), "1");
    assert!(header(&refused, "retry-after-ms").parse::<u32>().unwrap() <= 500);
    assert_eq!(header(&refused, "x-ratelimit-remaining-requests"), "0");
    let count = |outcome| state.metrics.tenant_requests_total.with(&("a".into(), outcome)).get();
    assert_eq!((count(Outcome::Ok), count(Outcome::RateLimited)), (let_in, 1));
    let requests = ("unknown".into(), Task::Embed, Outcome::RateLimited);
    assert_eq!(state.metrics.requests_total.with(&requests).get(), 1, "what is refused at the door is a request too");
    let tokens = ("a".into(), TokenKind::Prompt);
    assert_eq!(state.metrics.tenant_tokens_total.with(&tokens).get(), 3 * let_in);
}

#[tokio::test]
async fn a_quota_that_is_used_up_is_429_until_tomorrow() {
    let state = api(json!([{"name": "a", "keys": key("one"), "tokens_per_day": 5}]));
    assert_eq!(ask(&state, "POST", "/v1/embeddings", &[KEY]).await.status, 200);
    assert_eq!(ask(&state, "POST", "/v1/embeddings", &[KEY]).await.status, 200);
    let refused = ask(&state, "POST", "/v1/embeddings", &[KEY]).await;
    assert_eq!(
        (refused.status, &refused.body["error"]["code"]),
        (StatusCode::TOO_MANY_REQUESTS, &json!("insufficient_quota"))
    );
    assert!(refused.headers["retry-after"].to_str().unwrap().parse::<u32>().unwrap() <= 24 * 60 * 60);
    assert!(refused.body["error"]["message"].as_str().unwrap().contains("5 tokens per day"));
    assert_eq!(ask(&state, "GET", "/v1/models", &[KEY]).await.status, 200, "what takes no tokens goes on");
    let page = ask(&state, "GET", "/metrics", &[]).await;
    assert_eq!(page.status, 200);
    let embed = Task::Embed;
    let requests = ("org/m".into(), embed, Outcome::QuotaExceeded);
    assert_eq!(state.metrics.requests_total.with(&requests).get(), 1);
}

#[tokio::test]
async fn what_fails_is_not_charged() {
    let fleet = FakeFleet::failing(JobError::Overloaded { retry_after_ms: 1 });
    let state = with(fleet, json!([{"name": "a", "keys": key("one"), "tokens_per_day": 5}]));
    for _ in 0..5 {
        assert_eq!(ask(&state, "POST", "/v1/embeddings", &[KEY]).await.status, 503);
    }
}

#[tokio::test]
async fn a_seat_is_given_back_when_the_client_goes_away() {
    let fleet = FakeFleet { respond: Box::new(|_| Box::pin(std::future::pending())), ..FakeFleet::default() };
    let state = with(fleet, json!([{"name": "a", "keys": key("one"), "concurrency": 1}]));
    let mut waiting = Box::pin(ask(&state, "POST", "/v1/embeddings", &[KEY]));
    assert!(waiting.as_mut().now_or_never().is_none());
    assert_eq!(ask(&state, "GET", "/v1/models", &[KEY]).await.status, 429);
    drop(waiting);
    assert_eq!(ask(&state, "GET", "/v1/models", &[KEY]).await.status, 200);
    let cancelled = ("a".into(), Outcome::Cancelled);
    assert_eq!(state.metrics.tenant_requests_total.with(&cancelled).get(), 1);
}
