//! The driver's stream-ordered pool, from which candle and we allocate.

use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::sys::{self, CUmemPool_attribute as Attribute, CUmemoryPool};
use candle_core::cuda_backend::cudarc::driver::{CudaContext, DriverError, result};

use crate::device::DeviceMemory;

/// The default pool of one device. It keeps what is freed, so that no batch waits for the operating system.
pub(super) struct Pool {
    pool: CUmemoryPool,
    /// Free memory when this process came: what it may fill.
    capacity_bytes: u64,
}

// SAFETY: the driver's functions on pools may be called from any thread.
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

impl Pool {
    pub(super) fn of(context: &Arc<CudaContext>) -> Result<Self, DriverError> {
        let (free, _) = context.mem_get_info()?;
        // SAFETY: the device is the one of a live context.
        let pool = unsafe { result::device::get_default_mem_pool(context.cu_device()) }?;
        let pool = Self { pool, capacity_bytes: free as u64 };
        pool.set(Attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, u64::MAX)?;
        Ok(pool)
    }

    pub(super) fn read(&self, context: &Arc<CudaContext>) -> Result<DeviceMemory, DriverError> {
        context.bind_to_thread()?;
        Ok(DeviceMemory {
            used_bytes: self.get(Attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?,
            reserved_bytes: self.get(Attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?,
            peak_bytes: self.get(Attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH)?,
            capacity_bytes: self.capacity_bytes,
        })
    }

    pub(super) fn forget_peak(&self) -> Result<(), DriverError> {
        self.set(Attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH, 0)
    }

    /// The caller has waited for all streams.
    pub(super) fn trim(&self) -> Result<(), DriverError> {
        // SAFETY: the pool is alive as long as its device is.
        unsafe { sys::cuMemPoolTrimTo(self.pool, 0) }.result()
    }

    fn get(&self, attribute: Attribute) -> Result<u64, DriverError> {
        let mut value = 0u64;
        // SAFETY: these attributes are 64 bits wide.
        unsafe { sys::cuMemPoolGetAttribute(self.pool, attribute, (&raw mut value).cast()) }.result()?;
        Ok(value)
    }

    fn set(&self, attribute: Attribute, mut value: u64) -> Result<(), DriverError> {
        // SAFETY: as above.
        unsafe { sys::cuMemPoolSetAttribute(self.pool, attribute, (&raw mut value).cast()) }.result()
    }
}
