//! Matrix products with what follows them, by cuBLASLt.
//!
//! cuBLASLt is column-major: our row-major out `[rows, n]` = x `[rows, k]` · Wᵀ with W `[n, k]` is its D `[n × rows]` =
//! Aᵀ B with A = W (`k × n`), B = x (`k × rows`), and the bias runs along D's first dimension, as its epilogue wants it.
//!
//! Choosing an algorithm costs tens of microseconds, so the choice is kept by shape. Rows are rounded up where there is room, so
//! that ragged batches share a few hundred shapes; the rows beyond the batch are scratch.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Arc;

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::cublaslt::{result, sys};
use candle_core::cuda_backend::cudarc::driver::sys::CUresult;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DriverError};
use candle_core::{Error, Result};

use super::fault;
use crate::device::Precision;

/// What NVIDIA's documentation recommends for Hopper; other devices need less.
const WORKSPACE_BYTES: usize = 32 << 20;

/// Of every operand, in bytes.
const ALIGNMENT: u64 = 256;

/// Rows of a product are a multiple of this where the output has room.
pub const ROW_STEP: usize = 64;

/// Shapes whose choice is kept. One model has a handful of layers' shapes times the numbers of rows.
const MOST_PLANS: usize = 8192;

/// What happens to x Wᵀ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Epilogue {
    /// out = x Wᵀ
    Plain,
    /// out = x Wᵀ + bias
    Bias,
    /// out = gelu(x Wᵀ + bias), with the tanh form of GELU
    BiasGelu,
    /// out = out + x Wᵀ + bias
    BiasAdd,
}

/// out = epilogue(x Wᵀ): sums in `f32`, rounded once.
///
/// All four are addresses on the device, aligned to 256 bytes: `x` `[rows, inputs]`, `weight` `[outputs, inputs]`, `bias`
/// `[outputs]`, `out` `[rows, outputs]`, all of `precision`. `rows` may exceed the rows in use: both `x` and `out` must have as many.
#[derive(Debug, Clone, Copy)]
pub struct Product {
    pub x: u64,
    pub weight: u64,
    pub bias: u64,
    pub out: u64,
    pub rows: usize,
    pub inputs: usize,
    pub outputs: usize,
    pub precision: Precision,
    pub epilogue: Epilogue,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Shape {
    rows: usize,
    inputs: usize,
    outputs: usize,
    precision: Precision,
    epilogue: Epilogue,
}

/// One handle, one workspace, for one stream.
pub(super) struct Blas {
    handle: sys::cublasLtHandle_t,
    workspace: CudaSlice<u8>,
    plans: HashMap<Shape, Plan>,
}

// SAFETY: a handle may be used by any one thread at a time; the owner holds a lock.
unsafe impl Send for Blas {}

impl Drop for Blas {
    fn drop(&mut self) {
        // SAFETY: nobody else has the handle. An error cannot be acted on here.
        let _closed = unsafe { result::destroy_handle(self.handle) };
    }
}

impl Blas {
    pub(super) fn new(stream: &Arc<CudaStream>) -> Result<Self> {
        let handle = result::create_handle().map_err(|error| failed("create a handle", &error))?;
        // SAFETY: only cuBLASLt writes and reads it.
        let workspace = unsafe { stream.alloc::<u8>(WORKSPACE_BYTES) }.w()?;
        Ok(Self { handle, workspace, plans: HashMap::new() })
    }

    /// # Safety
    /// As [`Product`] says, until `stream` has passed.
    pub(super) unsafe fn multiply(&mut self, product: &Product, stream: &Arc<CudaStream>) -> Result<()> {
        if product.rows == 0 {
            return Ok(());
        }
        // What the choice of an algorithm relies on; a device answers with a fault that ends the process.
        if !(product.x | product.weight | product.bias | product.out).is_multiple_of(ALIGNMENT) {
            return Err(Error::Msg("an operand of a product is not the beginning of its memory".to_owned()));
        }
        stream.context().bind_to_thread().w()?;
        let shape = Shape {
            rows: product.rows,
            inputs: product.inputs,
            outputs: product.outputs,
            precision: product.precision,
            epilogue: product.epilogue,
        };
        if !self.plans.contains_key(&shape) {
            if self.plans.len() >= MOST_PLANS {
                self.plans.clear();
            }
            let plan = Plan::new(self.handle, shape, product.bias).map_err(|error| {
                let what = format!("no algorithm for {} x {} x {}", shape.rows, shape.inputs, shape.outputs);
                failed(&what, &error)
            })?;
            self.plans.insert(shape, plan);
        }
        let Some(plan) = self.plans.get(&shape) else { return Ok(()) };
        plan.set_bias(product).map_err(|error| failed("set the bias", &error))?;
        let (alpha, beta) = (1f32, if product.epilogue == Epilogue::BiasAdd { 1f32 } else { 0f32 });
        let (workspace, _on_drop) = self.workspace.device_ptr(stream);
        // SAFETY: the layouts are those of the shape; memory is as promised by the caller.
        unsafe {
            result::matmul(
                self.handle,
                plan.operation.0,
                (&raw const alpha).cast(),
                (&raw const beta).cast(),
                product.weight as *const c_void,
                plan.weight.0,
                product.x as *const c_void,
                plan.x.0,
                product.out as *const c_void,
                plan.out.0,
                product.out as *mut c_void,
                plan.out.0,
                &raw const plan.algorithm,
                workspace as *mut c_void,
                WORKSPACE_BYTES,
                stream.cu_stream().cast(),
            )
        }
        .map_err(|error| failed("multiply", &error))
    }
}

/// A product of one shape, ready to run.
struct Plan {
    operation: Operation,
    weight: Layout,
    x: Layout,
    out: Layout,
    algorithm: sys::cublasLtMatmulAlgo_t,
    has_bias: bool,
}

impl Plan {
    fn new(handle: sys::cublasLtHandle_t, shape: Shape, bias: u64) -> std::result::Result<Self, result::CublasError> {
        let (rows, k, n) = (shape.rows as u64, shape.inputs as u64, shape.outputs as u64);
        let kind = match shape.precision {
            Precision::F32 => sys::cudaDataType_t::CUDA_R_32F,
            Precision::F16 => sys::cudaDataType_t::CUDA_R_16F,
            Precision::Bf16 => sys::cudaDataType_t::CUDA_R_16BF,
        };
        let layout =
            |inner: u64, outer: u64| result::create_matrix_layout(kind, inner, outer, inner as i64).map(Layout);
        let (weight, x, out) = (layout(k, n)?, layout(k, rows)?, layout(n, rows)?);
        let sums = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let operation = Operation(result::create_matmul_desc(sums, sys::cudaDataType_t::CUDA_R_32F)?);
        operation.set(sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA, &1i32)?;
        let epilogue = match shape.epilogue {
            Epilogue::Plain => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_DEFAULT,
            Epilogue::Bias | Epilogue::BiasAdd => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS,
            Epilogue::BiasGelu => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_GELU_BIAS,
        };
        operation.set(sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
        let has_bias = shape.epilogue != Epilogue::Plain;
        if has_bias {
            operation.set(sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias)?;
        }
        let preference = Preference(result::create_matmul_pref()?);
        let bytes = WORKSPACE_BYTES;
        // SAFETY: the attribute is a size, and lives for the call.
        unsafe {
            result::set_matmul_pref_attribute(
                preference.0,
                sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                (&raw const bytes).cast(),
                size_of::<usize>(),
            )?;
        }
        // SAFETY: all of them are alive.
        let found = unsafe {
            result::get_matmul_algo_heuristic(handle, operation.0, weight.0, x.0, out.0, out.0, preference.0)
        }?;
        Ok(Self { operation, weight, x, out, algorithm: found.algo, has_bias })
    }

    /// Layers of one shape share a plan and differ in their bias.
    fn set_bias(&self, product: &Product) -> std::result::Result<(), result::CublasError> {
        if !self.has_bias {
            return Ok(());
        }
        self.operation.set(sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &product.bias)
    }
}

struct Layout(sys::cublasLtMatrixLayout_t);

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: owned by this value alone.
        let _destroyed = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

struct Operation(sys::cublasLtMatmulDesc_t);

impl Operation {
    fn set<T>(
        &self,
        attribute: sys::cublasLtMatmulDescAttributes_t,
        value: &T,
    ) -> std::result::Result<(), result::CublasError> {
        // SAFETY: the caller gives the type that the attribute has; it is copied.
        unsafe {
            result::set_matmul_desc_attribute(self.0, attribute, std::ptr::from_ref(value).cast(), size_of::<T>())
        }
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        // SAFETY: owned by this value alone.
        let _destroyed = unsafe { result::destroy_matmul_desc(self.0) };
    }
}

struct Preference(sys::cublasLtMatmulPreference_t);

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: owned by this value alone.
        let _destroyed = unsafe { result::destroy_matmul_pref(self.0) };
    }
}

fn failed(what: &str, error: &result::CublasError) -> Error {
    if error.0 == sys::cublasStatus_t::CUBLAS_STATUS_ALLOC_FAILED {
        return fault::candle(&DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY));
    }
    Error::Msg(format!("cuBLASLt cannot {what}: {:?}", error.0))
}
