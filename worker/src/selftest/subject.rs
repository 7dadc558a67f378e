//! A model under test: its rows, what each should answer, and what it does answer alone.

use std::path::Path;

use anyhow::Context;

use super::compare::Agreement;
use super::fixtures::{self, References};
use super::random::Random;
use super::rig;
use crate::device::{Device, DeviceChoice, Precision};
use crate::layers::pooling::l2_normalize;
use crate::models::{self, Encoder, LoadedModel, ModelInfo, ModelSource, TokenBatch};

/// Rows of random ids beside the texts: many short ones, some of any length, the longest.
const SHORT: usize = 48;
const RAGGED: usize = 14;
const LONGEST: usize = 2;
/// Of models with very long inputs, only the longest rows are longer than this: attention on the CPU is quadratic too.
const RAGGED_TOKENS: usize = 512;

/// Who knows what a row should answer: another implementation, or this one on the CPU.
pub const REFERENCES: &str = "references";
pub const CPU: &str = "cpu, f32,";

/// Token rows in groups, what they should answer, and on which authority.
pub struct Rows {
    pub ids: Vec<Vec<u32>>,
    pub expected: Vec<Vec<f64>>,
    /// The first so many have a text.
    pub texts: usize,
    /// Who says so, for the table.
    pub authority: &'static str,
    /// Texts that the tokenizer cuts otherwise than the reference, in words.
    pub differences: Vec<String>,
}

impl Rows {
    /// Indices of the rows of 1 to 8 random ids, of 1 to many, and of as many as the model takes.
    pub fn short(&self) -> std::ops::Range<usize> {
        self.texts..self.texts + SHORT
    }

    pub fn ragged(&self) -> std::ops::Range<usize> {
        self.texts + SHORT..self.texts + SHORT + RAGGED
    }

    pub fn longest(&self) -> std::ops::Range<usize> {
        self.texts + SHORT + RAGGED..self.ids.len()
    }
}

/// Loads a folder.
///
/// # Errors
/// What is wrong with it.
pub fn load(folder: &Path, device: &Device) -> anyhow::Result<LoadedModel> {
    Ok(models::load(&ModelSource::Folder(folder.to_owned()), device, &|_| ())?)
}

/// Draws the rows of a model and finds out what they should answer.
///
/// # Errors
/// If the model does not work on the CPU.
pub fn rows(
    folder: &Path,
    model: &LoadedModel,
    given: Option<References>,
    threads: Option<usize>,
    random: &mut Random,
) -> anyhow::Result<Rows> {
    let info = &model.info;
    let references = match given {
        Some(references) => Some(references),
        None => References::known(&info.name, &info.weights_digest)?,
    };
    let texts = match &references {
        Some(references) => references.rows.iter().map(|row| row.text.clone()).collect(),
        None => fixtures::texts()?,
    };
    let mut ids = tokenized(model, &texts)?;
    let texts = ids.len();
    let differences = references.as_ref().map_or_else(Vec::new, |references| differences(references, &ids));
    draw(info, random, &mut ids);
    let mut on_cpu = load(folder, &rig::open(&DeviceChoice::Cpu, threads, Some(Precision::F32))?)?;
    let mut expected = alone(on_cpu.encoder.as_mut(), info, &ids).context("the model does not work on the CPU")?;
    let authority = if references.is_some() { REFERENCES } else { CPU };
    for (expected, row) in expected.iter_mut().zip(references.iter().flat_map(|references| &references.rows)) {
        expected.clone_from(&row.embedding);
    }
    let expected = expected.into_iter().map(|row| row.into_iter().map(f64::from).collect()).collect();
    Ok(Rows { ids, expected, texts, authority, differences })
}

fn tokenized(model: &LoadedModel, texts: &[String]) -> anyhow::Result<Vec<Vec<u32>>> {
    let encode = |text: &String| {
        let mut ids = Vec::new();
        model.tokenizer.encode(text, true, &mut ids)?;
        Ok(ids)
    };
    texts.iter().map(encode).collect()
}

fn differences(references: &References, ids: &[Vec<u32>]) -> Vec<String> {
    let differs = |(row, ids): (&fixtures::ReferenceRow, &Vec<u32>)| {
        let wrong = (!row.ids.is_empty() && row.ids != *ids) || (row.tokens > 0 && row.tokens != ids.len());
        wrong.then(|| format!("{:?} becomes other tokens", row.text.chars().take(30).collect::<String>()))
    };
    references.rows.iter().zip(ids).filter_map(differs).collect()
}

fn draw(info: &ModelInfo, random: &mut Random, ids: &mut Vec<Vec<u32>>) {
    let (max, vocab_size) = (info.max_tokens, info.vocab_size);
    let lengths = (0..SHORT).map(|_| (1, max.min(8)));
    let lengths = lengths.chain((0..RAGGED).map(|_| (1, max.min(RAGGED_TOKENS))));
    for (from, to) in lengths.chain((0..LONGEST).map(|_| (max, max))) {
        let len = random.between(from, to);
        ids.push(random.ids(len, vocab_size));
    }
}

/// Every row's answer in a batch of its own, scaled as the model's answers are.
///
/// # Errors
/// What the engine reports.
pub fn alone(encoder: &mut dyn Encoder, info: &ModelInfo, ids: &[Vec<u32>]) -> anyhow::Result<Vec<Vec<f32>>> {
    ids.iter()
        .map(|row| {
            let answer = encoder.encode(&TokenBatch::from_rows([row]))?;
            Ok(scaled(info, answer.row(0)))
        })
        .collect()
}

/// An answer as clients get it by default.
pub fn scaled(info: &ModelInfo, row: &[f32]) -> Vec<f32> {
    let mut row = row.to_vec();
    if info.normalize {
        l2_normalize(&mut row);
    }
    row
}

/// How far some rows' answers are from what they should be.
pub fn agreement<'a>(rows: &Rows, answers: impl IntoIterator<Item = (usize, &'a [f32])>) -> Agreement {
    answers
        .into_iter()
        .fold(Agreement::PERFECT, |worst, (row, answer)| worst.and(Agreement::of_row(answer, &rows.expected[row])))
}
