use forebay_shared::error::JobError;
use forebay_shared::job::Input;
use proptest::prelude::*;

use super::*;

fn read(body: &str) -> Result<Fields<'_>, Failure> {
    parse(body.as_bytes(), "input", 8)
}

#[test]
fn fields_are_found_in_any_order_and_unknown_ones_are_skipped() {
    let fields =
        read(r#" {"x":[{"y":[1,{}]}],"dimensions":3,"model":"m","user":7,"input":"hi","n\u006frmalize":true} "#);
    let fields = fields.unwrap();
    assert_eq!(fields.model.text("model").unwrap(), Some("m"));
    assert_eq!(fields.dimensions.positive("dimensions").unwrap(), Some(3));
    assert_eq!(fields.normalize.bool("normalize").unwrap(), Some(true), "an escaped name is the same name");
    assert_eq!(fields.rows, Some(Ok(vec![Input::Text("hi".into())])));
    assert_eq!(fields.truncate, Scalar::Null);
}

#[test]
fn of_repeated_fields_the_last_counts() {
    let fields = read(r#"{"model":1,"input":[],"model":"b","input":"hi"}"#).unwrap();
    assert_eq!(fields.model, Scalar::Text("b".into()));
    assert_eq!(fields.rows, Some(Ok(vec![Input::Text("hi".into())])));
}

#[test]
fn the_input_has_the_name_that_the_dialect_gives_it() {
    let body = br#"{"inputs":"hi"}"#;
    assert!(parse(body, "inputs", 8).unwrap().rows.is_some());
    assert!(parse(body, "input", 8).unwrap().rows.is_none());
}

#[test]
fn strings_are_borrowed_unless_they_contain_escapes() {
    let fields = read(r#"{"model":"plain","encoding_format":"esc\u0061ped"}"#).unwrap();
    assert!(matches!(fields.model, Scalar::Text(Cow::Borrowed("plain"))));
    assert!(matches!(fields.encoding_format, Scalar::Text(Cow::Owned(text)) if text == "escaped"));
}

#[test]
fn no_json_and_no_object_are_two_different_failures() {
    for bad in ["", "  ", "{", "{\"a\":}", "nonsense", "[1,", "{} {}", "{\"model\":\"a\"\"b\"}", "{\"a\":NaN}"] {
        assert!(matches!(read(bad), Err(Failure::MalformedJson(_))), "{bad}");
    }
    assert!(matches!(parse(b"{\"input\":\"\xff\"}", "input", 8), Err(Failure::MalformedJson(_))));
    for bad in ["[]", "\"text\"", "7", "null", "[{\"input\":\"hi\"}]"] {
        assert!(matches!(read(bad), Err(Failure::Job(JobError::InvalidInput { .. }))), "{bad}");
    }
}

#[test]
fn a_value_of_the_wrong_type_names_its_field() {
    let fields = read(r#"{"model":{"a":[1]},"dimensions":0,"truncate":"yes","normalize":null}"#).unwrap();
    let param = |failure: Failure| match failure {
        Failure::Job(JobError::InvalidInput { param, .. }) => param.unwrap(),
        other => panic!("{other:?}"),
    };
    assert_eq!(param(fields.model.text("model").unwrap_err()), "model");
    assert_eq!(param(fields.dimensions.positive("dimensions").unwrap_err()), "dimensions");
    assert_eq!(param(fields.truncate.bool("truncate").unwrap_err()), "truncate");
    assert_eq!(fields.normalize.bool("normalize"), Ok(None));
    for bad in ["-1", "1.5", "4294967296", "[1]", "\"1\"", "true"] {
        let body = format!("{{\"dimensions\":{bad}}}");
        assert!(read(&body).unwrap().dimensions.positive("dimensions").is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..64)) {
        let _either = parse(&body, "input", 8).is_ok();
    }

    #[test]
    fn text_like_json_is_accepted_exactly_when_it_is_an_object(body in "[{}\\[\\]\":,a-c1-3 \\\\-]{0,24}") {
        let value = serde_json::from_str::<serde_json::Value>(&body);
        match read(&body) {
            Ok(_) => prop_assert!(value.unwrap().is_object()),
            Err(Failure::MalformedJson(_)) => prop_assert!(value.is_err()),
            Err(_) => prop_assert!(!value.unwrap().is_object()),
        }
    }
}
