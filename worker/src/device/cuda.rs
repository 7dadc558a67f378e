//! A GPU as a device: one stream that computes, two that copy, one pool of memory, one handle to the matrix library.
//!
//! The thread that submits batches owns the device: everything is queued on `compute` in order, so activations are reused from
//! batch to batch without locks. Copies run on streams of their own and are tied to `compute` by events (see [`staging`]).
//! candle's event tracking is off: it would record two events per tensor and operation, and there is one compute stream.
//!
//! Invariants: nothing is called before `libraries::load` has succeeded; no kernel of `compute` touches memory that a copy
//! stream still writes, because every hand-over is an event; an error that the driver calls sticky ends the process
//! ([`Fault::Lost`](super::Fault::Lost)), because the context answers nothing else from then on.
//!
//! The twin without the feature `cuda` is `no_cuda.rs`: a type without values.

mod blas;
pub mod fault;
mod libraries;
mod memory;
pub mod staging;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use candle_core::cuda_backend::cudarc::driver::sys::{CUevent_flags, CUfunction_attribute};
use candle_core::cuda_backend::cudarc::driver::{
    CudaContext, CudaEvent, CudaFunction, CudaModule, CudaStream, DriverError, LaunchConfig, PushKernelArg, result,
};
use candle_core::cuda_backend::cudarc::nvrtc::Ptx;
use candle_core::{Device as CandleDevice, Result};
use parking_lot::Mutex;

use super::counters::{Counters, Op};
use super::exec::Exec;
use super::readings::POOL;
use super::{DeviceChoice, DeviceError, DeviceMemory, Precision};
use crate::kernels::cuda::launch::Launch;
pub use blas::{Epilogue, Product, ROW_STEP};
use memory::Pool;

/// Kernels for all architectures that this build was made for.
static IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernels.fatbin"));

/// Dynamic shared memory that a kernel may use without being asked for by name.
const PLAIN_SHARED_BYTES: u32 = 48 * 1024;

/// One GPU, or one slice of one.
pub struct Cuda {
    candle: CandleDevice,
    context: Arc<CudaContext>,
    compute: Arc<CudaStream>,
    copy_in: Arc<CudaStream>,
    copy_out: Arc<CudaStream>,
    blas: Mutex<blas::Blas>,
    module: Arc<CudaModule>,
    /// By name; with the shared memory that each was given so far.
    functions: Mutex<HashMap<&'static str, (CudaFunction, u32)>>,
    pool: Pool,
    precision: Precision,
    name: String,
    uuid: String,
    profiled: AtomicBool,
}

/// An argument of a kernel.
#[derive(Debug, Clone, Copy)]
pub enum Arg {
    /// Address in the device's memory.
    Pointer(u64),
    U32(u32),
    F32(f32),
}

impl Cuda {
    /// Opens the GPU that was asked for; `auto` takes the first.
    ///
    /// # Errors
    /// [`DeviceError`] says what is missing, or which devices there are.
    pub fn open(choice: &DeviceChoice, precision: Option<Precision>) -> std::result::Result<Self, DeviceError> {
        let unavailable = |reason: String| DeviceError::Unavailable { asked: choice.to_string(), reason };
        libraries::load().map_err(unavailable)?;
        let ordinal = find(choice)?;
        let failed = |reason: String| DeviceError::Failed { device: choice.to_string(), reason };
        Self::on(ordinal, precision.unwrap_or(Precision::F16)).map_err(|error| failed(error.to_string()))
    }

    fn on(ordinal: usize, precision: Precision) -> Result<Self> {
        let candle = CandleDevice::new_cuda_with_stream(ordinal)?;
        let device = candle.as_cuda_device()?.clone();
        // SAFETY: every use of a tensor is on `compute`, and what copies touch is handed over by events (module docs).
        unsafe { device.disable_event_tracking() };
        let compute = device.cuda_stream();
        let context = Arc::clone(compute.context());
        let driver = |error: DriverError| fault::candle(&error);
        let pool = Pool::of(&context).map_err(driver)?;
        let blas = blas::Blas::new(&compute)?;
        let module = context.load_module(Ptx::from_binary(IMAGE.to_vec())).map_err(|error| {
            let built = env!("FOREBAY_CUDA_ARCHITECTURES");
            candle_core::Error::Msg(format!(
                "the kernels of this build ({built}) do not run on this GPU: {error}; build with FOREBAY_CUDA_ARCH"
            ))
        })?;
        Ok(Self {
            copy_in: context.new_stream().map_err(driver)?,
            copy_out: context.new_stream().map_err(driver)?,
            name: context.name().map_err(driver)?,
            uuid: context.uuid().map(|uuid| uuid_text(&uuid.bytes.map(|byte| byte as u8))).map_err(driver)?,
            candle,
            context,
            compute,
            blas: Mutex::new(blas),
            module,
            functions: Mutex::default(),
            pool,
            precision,
            profiled: AtomicBool::new(false),
        })
    }

    /// Where candle's tensors live.
    pub fn tensors(&self) -> &CandleDevice {
        &self.candle
    }

    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// For a status line, for example `NVIDIA H200, f16`.
    pub fn describe(&self) -> String {
        format!("{}, {}", self.name, self.precision.as_str())
    }

    /// `GPU-…`, as `nvidia-smi -L` prints it.
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    /// What to compute with.
    pub fn exec<'a>(&'a self, counters: &'a Counters) -> Exec<'a> {
        Exec::on_cuda(self, counters)
    }

    /// What the pool holds and may hold.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn memory(&self) -> Result<DeviceMemory> {
        self.pool.read(&self.context).map_err(|error| fault::candle(&error))
    }

    /// Passes on what the pool holds to whoever shows the device's memory.
    pub fn tell_pool(&self) {
        match self.memory() {
            Ok(memory) => POOL.say(memory.used_bytes, memory.reserved_bytes),
            // It may be of something else, which only left it here.
            Err(error) => tracing::warn!(%error, "the device reports an error"),
        }
    }

    /// Lets the pool's high-water mark begin anew.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn forget_peak(&self) -> Result<()> {
        self.pool.forget_peak().map_err(|error| fault::candle(&error))
    }

    /// Gives what the pool holds beyond what is in use back to the driver.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn trim(&self) -> Result<()> {
        self.synchronize()?;
        self.pool.trim().map_err(|error| fault::candle(&error))
    }

    /// Blocks until everything that was queued is done.
    ///
    /// # Errors
    /// What went wrong meanwhile.
    pub fn synchronize(&self) -> Result<()> {
        let streams = [&self.copy_in, &self.compute, &self.copy_out];
        streams.into_iter().try_for_each(|stream| stream.synchronize()).map_err(|error| fault::candle(&error))
    }

    /// While on, [`time`](Self::time) measures, and the host waits for every operation: for measurements, not for service.
    pub fn profile(&self, on: bool) {
        self.profiled.store(on, Ordering::Relaxed);
    }

    /// Runs `work`, which queues kernels; while profiled, adds the time between two events around them to `op`.
    pub fn time<T>(&self, counters: &Counters, op: Op, work: impl FnOnce() -> T) -> T {
        if !self.profiled.load(Ordering::Relaxed) {
            return work();
        }
        let before = self.mark();
        let result = work();
        if let (Ok(before), Ok(after)) = (before, self.mark())
            && after.synchronize().is_ok()
            && let Ok(milliseconds) = before.elapsed_ms(&after)
        {
            counters.add(op, Duration::from_secs_f64(f64::from(milliseconds.max(0.0)) / 1e3));
        }
        result
    }

    fn mark(&self) -> std::result::Result<CudaEvent, DriverError> {
        self.compute.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT))
    }

    /// Queues a kernel.
    ///
    /// # Errors
    /// If there is no such kernel, or what the driver reports.
    ///
    /// # Safety
    /// The arguments are what the kernel expects, and the memory behind pointers is as large as it will touch and lives until
    /// the stream has passed.
    pub unsafe fn launch(&self, launch: &Launch, args: &[Arg]) -> Result<()> {
        if launch.grid.contains(&0) {
            return Ok(());
        }
        let function = self.function(launch).map_err(|error| fault::candle(&error).context(launch.kernel))?;
        let mut queued = self.compute.launch_builder(&function);
        for arg in args {
            match arg {
                Arg::Pointer(address) => queued.arg(address),
                Arg::U32(number) => queued.arg(number),
                Arg::F32(number) => queued.arg(number),
            };
        }
        let [grid, block] = [launch.grid, launch.block].map(|[x, y, z]| (x, y, z));
        let config = LaunchConfig { grid_dim: grid, block_dim: block, shared_mem_bytes: launch.shared_bytes };
        // SAFETY: as promised by the caller.
        unsafe { queued.launch(config) }.map(drop).map_err(|error| fault::candle(&error))
    }

    fn function(&self, launch: &Launch) -> std::result::Result<CudaFunction, DriverError> {
        let mut functions = self.functions.lock();
        let (function, shared) = match functions.entry(launch.kernel) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert((self.module.load_function(launch.kernel)?, PLAIN_SHARED_BYTES)),
        };
        if launch.shared_bytes > *shared {
            let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function.set_attribute(attribute, launch.shared_bytes as i32)?;
            *shared = launch.shared_bytes;
        }
        Ok(function.clone())
    }

    /// Queues out = x Wᵀ + … on the compute stream: see [`Product`].
    ///
    /// # Errors
    /// What the matrix library reports.
    ///
    /// # Safety
    /// As [`Product`] says.
    pub unsafe fn multiply(&self, product: &Product) -> Result<()> {
        // SAFETY: as promised by the caller.
        unsafe { self.blas.lock().multiply(product, &self.compute) }
    }
}

/// The number of a device among those that this process sees.
fn find(choice: &DeviceChoice) -> std::result::Result<usize, DeviceError> {
    let unavailable = |reason: String| DeviceError::Unavailable { asked: choice.to_string(), reason };
    let unusable = |error: DriverError| unavailable(fault::text(&error));
    let count = CudaContext::device_count().map_err(unusable)? as usize;
    if count == 0 {
        return Err(unavailable("the driver lists no GPU".to_owned()));
    }
    let asked = match choice {
        DeviceChoice::Cpu | DeviceChoice::Auto => return Ok(0),
        DeviceChoice::Ordinal(ordinal) if *ordinal < count => return Ok(*ordinal),
        DeviceChoice::Ordinal(_) => None,
        DeviceChoice::Uuid(uuid) => Some(uuid),
    };
    let uuids: Vec<String> = (0..count)
        .map(|ordinal| {
            let uuid = result::device::get(ordinal as i32).and_then(result::device::get_uuid)?;
            Ok(uuid_text(&uuid.bytes.map(|byte| byte as u8)))
        })
        .collect::<std::result::Result<_, _>>()
        .map_err(unusable)?;
    // A slice has the uuid that the environment named it by; its prefix differs from that of a whole GPU.
    let tail = |uuid: &str| uuid.split_once('-').map_or(String::new(), |(_, tail)| tail.to_ascii_lowercase());
    let found = asked.and_then(|asked| uuids.iter().position(|uuid| tail(uuid).starts_with(&tail(asked))));
    found.ok_or_else(|| DeviceError::Unknown { asked: choice.to_string(), seen: uuids.join(", ") })
}

/// As `nvidia-smi -L` prints it.
fn uuid_text(bytes: &[u8; 16]) -> String {
    let hex = forebay_shared::ids::hex(bytes);
    format!("GPU-{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}
