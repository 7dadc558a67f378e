//! What an error of CUDA means for a batch.

use candle_core::cuda_backend::CudaError;
use candle_core::cuda_backend::cudarc::cublas::sys::cublasStatus_t as BlasStatus;
use candle_core::cuda_backend::cudarc::driver::DriverError;
use candle_core::cuda_backend::cudarc::driver::sys::CUresult as Code;

use crate::device::Fault;

/// A driver's error as candle's.
pub(crate) fn candle(error: &DriverError) -> candle_core::Error {
    CudaError::from(*error).into()
}

/// In words, without a call to the driver where it is not there.
pub(super) fn text(error: &DriverError) -> String {
    format!("{:?}", error.0)
}

/// What kind of error is inside a candle error.
pub fn classify(error: &candle_core::Error) -> Fault {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(fault) = of(error) {
            return fault;
        }
        cause = match error.downcast_ref::<candle_core::Error>() {
            Some(candle_core::Error::Cuda(inner)) => Some(inner.as_ref()),
            Some(candle_core::Error::WithBacktrace { inner, .. }) => Some(inner.as_ref()),
            Some(candle_core::Error::Context { inner, .. }) => Some(inner.as_ref()),
            _ => error.source(),
        };
    }
    Fault::Other
}

fn of(error: &(dyn std::error::Error + 'static)) -> Option<Fault> {
    match error.downcast_ref::<CudaError>() {
        Some(CudaError::Cuda(driver)) => Some(kind(driver)),
        Some(CudaError::Cublas(blas)) if blas.0 == BlasStatus::CUBLAS_STATUS_ALLOC_FAILED => Some(Fault::OutOfMemory),
        Some(CudaError::Load { cuda, .. }) => Some(kind(cuda)),
        Some(_) => Some(Fault::Other),
        None => error.downcast_ref::<DriverError>().map(kind),
    }
}

/// Errors that the driver repeats for every later call on the same context, and those of a device that went away, end the
/// process: only a new one gets a working context. From the list of `cudaError_t` in the CUDA runtime's manual.
pub(super) fn kind(error: &DriverError) -> Fault {
    match error.0 {
        Code::CUDA_ERROR_OUT_OF_MEMORY => Fault::OutOfMemory,
        Code::CUDA_ERROR_ILLEGAL_ADDRESS
        | Code::CUDA_ERROR_LAUNCH_TIMEOUT
        | Code::CUDA_ERROR_LAUNCH_FAILED
        | Code::CUDA_ERROR_ASSERT
        | Code::CUDA_ERROR_HARDWARE_STACK_ERROR
        | Code::CUDA_ERROR_ILLEGAL_INSTRUCTION
        | Code::CUDA_ERROR_MISALIGNED_ADDRESS
        | Code::CUDA_ERROR_INVALID_ADDRESS_SPACE
        | Code::CUDA_ERROR_INVALID_PC
        | Code::CUDA_ERROR_ECC_UNCORRECTABLE
        | Code::CUDA_ERROR_NVLINK_UNCORRECTABLE
        | Code::CUDA_ERROR_CONTAINED
        | Code::CUDA_ERROR_CONTEXT_IS_DESTROYED
        | Code::CUDA_ERROR_DEINITIALIZED
        | Code::CUDA_ERROR_NO_DEVICE
        | Code::CUDA_ERROR_DEVICE_UNAVAILABLE
        | Code::CUDA_ERROR_SYSTEM_NOT_READY
        | Code::CUDA_ERROR_MPS_CLIENT_TERMINATED
        | Code::CUDA_ERROR_EXTERNAL_DEVICE
        | Code::CUDA_ERROR_TENSOR_MEMORY_LEAK
        | Code::CUDA_ERROR_UNKNOWN => Fault::Lost,
        _ => Fault::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_error_is_recognised_inside_of_what_candle_makes_of_it() {
        for (code, fault) in [
            (Code::CUDA_ERROR_OUT_OF_MEMORY, Fault::OutOfMemory),
            (Code::CUDA_ERROR_ILLEGAL_ADDRESS, Fault::Lost),
            (Code::CUDA_ERROR_INVALID_VALUE, Fault::Other),
        ] {
            let error = candle(&DriverError(code));
            assert_eq!(classify(&error), fault);
            assert_eq!(classify(&error.bt().context("while testing")), fault);
        }
        assert_eq!(classify(&candle_core::Error::Msg("no".to_owned())), Fault::Other);
    }
}
