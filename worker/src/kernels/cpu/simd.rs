//! Vectors of `f32`: one generic kernel body, three instruction sets, chosen once at run time.
//!
//! A kernel is written against [`Simd`] as `#[inline(always)]` code in a [`Kernel`]; [`Level::run`] instantiates it inside a
//! function that enables the instruction set, so the binary stays portable and the kernel still compiles to AVX-512.
//! A value of an implementing type is the proof that the machine has the instructions: only this module makes one.

#[cfg(target_arch = "x86_64")]
#[path = "simd_x86.rs"]
mod x86;

#[path = "simd_portable.rs"]
mod portable;

/// Operations on vectors of `LANES` × `f32`. All are lane-wise; results do not depend on `LANES` unless said otherwise.
pub trait Simd: Copy {
    type V: Copy;
    const LANES: usize;
    /// Rows of the register tile of the matrix kernel; with three vectors per row it must leave registers free.
    const TILE_ROWS: usize;

    fn splat(self, x: f32) -> Self::V;
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// a · b + c, rounded once where the machine has the instruction.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The second operand where either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The second operand where either is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// x · 2ⁿ, for integral `n` in `-126.0..=127.0`.
    fn scale_by_power_of_two(self, x: Self::V, n: Self::V) -> Self::V;
    /// Sum over lanes, in a fixed order.
    fn sum_lanes(self, v: Self::V) -> f32;
    fn max_lanes(self, v: Self::V) -> f32;

    /// Reads `LANES` floats.
    ///
    /// # Safety
    /// `p` must be valid for reading `LANES` floats; it need not be aligned.
    unsafe fn load(self, p: *const f32) -> Self::V;
    /// Reads the first `n <= LANES` floats; the other lanes are 0.
    ///
    /// # Safety
    /// `p` must be valid for reading `n` floats.
    unsafe fn load_part(self, p: *const f32, n: usize) -> Self::V;
    /// Reads the first `n <= LANES` floats; the other lanes are `fill`'s.
    ///
    /// # Safety
    /// `p` must be valid for reading `n` floats.
    unsafe fn load_part_or(self, p: *const f32, n: usize, fill: Self::V) -> Self::V;
    /// Writes `LANES` floats.
    ///
    /// # Safety
    /// `p` must be valid for writing `LANES` floats; it need not be aligned.
    unsafe fn store(self, p: *mut f32, v: Self::V);
    /// Writes the first `n <= LANES` lanes.
    ///
    /// # Safety
    /// `p` must be valid for writing `n` floats.
    unsafe fn store_part(self, p: *mut f32, v: Self::V, n: usize);
}

/// A computation that can be instantiated for every instruction set.
pub trait Kernel {
    type Output;

    /// The body. Must be `#[inline(always)]`, and so must everything generic over [`Simd`] that it calls.
    fn run<S: Simd>(self, s: S) -> Self::Output;
}

/// Instruction set to compute with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Avx512,
    Avx2,
    Portable,
}

impl Level {
    /// The best that this machine has.
    pub fn detect() -> Self {
        Self::available()[0]
    }

    /// All that this machine has, best first; never empty.
    pub fn available() -> Vec<Self> {
        let mut levels = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if x86::has_avx512() {
                levels.push(Self::Avx512);
            }
            if x86::has_avx2() {
                levels.push(Self::Avx2);
            }
        }
        levels.push(Self::Portable);
        levels
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::Portable => "portable",
        }
    }

    /// Floats in one vector.
    pub fn lanes(self) -> usize {
        match self {
            Self::Avx512 => 16,
            Self::Avx2 => 8,
            Self::Portable => portable::Portable::LANES,
        }
    }

    /// Runs `kernel` with this instruction set.
    ///
    /// # Panics
    /// If the machine does not have it: levels come from [`detect`](Self::detect) and [`available`](Self::available).
    #[inline]
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => x86::run_avx512(kernel),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => x86::run_avx2(kernel),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx512 | Self::Avx2 => panic!("this machine does not have {}", self.as_str()),
            Self::Portable => kernel.run(portable::Portable),
        }
    }
}
