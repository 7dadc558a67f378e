use axum::body::to_bytes;

use super::*;

/// One row of the table: the error, then status, kind, code and param for OpenAI, then status and kind for TEI.
type Row = (JobError, (u16, &'static str, Option<&'static str>, Option<&'static str>), (u16, &'static str));

fn table() -> Vec<Row> {
    let (invalid, server) = ("invalid_request_error", "server_error");
    let input = || JobError::InvalidInput { message: "wrong".to_owned(), param: Some("input".to_owned()) };
    let not_found = || JobError::ModelNotFound { model: "m".to_owned(), known: vec!["a/b".to_owned(), "c".to_owned()] };
    vec![
        (input(), (400, invalid, None, Some("input")), (422, "Validation")),
        (
            JobError::InputTooLong { got: 600, max: 512 },
            (400, invalid, Some("context_length_exceeded"), Some("input")),
            (413, "Validation"),
        ),
        (not_found(), (404, invalid, Some("model_not_found"), Some("model")), (404, "Validation")),
        (
            JobError::PayloadTooLarge { max_bytes: 9 },
            (413, invalid, Some("request_too_large"), None),
            (413, "Validation"),
        ),
        (
            JobError::TooManyInputs { got: 9, max: 8 },
            (400, invalid, Some("too_many_inputs"), Some("input")),
            (413, "Validation"),
        ),
        (JobError::Overloaded { retry_after_ms: 1500 }, (503, server, Some("overloaded"), None), (503, "Overloaded")),
        (JobError::NoWorker { model: "m".to_owned() }, (503, server, Some("no_worker"), None), (503, "Unhealthy")),
        (JobError::BrokerUnavailable, (503, server, Some("broker_unavailable"), None), (503, "Unhealthy")),
        (JobError::DeadlineExceeded, (504, server, Some("deadline_exceeded"), None), (504, "Overloaded")),
        (JobError::Cancelled, (499, server, Some("cancelled"), None), (499, "Backend")),
        (JobError::BadOutput { kind: "nan".to_owned() }, (500, server, Some("bad_output"), None), (424, "Backend")),
        (JobError::Internal, (500, server, Some("internal_error"), None), (500, "Backend")),
    ]
}

async fn json_of(response: Response<Body>) -> serde_json::Value {
    assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
    serde_json::from_slice(&to_bytes(response.into_body(), 1 << 20).await.unwrap()).unwrap()
}

#[tokio::test]
async fn every_error_has_its_status_and_body_in_every_dialect() {
    for (error, (status, kind, code, param), (tei_status, tei_kind)) in table() {
        let response = Failure::Job(error.clone()).into_response(Dialect::OpenAi);
        assert_eq!(response.status(), status, "{error:?}");
        let expected = serde_json::json!({
            "error": { "message": error.to_string(), "type": kind, "param": param, "code": code }
        });
        assert_eq!(json_of(response).await, expected);

        let response = Failure::Job(error.clone()).into_response(Dialect::Tei);
        assert_eq!(response.status(), tei_status, "{error:?}");
        let body = json_of(response).await;
        assert_eq!(body["error_type"], tei_kind, "{error:?}");
        assert!(!body["error"].as_str().unwrap().is_empty());
        assert_eq!(body.as_object().unwrap().len(), 2);
    }
}

#[tokio::test]
async fn text_embeddings_inference_hears_about_long_inputs_in_its_own_words() {
    let error = Failure::Job(JobError::InputTooLong { got: 600, max: 512 });
    let expected = serde_json::json!({
        "error": "Input validation error: `inputs` must have less than 512 tokens. Given: 600",
        "error_type": "Validation",
    });
    assert_eq!(json_of(error.into_response(Dialect::Tei)).await, expected);
}

#[tokio::test]
async fn both_lengths_and_all_known_models_are_named() {
    let too_long = json_of(Failure::Job(JobError::InputTooLong { got: 600, max: 512 }).into_response(Dialect::OpenAi));
    let message = too_long.await["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("512") && message.contains("600"), "{message}");
    let unknown = JobError::ModelNotFound { model: "m".to_owned(), known: vec!["a/b".to_owned(), "c".to_owned()] };
    let message = json_of(Failure::Job(unknown).into_response(Dialect::OpenAi)).await["error"]["message"].to_string();
    assert!(message.contains("a/b, c"), "{message}");
}

#[test]
fn a_refusal_for_lack_of_capacity_says_when_to_come_back() {
    for dialect in Dialect::ALL {
        for (error, millis, seconds) in [
            (JobError::Overloaded { retry_after_ms: 1500 }, "1500", "2"),
            (JobError::Overloaded { retry_after_ms: 0 }, "1", "1"),
            (JobError::NoWorker { model: "m".to_owned() }, "1000", "1"),
            (JobError::BrokerUnavailable, "1000", "1"),
        ] {
            let response = Failure::Job(error).into_response(dialect);
            assert_eq!(response.headers()[RETRY_AFTER], seconds);
            assert_eq!(response.headers()[RETRY_AFTER_MS], millis);
        }
    }
}

#[test]
fn only_an_unusable_output_is_marked_as_not_worth_a_retry() {
    for (error, _, _) in table() {
        let pointless = matches!(error, JobError::BadOutput { .. });
        for dialect in Dialect::ALL {
            let response = Failure::Job(error.clone()).into_response(dialect);
            assert_eq!(response.headers().contains_key(X_SHOULD_RETRY), pointless, "{error:?}");
        }
    }
}

#[tokio::test]
async fn failures_of_http_itself_have_a_body_too() {
    let not_allowed = || Failure::MethodNotAllowed { method: "GET".to_owned(), allow: "POST".into() };
    for (failure, status) in [
        (Failure::MalformedJson("EOF".to_owned()), 400),
        (Failure::BodyTimeout, 408),
        (Failure::BodyCutOff, 400),
        (Failure::NoEndpoint { method: "GET".to_owned(), path: "/x".to_owned() }, 404),
        (not_allowed(), 405),
        (Failure::NoRoom(NoRoom::Store), 507),
        (Failure::NoRoom(NoRoom::Share { used_bytes: 9, max_bytes: 8 }), 429),
    ] {
        let message = failure.to_string();
        let response = failure.clone().into_response(Dialect::OpenAi);
        assert_eq!(response.status(), status);
        assert_eq!(json_of(response).await["error"]["message"], message);
        let response = failure.into_response(Dialect::Tei);
        assert_eq!(response.status(), status);
        assert_eq!(json_of(response).await["error"], message);
    }
    assert_eq!(not_allowed().into_response(Dialect::Tei).headers()[ALLOW], "POST");
}

#[test]
fn every_status_of_an_inference_request_is_listed() {
    let errors = table().into_iter().map(|(error, ..)| Failure::Job(error));
    let http = [
        Failure::MalformedJson("no".to_owned()),
        Failure::BodyTimeout,
        Failure::NothingServed,
        Failure::UnsupportedMedia("no".to_owned()),
        Failure::Unauthorized("no"),
        Failure::Forbidden("no".to_owned()),
        Failure::RateLimited { limit: "requests".to_owned(), retry_after_ms: 1 },
        Failure::QuotaExceeded { limit: "tokens".to_owned(), retry_after_ms: 1 },
    ];
    let mut found = std::collections::BTreeSet::new();
    for failure in errors.chain(http) {
        for dialect in [Dialect::OpenAi, Dialect::Tei] {
            found.insert(http_answer(&failure, dialect).status.as_u16());
        }
    }
    assert_eq!(found.into_iter().collect::<Vec<_>>(), INFERENCE_STATUSES);
}
