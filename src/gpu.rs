//! The device of this process: settled, and made the only one that CUDA shows, before anything else happens.
//!
//! CUDA shows a slice of a GPU (MIG) only to a process whose `CUDA_VISIBLE_DEVICES` names it, and reads that variable once. So this
//! is done in `main`, while the process has one thread: the environment may be written only while nobody else can read it.

use anyhow::bail;
use forebay_worker::device::DeviceChoice;
use forebay_worker::device::settle::{Here, VISIBLE};

/// Replaces `choice` by the device that it means here: the CPU, or a GPU by its whole uuid, which is then all that this process sees.
///
/// # Errors
/// In one line, if there is no such device or this build cannot compute on it.
pub fn settle(choice: &mut DeviceChoice) -> anyhow::Result<()> {
    if *choice == DeviceChoice::Cpu {
        return Ok(());
    }
    *choice = Here::look().settle(choice)?;
    match choice {
        DeviceChoice::Uuid(uuid) => show_only(uuid),
        DeviceChoice::Cpu | DeviceChoice::Auto | DeviceChoice::Ordinal(_) => Ok(()),
    }
}

fn show_only(uuid: &str) -> anyhow::Result<()> {
    if std::env::var_os(VISIBLE).is_some_and(|setting| setting == uuid) {
        return Ok(());
    }
    // The driver's library was open for a moment; should a version of it leave a thread behind, we refuse rather than race.
    let threads = std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    if threads != 1 {
        bail!("cannot choose {uuid} from here; set {VISIBLE}={uuid} for this process");
    }
    // SAFETY: this is the process' only thread, as counted just above, so nothing reads the environment meanwhile.
    unsafe { std::env::set_var(VISIBLE, uuid) };
    Ok(())
}
