//! Child processes that write to a log file and do not outlive their owner.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use crate::log::Log;

/// A running (or ended) child. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: Log,
}

impl Process {
    /// Starts `command`; what it prints is appended to the file `log`.
    pub fn spawn(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log).with_context(|| log.display().to_string())?;
        let copy = file.try_clone()?;
        command.stdin(Stdio::null()).stdout(file).stderr(copy);
        let child = command.spawn().with_context(|| format!("starting {name}: {:?}", command.get_program()))?;
        Ok(Self { name: name.to_owned(), child, log: Log::at(log) })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Fails, with the end of its log, once it has ended.
    pub fn check_running(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} has ended ({status}); it said:\n{}", self.name, self.log.tail(15)),
        }
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(self.kernel_pid()?, signal).with_context(|| format!("signalling {}", self.name))
    }

    /// SIGTERM, and waits until it has ended.
    pub fn stop(&mut self, limit: Duration) -> Result<ExitStatus> {
        if self.child.try_wait()?.is_none() {
            self.signal(Signal::TERM)?;
        }
        self.wait(limit)
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits until it ends by itself.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(status);
        }
        let handle = pidfd_open(self.kernel_pid()?, PidfdFlags::empty()).context("pidfd")?;
        let limit_spec = Timespec::try_from(limit).context("a limit that fits")?;
        let ended = poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&limit_spec))?;
        if ended == 0 {
            bail!("{} still runs after {limit:?}; its last lines:\n{}", self.name, self.log.tail(15));
        }
        Ok(self.child.wait()?)
    }

    /// Waits until it ends by itself, however long it takes.
    pub(crate) fn wait_forever(&mut self) -> Result<ExitStatus> {
        Ok(self.child.wait()?)
    }

    fn kernel_pid(&self) -> Result<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("a pid")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended; that is as well.
        self.kill().ok();
    }
}

/// Whether a process was ended by this signal.
pub fn ended_by(status: ExitStatus, signal: Signal) -> bool {
    status.signal() == Some(signal.as_raw())
}
