//! A program of a node: a [`Daemon`] in all of the node's namespaces.

use std::fs;
use std::path::Path;
use std::process::ExitStatus;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use super::machine::Machine;
use crate::cgroup;
use crate::kube::Daemon;
use crate::log::Log;

/// It can be stopped and started at any time through a shared reference, as long as its machine runs.
#[derive(Debug)]
pub struct Program {
    daemon: Daemon,
}

impl Program {
    /// The program `name` with its arguments; it is not started. Its log is in a folder of its name in `directory`.
    /// All that it starts is in the control group `group`, unless it says otherwise.
    pub(super) fn new(
        machine: &Machine,
        name: &'static str,
        (directory, group): (&Path, &str),
        arguments: &[String],
    ) -> Result<Self> {
        let place = directory.join(name);
        fs::create_dir_all(&place)?;
        let words = machine.words("sh");
        let doors =
            cgroup::doors(group).iter().map(|door| format!("echo 0 > {} && ", door.display())).collect::<String>();
        let join = format!("{doors}exec \"$@\"");
        let daemon = Daemon::at(name, machine.home(), place, "env".into());
        let daemon = daemon.args(words).args(["-c", &join, "join", name]).args(arguments);
        Ok(Self { daemon })
    }

    pub fn log(&self) -> Log {
        self.daemon.log()
    }

    /// Its pid as the machine sees it, while it runs.
    pub fn pid(&self) -> Option<u32> {
        let outer = self.daemon.pid()?;
        let children = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).ok()?;
        children.split_whitespace().next()?.parse().ok()
    }

    pub fn launch(&self) -> Result<()> {
        self.daemon.launch()
    }

    /// Fails, with the end of its log, unless it runs.
    pub fn check_running(&self) -> Result<()> {
        self.daemon.check_running()
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.pid().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        Ok(kill_process(pid.context("it does not run")?, signal)?)
    }

    /// SIGTERM; waits for its end.
    pub fn stop(&self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.daemon.wait()
    }

    /// SIGKILL.
    pub fn kill(&self) -> Result<()> {
        self.signal(Signal::KILL)?;
        self.daemon.wait().map(drop)
    }
}
