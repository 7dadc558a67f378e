//! What the driver knows of its GPUs, by NVML. Twin: `no_nvml`.
//!
//! The library comes with the driver and is opened at run time: a machine without it has no GPUs, and that is no failure here.
//! NVML counts all GPUs of the machine (or of the container), whatever `CUDA_VISIBLE_DEVICES` says.

use std::ffi::OsStr;
use std::sync::OnceLock;

use nvml_wrapper::enum_wrappers::device::TemperatureSensor;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};

use super::list::{Form, Gpu, Gpus};
use super::readings::Readings;

/// The library that is looked for, on the loader's usual paths.
pub const LIBRARY: &str = "libnvidia-ml.so.1";

/// The driver's library, open. Closed when dropped.
pub struct Driver(Nvml);

impl Driver {
    /// Opens the library of this name or path.
    ///
    /// # Errors
    /// In one line, if it is not there, or no driver answers it.
    pub fn open(library: &OsStr) -> Result<Self, String> {
        Nvml::builder().lib_path(library).init().map(Self).map_err(|error| one_line(&error))
    }

    /// Every GPU and every slice.
    ///
    /// # Errors
    /// In one line, if the driver cannot count its GPUs.
    pub fn list(&self) -> Result<Gpus, String> {
        let count = self.0.device_count().map_err(|error| one_line(&error))?;
        let driver_version = self.0.sys_driver_version().unwrap_or_else(|_| "unknown".to_owned());
        let mut gpus = Gpus { driver_version, ..Gpus::default() };
        for index in 0..count {
            match self.0.device_by_index(index).and_then(|device| describe(&device)) {
                Ok(found) => gpus.all.extend(found),
                Err(error) => gpus.ailing.push(format!("GPU {index}: {}", one_line(&error))),
            }
        }
        Ok(gpus)
    }

    /// Watches the device with this uuid; `None` if the driver does not have it.
    pub fn sampler(&self, uuid: &str) -> Option<Sampler<'_>> {
        let device = self.0.device_by_uuid(uuid).ok()?;
        // Heat and power are those of the whole chip: its parts have no figures of their own.
        let is_slice = device.mig_is_mig_device_handle().unwrap_or(false);
        let chip = if is_slice { device.mig_parent_device().ok()? } else { self.0.device_by_uuid(uuid).ok()? };
        Some(Sampler { device, chip })
    }
}

/// One GPU, and its slices where it is divided.
fn describe(device: &Device<'_>) -> Result<Vec<Gpu>, NvmlError> {
    let is_divided = device.mig_mode().is_ok_and(|mode| mode.current == 1);
    let capability = device.cuda_compute_capability().ok().map(|version| (version.major, version.minor));
    let gpu = |device: &Device<'_>, form| {
        let (uuid, name) = (device.uuid()?, device.name()?);
        let memory_bytes = device.memory_info()?.total;
        Ok::<_, NvmlError>(Gpu { uuid, name, memory_bytes, capability, form })
    };
    let whole = gpu(device, if is_divided { Form::Divided } else { Form::Whole })?;
    let most = if is_divided { device.mig_device_count()? } else { 0 };
    // Places without a slice answer with an error: only as many as there are.
    let slices = (0..most).filter_map(|index| {
        let slice = device.mig_device_by_index(index).ok()?;
        gpu(&slice, Form::Slice { of: whole.uuid.clone() }).ok()
    });
    let slices: Vec<Gpu> = slices.collect();
    Ok([whole].into_iter().chain(slices).collect())
}

/// One device, asked again and again.
pub struct Sampler<'a> {
    device: Device<'a>,
    chip: Device<'a>,
}

impl Sampler<'_> {
    /// Some calls into the driver, which may take their time. What the device does not tell, such as how busy a slice is, stays empty.
    pub fn read(&self) -> Readings {
        let memory = self.device.memory_info().ok();
        let busy = self.device.utilization_rates().ok();
        let ratio = |percent: u32| f64::from(percent) / 100.0;
        Readings {
            used_bytes: memory.as_ref().map(|memory| memory.used),
            capacity_bytes: memory.map(|memory| memory.total),
            utilization: busy.as_ref().map(|busy| ratio(busy.gpu)),
            memory_busy: busy.map(|busy| ratio(busy.memory)),
            temperature_celsius: self.chip.temperature(TemperatureSensor::Gpu).ok().map(f64::from),
            power_watts: self.chip.power_usage().ok().map(|milliwatts| f64::from(milliwatts) / 1e3),
        }
    }
}

/// For as long as the process runs.
pub type GpuSampler = Sampler<'static>;

/// The GPUs of this machine.
///
/// # Errors
/// In one line, without the library or without a driver.
pub fn list() -> Result<Gpus, String> {
    Driver::open(OsStr::new(LIBRARY))?.list()
}

/// Watches the device with this uuid for as long as the process runs; `None` if the driver does not have it.
pub fn sampler(uuid: &str) -> Option<GpuSampler> {
    static DRIVER: OnceLock<Option<Driver>> = OnceLock::new();
    DRIVER.get_or_init(|| Driver::open(OsStr::new(LIBRARY)).ok()).as_ref()?.sampler(uuid)
}

fn one_line(error: &NvmlError) -> String {
    let text = match error {
        // Its own text says only that loading failed.
        NvmlError::LibloadingError(cause) => cause.to_string(),
        error => error.to_string(),
    };
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
