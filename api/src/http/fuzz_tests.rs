//! Whatever a client sends is answered: no panic, no 500, and the same answer to what means the same.

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::http::{HeaderName, HeaderValue, Request};
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tower::ServiceExt;

use super::fake::FakeFleet;
use super::{AppState, router};

const PATHS: [&str; 3] = ["/v1/embeddings", "/embed", "/?model=org%2Fm"];

struct Api {
    state: Arc<AppState<FakeFleet>>,
    runtime: Runtime,
}

impl Api {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { state: Arc::new(FakeFleet::default().state()), runtime }
    }

    fn send(&self, request: Request<Body>) -> (u16, Vec<u8>) {
        self.runtime.block_on(async {
            let response = router(&self.state).oneshot(request).await.unwrap();
            (response.status().as_u16(), to_bytes(response.into_body(), 1 << 20).await.unwrap().to_vec())
        })
    }

    fn post(&self, path: &str, body: impl Into<Body>) -> (u16, Vec<u8>) {
        self.send(Request::post(path).body(body.into()).unwrap())
    }

    /// The answer is one that a client can understand, and nothing on our side went wrong.
    fn check(&self, path: &str, body: impl Into<Body>) -> u16 {
        let (status, answer) = self.post(path, body);
        assert!([200, 400, 404, 413, 422].contains(&status), "{status}: {}", String::from_utf8_lossy(&answer));
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(answer.get("error").is_some(), status != 200, "{answer}");
        status
    }
}

fn requests() -> [Value; 4] {
    [
        json!({"model": "org/m", "input": ["hi", "you"], "encoding_format": "base64", "user": "u"}),
        json!({"model": "org/m", "input": [[1, 2], [3]], "dimensions": 1}),
        json!({"inputs": "hi", "truncate": true, "normalize": false, "truncation_direction": "Right"}),
        json!({"inputs": ["hi", [1, 2, 3]], "model": "org/m"}),
    ]
}

const PIECES: [&str; 20] = [
    "{",
    "}",
    "[",
    "]",
    "\"",
    ",",
    ":",
    "null",
    "NaN",
    "-0",
    "1e999",
    "18446744073709551616",
    "\\u0000",
    "\\ud800",
    "\u{0}",
    "\u{feff}",
    "\"input\":",
    "\"inputs\":",
    "\"model\":",
    "[[[[[[[[[[[[[[[[",
];

const FIELDS: [&str; 9] =
    ["model", "input", "inputs", "dimensions", "encoding_format", "truncate", "normalize", "prompt_name", "x"];

/// Any value of JSON, as deep as a few levels.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_filter("JSON", |number| number.is_finite()).prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::hash_map("[a-z]{0,4}", inner, 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// An object with some of our fields, each with something in it.
fn body() -> impl Strategy<Value = Vec<(String, Value)>> {
    let usual = prop_oneof![
        Just(json!("org/m")),
        Just(json!("hi")),
        Just(json!(["hi", "you"])),
        Just(json!([1, 2])),
        Just(json!(1)),
        Just(json!(true)),
        Just(json!("float")),
        value(),
    ];
    prop::collection::vec((prop::sample::select(&FIELDS[..]).prop_map(str::to_owned), usual), 0..7)
}

/// The fields as text; `style` decides about everything that has no meaning.
fn written(fields: &[(String, Value)], style: u8) -> String {
    let (space, escape) = (if style & 1 == 0 { "" } else { " \n\t" }, style & 2 != 0);
    let name = |name: &str| match escape {
        true => name.chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect(),
        false => name.to_owned(),
    };
    let write =
        |value: &Value| if style & 1 == 0 { value.to_string() } else { serde_json::to_string_pretty(value).unwrap() };
    let fields: Vec<_> = fields
        .iter()
        .map(|(field, value)| format!("{space}\"{}\"{space}:{space}{}", name(field), write(value)))
        .collect();
    format!("{space}{{{}{space}}}{space}", fields.join(","))
}

proptest! {
    #[test]
    fn fuzz_arbitrary_bodies(path in prop::sample::select(&PATHS[..]), body in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert_ne!(Api::new().check(path, body), 200);
    }

    #[test]
    fn fuzz_damaged_bodies(
        path in prop::sample::select(&PATHS[..]),
        request in any::<Index>(),
        pieces in prop::collection::vec((any::<Index>(), any::<Index>(), 0..PIECES.len()), 1..5),
    ) {
        let requests = requests();
        let mut text = requests[request.index(requests.len())].to_string().into_bytes();
        for (from, length, piece) in pieces {
            let from = from.index(text.len() + 1);
            let to = (from + length.index(4)).min(text.len());
            text.splice(from..to, PIECES[piece].bytes());
        }
        Api::new().check(path, text);
    }

    #[test]
    fn fuzz_bodies_of_our_fields(path in prop::sample::select(&PATHS[..]), fields in body()) {
        let api = Api::new();
        let mut seen = std::collections::BTreeSet::new();
        let once: Vec<_> = fields.into_iter().filter(|(name, _)| seen.insert(name.clone())).collect();
        let plain = api.post(path, written(&once, 0));
        api.check(path, written(&once, 0));
        for style in 1..4 {
            prop_assert_eq!(&api.post(path, written(&once, style)), &plain, "white space or escapes changed the answer");
        }
        let reversed: Vec<_> = once.iter().rev().cloned().collect();
        prop_assert_eq!(&api.post(path, written(&reversed, 0)), &plain, "the order of fields changed the answer");
        let doubled: Vec<_> = once.iter().map(|(name, _)| (name.clone(), Value::Null)).chain(once.clone()).collect();
        prop_assert_eq!(&api.post(path, written(&doubled, 0)), &plain, "of repeated fields the last counts");
    }

    #[test]
    fn fuzz_headers(
        name in prop::sample::select(
            &["x-request-timeout", "x-priority", "x-request-id", "traceparent", "content-length", "content-type",
              "content-encoding", "expect", "authorization", "x-amzn-trace-id"][..]),
        value in prop_oneof![
            "\\PC{0,40}".prop_map(String::into_bytes),
            "-?[0-9]{0,25}(\\.[0-9]{0,5})?(ms|s|m|h|days|e[0-9]{1,4})?".prop_map(String::into_bytes),
            prop::collection::vec(any::<u8>(), 0..40),
        ],
    ) {
        let Ok(value) = HeaderValue::from_bytes(&value) else { return Ok(()) };
        let mut request = Request::post("/embed").body(Body::from(r#"{"inputs":"hi"}"#)).unwrap();
        request.headers_mut().insert(HeaderName::from_static(name), value);
        let (status, answer) = Api::new().send(request);
        prop_assert!([200, 400, 401, 408, 413, 415, 422].contains(&status), "{}: {}", status, String::from_utf8_lossy(&answer));
    }
}

#[test]
fn extreme_bodies_are_refused_for_what_they_are() {
    let mut state = FakeFleet::default().state();
    state.limits.max_body_bytes = 4 << 20;
    let api = Api { state: Arc::new(state), ..Api::new() };
    let deep = |open: &str, close: &str| format!("{{\"inputs\":{}{}}}", open.repeat(100_000), close.repeat(100_000));
    let array = |count: usize| format!("{{\"inputs\":[{}1]}}", "1,".repeat(count - 1));
    for (body, status) in [
        (deep("[", "]"), 400),
        (deep("{\"a\":", "}"), 400),
        (format!("{{\"x\":{}", "[".repeat(100_000)), 400),
        ("[".repeat(1_000_000), 400),
        (array(1_000_000), 422), // longer than any input may be
        (format!("{{\"inputs\":[{}\"a\"]}}", "\"a\",".repeat(100_000)), 413),
        (format!("{{\"inputs\":\"{}\"}}", "a".repeat(3 << 20)), 422),
        (r#"{"inputs":[1e999]}"#.to_owned(), 400),
        (r#"{"inputs":[NaN]}"#.to_owned(), 400),
        (r#"{"inputs":[18446744073709551616]}"#.to_owned(), 422),
        (r#"{"inputs":[-1]}"#.to_owned(), 422),
        (r#"{"inputs":[4294967296]}"#.to_owned(), 422),
        (r#"{"inputs":"\ud800"}"#.to_owned(), 400),
        ("{\"inputs\":\"a\u{0}b\"}".to_owned(), 400),
        (r#"{"inputs":"a\u0000b"}"#.to_owned(), 200),
        ("\u{feff}{\"inputs\":\"a\"}".to_owned(), 400),
        (format!("{{{}\"inputs\":\"hi\"}}", "\"inputs\":[],".repeat(1_000)), 200),
        (format!("{{\"dimensions\":{},\"inputs\":\"hi\"}}", "9".repeat(1_000)), 400),
    ] {
        let shown: String = body.chars().take(60).collect();
        assert_eq!(api.check("/embed", body), status, "{shown}");
    }
}

/// Requests are read on one thread: what one may cost the others. Prints the worst; run it on a release build.
#[test]
#[ignore = "a measurement"]
fn time_to_read_the_largest_body() {
    let ids = format!("{{\"inputs\":[{}[1]]}}", "[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16],".repeat(2_000_000 / 42));
    let flat = format!("{{\"inputs\":[{}1]}}", "1,".repeat(1_000_000));
    let escaped = format!("{{\"inputs\":\"{}\"}}", "\\u00e9".repeat(2_000_000 / 6));
    let strings = format!("{{\"inputs\":[{}\"a\"]}}", "\"a\",".repeat(500_000));
    let unknown = format!("{{\"x\":[{}1]}}", "{},".repeat(666_666));
    for (name, body) in [("ids", ids), ("flat", flat), ("escaped", escaped), ("strings", strings), ("unknown", unknown)]
    {
        let begun = std::time::Instant::now();
        let read = crate::validate::body::parse(body.as_bytes(), "inputs", 2_048);
        println!(
            "{name:8} {:>8} bytes {:>9.2?} {}",
            body.len(),
            begun.elapsed(),
            if read.is_ok() { "read" } else { "refused" }
        );
    }
}
