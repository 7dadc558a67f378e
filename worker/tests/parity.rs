//! The engine answers what the reference implementation answers, and a row's answer does not depend on its company.
#![allow(clippy::unwrap_used)] // helpers of tests: a panic is the report

mod support;

use forebay_worker::layers::pooling::l2_normalize;
use forebay_worker::models::{LoadedModel, Pooling, TokenBatch};
use forebay_worker::tokenize::TokenizeError;
use proptest::prelude::*;
use support::{Row, assert_same, batch, expected, fixture, load, minilm};

fn assert_rows_match(model: &mut LoadedModel, rows: &[Row]) {
    let together = batch(model, rows.iter().map(|row| row.text.as_str()));
    let answers = model.encoder.encode(&together).unwrap();
    for (index, row) in rows.iter().enumerate() {
        let mut answer = answers.row(index).to_vec();
        if model.info.normalize {
            l2_normalize(&mut answer);
        }
        assert_same(&answer, &row.embedding, &format!("in a batch: {:?}", row.text));
        let alone = model.encoder.encode(&TokenBatch::from_rows([together.row(index)])).unwrap();
        assert_eq!(alone.row(0), answers.row(index), "alone and in a batch: {:?}", row.text);
    }
}

#[test]
fn a_tiny_bert_matches_its_reference() {
    let (mut model, rows) = (load(&fixture("tiny-bert-embed")), expected("tiny-bert-embed"));
    for row in &rows {
        let mut ids = Vec::new();
        model.tokenizer.encode(&row.text, true, &mut ids).unwrap();
        assert_eq!(ids, row.ids, "{:?}", row.text);
    }
    assert_rows_match(&mut model, &rows);
}

#[test]
fn minilm_matches_its_reference() {
    let (mut model, rows) = (load(&minilm()), expected("minilm"));
    for row in &rows {
        let mut ids = Vec::new();
        model.tokenizer.encode(&row.text, true, &mut ids).unwrap();
        assert_eq!(ids.len(), row.tokens, "{:?}", row.text);
    }
    assert_rows_match(&mut model, &rows);
}

#[test]
fn minilm_says_what_it_is() {
    let info = load(&minilm()).info;
    assert_eq!(
        (info.name.as_str(), info.architecture.as_str(), info.dtype.as_str()),
        ("all-MiniLM-L6-v2", "bert", "f32")
    );
    // The limit is the sentence encoder's 256, neither the tokenizer file's 128 nor the 512 positions.
    assert_eq!((info.dimensions, info.max_tokens, info.vocab_size), (384, 256, 30522));
    assert_eq!((info.pooling, info.normalize), (Pooling::Mean, true));
    assert!(
        info.token.as_str().starts_with("all-minilm-l6-v2-")
            && info.size_bytes > 90_000_000
            && info.weights_digest.len() == 64
    );
}

#[test]
fn real_sentences_answer_the_same_in_any_batch() {
    let mut model = load(&minilm());
    let text = std::fs::read_to_string(fixture("sentences.txt")).unwrap();
    let sentences: Vec<&str> = text.lines().take(48).collect();
    let together = batch(&model, sentences.iter().copied());
    let answers = model.encoder.encode(&together).unwrap();
    for size in [1, 3, 16] {
        for (group, rows) in sentences.chunks(size).enumerate() {
            let part = batch(&model, rows.iter().copied());
            let part = model.encoder.encode(&part).unwrap();
            for (row, answer) in part.iter().enumerate() {
                assert_eq!(answer, answers.row(group * size + row), "batches of {size}");
            }
        }
    }
}

#[test]
fn no_work_is_spent_on_padding() {
    let mut model = load(&fixture("tiny-bert-embed"));
    let rows: Vec<Vec<u32>> = [1, 90, 7, 33].iter().map(|len| vec![17; *len]).collect();
    let layers = 3;
    model.encoder.encode(&TokenBatch::from_rows(&rows)).unwrap();
    assert_eq!(model.encoder.counters().unwrap().token_rows(), (1 + 90 + 7 + 33) * layers);
}

#[test]
fn an_input_that_is_too_long_is_refused_or_cut() {
    let model = load(&minilm());
    let long = "word ".repeat(1000);
    let mut ids = vec![7];
    let error = model.tokenizer.encode(&long, false, &mut ids).unwrap_err();
    assert_eq!(error, TokenizeError::TooLong { got: 1002, max: 256 });
    assert_eq!(ids, [7]);
    assert_eq!(model.tokenizer.encode(&long, true, &mut ids), Ok(1002));
    assert_eq!((ids.len(), ids[1], ids[256]), (257, 101, 102));
    let exact = "word ".repeat(254);
    assert_eq!(model.tokenizer.encode(&exact, false, &mut Vec::new()), Ok(256));
}

#[test]
fn given_ids_are_taken_as_they_are() {
    let model = load(&fixture("tiny-bert-embed"));
    let mut ids = Vec::new();
    assert_eq!(model.tokenizer.check_ids(&[5, 6], false, &mut ids), Ok(2));
    assert_eq!(ids, [5, 6]);
    let unknown = model.tokenizer.check_ids(&[5, 277], false, &mut ids);
    assert_eq!(unknown, Err(TokenizeError::UnknownId { id: 277, vocab_size: 277 }));
    assert_eq!(model.tokenizer.check_ids(&[], false, &mut ids), Err(TokenizeError::Empty));
    assert_eq!(
        model.tokenizer.check_ids(&[5; 129], false, &mut ids),
        Err(TokenizeError::TooLong { got: 129, max: 128 })
    );
    assert_eq!(model.tokenizer.check_ids(&[5; 129], true, &mut ids), Ok(129));
    assert_eq!(ids.len(), 2 + 128);
}

#[test]
fn a_malformed_batch_is_an_error_and_the_next_one_is_fine() {
    let mut model = load(&fixture("tiny-bert-embed"));
    for bad in [vec![], vec![277], vec![1; 131]] {
        let error = model.encoder.encode(&TokenBatch::from_rows([vec![1], bad])).unwrap_err();
        assert!(error.to_string().contains("row 1"), "{error}");
    }
    assert_eq!(model.encoder.encode(&TokenBatch::new()).unwrap().rows(), 0);
    assert_eq!(model.encoder.encode(&TokenBatch::from_rows([[1]])).unwrap().rows(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn every_mix_of_rows_answers_as_its_rows_alone(rows in prop::collection::vec(prop::collection::vec(0u32..277, 1..120), 1..24)) {
        let mut model = load(&fixture("tiny-bert-embed"));
        let answers = model.encoder.encode(&TokenBatch::from_rows(&rows)).unwrap();
        for (row, answer) in rows.iter().zip(answers.iter()) {
            let alone = model.encoder.encode(&TokenBatch::from_rows([row])).unwrap();
            prop_assert_eq!(alone.row(0), answer);
        }
    }
}
