//! Memory on cache line boundaries: a vector load that straddles two lines costs twice.

/// A cache line of floats.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; LINE]);

const LINE: usize = 16;

/// A growable buffer of floats that starts on a cache line.
#[derive(Default)]
pub struct AlignedBuffer {
    lines: Vec<Line>,
    len: usize,
}

impl AlignedBuffer {
    pub fn zeros(len: usize) -> Self {
        Self { lines: vec![Line([0.0; LINE]); len.div_ceil(LINE)], len }
    }

    /// Room for `len` floats; keeps its memory when that is less than before. Contents are arbitrary numbers.
    pub fn room(&mut self, len: usize) -> &mut [f32] {
        if self.lines.len() < len.div_ceil(LINE) {
            self.lines.resize(len.div_ceil(LINE), Line([0.0; LINE]));
        }
        self.len = len;
        self.as_mut_slice()
    }

    pub fn as_slice(&self) -> &[f32] {
        // SAFETY: `Line` is LINE floats without padding, and `lines` holds at least `len` of them.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }

    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        // SAFETY: as above, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}
