//! A node's agent: the real binary, seen from outside.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde::de::DeserializeOwned;

use crate::documents::{Flow, Flows, Status};
use crate::eventually::eventually;
use crate::http;
use crate::log::Log;
use crate::namespace::Namespace;
use crate::process::Process;
use crate::topology::LogFormat;

/// Ports of the agent's pages.
pub const METRICS_PORT: u16 = 15020;
pub const READY_PORT: u16 = 15021;

/// How long an agent may take to become ready: it loads eBPF programs, and this machine may be busy.
const START: Duration = Duration::from_secs(20);
/// How long it may take to end: its drain and some more.
const STOP: Duration = Duration::from_secs(15);

/// The agent of one node. It can be started and stopped at any time through a shared reference.
#[derive(Debug)]
pub struct Agent {
    node: Namespace,
    binary: PathBuf,
    directory: PathBuf,
    arguments: Vec<String>,
    process: Mutex<Option<Process>>,
}

impl Agent {
    pub(crate) fn new(node: Namespace, binary: &Path, directory: PathBuf, filter: &str, format: LogFormat) -> Self {
        let format = match format {
            LogFormat::Json => "json",
            LogFormat::Text => "text",
        };
        let arguments = ["--log", filter, "--log-format", format].map(str::to_owned).to_vec();
        Self { node, binary: binary.to_owned(), directory, arguments, process: Mutex::new(None) }
    }

    /// Its YAML file.
    pub fn config_file(&self) -> PathBuf {
        self.directory.join("node.yaml")
    }

    /// Its `run_dir`.
    pub fn run_dir(&self) -> PathBuf {
        self.directory.join("run")
    }

    /// Its BPF file system.
    pub fn bpf_fs(&self) -> PathBuf {
        self.directory.join("bpf")
    }

    /// All that it has logged, whatever the number of starts.
    pub fn log(&self) -> Log {
        Log::at(&self.directory.join("agent.log"))
    }

    /// Starts it and waits until it is ready.
    pub fn start(&self) -> Result<()> {
        self.launch()?;
        self.wait_ready()
    }

    /// Starts it without waiting.
    pub fn launch(&self) -> Result<()> {
        let mut process = self.process();
        ensure!(process.is_none(), "the agent of {} runs already", self.node.netns());
        let mut command = self.node.command(&self.binary);
        command.arg("node").arg("--config").arg(self.config_file()).args(&self.arguments);
        let name = format!("the agent of {}", self.node.netns());
        *process = Some(Process::spawn(&name, &mut command, self.log().path())?);
        Ok(())
    }

    /// Waits until its readiness page says so.
    pub fn wait_ready(&self) -> Result<()> {
        eventually(START, || match self.page(READY_PORT, "/healthz/ready") {
            Ok((200, _)) => Ok(()),
            Ok((_, body)) => self.alive(|| bail!("{}: {}", self.node.netns(), body.trim())),
            Err(error) => self.alive(|| Err(error)),
        })
    }

    /// Ends the waiting, with its log, if it has ended; else gives `error`.
    fn alive(&self, error: impl FnOnce() -> Result<()>) -> Result<()> {
        let Some(process) = &mut *self.process() else { bail!("the agent of {} is not started", self.node.netns()) };
        process.check_running()?;
        error()
    }

    /// Its pid, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process().as_ref().map(Process::pid)
    }

    pub fn is_running(&self) -> bool {
        self.process().as_mut().is_some_and(|process| process.check_running().is_ok())
    }

    /// SIGTERM; waits for its end.
    pub fn stop(&self) -> Result<ExitStatus> {
        self.running()?.stop(STOP)
    }

    /// Waits until it ends by itself or by somebody's signal, however long it takes.
    pub fn wait_end(&self) -> Result<ExitStatus> {
        self.running()?.wait_forever()
    }

    /// SIGKILL.
    pub fn kill(&self) -> Result<()> {
        self.running()?.kill()
    }

    /// Stops and starts it.
    pub fn restart(&self) -> Result<()> {
        self.stop()?;
        self.start()
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process().as_ref().context("the agent is not started")?.signal(signal)
    }

    /// What `ctl status` says.
    pub fn status(&self) -> Result<Status> {
        self.document(&["status"])
    }

    /// The same document by the shortest way, for waiting.
    pub(crate) fn quick_status(&self) -> Result<Status> {
        let (status, body) = self.admin("/status")?;
        ensure!(status == 200, "status: {status} {body}");
        serde_json::from_str(&body).context("the status page")
    }

    /// What `ctl flows` says: the open connections.
    pub fn flows(&self) -> Result<Vec<Flow>> {
        Ok(self.document::<Flows>(&["flows"])?.flows)
    }

    /// The metrics page.
    pub fn metrics(&self) -> Result<String> {
        let (status, body) = self.page(METRICS_PORT, "/metrics")?;
        ensure!(status == 200, "metrics: {status} {body}");
        Ok(body)
    }

    /// The sum of a metric's samples whose labels include all of `labels`, written as on the page: `name="value"`.
    pub fn metric(&self, name: &str, labels: &[&str]) -> Result<f64> {
        let page = self.metrics()?;
        let samples = page.lines().filter_map(|line| line.rsplit_once(' '));
        let wanted = samples.filter(|(series, _)| {
            let (family, rest) = series.split_once('{').unwrap_or((series, ""));
            family == name && labels.iter().all(|label| rest.contains(label))
        });
        Ok(wanted.filter_map(|(_, value)| value.parse::<f64>().ok()).sum())
    }

    /// A page of the agent as seen on its node: status and body.
    pub fn page(&self, port: u16, path: &str) -> Result<(u16, String)> {
        let stream = self.node.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        http::get(stream, path)
    }

    /// A page of its admin socket.
    pub fn admin(&self, path: &str) -> Result<(u16, String)> {
        let socket = self.run_dir().join("admin.sock");
        let stream = UnixStream::connect(&socket).with_context(|| socket.display().to_string())?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        http::get(stream, path)
    }

    /// `mesh-agent ctl` for this agent, to be given further arguments.
    pub fn ctl(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("ctl").arg("--socket").arg(self.run_dir().join("admin.sock"));
        command
    }

    fn document<D: DeserializeOwned>(&self, arguments: &[&str]) -> Result<D> {
        let output = self.ctl().args(["--output", "json"]).args(arguments).output()?;
        ensure!(output.status.success(), "ctl: {}", String::from_utf8_lossy(&output.stderr).trim());
        serde_json::from_slice(&output.stdout).context("what ctl printed")
    }

    /// The process, which is no longer ours to stop.
    fn running(&self) -> Result<Process> {
        self.process().take().with_context(|| format!("the agent of {} is not started", self.node.netns()))
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
