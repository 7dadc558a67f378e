//! One start of one process, and its end.
//!
//! A child never outlives the supervisor, not even one that is killed: the kernel sends it SIGKILL when **the thread that
//! started it** ends. So children are started from the main thread only, which is why `up` runs on a single thread.
//! Each child leads a process group, so that Ctrl-C in a terminal reaches the supervisor alone, which stops in order.

use std::fs::File;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::prctl;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, getppid};
use tokio::process::{Child, Command};

use super::plan::Spec;

/// What a user may have set for one process, but must not hold for all.
const PER_PROCESS_ENV: [&str; 7] = [
    "FOREBAY_PROCESS_NAME",
    "FOREBAY_ADVERTISE_ADDR",
    "FOREBAY_BROKER_TOKEN",
    "FOREBAY_BROKER_CREDENTIALS",
    "FOREBAY_BROKER_CA",
    "FOREBAY_BROKER_CERT",
    "FOREBAY_BROKER_KEY",
];

/// Starts the process with both its outputs in `log`. Settings of the user's environment reach it, flags go first.
pub fn spawn(spec: &Spec, log: File) -> io::Result<Child> {
    let supervisor = Pid::this();
    let mut command = Command::new(&spec.program);
    command
        .args(&spec.args)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .kill_on_drop(true);
    for name in PER_PROCESS_ENV {
        command.env_remove(name);
    }
    command.envs(spec.env.iter().map(|(name, value)| (name, value)));
    // SAFETY: between fork and exec only async-signal-safe calls are made (prctl, getppid), and nothing is allocated.
    unsafe {
        command.pre_exec(move || {
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            // The supervisor may have ended before the line above: then nobody would send the signal.
            if getppid() != supervisor {
                return Err(io::Error::from_raw_os_error(nix::libc::ESRCH));
            }
            Ok(())
        });
    }
    command.spawn()
}

/// Asks the process to finish its work, and kills it if that takes longer than `grace`.
pub async fn stop(child: &mut Child, grace: Duration) -> io::Result<ExitStatus> {
    let Some(pid) = child.id() else { return child.wait().await };
    let _gone = kill(pid_of(pid), Signal::SIGTERM);
    if let Ok(status) = tokio::time::timeout(grace, child.wait()).await {
        return status;
    }
    kill_group(pid);
    child.wait().await
}

/// Ends the process, and whatever it may have started, at once.
pub fn kill_group(pid: u32) {
    let _gone = killpg(pid_of(pid), Signal::SIGKILL);
}

fn pid_of(pid: u32) -> Pid {
    Pid::from_raw(pid.cast_signed())
}
