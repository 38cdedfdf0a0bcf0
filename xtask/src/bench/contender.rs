//! Those that are compared, each with a lab of its own, so that nothing of one is in the other's way. The labs exist side
//! by side; agents run only while it is their turn.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_e2e::topology::LogFormat;
use mesh_e2e::{Lab, Nginx, Pod, Process, RunningPod, Topology, eventually};

use super::peer::{Kind, Peer};
use super::row::{Target, Who};
use super::usage::{self, Resident};
use super::ztunnel::{self, Proxies};

/// Ports of the servers in the target's pod.
pub(super) const IPERF3: u16 = 5201;
pub(super) const SOCKPERF: u16 = 11111;
pub(super) const HTTP: u16 = 8080;
/// What nginx answers with.
const PAGE: usize = 512;
const START: Duration = Duration::from_secs(10);
const LOG: usize = 8;
const PAUSE: Duration = Duration::from_millis(500);

/// One of those that are compared.
#[derive(Debug)]
pub(super) struct Contender {
    pub(super) who: Who,
    carrier: Carrier,
    // Processes before the lab whose namespaces they live in.
    _servers: Vec<Process>,
    _nginx: Vec<Nginx>,
    lab: Lab,
    targets: Vec<Target>,
    /// Programs run so far: each has a log file of its own.
    runs: Cell<u32>,
}

/// What carries the pods' traffic.
#[derive(Debug)]
enum Carrier {
    Kernel,
    Agents,
    Ztunnel { binary: PathBuf, running: Option<Proxies> },
}

/// Two nodes with a client on the first, whose agents are started when it is their turn.
pub(super) fn measured(agent: &Path) -> Topology {
    // A log line per connection is what a log is for, but writing it is not what is measured.
    Topology::new()
        .pod(Pod::new("client", "n1"))
        .binary(agent.to_owned())
        .log("info,access=off")
        .log_format(LogFormat::Text)
        .node_setting("on_shutdown", "withdraw")
        .node_setting("drain", "1s")
        .without_agents()
}

impl Contender {
    /// No mesh. `agent` is there, but does not run.
    pub(super) fn direct(agent: &Path, targets: &[Target]) -> Result<Self> {
        Self::new(Who::Direct, Carrier::Kernel, (agent, None), targets)
    }

    /// `same_node`: the mode of that name.
    pub(super) fn ours(agent: &Path, targets: &[Target], same_node: Option<&str>) -> Result<Self> {
        Self::new(Who::Ours, Carrier::Agents, (agent, same_node), targets)
    }

    pub(super) fn peer(peer: &Peer, agent: &Path, targets: &[Target], same_node: Option<&str>) -> Result<Self> {
        match peer.kind {
            Kind::MeshAgent => Self::new(Who::Peer, Carrier::Agents, (&peer.binary, same_node), targets),
            Kind::Ztunnel => {
                let carrier = Carrier::Ztunnel { binary: peer.binary.clone(), running: None };
                let contender = Self::new(Who::Peer, carrier, (agent, None), targets)?;
                ztunnel::redirect(&contender.lab)?;
                Ok(contender)
            }
        }
    }

    fn new(who: Who, carrier: Carrier, (agent, same_node): (&Path, Option<&str>), targets: &[Target]) -> Result<Self> {
        let topology = measured(agent).pod(Pod::new(Target::Near.pod(), "n1")).pod(Pod::new(Target::Far.pod(), "n2"));
        let topology = match same_node {
            Some(mode) => topology.node_setting("same_node", serde_json::json!({ "mode": mode })),
            None => topology,
        };
        let lab = Lab::start(topology)?;
        let (mut servers, mut nginx) = (Vec::new(), Vec::new());
        for target in targets {
            nginx.push(lab.nginx(target.pod(), HTTP, &"x".repeat(PAGE))?);
            servers.extend(serve(&lab, lab.pod(target.pod()))?);
        }
        let targets = targets.to_vec();
        Ok(Self { who, carrier, _servers: servers, _nginx: nginx, lab, targets, runs: Cell::new(0) })
    }

    /// Starts what carries its traffic, and waits until all pods are captured.
    pub(super) fn start(&mut self) -> Result<()> {
        match &mut self.carrier {
            Carrier::Kernel => {}
            Carrier::Agents => self.lab.start_agents()?,
            Carrier::Ztunnel { binary, running } => *running = Some(Proxies::start(binary, &self.lab)?),
        }
        self.meet()
    }

    /// The first connection to each server, which may have to wait for certificates: what is measured is how it goes on.
    fn meet(&self) -> Result<()> {
        for target in &self.targets {
            for port in [IPERF3, SOCKPERF, HTTP] {
                let to = self.lab.pod(target.pod()).at4(port);
                drop(self.lab.pod("client").connect(to).with_context(|| format!("the first connection to {to}"))?);
            }
        }
        thread::sleep(PAUSE);
        Ok(())
    }

    pub(super) fn stop(&mut self) -> Result<()> {
        match &mut self.carrier {
            Carrier::Kernel => {}
            Carrier::Agents => {
                let running = || self.lab.nodes().iter().map(mesh_e2e::Node::agent).filter(|agent| agent.is_running());
                running().try_for_each(|agent| agent.stop().map(drop))?;
            }
            Carrier::Ztunnel { running, .. } => *running = None,
        }
        Ok(())
    }

    /// Whether it is a mesh, and has agents.
    pub(super) fn has_agents(&self) -> bool {
        !matches!(self.carrier, Carrier::Kernel)
    }

    /// CPU time of its agents so far, in seconds.
    pub(super) fn cpu_seconds(&self) -> Result<f64> {
        usage::cpu_seconds(&self.pids())
    }

    /// Memory of its agents, in MiB.
    pub(super) fn mebibytes(&self, which: Resident) -> Result<f64> {
        usage::mebibytes(&self.pids(), which)
    }

    /// The target's address.
    pub(super) fn address(&self, target: Target) -> String {
        self.lab.pod(target.pod()).v4.to_string()
    }

    /// Runs a program in the client's pod and gives all that it printed. Whether it did what it should is to be seen
    /// from that.
    pub(super) fn run(&self, program: &str, arguments: &[&str], limit: Duration) -> Result<String> {
        let mut process = self.spawn(program, arguments)?;
        process.wait(limit)?;
        Ok(process.log().text())
    }

    /// Starts a program in the client's pod.
    pub(super) fn spawn(&self, program: &str, arguments: &[&str]) -> Result<Process> {
        let run = self.runs.get() + 1;
        self.runs.set(run);
        let mut command = self.lab.pod("client").command(program);
        self.lab.spawn(&format!("{program}-{run}"), command.args(arguments))
    }

    /// Sends a request to the other node and looks at the wire between them, so that what is measured is what is said:
    /// a mesh sends everything through tunnels, and without one nothing does.
    pub(super) fn check_way(&self) -> Result<()> {
        let wire = self.lab.wire("n1")?;
        let url = format!("http://{}:{HTTP}/", self.address(Target::Far));
        self.lab
            .pod("client")
            .output("curl", ["-sSf", "--max-time", "5", "--noproxy", "*", "-o", "/dev/null", &url])?;
        let seen = wire.finish()?;
        let (tunnelled, plain) = (seen.tunnelled().count(), seen.plaintext().count());
        if self.has_agents() {
            ensure!(
                plain == 0 && tunnelled > 0,
                "{plain} packets are on the wire in plaintext, {tunnelled} in tunnels"
            );
        } else {
            ensure!(
                plain > 0 && tunnelled == 0,
                "{tunnelled} packets are on the wire in tunnels, {plain} in plaintext"
            );
        }
        Ok(())
    }

    /// The ends of its agents' logs.
    pub(super) fn logs(&self) -> String {
        match &self.carrier {
            Carrier::Kernel => String::new(),
            Carrier::Agents => self.lab.logs(LOG),
            Carrier::Ztunnel { running, .. } => running.as_ref().map(Proxies::logs).unwrap_or_default(),
        }
    }

    pub(super) fn pids(&self) -> Vec<u32> {
        match &self.carrier {
            Carrier::Kernel => Vec::new(),
            Carrier::Agents => self.lab.nodes().iter().filter_map(|node| node.agent().pid()).collect(),
            Carrier::Ztunnel { running, .. } => running.as_ref().map(Proxies::pids).unwrap_or_default(),
        }
    }
}

/// The servers of `pod` beside nginx.
fn serve(lab: &Lab, pod: &RunningPod) -> Result<[Process; 2]> {
    let (iperf3, sockperf) = (IPERF3.to_string(), SOCKPERF.to_string());
    Ok([
        server(lab, pod, IPERF3, &["iperf3", "-s", "-p", &iperf3])?,
        server(lab, pod, SOCKPERF, &["sockperf", "server", "--tcp", "-i", "0.0.0.0", "-p", &sockperf])?,
    ])
}

/// Starts a program that listens on `port`, and waits until it does. A connection would be a client to it.
fn server(lab: &Lab, pod: &RunningPod, port: u16, words: &[&str]) -> Result<Process> {
    let (program, arguments) = words.split_first().context("a program")?;
    let mut command = pod.command(program);
    let mut process = lab.spawn(&format!("{program}-server-{}", pod.name), command.args(arguments))?;
    eventually(START, || {
        process.check_running()?;
        let sockets = pod.output("ss", ["-Hltn", &format!("sport = :{port}")])?;
        ensure!(!sockets.trim().is_empty(), "{program} does not listen in pod {}", pod.name);
        Ok(())
    })?;
    Ok(process)
}
