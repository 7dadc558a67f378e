//! The GPU of a build without the feature `cuda`: there is none, so [`Cuda`] has no values and its methods are never called.

use std::convert::Infallible;

use candle_core::{Device as CandleDevice, Result};

use super::counters::{Counters, Op};
use super::exec::Exec;
use super::{DeviceChoice, DeviceError, DeviceMemory, Precision};

/// No GPU.
pub struct Cuda(Infallible);

impl Cuda {
    /// # Errors
    /// [`DeviceError::NotBuilt`].
    pub fn open(_: &DeviceChoice, _: Option<Precision>) -> std::result::Result<Self, DeviceError> {
        Err(DeviceError::NotBuilt)
    }

    pub fn tensors(&self) -> &CandleDevice {
        match self.0 {}
    }

    pub fn precision(&self) -> Precision {
        match self.0 {}
    }

    pub fn describe(&self) -> String {
        match self.0 {}
    }

    pub fn uuid(&self) -> &str {
        match self.0 {}
    }

    pub fn exec<'a>(&'a self, _: &'a Counters) -> Exec<'a> {
        match self.0 {}
    }

    pub fn memory(&self) -> Result<DeviceMemory> {
        match self.0 {}
    }

    pub fn forget_peak(&self) -> Result<()> {
        match self.0 {}
    }

    pub fn trim(&self) -> Result<()> {
        match self.0 {}
    }

    pub fn synchronize(&self) -> Result<()> {
        match self.0 {}
    }

    pub fn profile(&self, _: bool) {
        match self.0 {}
    }

    pub fn time<T>(&self, _: &Counters, _: Op, _: impl FnOnce() -> T) -> T {
        match self.0 {}
    }
}

/// What an error of CUDA would mean.
pub mod fault {
    use crate::device::Fault;

    pub fn classify(_: &candle_core::Error) -> Fault {
        Fault::Other
    }
}

/// Batches on their way to no device.
pub mod staging {
    use std::convert::Infallible;
    use std::sync::Arc;

    use candle_core::{Result, Tensor};

    use super::Cuda;
    use crate::layers::PackedRows;
    use crate::models::{Embeddings, EngineError, Pending, TokenBatch};

    pub const DEPTH: usize = 2;

    pub struct Staging(Infallible);

    impl Staging {
        pub fn new(cuda: &Arc<Cuda>, _: usize) -> Result<Self> {
            match cuda.0 {}
        }

        pub fn send(
            &self,
            _: &TokenBatch,
            _: impl FnOnce(&PackedRows, &Tensor) -> Result<()>,
        ) -> std::result::Result<Landing, EngineError> {
            match self.0 {}
        }
    }

    pub struct Landing(Infallible);

    impl Pending for Landing {
        fn wait(self: Box<Self>) -> std::result::Result<Embeddings, EngineError> {
            match self.0 {}
        }
    }
}
