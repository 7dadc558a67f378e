use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use forebay_shared::ids::Lane;
use forebay_shared::job::{EmbedParams, Input, Task};
use forebay_shared::metrics::{Check, CheckResult, Method, Outcome, Route, Status, TokenKind, UNKNOWN_MODEL};
use futures::FutureExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::fake::{FakeFleet, echo, model};
use super::*;

/// What came back.
struct Answered {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answered {
    fn json(&self) -> Value {
        assert_eq!(self.headers["content-type"], "application/json");
        serde_json::from_slice(&self.body).unwrap()
    }
}

fn api(fleet: FakeFleet) -> Arc<AppState<FakeFleet>> {
    Arc::new(fleet.state())
}

async fn send(state: &Arc<AppState<FakeFleet>>, request: Request<Body>) -> Answered {
    let response = router(state).oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, 1 << 20).await.unwrap().to_vec();
    Answered { status: parts.status, headers: parts.headers, body }
}

async fn post(state: &Arc<AppState<FakeFleet>>, path: &str, body: impl ToString) -> Answered {
    send(state, Request::post(path).body(Body::from(body.to_string())).unwrap()).await
}

async fn get(state: &Arc<AppState<FakeFleet>>, path: &str) -> Answered {
    send(state, Request::get(path).body(Body::empty()).unwrap()).await
}

fn hello() -> Value {
    json!({"model": "org/m", "input": "hi"})
}

#[tokio::test]
async fn an_openai_request_is_answered_as_openai_answers() {
    let state = api(FakeFleet::default());
    let answered = post(&state, "/v1/embeddings", json!({"model": "org/m", "input": ["hi", "you"], "user": "u"})).await;
    assert_eq!(answered.status, 200);
    let expected = json!({
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [2.0, 0.0]},
            {"object": "embedding", "index": 1, "embedding": [3.0, 1.0]},
        ],
        "model": "org/m",
        "usage": {"prompt_tokens": 6, "total_tokens": 6},
    });
    assert_eq!(answered.json(), expected);
}

#[tokio::test]
async fn what_is_submitted_is_what_was_asked_for() {
    let state = api(FakeFleet::default());
    let body = json!({"model": "org/m", "input": [[1, 2], [3]], "dimensions": 1}).to_string();
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let request = Request::post("/v1/embeddings")
        .header("x-priority", "high")
        .header("traceparent", traceparent)
        .body(Body::from(body))
        .unwrap();
    assert_eq!(send(&state, request).await.status, 200);
    let submitted = state.backend.submitted.lock();
    assert_eq!(submitted[0].lane, Lane::High);
    assert_eq!(submitted[0].rows, [Input::Tokens(vec![1, 2]), Input::Tokens(vec![3])]);
    let params = EmbedParams { truncate: false, normalize: None, dimensions: Some(1) };
    assert_eq!(submitted[0].task, Task::Embed(params));
    assert_eq!(submitted[0].trace.to_string()[..36], traceparent[..36]);
}

#[tokio::test]
async fn a_text_embeddings_inference_request_needs_no_model_when_there_is_one() {
    let state = api(FakeFleet::default());
    for path in ["/embed", "/"] {
        let answered = post(&state, path, json!({"inputs": "hi", "truncate": true, "parameters": {}})).await;
        assert_eq!((answered.status, answered.json()), (StatusCode::OK, json!([[2.0, 0.0]])), "{path}");
    }
    let params = EmbedParams { truncate: true, normalize: Some(true), dimensions: None };
    assert_eq!(state.backend.submitted.lock()[0].task, Task::Embed(params));
}

#[tokio::test]
async fn where_several_models_are_served_one_must_be_named() {
    let state = api(FakeFleet { models: vec![model("org/m"), model("other")], ..FakeFleet::default() });
    let answered = post(&state, "/embed", json!({"inputs": "hi"})).await;
    assert_eq!(answered.status, 422);
    assert!(answered.json()["error"].as_str().unwrap().contains("org/m, other"));
    assert_eq!(post(&state, "/embed?model=org%2Fm", json!({"inputs": "hi"})).await.status, 200);
    assert_eq!(post(&state, "/embed", json!({"inputs": "hi", "model": "other"})).await.status, 200);
    assert_eq!(post(&state, "/embed?model=none", json!({"inputs": "hi"})).await.status, 404);
}

#[tokio::test]
async fn a_wrong_request_is_refused_before_anything_is_submitted() {
    let state = api(FakeFleet::default());
    for (path, body, status) in [
        ("/v1/embeddings", json!({"model": "org/m", "input": ""}).to_string(), 400),
        ("/v1/embeddings", json!({"model": "org/m", "input": []}).to_string(), 400),
        ("/v1/embeddings", json!({"model": "org/m"}).to_string(), 400),
        ("/v1/embeddings", json!({"model": 7, "input": "hi"}).to_string(), 400),
        ("/v1/embeddings", json!({"input": "hi"}).to_string(), 400),
        ("/v1/embeddings", json!({"model": "org/m", "input": ["a", "b", "c", "d", "e"]}).to_string(), 400),
        ("/v1/embeddings", json!({"model": "org/m", "input": "hi", "dimensions": 3}).to_string(), 400),
        ("/v1/embeddings", json!({"model": "none", "input": "hi"}).to_string(), 404),
        ("/v1/embeddings", "{\"model\":".to_owned(), 400),
        ("/v1/embeddings", String::new(), 400),
        ("/v1/embeddings", "x".repeat(1_001), 413),
        ("/embed", json!({"inputs": ""}).to_string(), 422),
        ("/embed", json!({"inputs": {"source_sentence": "a"}}).to_string(), 422),
        ("/embed", json!({"inputs": ["a", "b", "c", "d", "e"]}).to_string(), 413),
        ("/embed", "nonsense".to_owned(), 400),
        ("/embed", "x".repeat(1_001), 413),
    ] {
        let answered = post(&state, path, &body).await;
        assert_eq!(answered.status, status, "{path} {body}");
        assert!(answered.json()["error"].is_object() == (path == "/v1/embeddings"), "{path} {body}");
    }
    assert!(state.backend.submitted.lock().is_empty());
}

#[tokio::test]
async fn an_unknown_model_is_answered_with_the_known_ones() {
    let answered = post(&api(FakeFleet::default()), "/v1/embeddings", json!({"model": "none", "input": "hi"})).await;
    let error = &answered.json()["error"];
    assert_eq!((&error["code"], &error["param"]), (&json!("model_not_found"), &json!("model")));
    assert!(error["message"].as_str().unwrap().contains("org/m"));
}

#[tokio::test]
async fn without_a_broker_no_model_is_called_unknown() {
    let state = api(FakeFleet { ready: false, models: Vec::new(), ..FakeFleet::default() });
    for (path, body) in [("/v1/embeddings", hello()), ("/embed", json!({"inputs": "hi"}))] {
        let answered = post(&state, path, body).await;
        assert_eq!(answered.status, 503, "{path}");
        assert_eq!(answered.headers["retry-after"], "1");
    }
    assert_eq!(get(&state, "/v1/models/org/m").await.status, 503);
}

#[tokio::test]
async fn what_the_queue_answers_is_translated_for_the_dialect_that_was_called() {
    let state = api(FakeFleet::failing(JobError::InputTooLong { got: 600, max: 512 }));
    let answered = post(&state, "/v1/embeddings", hello()).await;
    assert_eq!(
        (answered.status, &answered.json()["error"]["code"]),
        (StatusCode::BAD_REQUEST, &json!("context_length_exceeded"))
    );
    assert_eq!(post(&state, "/embed", json!({"inputs": "hi"})).await.status, 413);
    let state = api(FakeFleet::failing(JobError::Overloaded { retry_after_ms: 250 }));
    let answered = post(&state, "/v1/embeddings", hello()).await;
    assert_eq!(
        (answered.status, &answered.headers["retry-after-ms"]),
        (StatusCode::SERVICE_UNAVAILABLE, &"250".parse().unwrap())
    );
}

#[tokio::test]
async fn headers_that_cannot_be_understood_are_refused() {
    for (name, value) in [("x-request-timeout", "soon"), ("x-priority", "urgent")] {
        let request = Request::post("/v1/embeddings").header(name, value).body(Body::from(hello().to_string()));
        let answered = send(&api(FakeFleet::default()), request.unwrap()).await;
        assert_eq!((answered.status, &answered.json()["error"]["param"]), (StatusCode::BAD_REQUEST, &json!(name)));
    }
}

#[tokio::test]
async fn every_answer_carries_request_id_and_trace() {
    let state = api(FakeFleet::default());
    for (method, path) in [("POST", "/v1/embeddings"), ("GET", "/health/live"), ("GET", "/nowhere"), ("PUT", "/embed")]
    {
        let request = Request::builder().method(method).uri(path).header("x-request-id", "abc").body(Body::empty());
        let answered = send(&state, request.unwrap()).await;
        assert_eq!(answered.headers["x-request-id"], "abc", "{path}");
        assert_eq!(answered.headers["traceparent"].len(), 55, "{path}");
    }
}

#[tokio::test]
async fn models_are_listed_and_found_by_id_with_or_without_an_escaped_slash() {
    let state = api(FakeFleet::default());
    let expected = json!({"id": "org/m", "object": "model", "created": 1_700_000_000, "owned_by": "forebay"});
    assert_eq!(get(&state, "/v1/models").await.json(), json!({"object": "list", "data": [expected]}));
    for path in ["/v1/models/org/m", "/v1/models/org%2Fm"] {
        assert_eq!(get(&state, path).await.json(), expected, "{path}");
    }
    let answered = get(&state, "/v1/models/none").await;
    assert_eq!(
        (answered.status, &answered.json()["error"]["code"]),
        (StatusCode::NOT_FOUND, &json!("model_not_found"))
    );
}

#[tokio::test]
async fn unknown_paths_and_methods_are_answered_in_json() {
    let state = api(FakeFleet::default());
    let answered = get(&state, "/v1/nothing").await;
    assert_eq!(
        (answered.status, &answered.json()["error"]["type"]),
        (StatusCode::NOT_FOUND, &json!("invalid_request_error"))
    );
    let answered = post(&state, "/nothing", "").await;
    assert_eq!((answered.status, &answered.json()["error_type"]), (StatusCode::NOT_FOUND, &json!("Validation")));
    let answered = get(&state, "/v1/embeddings").await;
    assert_eq!(
        (answered.status, &answered.headers["allow"]),
        (StatusCode::METHOD_NOT_ALLOWED, &"POST".parse().unwrap())
    );
    assert!(answered.json()["error"]["message"].as_str().unwrap().contains("only POST"));
    let answered = send(&state, Request::delete("/").body(Body::empty()).unwrap()).await;
    assert_eq!(
        (answered.status, &answered.headers["allow"]),
        (StatusCode::METHOD_NOT_ALLOWED, &"GET, HEAD, POST".parse().unwrap())
    );
}

#[tokio::test]
async fn health_says_what_is_missing() {
    let state = api(FakeFleet { workers: 0, ..FakeFleet::default() });
    assert_eq!(get(&state, "/health/live").await.status, 200);
    assert_eq!(get(&state, "/health/ready").await.status, 200);
    assert_eq!(get(&state, "/health").await.status, 200);
    let answered = get(&state, "/health/ready?model=org%2Fm").await;
    assert_eq!(
        (answered.status, &answered.json()["reason"]),
        (StatusCode::SERVICE_UNAVAILABLE, &json!("no worker serves the model 'org/m'"))
    );
    assert_eq!(get(&state, "/health/ready?model=none").await.status, 503);
    let state = api(FakeFleet { ready: false, ..FakeFleet::default() });
    assert_eq!(get(&state, "/health/live").await.status, 200);
    assert_eq!(get(&state, "/health/ready").await.status, 503);
    assert_eq!(get(&api(FakeFleet::default()), "/health/ready?model=org/m").await.status, 200);
}

#[tokio::test]
async fn the_root_tells_where_to_go() {
    let page = get(&api(FakeFleet::default()), "/").await.json();
    assert_eq!((&page["name"], &page["health"]), (&json!("forebay"), &json!("ready")));
    assert_eq!(page["links"]["embeddings"], "/v1/embeddings");
}

#[tokio::test]
async fn a_panic_costs_one_request_a_500_and_nothing_else() {
    let fleet = FakeFleet {
        respond: Box::new(|submission| {
            let outputs = echo(submission);
            assert!(submission.rows.len() < 2, "two rows");
            Box::pin(std::future::ready(Ok(outputs)))
        }),
        ..FakeFleet::default()
    };
    let state = api(fleet);
    let answered = post(&state, "/v1/embeddings", json!({"model": "org/m", "input": ["a", "b"]})).await;
    assert_eq!(
        (answered.status, &answered.json()["error"]["code"]),
        (StatusCode::INTERNAL_SERVER_ERROR, &json!("internal_error"))
    );
    assert!(answered.headers.contains_key("x-request-id"));
    assert_eq!(post(&state, "/v1/embeddings", hello()).await.status, 200);
    let failed = ("org/m".into(), forebay_shared::metrics::Task::Embed, Outcome::Failed);
    assert_eq!(state.metrics.requests_total.with(&failed).get(), 1);
}

#[tokio::test]
async fn requests_are_counted_by_route_model_and_check() {
    let state = api(FakeFleet::default());
    post(&state, "/v1/embeddings", json!({"model": "org/m", "input": ["hi", "you"]})).await;
    post(&state, "/v1/embeddings", json!({"model": "org/m", "input": ""})).await;
    post(&state, "/v1/embeddings", json!({"model": "what a client typed", "input": "hi"})).await;
    get(&state, "/v1/models/org/m").await;
    get(&state, "/etc/passwd").await;
    let metrics = &state.metrics;
    let http = |method, route, status| metrics.http_requests_total.with(&(method, Route(route), Status(status))).get();
    assert_eq!(http(Method::Post, "/v1/embeddings", 200), 1);
    assert_eq!(http(Method::Post, "/v1/embeddings", 400), 1);
    assert_eq!(http(Method::Post, "/v1/embeddings", 404), 1);
    assert_eq!(http(Method::Get, "/v1/models/{id}", 200), 1);
    assert_eq!(http(Method::Get, "other", 404), 1);
    assert_eq!(metrics.http_requests_in_progress.get(), 0.0);
    let embed = forebay_shared::metrics::Task::Embed;
    let requests = |model: &str, outcome| metrics.requests_total.with(&(model.into(), embed, outcome)).get();
    assert_eq!(requests("org/m", Outcome::Ok), 1);
    assert_eq!(requests("org/m", Outcome::Invalid), 1);
    assert_eq!(requests(UNKNOWN_MODEL, Outcome::Invalid), 1);
    assert_eq!(metrics.predictions_total.with(&("org/m".into(), embed)).get(), 2);
    assert_eq!(metrics.tokens_total.with(&("org/m".into(), TokenKind::Prompt)).get(), 6);
    assert_eq!(metrics.request_duration_seconds.with(&("org/m".into(), embed)).get_sample_count(), 2);
    let checks = |check, result| metrics.input_checks_total.with(&(check, result)).get();
    let counted = |check| (checks(check, CheckResult::Passed), checks(check, CheckResult::Failed));
    assert_eq!(counted(Check::BodySize), (3, 0));
    assert_eq!(counted(Check::Model), (2, 1));
    assert_eq!(counted(Check::Json), (2, 0));
    assert_eq!(counted(Check::InputCount), (2, 0));
    assert_eq!(counted(Check::InputEmpty), (1, 1));
    assert_eq!(counted(Check::Parameters), (1, 0));
    assert_eq!(counted(Check::InputLength), (1, 0));
    let page = String::from_utf8(get(&state, "/metrics").await.body).unwrap();
    assert!(page.contains("forebay_api_http_requests_total"));
    assert!(!page.contains("what a client typed") && !page.contains("passwd"));
}

#[tokio::test]
async fn a_client_that_goes_away_is_counted_as_cancelled() {
    let fleet = FakeFleet { respond: Box::new(|_| Box::pin(std::future::pending())), ..FakeFleet::default() };
    let state = api(fleet);
    assert!(post(&state, "/v1/embeddings", hello()).now_or_never().is_none());
    let metrics = &state.metrics;
    let cancelled = ("org/m".into(), forebay_shared::metrics::Task::Embed, Outcome::Cancelled);
    assert_eq!(metrics.requests_total.with(&cancelled).get(), 1);
    assert_eq!(metrics.http_requests_total.with(&(Method::Post, Route("/v1/embeddings"), Status(499))).get(), 1);
    assert_eq!(metrics.http_requests_in_progress.get(), 0.0);
}

#[tokio::test]
async fn the_page_for_operators_serves_no_models() {
    let state = api(FakeFleet::default());
    let status = async |path: &str| {
        let request = Request::get(path).body(Body::empty()).unwrap();
        metrics_router(&state).oneshot(request).await.unwrap().status()
    };
    assert_eq!(status("/metrics").await, 200);
    assert_eq!(status("/health/ready").await, 200);
    assert_eq!(status("/v1/models").await, 404);
}

#[tokio::test]
async fn errors_of_inference_requests_stand_at_zero_before_the_first() {
    let state = api(FakeFleet::default());
    let _routes = router(&state);
    let page = state.metrics.render();
    for (route, status) in [("/v1/embeddings", 504), ("/embed", 424), ("/", 503)] {
        let series =
            format!("forebay_api_http_requests_total{{method=\"POST\",route=\"{route}\",status=\"{status}\"}} 0\n");
        assert!(page.contains(&series), "{series}");
    }
    assert!(!page.contains("{method=\"GET\",route=\"/v1/models\",status=\"504\"}"), "only where it can happen");
}
