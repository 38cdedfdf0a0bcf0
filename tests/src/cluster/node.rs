//! A node: its first process, containerd, kubelet and kube-proxy, in this order; and the way back.

use std::ffi::OsStr;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};

use super::files;
use super::machine::{Machine, make_disk};
use super::program::Program;
use super::settings::Proxy;
use crate::cgroup;
use crate::eventually::eventually;
use crate::kube::Ground;
use crate::kube::api::Api;
use crate::namespace::Namespace;
use crate::sweep::Claim;
use crate::topology::node_addresses;
use crate::wire::Wire;
use crate::wiring;

/// Where Services are.
const SERVICES: [(&str, &str); 2] = [("-4", "10.48.0.0/14"), ("-6", "fd00:50::/112")];
/// Its interface on the fabric.
const LINK: &str = "eth0";
const START: Duration = Duration::from_secs(30);
/// Where Debian has the CNI plugins.
const PLUGINS: &str = "/usr/lib/cni";
/// Packets that a bridge passes on are seen by iptables: a Service may lead to a pod behind the same bridge.
const BRIDGED: [(&str, &str); 2] =
    [("net.bridge.bridge-nf-call-iptables", "1"), ("net.bridge.bridge-nf-call-ip6tables", "1")];

/// A node of a cluster.
#[derive(Debug)]
pub struct Node {
    pub name: String,
    number: u8,
    proxy: Proxy,
    home: Namespace,
    directory: PathBuf,
    disk: PathBuf,
    programs: PathBuf,
    /// Its control group, in every hierarchy.
    group: String,
    running: Mutex<Option<Arc<Running>>>,
}

/// What runs on a node from one boot to the next.
#[derive(Debug)]
pub struct Running {
    // Dropped in this order.
    proxy: Option<Program>,
    kubelet: Program,
    containerd: Program,
    machine: Machine,
}

impl Running {
    pub fn kubelet(&self) -> &Program {
        &self.kubelet
    }

    pub fn containerd(&self) -> &Program {
        &self.containerd
    }

    /// Nothing, if the settings ask for none.
    pub fn proxy(&self) -> Option<&Program> {
        self.proxy.as_ref()
    }

    pub fn machine(&self) -> &Machine {
        &self.machine
    }
}

impl Node {
    /// A node, whose network namespace is on the fabric, before it has booted.
    pub(super) fn new(
        claim: &Claim,
        ground: &Ground,
        (name, number): (&str, u8),
        home: Namespace,
        proxy: Proxy,
    ) -> Result<Self> {
        let directory = claim.directory().join(name);
        let disk = make_disk(&directory)?;
        let programs = ground.program("kubelet").parent().context("a folder")?.to_owned();
        let group = format!("/{}/{name}", cgroup::folder(claim.name()));
        let name = name.to_owned();
        Ok(Self { name, number, proxy, home, directory, disk, programs, group, running: Mutex::default() })
    }

    /// IPv4 and IPv6.
    pub fn addresses(&self) -> [IpAddr; 2] {
        let (v4, v6) = node_addresses(self.number);
        [v4.into(), v6.into()]
    }

    /// Its network namespace, which outlives its processes.
    pub fn namespace(&self) -> &Namespace {
        &self.home
    }

    /// Captures what crosses its link to the fabric.
    pub fn watch_wire(&self) -> Result<Wire> {
        let (beyond, _) = node_addresses(wiring::KUBE);
        Wire::watch(&self.home, LINK, beyond.into())
    }

    /// What runs on it now. After [`Node::kill`] there is nothing.
    pub fn running(&self) -> Result<Arc<Running>> {
        self.lock().clone().with_context(|| format!("node {} is down", self.name))
    }

    /// A program to be started on it, in all of its namespaces. The process that this gives waits for it.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        Ok(self.running()?.machine.command(program))
    }

    /// Runs a program on it to its end and gives what it printed; its failure is an error with all it said.
    pub fn output<A: AsRef<OsStr>>(&self, program: &str, args: impl IntoIterator<Item = A>) -> Result<String> {
        self.running()?.machine.output(program, args)
    }

    /// Imports an image's archive.
    pub fn import(&self, archive: &Path) -> Result<()> {
        self.running()?.machine.import(archive)
    }

    /// Everything on it ends at once, as when its power goes. Its disk stays; what was in its network namespace, but for
    /// its place on the fabric, does not.
    pub fn kill(&self) -> Result<()> {
        let running = self.lock().take().with_context(|| format!("node {} is down", self.name))?;
        running.machine.kill()?;
        drop(running);
        // A machine that boots finds none of its former groups; a kubelet that did would take a while to mourn them.
        eventually(START, || cgroup::unmake(&self.group))?;
        self.home.output("nft", ["flush", "ruleset"])?;
        let links = self.home.output("ip", ["-brief", "link", "show", "type", "bridge"])?;
        for bridge in links.lines().filter_map(|line| line.split_whitespace().next()) {
            self.home.output("ip", ["link", "delete", bridge])?;
        }
        Ok(())
    }

    /// Starts the first process and containerd, and waits for it. No kubelet runs yet.
    pub fn boot(&self) -> Result<()> {
        // As on any machine: what the system runs and what pods run have their shares of it, however many of each there are.
        let system = format!("{}/system", self.group);
        cgroup::make(&system)?;
        self.home.set_sysctls(&BRIDGED)?;
        for (family, services) in SERVICES {
            // kube-proxy rewrites what has a route; a machine has a default route.
            self.home.output("ip", [family, "route", "replace", services, "dev", LINK])?;
        }
        let log = self.directory.join("first.log");
        let machine = Machine::start(&self.home, &self.name, (&self.disk, &self.programs), &log)?;
        machine.write("/etc/containerd/config.toml", &files::containerd())?;
        machine.write("/etc/cni/net.d/20-lab.conflist", &files::network(self.number).to_string())?;
        machine.output("sh", ["-c", &format!("cp --symbolic-link --force {PLUGINS}/* /opt/cni/bin/")])?;
        let program = |name, arguments: &[String]| Program::new(&machine, name, (&self.directory, &system), arguments);
        let containerd = program("containerd", &["--config=/etc/containerd/config.toml".to_owned()])?;
        let kubelet = program("kubelet", &files::kubelet_arguments(&self.name, self.addresses()))?;
        let proxy = self.proxy.mode().map(|_| program("kube-proxy", &[format!("--config={}", files::PROXY)]));
        let running = Running { proxy: proxy.transpose()?, kubelet, containerd, machine };
        running.containerd.launch()?;
        eventually(START, || {
            running.containerd.check_running()?;
            running.machine.output("ctr", ["--address", files::SOCKET, "version"])
        })?;
        *self.lock() = Some(Arc::new(running));
        Ok(())
    }

    /// Starts the kubelet and kube-proxy, for a cluster with this API server.
    pub(super) fn join(&self, api: &Api) -> Result<()> {
        let running = self.running()?;
        let (machine, keys) = (&running.machine, api.keys());
        let server = format!("https://{}", Api::address());
        machine.write(files::ROOT, &std::fs::read_to_string(&keys.root)?)?;
        let config = |user: &str| keys.kubeconfig_of(user, &server, Path::new(files::ROOT));
        machine.write(files::KUBELET_ACCESS, &config(&format!("system:node:{}", self.name))?)?;
        machine.write(files::PROXY_ACCESS, &config("system:kube-proxy")?)?;
        machine.write(files::KUBELET, &files::kubelet(&self.group).to_string())?;
        if let Some(mode) = self.proxy.mode() {
            machine.write(files::PROXY, &files::proxy(&self.name, mode).to_string())?;
        }
        self.start()
    }

    /// Starts the kubelet and kube-proxy of a node that was in the cluster before: its files are on its disk.
    pub fn start(&self) -> Result<()> {
        let running = self.running()?;
        running.kubelet.launch()?;
        running.proxy().map_or(Ok(()), Program::launch)
    }

    /// The ends of its logs.
    pub(super) fn said(&self) -> String {
        let Ok(running) = self.running() else { return "it is down".to_owned() };
        let all = [("kubelet", &running.kubelet), ("containerd", &running.containerd)];
        all.map(|(name, program)| format!("--- {name}\n{}\n", program.log().tail(12))).concat()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Running>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
