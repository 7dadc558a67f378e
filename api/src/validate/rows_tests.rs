use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const MAX_INPUTS: usize = 4;

fn read(json: &str) -> Result<Rows, serde_json::Error> {
    let mut parser = serde_json::Deserializer::from_str(json);
    let rows = RowsSeed { max_inputs: MAX_INPUTS }.deserialize(&mut parser)?;
    parser.end().map(|()| rows)
}

fn rows(json: Value) -> Rows {
    read(&json.to_string()).unwrap()
}

fn text(text: &str) -> Input {
    Input::Text(text.into())
}

/// What the inputs mean, by the slow road.
fn by_value(value: &Value) -> Rows {
    let id = |value: &Value| value.as_number().map(|number| number.as_u64().and_then(|id| u32::try_from(id).ok()));
    let ids = |values: &[Value], index| {
        let read = values.iter().map(|value| id(value).ok_or(RowFault::Shape)?.ok_or(RowFault::TokenId));
        tokens_row(read.collect::<Result<_, _>>()?, index)
    };
    match value {
        Value::String(text) => Ok(vec![text_row(text, 0)?]),
        Value::Array(values) if values.is_empty() => Err(RowFault::NoInputs),
        Value::Array(values) if values[0].is_number() => Ok(vec![ids(values, 0)?]),
        Value::Array(values) => {
            let mut rows = Vec::new();
            for (index, value) in values.iter().enumerate() {
                if index == MAX_INPUTS {
                    return Err(RowFault::TooMany { got: values.len(), max: MAX_INPUTS });
                }
                rows.push(match value {
                    Value::String(text) => text_row(text, index)?,
                    Value::Array(inner) => ids(inner, index)?,
                    _ => return Err(RowFault::Shape),
                });
            }
            Ok(rows)
        }
        _ => Err(RowFault::Shape),
    }
}

#[test]
fn every_documented_form_is_read() {
    assert_eq!(rows(json!("hi")), Ok(vec![text("hi")]));
    assert_eq!(rows(json!(["hi", "h\u{f6} \"quoted\""])), Ok(vec![text("hi"), text("h\u{f6} \"quoted\"")]));
    assert_eq!(rows(json!([1, 2, 4_294_967_295_u32])), Ok(vec![Input::Tokens(vec![1, 2, u32::MAX])]));
    assert_eq!(rows(json!([[1], [2, 3]])), Ok(vec![Input::Tokens(vec![1]), Input::Tokens(vec![2, 3])]));
    assert_eq!(rows(json!(["hi", [2]])), Ok(vec![text("hi"), Input::Tokens(vec![2])]));
}

#[test]
fn what_is_empty_is_refused_with_its_position() {
    assert_eq!(rows(json!("")), Err(RowFault::Empty { index: 0 }));
    assert_eq!(rows(json!([])), Err(RowFault::NoInputs));
    assert_eq!(rows(json!(["a", ""])), Err(RowFault::Empty { index: 1 }));
    assert_eq!(rows(json!([[1], []])), Err(RowFault::Empty { index: 1 }));
}

#[test]
fn a_number_that_is_no_token_id_is_refused() {
    for bad in [json!([4_294_967_296_u64]), json!([-1]), json!([1.5]), json!([[1, -2]]), json!([1, 4_294_967_296.0])] {
        assert_eq!(rows(bad.clone()), Err(RowFault::TokenId), "{bad}");
    }
    assert_eq!(rows(json!([1.0, 2])), Ok(vec![Input::Tokens(vec![1, 2])]), "JSON makes no difference between them");
}

#[test]
fn any_other_shape_is_refused() {
    for bad in [
        json!(null),
        json!(true),
        json!(7),
        json!(-7),
        json!(1.5),
        json!({"source_sentence": "a", "sentences": ["b"]}),
        json!([null]),
        json!(["a", 1]),
        json!([1, "a"]),
        json!([["a"]]),
        json!([[[1]]]),
        json!([{"text": "a"}]),
    ] {
        assert_eq!(rows(bad.clone()), Err(RowFault::Shape), "{bad}");
    }
}

#[test]
fn inputs_beyond_the_limit_are_counted_and_not_kept() {
    assert_eq!(rows(json!(vec!["a"; 4])).unwrap().len(), 4);
    assert_eq!(rows(json!(vec!["a"; 7])), Err(RowFault::TooMany { got: 7, max: 4 }));
}

#[test]
fn an_input_larger_than_any_model_reads_is_refused() {
    let text = "x".repeat(MAX_INPUT_BYTES + 1);
    assert_eq!(rows(json!(["a", text])), Err(RowFault::TooLong { index: 1, bytes: MAX_INPUT_BYTES + 1 }));
    let ids = vec![7; MAX_INPUT_BYTES / 4 + 1];
    assert!(matches!(rows(json!(ids)), Err(RowFault::TooLong { index: 0, .. })));
    assert!(rows(json!("x".repeat(MAX_INPUT_BYTES))).is_ok());
}

#[test]
fn what_is_no_json_is_an_error_of_the_parser_even_after_a_fault() {
    for bad in ["", "[1,", "[\"\",}", "[null", "{\"a\"", "[1,]", "nul", "\"\\ud800\"", &"[".repeat(200)] {
        assert!(read(bad).is_err(), "{bad}");
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u32>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-1e6..1e6).prop_map(Value::from),
        "[a-z\\\\\"\\n\u{e4}\u{1f600}]{0,4}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map("[a-c]", inner, 0..3).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Mostly what clients send.
fn likely_json() -> impl Strategy<Value = Value> {
    let ids = || prop::collection::vec(any::<u32>(), 0..6);
    prop_oneof![
        ".{0,6}".prop_map(Value::from),
        prop::collection::vec(".{0,6}", 0..6).prop_map(Value::from),
        ids().prop_map(Value::from),
        prop::collection::vec(ids(), 0..6).prop_map(|rows| json!(rows)),
    ]
}

proptest! {
    #[test]
    fn reading_directly_means_the_same_as_reading_through_a_value(value in prop_oneof![any_json(), likely_json()]) {
        prop_assert_eq!(read(&value.to_string()).unwrap(), by_value(&value));
    }

    #[test]
    fn arbitrary_text_never_panics_and_is_json_for_us_exactly_when_it_is_json(text in "[\\[\\]{}\",:0-9a-z. \\\\-]{0,24}") {
        prop_assert_eq!(read(&text).is_ok(), serde_json::from_str::<Value>(&text).is_ok());
    }
}
