use serde_json::json;

use super::*;

fn line() -> Value {
    json!({ "custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": { "model": "m", "input": ["x", "y"] } })
}

fn fault_of(change: impl FnOnce(&mut Value)) -> InputError {
    let mut line = line();
    change(&mut line);
    read(line.to_string().as_bytes(), 7).unwrap_err()
}

#[test]
fn a_sound_line_says_how_many_inputs_it_has() {
    let rows = |input: Value| {
        let mut line = line();
        line["body"]["input"] = input;
        read(line.to_string().as_bytes(), 1).unwrap().rows
    };
    assert_eq!(rows(json!("x")), 1);
    assert_eq!(rows(json!(["x", "y"])), 2);
    assert_eq!(rows(json!([1, 2, 3])), 1, "token ids are one input");
    assert_eq!(rows(json!([[1, 2], [3]])), 2);
    assert_eq!(rows(json!([])), 1, "left to the request itself to complain about");
}

#[test]
fn each_fault_names_its_code_its_field_and_its_line() {
    type Case = (fn(&mut Value), &'static str, Option<&'static str>);
    let cases: [Case; 8] = [
        (|line| *line = json!([1]), "invalid_json_line", None),
        (
            |line| drop(line.as_object_mut().unwrap().remove("custom_id")),
            "missing_required_parameter",
            Some("custom_id"),
        ),
        (|line| line["custom_id"] = json!(5), "invalid_type", Some("custom_id")),
        (|line| line["method"] = json!("GET"), "invalid_method", Some("method")),
        (|line| line["url"] = json!("/v1/chat/completions"), "mismatched_url", Some("url")),
        (|line| line["body"] = json!("x"), "invalid_request", Some("body")),
        (|line| line["body"]["model"] = json!(null), "missing_required_parameter", Some("body.model")),
        (|line| drop(line.as_object_mut().unwrap().remove("url")), "missing_required_parameter", Some("url")),
    ];
    for (change, code, param) in cases {
        let fault = fault_of(change);
        assert_eq!((fault.code.as_str(), fault.param.as_deref(), fault.line), (code, param, Some(7)), "{fault:?}");
    }
    let fault = read(br#"{"custom_id": "secret"#, 3).unwrap_err();
    assert_eq!((fault.code.as_str(), fault.line), ("invalid_json_line", Some(3)));
    assert!(!fault.message.contains("secret"));
}

#[test]
fn what_is_written_is_one_json_object_on_one_line() {
    let key = LineKey::new("batch_1", 5);
    let read_back = |end: End| {
        let mut out = Vec::new();
        write(&mut out, key, "quote \" and\nbreak", &end);
        assert_eq!(out.iter().filter(|c| **c == b'\n').count(), 1);
        serde_json::from_slice::<Value>(&out).unwrap()
    };
    let answered = read_back(End::Answered { status: 200, body: br#"{"object":"list"}"#.to_vec() });
    assert_eq!(answered["custom_id"], "quote \" and\nbreak");
    assert_eq!(answered["response"]["status_code"], 200);
    assert_eq!(answered["response"]["body"]["object"], "list");
    assert_eq!(answered["error"], Value::Null);
    let skipped = read_back(End::Skipped(Skip::Expired));
    assert_eq!((&skipped["response"], &skipped["error"]["code"]), (&Value::Null, &json!("batch_expired")));
    assert_eq!(skipped["id"], answered["id"]);
}
