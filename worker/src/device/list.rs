//! The GPUs of a machine, and the choice among them. Pure: [`nvml`](super::nvml) asks the driver, `main` and `up` act on the answer.
//!
//! A device to compute on is a whole GPU, or a slice of one (MIG); a GPU that is divided is none itself. Numbers count in the
//! driver's order, as `nvidia-smi -L` prints it, which need not be CUDA's own: so whoever is chosen is named by uuid from here on.

use std::fmt;

use super::DeviceChoice;

/// Whether this build can compute on a GPU.
pub const COMPUTES_ON_GPUS: bool = cfg!(feature = "cuda");

/// Letters of a uuid that are shown: enough for any fleet, and `--device` takes them too.
const SHOWN_LETTERS: usize = "GPU-01234567".len();

/// What the driver has: every GPU in its order, each followed by its slices.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Gpus {
    pub driver_version: String,
    pub all: Vec<Gpu>,
    /// What the driver said of those that it could not describe: fallen off the bus, in use by a virtual machine, …
    pub ailing: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// `GPU-…` or `MIG-…`.
    pub uuid: String,
    pub name: String,
    pub memory_bytes: u64,
    /// Compute capability, for example `(9, 0)`.
    pub capability: Option<(i32, i32)>,
    pub form: Form,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    Whole,
    /// In MIG mode: only its slices compute.
    Divided,
    /// A slice of the GPU with this uuid.
    Slice {
        of: String,
    },
}

impl Gpu {
    pub fn is_device(&self) -> bool {
        self.form != Form::Divided
    }

    fn is_slice(&self) -> bool {
        matches!(self.form, Form::Slice { .. })
    }
}

/// `GPU-8932f937 NVIDIA H100 80GB HBM3, 85.5 GB`
impl fmt::Display for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}, {:.1} GB", short(&self.uuid), self.name, self.memory_bytes as f64 / 1e9)
    }
}

/// The uuid by which labels and lists name a device, cut to what tells devices apart.
pub fn short(uuid: &str) -> &str {
    uuid.get(..SHOWN_LETTERS).unwrap_or(uuid)
}

impl Gpus {
    /// Devices that a process may use if its `CUDA_VISIBLE_DEVICES` is `setting`.
    ///
    /// As CUDA reads it: numbers, or beginnings of uuids that fit one device alone; the first entry says which of the two; the
    /// first that names nothing ends the list; one that comes twice empties it. Of a GPU in MIG mode all slices are returned,
    /// where CUDA shows a process the first: each gets a process of its own here.
    pub fn visible(&self, setting: Option<&str>) -> Vec<&Gpu> {
        let Some(setting) = setting else { return self.all.iter().filter(|gpu| gpu.is_device()).collect() };
        let by_uuid = ["GPU-", "MIG-"].into_iter().find(|kind| setting.trim_start().starts_with(kind));
        let mut named: Vec<&Gpu> = Vec::new();
        for entry in setting.split(',').map(str::trim) {
            let found = match by_uuid {
                Some(kind) => {
                    Some(entry).filter(|entry| entry.starts_with(kind)).and_then(|entry| self.beginning(entry))
                }
                None => leading_number(entry).and_then(|n| self.all.iter().filter(|gpu| !gpu.is_slice()).nth(n)),
            };
            match found {
                Some(gpu) if named.contains(&gpu) => return Vec::new(),
                Some(gpu) => named.push(gpu),
                None => break,
            }
        }
        named.into_iter().flat_map(|gpu| self.devices_of(gpu)).collect()
    }

    fn devices_of<'a>(&'a self, gpu: &'a Gpu) -> impl Iterator<Item = &'a Gpu> {
        let is_of = |one: &Gpu| matches!(&one.form, Form::Slice { of } if *of == gpu.uuid);
        self.all.iter().filter(move |one| one.uuid == gpu.uuid && one.is_device() || is_of(one))
    }

    /// The only one whose uuid begins like this.
    fn beginning(&self, uuid: &str) -> Option<&Gpu> {
        let mut fitting = self.all.iter().filter(|gpu| gpu.uuid.starts_with(uuid));
        fitting.next().filter(|_| fitting.next().is_none())
    }
}

/// As `strtoul` reads it: what follows the digits is ignored.
fn leading_number(text: &str) -> Option<usize> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok()
}

/// Why a device cannot be used. One line that says what can.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChoiceError {
    #[error("--device {0}: this build computes on the CPU only: build with `make cuda`, or use --device cpu")]
    CpuOnly(DeviceChoice),
    #[error("--device {choice} is not here; there {there}")]
    NotHere { choice: DeviceChoice, there: String },
    #[error("--device {choice} fits several devices; there {there}")]
    Ambiguous { choice: DeviceChoice, there: String },
}

/// The device that `choice` means among `visible`: the CPU, or a GPU by its whole uuid.
///
/// # Errors
/// [`ChoiceError`] if it means none, or several.
pub fn choose(choice: &DeviceChoice, visible: &[&Gpu]) -> Result<DeviceChoice, ChoiceError> {
    let by_uuid = |gpu: &&Gpu| DeviceChoice::Uuid(gpu.uuid.clone());
    let there = || match visible {
        [] => "is no GPU that this process may use".to_owned(),
        some => format!("are {}", some.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")),
    };
    let not_here = || ChoiceError::NotHere { choice: choice.clone(), there: there() };
    match choice {
        DeviceChoice::Cpu => Ok(DeviceChoice::Cpu),
        DeviceChoice::Auto => Ok(visible.first().map_or(DeviceChoice::Cpu, by_uuid)),
        DeviceChoice::Ordinal(ordinal) => visible.get(*ordinal).map(by_uuid).ok_or_else(not_here),
        DeviceChoice::Uuid(uuid) => {
            let fitting: Vec<&&Gpu> = visible.iter().filter(|gpu| gpu.uuid.starts_with(uuid.as_str())).collect();
            match fitting.as_slice() {
                [] => Err(not_here()),
                [one] => Ok(by_uuid(one)),
                _ => Err(ChoiceError::Ambiguous { choice: choice.clone(), there: there() }),
            }
        }
    }
}

#[cfg(test)]
mod tests;
