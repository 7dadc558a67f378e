//! A whole model in every kind of batch: each row must answer as it should whatever travels with it.

use std::collections::VecDeque;
use std::path::Path;

use super::compare::Agreement;
use super::fixtures::References;
use super::random::Random;
use super::report::{Case, Verdict};
use super::rig;
use super::subject::{self, CPU, REFERENCES, Rows, agreement, alone, scaled};
use crate::device::Device;
use crate::models::{Encoder, Flight, LoadedModel, ModelInfo, TokenBatch};

/// Batches that one mix of all rows is cut into, to be under way together.
const UNDER_WAY: usize = 6;

/// Which rows travel together, by index; several batches if they are to be under way at the same time.
struct Mix {
    name: &'static str,
    batches: Vec<Vec<usize>>,
}

/// Tests one model on `device`.
pub fn cases(
    folder: &Path,
    device: &Device,
    references: Option<References>,
    threads: Option<usize>,
    random: &mut Random,
) -> Vec<Case> {
    let dtype = rig::precision(device).as_str();
    let name = folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned();
    try_cases(folder, device, references, threads, random)
        .unwrap_or_else(|error| vec![Case::failed(name, dtype, format!("{error:#}"))])
}

fn try_cases(
    folder: &Path,
    device: &Device,
    references: Option<References>,
    threads: Option<usize>,
    random: &mut Random,
) -> anyhow::Result<Vec<Case>> {
    let mut model = subject::load(folder, device)?;
    let rows = subject::rows(folder, &model, references, threads, random)?;
    let answers = alone(model.encoder.as_mut(), &model.info, &rows.ids)?;
    let mut run = Run { device, rows: &rows, alone: &answers, cases: Vec::new(), company: Company::default() };
    let (texts, all) = (run.rows.texts, run.rows.ids.len());
    let each = |range: std::ops::Range<usize>| agreement(&rows, range.map(|row| (row, answers[row].as_slice())));
    run.push(&model.info, format!("{texts} texts alone, as {} say", rows.authority), 0..texts, each(0..texts));
    let on_itself = device.kind() == "cpu";
    if on_itself && rows.authority != REFERENCES {
        run.note_last();
    }
    run.push(&model.info, format!("random rows alone, as {CPU} says"), texts..all, each(texts..all));
    if on_itself {
        run.note_last();
    }
    for mix in mixes(&rows, random) {
        run.mix(&mut model, &mix)?;
    }
    Ok(run.finish(&model.info))
}

fn mixes(rows: &Rows, random: &mut Random) -> Vec<Mix> {
    let texts: Vec<usize> = (0..rows.texts).collect();
    let mut shuffled = |items: Vec<usize>| {
        let mut items = items;
        random.shuffle(&mut items);
        items
    };
    let all: Vec<usize> = shuffled((0..rows.ids.len()).collect());
    let short = shuffled(rows.short().chain([0]).collect());
    let ragged = shuffled(rows.ragged().chain(texts.iter().copied()).collect());
    let longest = shuffled(rows.longest().chain([0, rows.texts]).collect());
    let under_way = all.chunks(all.len().div_ceil(UNDER_WAY)).map(<[usize]>::to_vec).collect();
    let one = |name, rows| Mix { name, batches: vec![rows] };
    vec![
        one("texts together", texts.clone()),
        one("texts reversed", texts.into_iter().rev().collect()),
        one("many short rows", short),
        one("ragged rows", ragged),
        one("longest rows", longest),
        Mix { name: "several batches under way", batches: under_way },
    ]
}

/// Whether company changes a row's answer.
#[derive(Default)]
struct Company {
    rows: usize,
    changed: usize,
    difference: f32,
}

struct Run<'a> {
    device: &'a Device,
    rows: &'a Rows,
    alone: &'a [Vec<f32>],
    cases: Vec<Case>,
    company: Company,
}

impl Run<'_> {
    fn mix(&mut self, model: &mut LoadedModel, mix: &Mix) -> anyhow::Result<()> {
        let batches: Vec<TokenBatch> =
            mix.batches.iter().map(|rows| TokenBatch::from_rows(rows.iter().map(|row| &self.rows.ids[*row]))).collect();
        let mut answers: Vec<(usize, Vec<f32>)> = Vec::new();
        let mut landed = mix.batches.iter();
        in_flight(model.encoder.as_mut(), &batches, &mut |flight| {
            let embeddings = flight.wait()?;
            let rows = landed.next().into_iter().flatten();
            answers.extend(rows.zip(embeddings.iter()).map(|(row, answer)| (*row, scaled(&model.info, answer))));
            Ok(())
        })?;
        for (row, answer) in &answers {
            self.company.compare(answer, &self.alone[*row]);
        }
        let found = agreement(self.rows, answers.iter().map(|(row, answer)| (*row, answer.as_slice())));
        self.push(&model.info, mix.name.to_owned(), mix.batches.iter().flatten().copied(), found);
        Ok(())
    }

    fn push(&mut self, info: &ModelInfo, name: String, rows: impl Iterator<Item = usize>, found: Agreement) {
        let precision = rig::precision(self.device);
        let (count, tokens) = rows.fold((0, 0), |(n, tokens), row| (n + 1, tokens + self.rows.ids[row].len()));
        let least = precision.least_cosine();
        let case = Case {
            shapes: format!("{count} rows, {tokens} tokens"),
            limit: format!("{least}"),
            verdict: Verdict::of(found.cosine >= least),
            detail: String::new(),
            ..Case::failed(format!("{}: {name}", info.name), precision.as_str(), "")
        };
        self.cases.push(case.with(found));
    }

    /// The CPU agrees with itself: worth a line, not a pass.
    fn note_last(&mut self) {
        if let Some(case) = self.cases.last_mut().filter(|case| case.verdict == Verdict::Passed) {
            case.verdict = Verdict::Noted;
            case.detail = "compared with itself".to_owned();
        }
    }

    /// Adds what all mixes together say.
    fn finish(mut self, info: &ModelInfo) -> Vec<Case> {
        let precision = rig::precision(self.device).as_str();
        let case = |name: &str, limit: &str, verdict, detail| Case {
            limit: limit.to_owned(),
            verdict,
            detail,
            ..Case::failed(format!("{}: {name}", info.name), precision, "")
        };
        if self.rows.authority == REFERENCES {
            let differences = &self.rows.differences;
            let verdict = Verdict::of(differences.is_empty());
            self.cases.push(case("tokens of the texts", "as the references", verdict, differences.join("; ")));
        }
        let Company { rows, changed, difference } = self.company;
        let detail = match changed {
            0 => "equal bit for bit".to_owned(),
            _ => format!("{changed} of {rows} differ, by {difference:.1e} at most"),
        };
        // Where libraries choose their kernel by the batch's size, sums are taken in another order.
        let verdict = match self.device.kind() {
            "cpu" => Verdict::of(changed == 0),
            _ => Verdict::Noted,
        };
        self.cases.push(case("rows in any company", "equal on the cpu", verdict, detail));
        self.cases
    }
}

impl Company {
    fn compare(&mut self, answer: &[f32], alone: &[f32]) {
        self.rows += 1;
        self.changed += usize::from(answer != alone);
        let differences = answer.iter().zip(alone).map(|(a, b)| (a - b).abs());
        self.difference = differences.fold(self.difference, f32::max);
    }
}

/// Submits batches one after another with as many under way as the encoder takes, and hands over each as it lands, in order.
///
/// # Errors
/// What the engine or `land` reports.
pub fn in_flight<'a>(
    encoder: &mut dyn Encoder,
    batches: impl IntoIterator<Item = &'a TokenBatch>,
    land: &mut dyn FnMut(Flight) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut under_way: VecDeque<Flight> = VecDeque::new();
    for batch in batches {
        if under_way.len() >= encoder.depth()
            && let Some(first) = under_way.pop_front()
        {
            land(first)?;
        }
        under_way.push_back(encoder.submit(batch)?);
    }
    under_way.into_iter().try_for_each(land)
}
