//! One process under test: started, killed, started again, always on the same address and with the same log.

use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::client;

/// What to start. Flags go first, then the environment given, then that of the test without its `FOREBAY_*`.
#[derive(Debug, Clone)]
pub struct Spec {
    pub name: String,
    pub program: PathBuf,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub addr: SocketAddr,
    /// Where `ready_path` answers 200 once the process does its work.
    pub ready_addr: SocketAddr,
    pub ready_path: &'static str,
}

/// A process that ends with this value. All methods take `&self`, so that a test can disturb it while load runs.
#[derive(Debug)]
pub struct Process {
    spec: Spec,
    log: PathBuf,
    child: Mutex<Option<Child>>,
}

impl Process {
    /// Starts it, without waiting for anything. Call from the test's own thread: the process dies with the thread that
    /// started it, which is what keeps a killed test from leaving anything behind.
    pub fn start(spec: Spec, logs: &Path) -> Self {
        let log = logs.join(format!("{}.log", spec.name));
        let process = Self { spec, log, child: Mutex::new(None) };
        process.restart();
        process
    }

    pub fn name(&self) -> &str {
        &self.spec.name
    }

    pub fn addr(&self) -> SocketAddr {
        self.spec.addr
    }

    /// Address and path that answer 200 once it does its work.
    pub fn probe(&self) -> (SocketAddr, &'static str) {
        (self.spec.ready_addr, self.spec.ready_path)
    }

    /// The id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        let mut child = self.child.lock().unwrap();
        match child.as_mut().map(|child| (child.id(), child.try_wait())) {
            Some((pid, Ok(None))) => Some(pid),
            _ => None,
        }
    }

    pub fn is_running(&self) -> bool {
        self.pid().is_some()
    }

    /// Starts it again after it has ended; the same address, flags and environment.
    pub fn restart(&self) {
        assert!(!self.is_running(), "{} runs already", self.spec.name);
        let log = OpenOptions::new().create(true).append(true).open(&self.log).expect("the log can be written");
        let mut command = Command::new(&self.spec.program);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("FOREBAY_")) {
            command.env_remove(name);
        }
        command.args(&self.spec.args).envs(self.spec.env.iter().cloned()).env("NO_COLOR", "1");
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).process_group(0);
        // SAFETY: prctl is async-signal-safe and nothing is allocated between fork and exec.
        unsafe {
            command.pre_exec(|| Ok(prctl::set_pdeathsig(Signal::SIGKILL)?));
        }
        let child =
            command.spawn().unwrap_or_else(|error| panic!("cannot start {}: {error}", self.spec.program.display()));
        *self.child.lock().unwrap() = Some(child);
    }

    /// SIGKILL: no destructor, no goodbye.
    pub fn kill9(&self) {
        self.signal(Signal::SIGKILL);
        self.wait(Duration::from_secs(5));
    }

    /// SIGTERM, and waits for the end; panics if it takes longer than `limit`.
    pub async fn terminate(&self, limit: Duration) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.ended(limit).await
    }

    /// Waits for the end without blocking the test's tasks.
    pub async fn ended(&self, limit: Duration) -> ExitStatus {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.try_wait() {
                return status;
            }
            assert!(Instant::now() < end, "{} still runs after {limit:?}\n{}", self.spec.name, self.log_tail(40));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Stops the process' threads where they are, as a long pause of its machine would.
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = self.pid().unwrap_or_else(|| panic!("{} does not run\n{}", self.spec.name, self.log_tail(40)));
        kill(Pid::from_raw(pid.cast_signed()), signal).expect("a child can be signalled until it is waited for");
    }

    /// Waits until it answers; panics with the end of its log if it ends before, or takes longer than `limit`.
    pub async fn ready(&self, limit: Duration) {
        let end = Instant::now() + limit;
        loop {
            let answer = client::get(self.spec.ready_addr, self.spec.ready_path).await;
            if answer.as_ref().is_ok_and(|answer| answer.status == 200) {
                return;
            }
            assert!(self.is_running(), "{} ended while starting\n{}", self.spec.name, self.log_tail(40));
            assert!(
                Instant::now() < end,
                "{} is not ready after {limit:?}: {answer:?}\n{}",
                self.spec.name,
                self.log_tail(40)
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn log_tail(&self, lines: usize) -> String {
        let log = self.log();
        let all: Vec<&str> = log.lines().collect();
        format!(
            "--- {} ({})\n{}",
            self.spec.name,
            self.log.display(),
            all[all.len().saturating_sub(lines)..].join("\n")
        )
    }

    fn try_wait(&self) -> Option<ExitStatus> {
        let mut child = self.child.lock().unwrap();
        match child.as_mut() {
            None => Some(ExitStatus::from_raw(0)),
            Some(child) => child.try_wait().expect("a child can be waited for"),
        }
    }

    fn wait(&self, limit: Duration) {
        let end = Instant::now() + limit;
        while self.try_wait().is_none() {
            assert!(Instant::now() < end, "{} survived SIGKILL for {limit:?}", self.spec.name);
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A panic while the lock was held must not leave a process behind.
        let mut child = self.child.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(child) = child.as_mut() {
            let _ended = child.kill();
            let _ended = child.wait();
        }
    }
}
