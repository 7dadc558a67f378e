//! Which device was asked for.

use std::fmt;
use std::str::FromStr;

use super::list::short;

/// `--device`: `cpu`, `auto`, `cuda:0`, or the uuid of a GPU or of a slice of one (MIG) as `nvidia-smi -L` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    #[default]
    Cpu,
    /// The first GPU if this build and this machine have one, else the CPU.
    Auto,
    /// By its number among the GPUs that this process may see.
    Ordinal(usize),
    /// By its uuid, `GPU-…` or `MIG-…`.
    Uuid(String),
}

impl DeviceChoice {
    /// As it stands in labels before the device is open.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Cpu | Self::Auto => "cpu",
            Self::Ordinal(_) | Self::Uuid(_) => "cuda",
        }
    }

    /// The device in labels: `cpu`, or the beginning of a uuid such as `GPU-8932f937`, by which `nvidia-smi -L` and NVIDIA's
    /// exporter know it too. A number only where no driver could be asked for the uuid.
    pub fn label(&self) -> String {
        match self {
            Self::Cpu | Self::Auto => "cpu".to_owned(),
            Self::Ordinal(ordinal) => format!("cuda:{ordinal}"),
            Self::Uuid(uuid) => short(uuid).to_owned(),
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unknown =
            || format!("{text:?} names no device: use cpu, auto, cuda:0 or cuda:GPU-… as nvidia-smi -L prints it");
        match text {
            "cpu" => Ok(Self::Cpu),
            "auto" => Ok(Self::Auto),
            "cuda" => Ok(Self::Ordinal(0)),
            _ => {
                let which = text.strip_prefix("cuda:").unwrap_or(text);
                match which.parse() {
                    Ok(ordinal) if which.len() < text.len() => Ok(Self::Ordinal(ordinal)),
                    _ if which.starts_with("GPU-") || which.starts_with("MIG-") => Ok(Self::Uuid(which.to_owned())),
                    _ => Err(unknown()),
                }
            }
        }
    }
}

/// As it is typed.
impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Auto => f.write_str("auto"),
            Self::Ordinal(ordinal) => write!(f, "cuda:{ordinal}"),
            Self::Uuid(uuid) => write!(f, "cuda:{uuid}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_read_as_it_is_written() {
        for text in ["cpu", "auto", "cuda:0", "cuda:7", "cuda:GPU-5a1c", "cuda:MIG-0a55"] {
            assert_eq!(text.parse::<DeviceChoice>().unwrap().to_string(), text);
        }
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Ordinal(0)));
        assert_eq!("GPU-1".parse(), Ok(DeviceChoice::Uuid("GPU-1".to_owned())));
        for text in ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "0", "rocm:0"] {
            assert!(text.parse::<DeviceChoice>().unwrap_err().contains("cuda:0"), "{text}");
        }
    }
}
