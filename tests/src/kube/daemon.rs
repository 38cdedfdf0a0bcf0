//! A program of the control plane: a folder of its own with its log and its pid file, and a hand to start and stop it.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use super::ground::Ground;
use crate::log::Log;
use crate::namespace::Namespace;
use crate::process::Process;

/// How long one may take to end after SIGTERM. istiod lets its streams drain for five seconds.
const STOP: Duration = Duration::from_secs(20);

/// One of the control plane's programs. It can be started and stopped at any time through a shared reference.
#[derive(Debug)]
pub struct Daemon {
    name: &'static str,
    home: Namespace,
    directory: PathBuf,
    program: PathBuf,
    arguments: Vec<OsString>,
    variables: Vec<(String, String)>,
    process: Mutex<Option<Process>>,
}

impl Daemon {
    /// `program` is to run on the ground, in the folder `name`. Nothing runs yet.
    pub(super) fn new(name: &'static str, ground: &Ground, program: PathBuf) -> Result<Self> {
        let directory = ground.directory.join(name);
        fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        Ok(Self::at(name, &ground.host, directory, program))
    }

    /// `program` is to run somewhere else, in a folder that is there.
    pub(crate) fn at(name: &'static str, home: &Namespace, directory: PathBuf, program: PathBuf) -> Self {
        Self {
            name,
            home: home.clone(),
            directory,
            program,
            arguments: Vec::new(),
            variables: Vec::new(),
            process: Mutex::new(None),
        }
    }

    #[must_use]
    pub(super) fn args(mut self, all: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.arguments.extend(all.into_iter().map(Into::into));
        self
    }

    /// `--NAME=PATH`.
    #[must_use]
    pub(super) fn file(mut self, name: &str, path: &Path) -> Self {
        let mut argument = OsString::from(format!("--{name}="));
        argument.push(path);
        self.arguments.push(argument);
        self
    }

    #[must_use]
    pub(super) fn envs(mut self, all: impl IntoIterator<Item = (String, String)>) -> Self {
        self.variables.extend(all);
        self
    }

    /// Its folder: where it runs, with `NAME.log` and `NAME.pid`.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// All that it has said, whatever the number of starts.
    pub fn log(&self) -> Log {
        Log::at(&self.directory.join(format!("{}.log", self.name)))
    }

    /// Its pid, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process().as_ref().map(Process::pid)
    }

    /// Starts it without waiting.
    pub fn launch(&self) -> Result<()> {
        let mut slot = self.process();
        ensure!(slot.is_none(), "{} runs already", self.name);
        let mut command = self.home.command(&self.program);
        command.current_dir(&self.directory).args(&self.arguments);
        // Whatever clusters the caller knows are none of its business.
        command.env_remove("KUBECONFIG").env("HOME", &self.directory);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        let process = Process::spawn(self.name, &mut command, self.log().path())?;
        fs::write(self.pid_file(), format!("{}\n", process.pid()))?;
        *slot = Some(process);
        Ok(())
    }

    /// Fails, with the end of its log, unless it runs.
    pub fn check_running(&self) -> Result<()> {
        self.process().as_mut().with_context(|| format!("{} is not started", self.name))?.check_running()
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process().as_ref().with_context(|| format!("{} is not started", self.name))?.signal(signal)
    }

    /// SIGTERM; waits for its end.
    pub fn stop(&self) -> Result<ExitStatus> {
        self.taken()?.stop(STOP)
    }

    /// SIGKILL.
    pub fn kill(&self) -> Result<()> {
        self.taken()?.kill()
    }

    /// The process, which is no longer ours to stop.
    fn taken(&self) -> Result<Process> {
        let process = self.process().take().with_context(|| format!("{} is not started", self.name))?;
        fs::remove_file(self.pid_file()).ok();
        Ok(process)
    }

    fn pid_file(&self) -> PathBuf {
        self.directory.join(format!("{}.pid", self.name))
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
