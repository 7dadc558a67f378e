//! Which workers there are, and which device each computes on. Decided once; pure but for [`Devices::find`].
//!
//! On the CPU every model gets `--workers` of them. On GPUs every device gets one worker, unless `--workers` says how many each model
//! gets. Workers are dealt to the devices in turn, model after model: workers of one model are on different devices as long
//! as there are enough, and no device has two workers more than another. With more models than devices, models share devices.

use std::num::NonZeroUsize;

use forebay_worker::device::DeviceChoice;
use forebay_worker::device::settle::Here;

/// The devices of this system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Devices {
    /// At least one; the CPU is one.
    all: Vec<Device>,
    /// What to tell whoever might have expected a GPU.
    pub note: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    pub choice: DeviceChoice,
    /// With its name and memory, where they are known.
    pub described: String,
}

impl Device {
    fn cpu() -> Self {
        Self { choice: DeviceChoice::Cpu, described: DeviceChoice::Cpu.label() }
    }

    pub fn is_gpu(&self) -> bool {
        self.choice != DeviceChoice::Cpu
    }

    /// What CUDA is to show its worker.
    pub fn visible(&self) -> Option<&str> {
        match &self.choice {
            DeviceChoice::Uuid(uuid) => Some(uuid),
            DeviceChoice::Cpu | DeviceChoice::Auto | DeviceChoice::Ordinal(_) => None,
        }
    }
}

impl Devices {
    /// What `asked` means on this machine.
    ///
    /// # Errors
    /// In one line, if a device is not here or this build cannot compute on it.
    pub fn find(asked: &[DeviceChoice]) -> anyhow::Result<Self> {
        match asked {
            [DeviceChoice::Cpu] => Ok(Self { all: vec![Device::cpu()], note: None }),
            _ => Self::among(&Here::look(), asked),
        }
    }

    fn among(here: &Here, asked: &[DeviceChoice]) -> anyhow::Result<Self> {
        let mut all: Vec<Device> = Vec::new();
        for choice in asked {
            let chosen = match choice {
                DeviceChoice::Auto => here.devices(),
                choice => vec![here.settle(choice)?],
            };
            for choice in chosen {
                let device = Device { described: here.describe(&choice), choice };
                if !all.contains(&device) {
                    all.push(device);
                }
            }
        }
        let note = match here {
            _ if !all.is_empty() => None,
            Here::CpuOnly => None,
            Here::Unknown(reason) => Some(format!("no GPU is known, computing on the CPU: {reason}")),
            Here::Known(_) => Some("there is no GPU that this process may use, computing on the CPU".to_owned()),
        };
        if all.is_empty() {
            all.push(Device::cpu());
        }
        Ok(Self { all, note })
    }

    pub fn gpus(&self) -> impl Iterator<Item = &Device> {
        self.all.iter().filter(|device| device.is_gpu())
    }

    /// For each model the devices of its workers.
    pub fn deal(&self, models: usize, workers: Option<NonZeroUsize>) -> Vec<Vec<&Device>> {
        let has_gpus = self.gpus().next().is_some();
        let mut next = self.all.iter().cycle();
        let dealt = (0..models).map(|model| {
            let count = match workers {
                Some(workers) => workers.get(),
                None if has_gpus => share(self.all.len(), models, model).max(1),
                None => 1,
            };
            next.by_ref().take(count).collect()
        });
        dealt.collect()
    }
}

/// How many of `devices` the model with this number gets; those that are left over go to the first ones.
fn share(devices: usize, models: usize, model: usize) -> usize {
    devices / models + usize::from(model < devices % models)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices(gpus: usize) -> Devices {
        let gpu = |i: usize| Device { choice: DeviceChoice::Uuid(format!("GPU-{i}")), described: i.to_string() };
        let all = if gpus == 0 { vec![Device::cpu()] } else { (0..gpus).map(gpu).collect() };
        Devices { all, note: None }
    }

    fn dealt(gpus: usize, models: usize, workers: Option<usize>) -> Vec<String> {
        let devices = devices(gpus);
        let dealt = devices.deal(models, workers.and_then(NonZeroUsize::new));
        dealt.iter().map(|model| model.iter().map(|device| device.described.as_str()).collect()).collect()
    }

    #[test]
    fn without_a_number_every_gpu_has_one_worker() {
        assert_eq!(dealt(4, 1, None), ["0123"]);
        assert_eq!(dealt(4, 2, None), ["01", "23"]);
        assert_eq!(dealt(3, 2, None), ["01", "2"]);
    }

    #[test]
    fn models_share_gpus_when_there_are_more_of_them() {
        assert_eq!(dealt(2, 3, None), ["0", "1", "0"]);
    }

    #[test]
    fn a_number_is_of_workers_per_model_and_they_are_dealt_in_turn() {
        assert_eq!(dealt(4, 2, Some(2)), ["01", "23"]);
        assert_eq!(dealt(4, 2, Some(4)), ["0123", "0123"]);
        assert_eq!(dealt(3, 2, Some(2)), ["01", "20"]);
        assert_eq!(dealt(1, 1, Some(2)), ["00"]);
    }

    #[test]
    fn the_cpu_is_one_device_for_all() {
        assert_eq!(dealt(0, 2, None), ["cpu", "cpu"]);
        assert_eq!(dealt(0, 1, Some(3)), ["cpucpucpu"]);
    }

    #[test]
    fn auto_is_every_gpu_and_a_device_that_is_named_twice_is_one() {
        let unknown = Here::Unknown("no library".to_owned());
        let named = |asked: &[&str]| {
            let asked: Vec<DeviceChoice> = asked.iter().map(|text| text.parse().unwrap()).collect();
            Devices::among(&unknown, &asked).unwrap()
        };
        let one = named(&["cuda:1", "cuda:1", "auto"]);
        assert_eq!(one.all, [Device { choice: DeviceChoice::Ordinal(1), described: "cuda:1".to_owned() }]);
        let none = named(&["auto"]);
        assert_eq!(none.all, [Device::cpu()]);
        assert!(none.note.is_some_and(|note| note.ends_with("no library")));
        assert_eq!(Devices::among(&Here::CpuOnly, &[DeviceChoice::Auto]).unwrap().note, None);
    }

    #[test]
    fn a_build_for_the_cpu_refuses_a_gpu_in_one_line() {
        let error = Devices::among(&Here::CpuOnly, &[DeviceChoice::Ordinal(0)]).unwrap_err().to_string();
        assert!(error.contains("make cuda") && error.lines().count() == 1, "{error}");
    }
}
