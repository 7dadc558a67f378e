use axum::http::HeaderValue;
use forebay_shared::job::Output;
use serde_json::json;

use super::keys::KeyHash;
use super::*;

pub fn config(tenants: serde_json::Value) -> Config {
    config::parse(&json!({ "tenants": tenants }).to_string()).unwrap()
}

pub fn key(key: &str) -> serde_json::Value {
    json!([{"id": "only", "sha256": KeyHash::of(key.as_bytes()).to_hex()}])
}

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
}

fn tenants() -> Tenants {
    let entries = json!([
        {"name": "a", "keys": key("one"), "models": ["m"], "highest_lane": "normal"},
        {"name": "b", "keys": key("two")},
    ]);
    Tenants::new(config(entries), Arc::new(ApiMetrics::new()), BrokerClock::from_wall_clock())
}

#[test]
fn a_key_is_taken_from_either_header() {
    let tenants = tenants();
    for (pairs, name) in [
        (&[("authorization", "Bearer one")][..], "a"),
        (&[("authorization", "bearer  one ")], "a"),
        (&[("x-api-key", "two")], "b"),
        (&[("authorization", "Basic dXNlcg=="), ("x-api-key", "two")], "b"),
        (&[("authorization", "Bearer one"), ("x-api-key", "two")], "a"),
    ] {
        assert_eq!(tenants.identify(&headers(pairs)).unwrap().tenant.as_str(), name, "{pairs:?}");
    }
    for pairs in [
        &[][..],
        &[("authorization", "Bearer three")],
        &[("authorization", "Bearer ")],
        &[("authorization", "Bearer")],
        &[("authorization", "one")],
        &[("x-api-key", "")],
    ] {
        assert!(matches!(tenants.identify(&headers(pairs)), Err(Failure::Unauthorized(_))), "{pairs:?}");
    }
    assert_eq!(tenants.metrics.auth_failures_total.get(), 6);
}

#[test]
fn a_caller_knows_what_it_may_do() {
    let tenants = tenants();
    let caller = tenants.identify(&headers(&[("x-api-key", "one")])).unwrap();
    assert!(caller.may_use_model(&"m".into()) && !caller.may_use_model(&"other".into()));
    let refused = caller.check_model(&"other".into()).unwrap_err();
    assert_eq!(refused, Failure::Forbidden("this API key may not use the model 'other'; it may use: m".to_owned()));
    let lanes = |caller: &Caller| Lane::ALL.map(|lane| caller.may_use_lane(lane));
    assert_eq!(lanes(&caller), [false, true, true]);
    assert_eq!(lanes(&Caller::default()), [true; 3]);
    assert!(Caller::default().may_use_model(&"other".into()));
}

#[test]
fn a_new_configuration_is_in_force_at_once_and_spares_requests_that_have_begun() {
    let tenants = tenants();
    let began = tenants.identify(&headers(&[("x-api-key", "one")])).unwrap();
    tenants.replace(config(json!([{"name": "a", "keys": key("new")}])));
    assert!(tenants.identify(&headers(&[("x-api-key", "one")])).is_err());
    assert!(tenants.identify(&headers(&[("x-api-key", "new")])).unwrap().may_use_model(&"other".into()));
    assert!(!began.may_use_model(&"other".into()));
}

#[test]
fn a_tenant_that_was_taken_out_may_use_nothing_until_it_is_back() {
    let tenants = tenants();
    let (b, row) = (TenantName::from("b"), [Input::Text("gate".into())]);
    let charge = |tenant: &TenantName| tenants.caller(tenant).and_then(|caller| caller.charge(&row)).map(drop);
    assert!(charge(&b).is_ok() && !tenants.is_metered(&b));
    tenants.replace(config(json!([{"name": "a", "keys": key("one")}])));
    assert!(matches!(charge(&b), Err(Failure::RateLimited { .. })));
    assert!(tenants.is_metered(&b), "it holds only a few parts");
    let default = TenantName::default();
    assert!(charge(&default).is_ok() && !tenants.is_metered(&default), "from before there were keys");
    tenants.replace(config(json!([{"name": "b", "keys": key("two")}])));
    assert!(charge(&b).is_ok());
}

#[test]
fn what_a_job_was_charged_is_corrected_by_who_ends_it() {
    let entries = json!([{"name": "a", "keys": key("one"), "tokens_per_minute": 600, "tokens_per_day": 1_000}]);
    let tenants = Tenants::new(config(entries), Arc::new(ApiMetrics::new()), BrokerClock::from_wall_clock());
    let (a, rows) = (TenantName::from("a"), [Input::Text("x".repeat(392).into())]);
    let left = || tenants.find(&a).unwrap().usage.levels(Instant::now()).tokens.unwrap().remaining;
    let used_today = || tenants.find(&a).unwrap().usage.with_quota(|quota| quota.used()).unwrap();
    let accept = || drop(tenants.caller(&a).unwrap().charge(&rows).unwrap());
    let now_ms = tenants.clock.now_us() / 1_000;
    let output = Output { tokens: 300, device_us: 0, vector: Vec::new() };
    accept();
    assert_eq!((left() / 10, used_today()), (50, 100), "by estimate");
    tenants.charged(&a, &rows, now_ms).settle(&[output]);
    assert_eq!((left() / 10, used_today()), (30, 300), "what it used");
    assert_eq!(tenants.metrics.tenant_tokens_total.with(&(a.clone(), TokenKind::Prompt)).get(), 300);
    accept();
    tenants.charged(&a, &rows, now_ms).refund();
    assert_eq!(used_today(), 300, "a failed one is given back");
    tenants.charged(&"gone".into(), &rows, now_ms).settle(&[]);
}
