//! Whether an answer belongs to its request.

use std::sync::Arc;

use serde_json::Value;

/// Judges the answer (the whole body) to one input; the text of an error says what is wrong with it.
pub type Verify = Arc<dyn Fn(&str, &Value) -> Result<(), String> + Send + Sync>;

/// Every answer with a vector will do.
pub fn any_vector() -> Verify {
    Arc::new(|_, body| vector(body).map(drop))
}

/// The answer must be what the built-in models say to exactly this input.
pub fn built_in() -> Verify {
    use forebay_worker::models::{TokenBatch, builtin};
    Arc::new(|input, body| {
        let mut model = builtin::identity();
        let mut ids = Vec::new();
        model.tokenizer.encode(input, false, &mut ids).map_err(|error| format!("{error:?}"))?;
        let expected = model.encoder.encode(&TokenBatch::from_rows([ids])).map_err(|error| error.to_string())?;
        let got = vector(body)?;
        let close = |(a, b): (&f32, &f64)| (f64::from(*a) - b).abs() < 1e-5;
        if got.len() == expected.dim() && expected.row(0).iter().zip(&got).all(close) {
            Ok(())
        } else {
            Err(format!("the answer to {input:?} should be {:?} and is {got:?}", expected.row(0)))
        }
    })
}

/// The first vector of an embeddings answer.
pub fn vector(body: &Value) -> Result<Vec<f64>, String> {
    let numbers = body.pointer("/data/0/embedding").and_then(Value::as_array);
    let numbers = numbers.ok_or_else(|| format!("no vector in {body}"))?;
    numbers.iter().map(|number| number.as_f64().ok_or_else(|| format!("{number} is no number"))).collect()
}
