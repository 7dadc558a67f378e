use forebay_shared::error::JobError;

use super::*;
use crate::validate::body::parse;

fn model() -> ModelRecord {
    ModelRecord {
        name: "m".into(),
        token: "m-0123456789".into(),
        architecture: "bert".to_owned(),
        dtype: "f32".to_owned(),
        dimensions: 384,
        max_tokens: 512,
        pooling: "mean".to_owned(),
        normalize: true,
        matryoshka_dimensions: vec![64, 128],
        created: 0,
    }
}

fn read(dialect: Dialect, body: &str) -> Result<EmbedOptions, Failure> {
    options(dialect, &parse(body.as_bytes(), dialect.input_field(), 8).unwrap(), &model())
}

fn refused_param(dialect: Dialect, body: &str) -> String {
    match read(dialect, body) {
        Err(Failure::Job(JobError::InvalidInput { param: Some(param), .. })) => param,
        other => panic!("{body}: {other:?}"),
    }
}

#[test]
fn the_defaults_are_those_of_each_protocol() {
    let openai = EmbedOptions { params: EmbedParams::default(), encoding: Encoding::Float };
    assert_eq!(read(Dialect::OpenAi, "{}"), Ok(openai));
    let tei = EmbedOptions {
        params: EmbedParams { truncate: false, normalize: Some(true), dimensions: None },
        encoding: Encoding::Float,
    };
    assert_eq!(read(Dialect::Tei, "{}"), Ok(tei));
}

#[test]
fn text_embeddings_inference_options_reach_the_job() {
    let body = r#"{"truncate":true,"normalize":false,"dimensions":64,"truncation_direction":"Right","parameters":{}}"#;
    let params = EmbedParams { truncate: true, normalize: Some(false), dimensions: Some(64) };
    assert_eq!(read(Dialect::Tei, body).unwrap().params, params);
}

#[test]
fn only_dimensions_that_the_model_was_trained_for_are_accepted() {
    for dialect in Dialect::ALL {
        assert_eq!(read(dialect, r#"{"dimensions":128}"#).unwrap().params.dimensions, Some(128));
        assert_eq!(read(dialect, r#"{"dimensions":384}"#).unwrap().params.dimensions, None, "all of them");
        assert_eq!(refused_param(dialect, r#"{"dimensions":100}"#), "dimensions");
    }
    let Err(failure) = read(Dialect::OpenAi, r#"{"dimensions":100}"#) else { panic!("accepted") };
    assert!(failure.to_string().ends_with("384, 64, 128"), "{failure}");
}

#[test]
fn an_encoding_is_float_or_base64_and_text_embeddings_inference_knows_float_only() {
    assert_eq!(read(Dialect::OpenAi, r#"{"encoding_format":"base64"}"#).unwrap().encoding, Encoding::Base64);
    assert_eq!(refused_param(Dialect::OpenAi, r#"{"encoding_format":"hex"}"#), "encoding_format");
    assert_eq!(refused_param(Dialect::Tei, r#"{"encoding_format":"base64"}"#), "encoding_format");
    assert!(read(Dialect::Tei, r#"{"encoding_format":"float"}"#).is_ok());
}

#[test]
fn what_we_cannot_do_is_said_instead_of_ignored() {
    assert_eq!(refused_param(Dialect::Tei, r#"{"prompt_name":"query"}"#), "prompt_name");
    assert_eq!(refused_param(Dialect::Tei, r#"{"truncation_direction":"left"}"#), "truncation_direction");
    assert!(read(Dialect::Tei, r#"{"prompt_name":null,"truncation_direction":"right"}"#).is_ok());
    assert!(read(Dialect::OpenAi, r#"{"prompt_name":"query"}"#).is_ok(), "OpenAI ignores unknown fields");
}
