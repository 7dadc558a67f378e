//! A device proves that it computes what it should, before it is trusted with traffic: `forebay self-test`.
//!
//! Needs nothing but the binary: a small model with its references is inside (`fixtures`). In this order: every kernel by
//! itself (`kernels`), whole models in every kind of batch (`mixes`), memory over many batches (`memory`). A GPU is held
//! against the CPU of the same binary, the CPU against the definitions in double precision (`plain`) and the references of
//! another implementation, so that neither can be wrong alone. Speed is no matter here: see [`crate::device_bench`].

mod compare;
mod fixtures;
mod kernels;
mod memory;
mod mixes;
mod operations;
mod plain;
pub(crate) mod random;
mod report;
pub(crate) mod rig;
mod settings;
mod subject;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use anyhow::bail;

use crate::device::{Device, DeviceChoice, Precision};
use fixtures::{References, Unpacked};
use random::Random;
use rig::Rig;

pub use mixes::in_flight;
pub use report::{Case, Report, Verdict};
pub use settings::{DtypeChoice, SelfTestArgs};

/// Tests a device. What the device gets wrong is in the report.
///
/// # Errors
/// If there is no such device, or a file that was named cannot be used.
pub fn run(args: &SelfTestArgs) -> anyhow::Result<Report> {
    let models = with_references(&args.models, &args.references)?;
    let precisions = precisions(args)?;
    let tiny = Unpacked::new()?;
    let mut report: Option<Report> = None;
    for precision in precisions {
        let device = rig::open(&args.device, args.threads, precision)?;
        let report = report.get_or_insert_with(|| Report::new(device.describe(), args.seed));
        test(args, &device, &tiny, &models, report)?;
    }
    report.ok_or_else(|| anyhow::anyhow!("the device computes in nothing"))
}

fn test(
    args: &SelfTestArgs,
    device: &Device,
    tiny: &Unpacked,
    models: &[(PathBuf, Option<References>)],
    report: &mut Report,
) -> anyhow::Result<()> {
    // Each part starts anew: a part that draws otherwise leaves the others as they were.
    let random = || Random::new(args.seed);
    let twin = Rig::new(rig::open(&DeviceChoice::Cpu, args.threads, Some(Precision::F32))?);
    let cases = &mut report.cases;
    cases.extend(kernels::cases(&Rig::new(device.clone()), &twin, &mut random(), args.sabotage.as_deref()));
    let inside = Some(References::tiny()?);
    cases.extend(mixes::cases(&tiny.folder(), device, inside, args.threads, &mut random()));
    for (folder, references) in models {
        cases.extend(mixes::cases(folder, device, references.clone(), args.threads, &mut random()));
    }
    cases.push(memory::case(&tiny.folder(), device, args.batches, &mut random()));
    Ok(())
}

/// What to open the device with, once each; nothing is what a worker would take.
fn precisions(args: &SelfTestArgs) -> anyhow::Result<Vec<Option<Precision>>> {
    Ok(match args.dtype {
        None => vec![None],
        Some(DtypeChoice::One(precision)) => vec![Some(precision)],
        Some(DtypeChoice::All) => match rig::open(&args.device, args.threads, None)?.kind() {
            "cpu" => vec![Some(Precision::F32)],
            _ => Precision::ALL.map(Some).to_vec(),
        },
    })
}

/// Finds the model of each file of references.
fn with_references(models: &[PathBuf], files: &[PathBuf]) -> anyhow::Result<Vec<(PathBuf, Option<References>)>> {
    let mut models: Vec<(PathBuf, Option<References>)> = models.iter().map(|path| (path.clone(), None)).collect();
    for file in files {
        let references = References::read(file)?;
        let only = models.len() == 1;
        let named = |folder: &Path| folder.file_name().and_then(|name| name.to_str()) == references.model.as_deref();
        match models.iter_mut().find(|(folder, _)| only || (references.model.is_some() && named(folder))) {
            Some(model) => model.1 = Some(references),
            None => bail!("{} belongs to no --model: its \"model\" must be a folder's name", file.display()),
        }
    }
    Ok(models)
}
