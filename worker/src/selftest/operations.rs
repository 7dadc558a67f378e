//! One call of a layer with its numbers: what it is given, who computes it, and what it should answer.

use candle_core::Result;

use super::plain;
use super::random::Random;
use super::rig::{Rig, rounded};
use crate::device::Precision;
use crate::layers::linear::Finish;
use crate::layers::pooling::Pooling;

/// What a layer wrote, row-major, and whether it left alone what comes after.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    pub numbers: Vec<f32>,
    pub intact: bool,
}

/// One call of a layer.
pub trait Operation {
    /// Computes it with the layer itself.
    ///
    /// # Errors
    /// What candle or the device reports.
    fn on(&self, rig: &Rig, shared: bool) -> Result<Output>;

    /// Computes it by definition.
    fn plain(&self) -> Vec<f64>;

    /// Numbers of an output row.
    fn width(&self) -> usize;

    /// For the table, for example `7 x 64`.
    fn shape(&self) -> String;
}

pub struct Embed {
    pub words: Vec<f32>,
    pub positions: Vec<f32>,
    pub dim: usize,
    pub weight: Vec<f32>,
    pub bias: Vec<f32>,
    pub epsilon: f64,
    pub rows: Vec<Vec<u32>>,
}

pub struct Normalise {
    pub x: Vec<f32>,
    pub weight: Vec<f32>,
    pub bias: Vec<f32>,
    pub epsilon: f64,
}

pub struct Product {
    pub x: Vec<f32>,
    pub weight: Vec<f32>,
    pub bias: Vec<f32>,
    pub before: Vec<f32>,
    pub finish: Finish,
}

pub struct Attend {
    pub qkv: Vec<f32>,
    pub lengths: Vec<usize>,
    pub heads: usize,
    pub head_dim: usize,
}

pub struct Pool {
    pub hidden: Vec<f32>,
    pub lengths: Vec<usize>,
    pub dim: usize,
    pub pooling: Pooling,
}

/// Draws operands that the device can hold exactly.
pub struct Draw<'a> {
    pub random: &'a mut Random,
    pub precision: Precision,
}

impl Draw<'_> {
    fn floats(&mut self, count: usize, scale: f32) -> Result<Vec<f32>> {
        rounded(self.random.floats(count, scale), self.precision)
    }

    /// Scales around 1, shifts around 0.
    fn norm(&mut self, dim: usize) -> Result<(Vec<f32>, Vec<f32>)> {
        let weight = self.random.floats(dim, 0.5).iter().map(|x| x + 1.0).collect();
        Ok((rounded(weight, self.precision)?, self.floats(dim, 0.5)?))
    }

    pub fn embed(&mut self, lengths: &[usize], dim: usize) -> Result<Embed> {
        let vocab_size = 101;
        let longest = lengths.iter().copied().max().unwrap_or(1);
        let (weight, bias) = self.norm(dim)?;
        let rows = lengths.iter().map(|len| self.random.ids(*len, vocab_size)).collect();
        let (words, positions) = (self.floats(vocab_size * dim, 1.0)?, self.floats(longest * dim, 1.0)?);
        Ok(Embed { words, positions, dim, weight, bias, epsilon: 1e-12, rows })
    }

    pub fn normalise(&mut self, tokens: usize, dim: usize) -> Result<Normalise> {
        let (weight, bias) = self.norm(dim)?;
        Ok(Normalise { x: self.floats(tokens * dim, 3.0)?, weight, bias, epsilon: 1e-12 })
    }

    pub fn product(&mut self, tokens: usize, k: usize, n: usize, finish: Finish) -> Result<Product> {
        let scale = (3.0 / k as f32).sqrt();
        let (x, weight) = (self.floats(tokens * k, 2.0)?, self.floats(n * k, scale)?);
        Ok(Product { x, weight, bias: self.floats(n, 0.5)?, before: self.floats(tokens * n, 1.0)?, finish })
    }

    pub fn attend(&mut self, lengths: &[usize], heads: usize, head_dim: usize) -> Result<Attend> {
        let tokens: usize = lengths.iter().sum();
        let qkv = self.floats(tokens * 3 * heads * head_dim, 2.0)?;
        Ok(Attend { qkv, lengths: lengths.to_vec(), heads, head_dim })
    }

    pub fn pool(&mut self, lengths: &[usize], dim: usize, pooling: Pooling) -> Result<Pool> {
        let tokens: usize = lengths.iter().sum();
        Ok(Pool { hidden: self.floats(tokens * dim, 1.0)?, lengths: lengths.to_vec(), dim, pooling })
    }
}

/// Lengths as they stand in the table: few as they are, many by their number and sum.
fn lengths(lengths: &[usize]) -> String {
    match lengths {
        [one] => format!("{one}"),
        several => format!("{} rows of {}", several.len(), several.iter().sum::<usize>()),
    }
}

impl Operation for Embed {
    fn on(&self, rig: &Rig, shared: bool) -> Result<Output> {
        rig.embed(self, shared)
    }

    fn plain(&self) -> Vec<f64> {
        let sum = plain::embedding(&self.words, &self.positions, self.dim, &self.rows);
        plain::layer_norm(&sum, &self.weight, &self.bias, self.epsilon)
    }

    fn width(&self) -> usize {
        self.dim
    }

    fn shape(&self) -> String {
        lengths(&self.rows.iter().map(Vec::len).collect::<Vec<_>>())
    }
}

impl Operation for Normalise {
    fn on(&self, rig: &Rig, shared: bool) -> Result<Output> {
        rig.normalise(self, shared)
    }

    fn plain(&self) -> Vec<f64> {
        let x: Vec<f64> = self.x.iter().map(|x| f64::from(*x)).collect();
        plain::layer_norm(&x, &self.weight, &self.bias, self.epsilon)
    }

    fn width(&self) -> usize {
        self.weight.len()
    }

    fn shape(&self) -> String {
        lengths(&[self.x.len() / self.width()])
    }
}

impl Product {
    /// Whether what the output held before matters.
    pub fn reads_output(&self) -> bool {
        self.finish == Finish::Add
    }
}

impl Operation for Product {
    fn on(&self, rig: &Rig, shared: bool) -> Result<Output> {
        rig.product(self, shared)
    }

    fn plain(&self) -> Vec<f64> {
        plain::linear(&self.x, &self.weight, &self.bias, &self.before, self.finish)
    }

    fn width(&self) -> usize {
        self.bias.len()
    }

    fn shape(&self) -> String {
        lengths(&[self.before.len() / self.width()])
    }
}

impl Operation for Attend {
    fn on(&self, rig: &Rig, shared: bool) -> Result<Output> {
        rig.attend(self, shared)
    }

    fn plain(&self) -> Vec<f64> {
        plain::attention(&self.qkv, &self.lengths, self.heads, self.head_dim)
    }

    fn width(&self) -> usize {
        self.heads * self.head_dim
    }

    fn shape(&self) -> String {
        lengths(&self.lengths)
    }
}

impl Operation for Pool {
    fn on(&self, rig: &Rig, shared: bool) -> Result<Output> {
        rig.pool(self, shared)
    }

    fn plain(&self) -> Vec<f64> {
        plain::pool(&self.hidden, &self.lengths, self.dim, self.pooling)
    }

    fn width(&self) -> usize {
        self.dim
    }

    fn shape(&self) -> String {
        lengths(&self.lengths)
    }
}
