//! Memory as a GPU would hold it: aligned to 256 bytes, in the precision of a model.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};

use forebay_worker::device::Precision;

use super::Arg;
use super::numbers::{read, write};

/// What an allocation of the driver is aligned to.
const ALIGNMENT: usize = 256;
/// Behind an output.
const SENTINEL: u8 = 0xa5;
const SENTINELS: usize = 64;

/// Exactly as long as asked for, so that a sanitizer sees every byte too many.
struct Bytes {
    at: *mut u8,
    layout: Layout,
}

impl Bytes {
    fn of(bytes: &[u8]) -> Self {
        let layout = Layout::from_size_align(bytes.len().max(1), ALIGNMENT).expect("a small size");
        // SAFETY: the size is not 0; what is copied fits.
        unsafe {
            let at = alloc(layout);
            if at.is_null() {
                handle_alloc_error(layout);
            }
            at.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            Self { at, layout }
        }
    }

    fn arg(&self) -> Arg {
        Arg::Pointer(self.at as u64)
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, once.
        unsafe { dealloc(self.at, self.layout) }
    }
}

/// Boundaries, ids, tiles.
pub struct Words(Bytes);

impl Words {
    pub fn of(words: &[u32]) -> Self {
        Self(Bytes::of(&words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>()))
    }

    pub fn arg(&self) -> Arg {
        self.0.arg()
    }
}

/// Numbers of a precision, with a sentinel behind them.
pub struct Floats {
    bytes: Bytes,
    precision: Precision,
    len: usize,
}

impl Floats {
    /// Rounds `values` to `precision`.
    pub fn of(precision: Precision, values: &[f32]) -> Self {
        let mut bytes = write(precision, values);
        bytes.extend([SENTINEL; SENTINELS]);
        Self { bytes: Bytes::of(&bytes), precision, len: values.len() }
    }

    /// NaN.
    pub fn unset(precision: Precision, len: usize) -> Self {
        Self::of(precision, &vec![f32::NAN; len])
    }

    pub fn arg(&self) -> Arg {
        self.bytes.arg()
    }

    /// The numbers, after a look at the sentinel.
    pub fn checked(&self, what: &str) -> Vec<f32> {
        // SAFETY: the allocation has this size, and no kernel runs any more.
        let bytes = unsafe { std::slice::from_raw_parts(self.bytes.at, self.bytes.layout.size()) };
        let (numbers, sentinel) = bytes.split_at(self.len * self.precision.size_bytes());
        assert!(sentinel.iter().all(|byte| *byte == SENTINEL), "{what} wrote past the end of its output");
        read(self.precision, numbers)
    }
}
