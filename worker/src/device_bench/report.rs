//! Figures of a device, as a table and as JSON.

use std::fmt;

use serde::Serialize;

use super::cost::{Limits, Shape};
use super::measure::Measured;
use crate::device::{Op, Precision};

/// One operation within a batch.
#[derive(Debug, Clone, Serialize)]
pub struct OpFigure {
    pub op: &'static str,
    /// Summed over threads where several compute.
    pub seconds: f64,
    pub flops: f64,
    pub bytes: f64,
    /// Least time that `flops` and `bytes` take, if the device's limits are known, and which of them sets it.
    pub floor_seconds: Option<f64>,
    pub floor_by: Option<&'static str>,
}

/// One shape of batch.
#[derive(Debug, Clone, Serialize)]
pub struct Cell {
    pub rows: usize,
    pub length: usize,
    /// Nothing if the batch could not be computed.
    pub figures: Option<Figures>,
    /// Why it could not.
    pub error: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// Per batch, with the next one under way.
    pub seconds: f64,
    pub latency_seconds: f64,
    pub sentences_per_second: f64,
    pub tokens_per_second: f64,
    /// Multiplications and additions of matrix products only.
    pub tflop_per_second: f64,
    pub ops: Vec<OpFigure>,
}

impl Cell {
    pub fn new(
        rows: usize,
        length: usize,
        measured: anyhow::Result<Measured>,
        shape: &Shape,
        precision: Precision,
        limits: Limits,
    ) -> Self {
        let op = |(op, seconds): (Op, f64)| {
            let cost = shape.cost(op, rows, length, precision);
            let (floor_seconds, floor_by) = limits.floor(cost).unzip();
            OpFigure { op: op.as_str(), seconds, flops: cost.flops, bytes: cost.bytes, floor_seconds, floor_by }
        };
        let figures = |measured: Measured| Figures {
            seconds: measured.seconds,
            latency_seconds: measured.latency_seconds,
            sentences_per_second: rows as f64 / measured.seconds,
            tokens_per_second: (rows * length) as f64 / measured.seconds,
            tflop_per_second: shape.flops(rows, length) / measured.seconds / 1e12,
            ops: measured.ops.map(op).to_vec(),
        };
        match measured {
            Ok(measured) => Self { rows, length, figures: Some(figures(measured)), error: None },
            Err(error) => Self { rows, length, figures: None, error: Some(format!("{error:#}")) },
        }
    }
}

/// From the start of the process to the first answer.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Start {
    /// From the start of the process to the first answer of the model.
    pub ready_seconds: f64,
    /// Opening the device.
    pub open_seconds: f64,
    /// Loading the model: reading, checksum, layout for the device, copying to it, tokenizer.
    pub load_seconds: f64,
    /// Only reading the same files once more.
    pub read_seconds: f64,
    pub weights_bytes: u64,
}

/// Everything that was measured. There is none without a self-test that passed.
#[derive(Debug, Clone, Serialize)]
pub struct BenchReport {
    pub device: String,
    pub stand_in: bool,
    pub model: String,
    pub dtype: &'static str,
    /// Cases that passed, of how many.
    pub self_test: (usize, usize),
    pub limits: Limits,
    pub start: Start,
    /// Batches under way at the same time.
    pub depth: usize,
    pub cells: Vec<Cell>,
}

impl fmt::Display for BenchReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.stand_in { ", a stand-in: NO FIGURE HERE IS OF A DEVICE" } else { "" };
        let (passed, all) = self.self_test;
        writeln!(f, "{} on {}{kind}, {}; self-test passed: {passed} of {all}", self.model, self.device, self.dtype)?;
        let Start { ready_seconds, open_seconds, load_seconds, read_seconds, weights_bytes } = self.start;
        writeln!(
            f,
            "ready {ready_seconds:.2} s after the process began: device {open_seconds:.2} s, model {load_seconds:.2} s, of which \
             reading its {:.1} MB takes {read_seconds:.2} s from the page cache",
            weights_bytes as f64 / 1e6
        )?;
        writeln!(f, "up to {} batches under way; FLOP are those of matrix products\n", self.depth)?;
        writeln!(f, "  rows  tokens/row   ms/batch  ms alone  sentences/s    tokens/s   TFLOP/s  of peak")?;
        for cell in &self.cells {
            self.line(f, cell)?;
        }
        let largest =
            self.cells.iter().filter(|cell| cell.figures.is_some()).max_by_key(|cell| cell.rows * cell.length);
        largest.map_or(Ok(()), |cell| ops(f, cell))
    }
}

impl BenchReport {
    fn line(&self, f: &mut fmt::Formatter<'_>, cell: &Cell) -> fmt::Result {
        write!(f, "{:6}  {:10}  ", cell.rows, cell.length)?;
        let Some(figures) = &cell.figures else {
            return writeln!(f, "{}", cell.error.as_deref().unwrap_or_default());
        };
        let Figures { seconds, latency_seconds, sentences_per_second, tokens_per_second, tflop_per_second, .. } =
            figures;
        let peak =
            self.limits.peak_tflop_s.map_or("".to_owned(), |peak| format!("{:.1}%", tflop_per_second / peak * 100.0));
        let line = format!(
            "{:9.3}  {:8.3}  {sentences_per_second:11.1}  {tokens_per_second:10.0}  {tflop_per_second:8.3}  {peak:>7}",
            seconds * 1e3,
            latency_seconds * 1e3,
        );
        writeln!(f, "{}", line.trim_end())
    }
}

/// Where the time of the largest batch goes.
fn ops(f: &mut fmt::Formatter<'_>, cell: &Cell) -> fmt::Result {
    let ops = cell.figures.iter().flat_map(|figures| &figures.ops);
    let all: f64 = ops.clone().map(|op| op.seconds).sum();
    writeln!(f, "\noperations of {} x {} (time is summed over threads)", cell.rows, cell.length)?;
    write!(f, "  operation        ms  share      GFLOP       MB  floor ms  set by")?;
    for op in ops {
        let floor = op.floor_seconds.map_or("unknown".to_owned(), |floor| format!("{:.3}", floor * 1e3));
        let line = format!(
            "  {:<10} {:8.3}  {:4.1}%  {:9.3}  {:7.1}  {floor:>8}  {}",
            op.op,
            op.seconds * 1e3,
            if all > 0.0 { op.seconds / all * 100.0 } else { 0.0 },
            op.flops / 1e9,
            op.bytes / 1e6,
            op.floor_by.unwrap_or_default(),
        );
        write!(f, "\n{}", line.trim_end())?;
    }
    Ok(())
}
