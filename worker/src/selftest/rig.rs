//! A device as the self-test sees it: opened by name, computing one layer at a time into memory that tells on stray writes.
//!
//! The only file here that knows how devices are opened and layers are called; what the layers should answer is elsewhere.

use candle_core::{DType, Device as CandleDevice, Result, Tensor};

use super::operations::{Attend, Embed, Normalise, Output, Pool, Product};
use crate::device::{Counters, Device, DeviceChoice, Exec, Precision};
use crate::layers::PackedRows;
use crate::layers::attention::attention;
use crate::layers::embedding::Embedding;
use crate::layers::linear::Linear;
use crate::layers::norm::LayerNorm;
use crate::layers::pooling::pool;
use crate::models::TokenBatch;

/// Rows after the end of every tensor that a layer is given.
const TAIL_ROWS: usize = 3;

/// What those rows hold where a layer writes: exact in every precision.
const TAIL: f32 = 192.0;

/// Products on a GPU write whole steps of so many rows where there is room; rows up to the next step are scratch.
const STEP_ROWS: usize = 64;

/// Opens what `--device` and `--dtype` ask for.
///
/// # Errors
/// If this build or this machine does not have it.
pub fn open(choice: &DeviceChoice, threads: Option<usize>, precision: Option<Precision>) -> anyhow::Result<Device> {
    Ok(Device::open(choice, threads, precision)?)
}

/// A device to compute single layers on.
pub struct Rig {
    device: Device,
    counters: Counters,
}

impl Rig {
    pub fn new(device: Device) -> Self {
        Self { device, counters: Counters::default() }
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Whether rows answer bit for bit the same in any company and on any number of threads.
    pub fn is_cpu(&self) -> bool {
        self.device.kind() == "cpu"
    }

    pub fn precision(&self) -> Precision {
        precision(&self.device)
    }

    /// Runs `work` with the whole device (`shared`), or with one of its units where it has several, and waits for it.
    fn compute(&self, shared: bool, work: &(dyn Fn(&Exec<'_>) -> Result<()> + Sync)) -> Result<()> {
        let cpu = match &self.device {
            Device::Cpu(cpu) => cpu,
            Device::Cuda(_) => {
                self.device.with_exec(&self.counters, work)?;
                return self.device.synchronize();
            }
        };
        let failure = parking_lot::Mutex::new(None);
        // One row that is long enough for all threads to share it, or too short.
        cpu.for_rows(&[if shared { 64 } else { 1 }], &self.counters, &|exec, _, _| {
            if let Err(error) = work(exec) {
                *failure.lock() = Some(error);
            }
        });
        failure.into_inner().map_or(Ok(()), Err)
    }

    fn tensors(&self) -> &CandleDevice {
        self.device.tensors()
    }

    /// `[rows, width]` for a layer to read; whoever reads past its end finds NaN.
    fn input(&self, numbers: &[f32], width: usize) -> Result<Tensor> {
        Ok(self.canvas(numbers, width, f32::NAN, self.precision().dtype())?.1)
    }

    /// `[rows, width]` for a layer to write, poisoned with NaN.
    fn blank(&self, rows: usize, width: usize, dtype: DType) -> Result<Canvas> {
        let (whole, part) = self.canvas(&vec![f32::NAN; rows * width], width, TAIL, dtype)?;
        Ok(Canvas { whole, part, scratch_rows: 0 })
    }

    /// `[rows, width]` for a layer to change in place.
    fn drawn(&self, numbers: &[f32], width: usize) -> Result<Canvas> {
        let (whole, part) = self.canvas(numbers, width, TAIL, self.precision().dtype())?;
        Ok(Canvas { whole, part, scratch_rows: 0 })
    }

    fn canvas(&self, numbers: &[f32], width: usize, tail: f32, dtype: DType) -> Result<(Tensor, Tensor)> {
        let rows = numbers.len() / width;
        let mut all = numbers.to_vec();
        let all_rows = rows + self.scratch_rows(rows) + TAIL_ROWS;
        all.resize(all_rows * width, tail);
        let whole = Tensor::from_vec(all, (all_rows, width), &CandleDevice::Cpu)?.to_dtype(dtype)?;
        let whole = whole.to_device(self.tensors())?;
        let part = whole.narrow(0, 0, rows)?;
        Ok((whole, part))
    }

    /// Rows after the last that a product may overwrite.
    fn scratch_rows(&self, rows: usize) -> usize {
        if self.is_cpu() { 0 } else { rows.next_multiple_of(STEP_ROWS) - rows }
    }

    fn packed(&self, rows: &[Vec<u32>]) -> Result<PackedRows> {
        let all: Vec<usize> = (0..rows.len()).collect();
        PackedRows::gather(&TokenBatch::from_rows(rows), &all, self.tensors())
    }

    /// Sequences of these lengths whose ids do not matter.
    fn packed_lengths(&self, lengths: &[usize]) -> Result<PackedRows> {
        self.packed(&lengths.iter().map(|len| vec![0; *len]).collect::<Vec<_>>())
    }

    /// The first layers of an encoder: tables, then norm.
    pub fn embed(&self, case: &Embed, shared: bool) -> Result<Output> {
        let dim = case.dim;
        let (weight, bias) = (host(&case.weight, &[dim])?, host(&case.bias, &[dim])?);
        let norm = LayerNorm::new(&weight, &bias, case.epsilon, &self.device)?;
        let (words, positions) = (host(&case.words, &[0, dim])?, host(&case.positions, &[0, dim])?);
        let layer = Embedding::new(&words, &positions, norm, &self.device)?;
        let rows = self.packed(&case.rows)?;
        let out = self.blank(rows.tokens(), dim, self.precision().dtype())?;
        self.compute(shared, &|exec| layer.forward(exec, &rows, &out.part))?;
        out.read()
    }

    pub fn normalise(&self, case: &Normalise, shared: bool) -> Result<Output> {
        let dim = case.weight.len();
        let (weight, bias) = (host(&case.weight, &[dim])?, host(&case.bias, &[dim])?);
        let layer = LayerNorm::new(&weight, &bias, case.epsilon, &self.device)?;
        let out = self.drawn(&case.x, dim)?;
        self.compute(shared, &|exec| layer.forward(exec, &out.part))?;
        out.read()
    }

    pub fn product(&self, case: &Product, shared: bool) -> Result<Output> {
        let (n, k) = (case.bias.len(), case.weight.len() / case.bias.len());
        let layer = Linear::new(&[host(&case.weight, &[n, k])?], &[host(&case.bias, &[n])?], &self.device)?;
        let x = self.input(&case.x, k)?;
        let mut out = match case.reads_output() {
            true => self.drawn(&case.before, n)?,
            false => self.blank(case.before.len() / n, n, self.precision().dtype())?,
        };
        out.scratch_rows = self.scratch_rows(out.part.dim(0)?);
        self.compute(shared, &|exec| layer.forward(exec, &x, &out.part, case.finish))?;
        out.read()
    }

    pub fn attend(&self, case: &Attend, shared: bool) -> Result<Output> {
        let dim = case.heads * case.head_dim;
        let rows = self.packed_lengths(&case.lengths)?;
        let qkv = self.input(&case.qkv, 3 * dim)?;
        let out = self.blank(rows.tokens(), dim, self.precision().dtype())?;
        self.compute(shared, &|exec| attention(exec, &qkv, &rows, case.heads, case.head_dim, &out.part))?;
        out.read()
    }

    pub fn pool(&self, case: &Pool, shared: bool) -> Result<Output> {
        let rows = self.packed_lengths(&case.lengths)?;
        let hidden = self.input(&case.hidden, case.dim)?;
        // Answers leave in f32, whatever is computed in.
        let out = self.blank(case.lengths.len(), case.dim, DType::F32)?;
        self.compute(shared, &|exec| pool(exec, &hidden, &rows, case.pooling, &out.part))?;
        out.read()
    }
}

/// What a device computes in.
pub fn precision(device: &Device) -> Precision {
    device.precision()
}

/// Bytes of device memory in use; nothing where that is the process' own memory.
pub fn device_memory(device: &Device) -> Option<u64> {
    device.memory().map(|memory| memory.used_bytes)
}

/// Numbers as a device that computes in `precision` can hold them.
///
/// # Errors
/// If candle cannot convert.
pub fn rounded(numbers: Vec<f32>, precision: Precision) -> Result<Vec<f32>> {
    let len = numbers.len();
    Tensor::from_vec(numbers, len, &CandleDevice::Cpu)?.to_dtype(precision.dtype())?.to_dtype(DType::F32)?.to_vec1()
}

/// A weight as layers take it: `f32` on the host. A first size of 0 stands for as many rows as there are.
fn host(numbers: &[f32], shape: &[usize]) -> Result<Tensor> {
    let mut shape = shape.to_vec();
    if shape[0] == 0 {
        shape[0] = numbers.len() / shape[1];
    }
    Tensor::from_slice(numbers, shape, &CandleDevice::Cpu)
}

/// Memory to write to, with rows after its end that must stay as they are.
struct Canvas {
    whole: Tensor,
    part: Tensor,
    /// Rows after the part that the layer may overwrite.
    scratch_rows: usize,
}

impl Canvas {
    fn read(self) -> Result<Output> {
        // Converted on the host: candle's own kernels for it are made for one architecture.
        let whole = self.whole.to_device(&CandleDevice::Cpu)?;
        let mut numbers = whole.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let tail = numbers.split_off(self.part.elem_count());
        let scratch = self.scratch_rows * self.part.dim(1)?;
        Ok(Output { numbers, intact: tail[scratch..].iter().all(|x| *x == TAIL) })
    }
}

#[cfg(test)]
mod tests {
    use super::super::compare::Agreement;
    use super::*;

    #[test]
    fn what_a_layer_leaves_out_or_overruns_shows() {
        let rig = Rig::new(Device::cpu(Some(1)).unwrap());
        let untouched = rig.blank(2, 3, DType::F32).unwrap().read().unwrap();
        assert!(untouched.intact);
        assert!(Agreement::of_rows(&untouched.numbers, &[0.0; 6], 3).cosine < 0.0, "what was not written is NaN");
        for (rows, intact) in [(2, true), (3, false)] {
            let canvas = rig.blank(2, 3, DType::F32).unwrap();
            let written = Tensor::zeros((rows, 3), DType::F32, &CandleDevice::Cpu).unwrap();
            canvas.whole.slice_set(&written, 0, 0).unwrap();
            let output = canvas.read().unwrap();
            assert_eq!((output.intact, output.numbers), (intact, vec![0.0; 6]), "{rows} rows");
        }
        let input = rig.input(&[1.0, 2.0], 2).unwrap();
        assert_eq!(input.to_vec2::<f32>().unwrap(), [[1.0, 2.0]], "the NaN after it is no part of it");
    }
}
