//! What a key opens, and what is open without one.

use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use forebay_shared::ids::Lane;
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
    let fleet = FakeFleet { models: vec![model("org/m"), model("other")], ..FakeFleet::default() };
    let state = fleet.state();
    let tenants = Tenants::new(config(tenants), Arc::clone(&state.metrics));
    Arc::new(state.with_tenants(Some(Arc::new(tenants))))
}

async fn ask(state: &Arc<AppState<FakeFleet>>, method: &str, path: &str, headers: &[(&str, &str)]) -> Answered {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = if method == "POST" { json!({"model": "org/m", "input": "hi"}).to_string() } else { String::new() };
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
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/v1/models"),
        ("GET", "/v1/models/org/m"),
        ("POST", "/v1/embeddings"),
        ("POST", "/embed"),
    ] {
        for headers in [&[][..], &[("authorization", "Bearer wrong")]] {
            let answered = ask(&state, method, path, headers).await;
            assert_eq!(answered.status, 401, "{path}");
            assert_eq!(answered.headers["www-authenticate"], "Bearer");
            assert!(answered.headers.contains_key("x-request-id"));
        }
    }
    assert!(state.backend.submitted.lock().is_empty());
    assert_eq!(state.metrics.auth_failures_total.get(), 10);
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
