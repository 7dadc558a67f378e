//! Which device `--device` means on this machine: asks the driver, decides by [`list`](super::list).
//!
//! Before a worker's first thread: a slice (MIG) must be in `CUDA_VISIBLE_DEVICES` before CUDA is, and the environment may only be
//! written while nobody else can read it.

use super::DeviceChoice;
use super::list::{COMPUTES_ON_GPUS, ChoiceError, Gpu, choose};
use super::nvml;

/// Where CUDA reads which devices a process may use.
pub const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";

/// What `--device` may choose from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Here {
    /// This build computes on the CPU, whatever the machine has.
    CpuOnly,
    /// The driver's library cannot be asked, and why.
    Unknown(String),
    /// What this process may use; perhaps nothing.
    Known(Vec<Gpu>),
}

impl Here {
    /// Asks the driver.
    pub fn look() -> Self {
        if !COMPUTES_ON_GPUS {
            return Self::CpuOnly;
        }
        let setting = std::env::var_os(VISIBLE).map(|setting| setting.to_string_lossy().into_owned());
        match nvml::list() {
            Ok(gpus) => Self::Known(gpus.visible(setting.as_deref()).into_iter().cloned().collect()),
            Err(reason) => Self::Unknown(reason),
        }
    }

    /// The device meant: the CPU, or a GPU by its whole uuid. Where no driver can be asked it stays as it was typed, and
    /// `auto` is the CPU.
    ///
    /// # Errors
    /// [`ChoiceError`] if it means none, or several.
    pub fn settle(&self, choice: &DeviceChoice) -> Result<DeviceChoice, ChoiceError> {
        match (self, choice) {
            (_, DeviceChoice::Cpu) | (Self::CpuOnly | Self::Unknown(_), DeviceChoice::Auto) => Ok(DeviceChoice::Cpu),
            (Self::CpuOnly, choice) => Err(ChoiceError::CpuOnly(choice.clone())),
            (Self::Unknown(_), choice) => Ok(choice.clone()),
            (Self::Known(gpus), choice) => choose(choice, &gpus.iter().collect::<Vec<_>>()),
        }
    }

    /// All of it, for whoever starts one worker per device; each by its uuid.
    pub fn devices(&self) -> Vec<DeviceChoice> {
        match self {
            Self::CpuOnly | Self::Unknown(_) => Vec::new(),
            Self::Known(gpus) => gpus.iter().map(|gpu| DeviceChoice::Uuid(gpu.uuid.clone())).collect(),
        }
    }

    /// For a line that people read: `GPU-8932f937 NVIDIA H100 80GB HBM3, 85.5 GB` where more than its name is known.
    pub fn describe(&self, choice: &DeviceChoice) -> String {
        let known = match (self, choice) {
            (Self::Known(gpus), DeviceChoice::Uuid(uuid)) => gpus.iter().find(|gpu| gpu.uuid == *uuid),
            _ => None,
        };
        known.map_or_else(|| choice.label(), ToString::to_string)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::list::Form;

    fn settled(here: &Here, text: &str) -> Result<String, String> {
        here.settle(&text.parse().unwrap()).map(|choice| choice.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_build_for_the_cpu_takes_the_cpu_and_says_how_to_get_another() {
        assert_eq!(settled(&Here::CpuOnly, "auto").unwrap(), "cpu");
        let refused = settled(&Here::CpuOnly, "cuda:0").unwrap_err();
        let expected =
            "--device cuda:0: this build computes on the CPU only: build with `make cuda`, or use --device cpu";
        assert_eq!(refused, expected);
    }

    #[test]
    fn where_no_driver_can_be_asked_cuda_has_the_last_word() {
        let here = Here::Unknown("no library".to_owned());
        assert_eq!(settled(&here, "auto").unwrap(), "cpu");
        assert_eq!(settled(&here, "cuda:1").unwrap(), "cuda:1");
        assert_eq!(settled(&here, "MIG-1").unwrap(), "cuda:MIG-1");
        assert!(here.devices().is_empty());
    }

    #[test]
    fn a_known_device_is_named_by_its_whole_uuid() {
        let uuid = "MIG-0a55c3d1-1".to_owned();
        let form = Form::Slice { of: "GPU-1".to_owned() };
        let name = "NVIDIA H100 MIG 1g.10gb".to_owned();
        let slice = Gpu { uuid: uuid.clone(), name, memory_bytes: 10_000_000_000, capability: None, form };
        let here = Here::Known(vec![slice]);
        assert_eq!(settled(&here, "auto").unwrap(), "cuda:MIG-0a55c3d1-1");
        assert_eq!(here.devices(), [DeviceChoice::Uuid(uuid)]);
        assert_eq!(here.describe(&here.devices()[0]), "MIG-0a55c3d1 NVIDIA H100 MIG 1g.10gb, 10.0 GB");
        assert_eq!(here.describe(&DeviceChoice::Cpu), "cpu");
        assert!(settled(&here, "cuda:1").unwrap_err().contains("is not here; there are MIG-0a55c3d1"));
    }
}
