//! Keeping the cores awake. An idle virtual CPU halts, and waking it costs far more than any proxy does: who sleeps more
//! often would be measured as slower, and by as much as the hypervisor likes.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{Builder, JoinHandle};

use anyhow::{Context, Result, ensure};

/// A thread per core that spins in the kernel's idle class: it gives way to all other work at once. They stop when this
/// is dropped.
#[derive(Debug)]
pub(super) struct Awake {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Awake {
    pub(super) fn start() -> Result<Self> {
        let mut awake = Self { stop: Arc::default(), threads: Vec::new() };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let ready: Vec<_> = (0..cores).map(|_| awake.spinner()).collect::<Result<_>>()?;
        ready.into_iter().try_for_each(|ready| ready.recv().context("a spinner has ended")?)?;
        Ok(awake)
    }

    /// Starts one; it reports once, before it spins.
    fn spinner(&mut self) -> Result<Receiver<Result<()>>> {
        let (report, ready) = channel();
        let stop = Arc::clone(&self.stop);
        let spin = move || {
            let idle = become_idle();
            let spins = idle.is_ok();
            // Whoever started this waits for it.
            report.send(idle).ok();
            while spins && !stop.load(Ordering::Relaxed) {}
        };
        self.threads.push(Builder::new().name("spinner".to_owned()).spawn(spin)?);
        Ok(ready)
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

/// Puts the calling thread into SCHED_IDLE.
fn become_idle() -> Result<()> {
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    let output = Command::new("chrt").args(["--idle", "--pid", "0", &thread]).output();
    let output = output.context("chrt (Debian package util-linux)")?;
    ensure!(output.status.success(), "chrt: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
