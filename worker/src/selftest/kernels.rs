//! Every kernel by itself, on shapes that models have and on shapes that they do not: against the CPU's, or on the CPU against
//! the definition.

use candle_core::Result;

use super::compare::Agreement;
use super::operations::{Draw, Operation};
use super::random::Random;
use super::report::{Case, Verdict};
use super::rig::Rig;
use crate::device::Precision;
use crate::layers::linear::Finish;
use crate::layers::pooling::Pooling;

/// `[in, out]` of linear layers: MiniLM's, bge-base's narrowest, and one that fits no tile.
const PRODUCTS: [(usize, usize); 4] = [(64, 192), (384, 1536), (768, 768), (37, 53)];
/// Heads and numbers per head.
const HEADS: [(usize, usize); 6] = [(4, 16), (12, 32), (12, 64), (2, 80), (1, 128), (3, 5)];
const WIDTHS: [usize; 4] = [64, 384, 1024, 37];

/// Largest difference between two numbers over the largest of their row: some eight roundings of a result.
pub const fn tolerance(precision: Precision) -> f64 {
    match precision {
        Precision::F32 => 1e-4,
        Precision::F16 => 4e-3,
        Precision::Bf16 => 3e-2,
    }
}

/// Runs all kernels of a device. A kernel whose name begins with `sabotage` gets one of its numbers changed, to see that it shows.
pub fn cases(rig: &Rig, twin: &Rig, random: &mut Random, sabotage: Option<&str>) -> Vec<Case> {
    let suite = Suite { rig, twin, sabotage };
    let mut draw = Draw { random, precision: rig.precision() };
    // An emulated device takes seconds for what a real one does in microseconds.
    let longest = if rig.device().describe().contains("emulated") { 200 } else { 512 };
    let ragged: Vec<usize> = (0..7).map(|_| draw.random.between(1, longest / 4)).collect();
    let with_empty = [vec![0], ragged.clone(), vec![0, 0, 3, 0]].concat();
    let texts = [&[1][..], &[longest], &ragged];
    let mut cases = Vec::new();
    for dim in WIDTHS {
        let trials = texts.map(|lengths| draw.embed(lengths, dim).map(boxed));
        cases.push(suite.case(format!("embedding and norm, {dim}"), trials));
    }
    for dim in WIDTHS {
        let trials = [1, 7, longest].map(|tokens| draw.normalise(tokens, dim).map(boxed));
        cases.push(suite.case(format!("layer norm, {dim}"), trials));
    }
    for finish in [Finish::Store, Finish::Gelu, Finish::Add] {
        for (k, n) in PRODUCTS {
            let trials = [1, 7, 130].map(|tokens| draw.product(tokens, k, n, finish).map(boxed));
            cases.push(suite.case(format!("linear {}, {k} to {n}", name(finish)), trials));
        }
    }
    for (heads, head_dim) in HEADS {
        let trials = [&[1][..], &[longest], &with_empty].map(|l| draw.attend(l, heads, head_dim).map(boxed));
        cases.push(suite.case(format!("attention, {heads} heads of {head_dim}"), trials));
    }
    for pooling in Pooling::ALL {
        for dim in [384, 37] {
            let trials = texts.map(|lengths| draw.pool(lengths, dim, pooling).map(boxed));
            cases.push(suite.case(format!("pooling {}, {dim}", pooling.as_str()), trials));
        }
    }
    cases
}

fn boxed(operation: impl Operation + 'static) -> Box<dyn Operation> {
    Box::new(operation)
}

const fn name(finish: Finish) -> &'static str {
    match finish {
        Finish::Store => "store",
        Finish::Gelu => "gelu",
        Finish::Add => "add",
    }
}

struct Suite<'a> {
    rig: &'a Rig,
    twin: &'a Rig,
    sabotage: Option<&'a str>,
}

impl Suite<'_> {
    /// One line of the table out of several calls.
    fn case(&self, name: String, trials: impl IntoIterator<Item = Result<Box<dyn Operation>>>) -> Case {
        let precision = self.rig.precision();
        let (mut agreement, mut shapes, mut detail) = (Agreement::PERFECT, Vec::new(), String::new());
        for trial in trials {
            let checked = trial.and_then(|operation| {
                shapes.push(operation.shape());
                self.trial(&name, operation.as_ref(), &mut detail)
            });
            match checked {
                Ok(found) => agreement = agreement.and(found),
                Err(error) => return Case::failed(name, precision.as_str(), error),
            }
        }
        let (cosine, relative) = (precision.least_cosine(), tolerance(precision));
        let holds = agreement.cosine >= cosine && agreement.relative <= relative && detail.is_empty();
        let case = Case {
            shapes: format!("{} tokens", shapes.join("; ")),
            limit: format!("{cosine}, {relative:.0e} of a row's largest"),
            verdict: Verdict::of(holds),
            detail,
            ..Case::failed(name, precision.as_str(), "")
        };
        case.with(agreement)
    }

    fn trial(&self, name: &str, operation: &dyn Operation, detail: &mut String) -> Result<Agreement> {
        let mut output = operation.on(self.rig, false)?;
        if !output.intact {
            *detail = format!("wrote past the end of {}", operation.shape());
        }
        if self.rig.is_cpu() && operation.on(self.rig, true)? != output {
            *detail = format!("answers otherwise when threads share {}", operation.shape());
        }
        if self.sabotage.is_some_and(|sabotage| name.starts_with(sabotage))
            && let Some(number) = output.numbers.last_mut()
        {
            *number += 1.0;
        }
        let expected = match self.rig.is_cpu() {
            true => operation.plain(),
            false => operation.on(self.twin, false)?.numbers.into_iter().map(f64::from).collect(),
        };
        Ok(Agreement::of_rows(&output.numbers, &expected, operation.width()))
    }
}
