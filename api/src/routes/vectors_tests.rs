use futures::FutureExt;
use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn output(numbers: &[f32], tokens: u32) -> Output {
    Output { tokens, device_us: 0, vector: numbers.iter().flat_map(|number| number.to_le_bytes()).collect() }
}

/// Small enough to be written in one turn.
fn written(outputs: &[Output], dialect: Dialect, encoding: Encoding) -> String {
    let text = body(outputs, "org/m \"x\"", dialect, encoding).now_or_never().unwrap().unwrap();
    String::from_utf8(text).unwrap()
}

#[test]
fn an_openai_answer_is_what_its_clients_expect() {
    let outputs = [output(&[0.5, -1.0], 3), output(&[1e-9, 3.0], 4)];
    let expected = concat!(
        r#"{"object":"list","data":["#,
        r#"{"object":"embedding","index":0,"embedding":[0.5,-1.0]},"#,
        r#"{"object":"embedding","index":1,"embedding":[1e-9,3.0]}"#,
        r#"],"model":"org/m \"x\"","usage":{"prompt_tokens":7,"total_tokens":7}}"#
    );
    assert_eq!(written(&outputs, Dialect::OpenAi, Encoding::Float), expected);
    let value: Value = serde_json::from_str(&written(&outputs, Dialect::OpenAi, Encoding::Base64)).unwrap();
    assert_eq!(value["data"][0]["embedding"], "AAAAPwAAgL8=");
}

#[test]
fn a_text_embeddings_inference_answer_is_an_array_of_arrays() {
    assert_eq!(written(&[output(&[0.5], 1)], Dialect::Tei, Encoding::Float), "[[0.5]]");
    assert_eq!(written(&[output(&[0.5], 1), output(&[], 1)], Dialect::Tei, Encoding::Float), "[[0.5],[]]");
}

#[test]
fn the_buffer_is_sized_before_it_is_written() {
    let numbers: Vec<f32> = (0..384).map(|i| (i as f32 * 0.7).sin() * 0.05).collect();
    let outputs = vec![output(&numbers, 7); 3];
    for encoding in [Encoding::Float, Encoding::Base64] {
        let text = written(&outputs, Dialect::OpenAi, encoding);
        let reserved = capacity(&outputs, "org/m \"x\"", encoding);
        assert!((text.len()..text.len() * 3 / 2).contains(&reserved), "{} of {reserved}", text.len());
    }
}

#[test]
fn a_vector_that_is_no_vector_is_not_passed_on() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for encoding in [Encoding::Float, Encoding::Base64] {
            let result = body(&[output(&[0.0, bad], 1)], "m", Dialect::OpenAi, encoding).now_or_never().unwrap();
            assert_eq!(result, Err(JobError::BadOutput { kind: "not finite".to_owned() }));
        }
    }
    let cut_off = Output { tokens: 1, device_us: 0, vector: vec![0; 7] };
    let result = body(&[cut_off], "m", Dialect::Tei, Encoding::Float).now_or_never().unwrap();
    assert_eq!(result, Err(JobError::BadOutput { kind: "cut off".to_owned() }));
}

#[test]
fn a_large_answer_lets_others_take_their_turn() {
    let outputs = vec![output(&[0.123_456_79; 8_192], 1); 16];
    assert_eq!(body(&outputs, "m", Dialect::Tei, Encoding::Float).now_or_never(), None);
}

proptest! {
    #[test]
    fn float_and_base64_answers_hold_exactly_the_vector(
        vector in prop::collection::vec(any::<f32>().prop_filter("finite", |number| number.is_finite()), 0..40)
    ) {
        let outputs = [output(&vector, 1)];
        let floats: Value = serde_json::from_str(&written(&outputs, Dialect::OpenAi, Encoding::Float)).unwrap();
        let read = serde_json::from_value::<Vec<f32>>(floats["data"][0]["embedding"].clone()).unwrap();
        let bits = |numbers: &[f32]| numbers.iter().map(|number| number.to_bits()).collect::<Vec<_>>();
        prop_assert_eq!(bits(&read), bits(&vector));
        let base64: Value = serde_json::from_str(&written(&outputs, Dialect::OpenAi, Encoding::Base64)).unwrap();
        let bytes = STANDARD.decode(base64["data"][0]["embedding"].as_str().unwrap()).unwrap();
        prop_assert_eq!(&bytes, &outputs[0].vector);
    }
}
