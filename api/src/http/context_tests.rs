use super::*;

fn limits() -> RequestLimits {
    RequestLimits {
        max_body_bytes: 1,
        max_inputs: 1,
        default_timeout: Duration::from_secs(30),
        max_timeout: Duration::from_secs(600),
        body_timeout: Duration::from_secs(30),
    }
}

fn context(headers: &[(HeaderName, &str)]) -> Context {
    let headers = headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect();
    Context::read(&headers, Instant::now())
}

fn timeout(value: &str) -> Result<Duration, Failure> {
    let context = context(&[(X_REQUEST_TIMEOUT, value)]);
    context.urgency(&limits()).map(|urgency| urgency.deadline - context.started)
}

#[test]
fn a_timeout_is_plain_seconds_or_a_number_with_a_unit() {
    assert_eq!(timeout("2.5"), Ok(Duration::from_millis(2_500)));
    assert_eq!(timeout("1"), Ok(Duration::from_secs(1)));
    assert_eq!(timeout("500ms"), Ok(Duration::from_millis(500)));
    assert_eq!(timeout("1m 5s"), Ok(Duration::from_secs(65)));
}

#[test]
fn a_timeout_beyond_the_limit_is_cut_to_it() {
    assert_eq!(timeout("3600"), Ok(Duration::from_secs(600)));
    assert_eq!(timeout("1e300"), Ok(Duration::from_secs(600)));
}

#[test]
fn a_timeout_that_is_no_time_is_refused_by_name() {
    for bad in ["", "0", "-1", "NaN", "inf", "soon", "0ms", "1e-12"] {
        let Err(Failure::Job(forebay_shared::error::JobError::InvalidInput { param, .. })) = timeout(bad) else {
            panic!("{bad} was accepted");
        };
        assert_eq!(param.as_deref(), Some("x-request-timeout"));
    }
}

#[test]
fn without_headers_the_defaults_hold() {
    let context = context(&[]);
    let urgency = context.urgency(&limits()).unwrap();
    assert_eq!(urgency, Urgency { deadline: context.started + Duration::from_secs(30), lane: Lane::Normal });
}

#[test]
fn priority_names_a_lane_and_nothing_else() {
    let lane = |value| context(&[(X_PRIORITY, value)]).urgency(&limits()).map(|urgency| urgency.lane);
    for expected in Lane::ALL {
        assert_eq!(lane(expected.as_str()), Ok(expected));
    }
    assert!(lane("urgent").is_err());
    assert!(lane("").is_err());
}

#[test]
fn a_usable_request_id_is_taken_over() {
    assert_eq!(context(&[(X_REQUEST_ID, "abc-123")]).request_id(), "abc-123");
    assert_eq!(context(&[(X_AMZN_TRACE_ID, "from-hf")]).request_id(), "from-hf");
    assert_eq!(context(&[(X_AMZN_TRACE_ID, "from-hf"), (X_REQUEST_ID, "ours")]).request_id(), "ours");
    let longest = "x".repeat(128);
    assert_eq!(context(&[(X_REQUEST_ID, &longest)]).request_id(), longest);
}

#[test]
fn an_unusable_request_id_is_replaced() {
    for bad in ["", "two words", "tab\tbed", "smörgås", &"x".repeat(129)] {
        let context = context(&[(X_REQUEST_ID, bad)]);
        assert_eq!(context.request_id().len(), 32, "{bad}");
        assert!(context.request_id().bytes().all(|byte| byte.is_ascii_hexdigit()));
    }
    assert_ne!(context(&[]).request_id, context(&[]).request_id);
}

#[test]
fn a_trace_is_continued_or_begun() {
    let header = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let continued = context(&[(TRACE_PARENT, header)]).trace.to_string();
    assert_eq!(continued[..36], header[..36]);
    assert_ne!(continued, header, "the span is our own");
    let begun = context(&[(TRACE_PARENT, "nonsense")]).trace;
    assert_eq!(begun.to_string().len(), header.len());
}
