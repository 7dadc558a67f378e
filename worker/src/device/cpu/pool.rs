//! Kept threads that run one function at a time, together with the caller.
//!
//! Idle threads are parked: they take no CPU. Only while a caller has asked for it ([`ThreadPool::kept_awake`]: a lone
//! sequence, whose operations are shorter than waking a thread) do helpers wait by spinning, and never longer than
//! `SPINS` without work.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{JoinHandle, Thread};

use parking_lot::{Mutex, MutexGuard};

/// Turns of a waiting loop before a thread parks: some tens of microseconds.
const SPINS: usize = 4000;

/// A fixed set of threads. The caller of [`run`](Self::run) is one of them.
pub struct ThreadPool {
    helpers: Vec<Helper>,
    /// Held while a function runs: helpers have one mailbox each.
    turn: Mutex<()>,
}

struct Helper {
    mailbox: Arc<Mailbox>,
    thread: Option<JoinHandle<()>>,
}

/// The work of one `run`, on the caller's stack until the last helper is done.
struct Work {
    function: *const (dyn Fn(usize) + Sync),
    /// Helpers that are not done.
    pending: AtomicUsize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    caller: Thread,
}

/// One helper's instructions. `posted` counts up with every piece of work; the helper follows it.
#[repr(align(64))]
struct Mailbox {
    posted: AtomicUsize,
    work: UnsafeCell<*const Work>,
    awake: AtomicBool,
    stop: AtomicBool,
}

// SAFETY: `work` is written by the caller of `run` before it raises `posted` (release), and read by the helper after it saw that
// (acquire) and before it lowers `pending`; the caller writes again only after `pending` reached 0.
unsafe impl Sync for Mailbox {}
// SAFETY: as above; the pointer is only followed while `run` waits.
unsafe impl Send for Mailbox {}

impl ThreadPool {
    /// `threads` includes the caller: `threads - 1` are started.
    ///
    /// # Errors
    /// If the operating system refuses a thread.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let mut pool = Self { helpers: Vec::new(), turn: Mutex::new(()) };
        for part in 1..threads {
            let mailbox = Arc::new(Mailbox {
                posted: AtomicUsize::new(0),
                work: UnsafeCell::new(std::ptr::null()),
                awake: AtomicBool::new(false),
                stop: AtomicBool::new(false),
            });
            let theirs = Arc::clone(&mailbox);
            let thread =
                std::thread::Builder::new().name(format!("compute-{part}")).spawn(move || help(&theirs, part))?;
            pool.helpers.push(Helper { mailbox, thread: Some(thread) });
        }
        Ok(pool)
    }

    pub fn threads(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Calls `function(part)` for every part below `parts` (at most `threads()`), all at the same time, and waits for all.
    ///
    /// `function` must not call `run` of the same pool. A panic in any part is raised here, after all parts are done.
    pub fn run(&self, parts: usize, function: &(dyn Fn(usize) + Sync)) {
        let helpers = &self.helpers[..parts.saturating_sub(1).min(self.helpers.len())];
        if helpers.is_empty() {
            return function(0);
        }
        let _turn: MutexGuard<'_, ()> = self.turn.lock();
        // SAFETY: only the lifetime is forgotten; this function does not return before every helper is done with it.
        let function: *const (dyn Fn(usize) + Sync) =
            unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(function) };
        let work = Work {
            function,
            pending: AtomicUsize::new(helpers.len()),
            panic: Mutex::new(None),
            caller: std::thread::current(),
        };
        for helper in helpers {
            // SAFETY: the helper is idle (the previous `run` waited for it), so nobody reads this now.
            unsafe { *helper.mailbox.work.get() = &work };
            helper.mailbox.posted.fetch_add(1, Ordering::Release);
            helper.unpark();
        }
        // SAFETY: derived from a live reference above.
        let own = catch_unwind(AssertUnwindSafe(|| unsafe { (*function)(0) }));
        wait_until(true, || work.pending.load(Ordering::Acquire) == 0);
        if let Some(panic) = own.err().or_else(|| work.panic.lock().take()) {
            resume_unwind(panic);
        }
    }

    /// Runs `body` while helpers for `parts` parts wait for work without going to sleep: for many short `run`s in a row.
    pub fn kept_awake<T>(&self, parts: usize, body: impl FnOnce() -> T) -> T {
        /// Lets helpers sleep again, also when `body` panics.
        struct Asleep<'a>(&'a [Helper]);
        impl Drop for Asleep<'_> {
            fn drop(&mut self) {
                self.0.iter().for_each(|helper| helper.mailbox.awake.store(false, Ordering::Relaxed));
            }
        }
        let helpers = &self.helpers[..parts.saturating_sub(1).min(self.helpers.len())];
        let _asleep = Asleep(helpers);
        for helper in helpers {
            helper.mailbox.awake.store(true, Ordering::Relaxed);
            helper.unpark();
        }
        body()
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        for helper in &mut self.helpers {
            helper.mailbox.stop.store(true, Ordering::Release);
            helper.unpark();
            // A helper catches panics of what it runs; there is nothing to learn from its end.
            let _ = helper.thread.take().map(JoinHandle::join);
        }
    }
}

impl Helper {
    fn unpark(&self) {
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}

fn help(mailbox: &Mailbox, part: usize) {
    let mut done = 0;
    loop {
        let stop = || mailbox.stop.load(Ordering::Acquire);
        loop {
            let ready = || mailbox.posted.load(Ordering::Acquire) != done || stop();
            wait_until(mailbox.awake.load(Ordering::Relaxed), ready);
            if mailbox.posted.load(Ordering::Acquire) != done {
                break;
            }
            if stop() {
                return;
            }
        }
        done = done.wrapping_add(1);
        // SAFETY: posted work stays alive until `pending` is lowered below, which is the last use of it.
        let work = unsafe { &**mailbox.work.get() };
        // SAFETY: as above.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| unsafe { (*work.function)(part) })) {
            *work.panic.lock() = Some(panic);
        }
        let caller = work.caller.clone();
        if work.pending.fetch_sub(1, Ordering::AcqRel) == 1 {
            caller.unpark();
        }
    }
}

/// Waits for a condition that comes with an unpark: first by spinning, if asked to, then parked.
fn wait_until(spin: bool, ready: impl Fn() -> bool) {
    for _ in 0..if spin { SPINS } else { 0 } {
        if ready() {
            return;
        }
        std::hint::spin_loop();
    }
    while !ready() {
        std::thread::park();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_runs_once_on_every_run() {
        let pool = ThreadPool::new(4).unwrap();
        let counts: Vec<AtomicUsize> = (0..4).map(|_| AtomicUsize::new(0)).collect();
        for round in 0..1000 {
            let parts = round % 4 + 1;
            let work = |part: usize| {
                counts[part].fetch_add(1, Ordering::Relaxed);
            };
            if round % 2 == 0 { pool.run(parts, &work) } else { pool.kept_awake(parts, || pool.run(parts, &work)) }
        }
        let counts: Vec<usize> = counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        assert_eq!(counts, [1000, 750, 500, 250]);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
        let pool = ThreadPool::new(2).unwrap();
        for culprit in 0..2 {
            let panicked =
                catch_unwind(AssertUnwindSafe(|| pool.run(2, &|part| assert_ne!(part, culprit, "as asked"))));
            assert!(panicked.is_err());
        }
        pool.run(2, &|_| ());
    }
}
