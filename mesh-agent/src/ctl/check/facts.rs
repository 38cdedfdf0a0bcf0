//! Everything that is looked at, read in one go.

use std::fs;
use std::path::{Path, PathBuf};

use super::super::client::CtlError;
use super::agent::Agent;
use super::capture::{self, Probe};
use super::machine::Machine;
use super::network::Network;
use super::ports::{self, Port};
use super::settings::Settings;
use super::spaces::Spaces;
use crate::admin::documents::Status;
use crate::bpf::fs::pinned;
use crate::file::schema::Node;
use crate::sys::caps;

/// What was seen.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) settings: Settings,
    /// Files that the settings name and that cannot be read, with the reasons.
    pub(super) unreadable: Vec<String>,
    pub(super) machine: Machine,
    pub(super) ports: Vec<Port>,
    pub(super) network: Network,
    pub(super) spaces: Spaces,
    pub(super) agent: Agent,
    /// Pods for which something is pinned.
    pub(super) pinned: Vec<String>,
    pub(super) probes: Vec<Probe>,
}

impl Facts {
    /// `answer` is what the agent says on `socket`.
    pub(super) fn gather(settings: Settings, socket: PathBuf, answer: Result<Status, CtlError>) -> Self {
        let agent = Agent::from_answer(socket, answer);
        let node = &settings.node;
        let proc = proc(node);
        Self {
            unreadable: unreadable(&settings),
            machine: Machine::read(node, &proc),
            ports: ports::read(Path::new("/proc/net"), &proc, &wanted_ports(node)),
            network: Network::read(node),
            spaces: Spaces::read(node),
            pinned: pinned(&node.bpf_fs, settings.name()),
            probes: capture::read(agent.pods(), caps::user()),
            agent,
            settings,
        }
    }
}

/// The node's processes: its own view of them where it is mounted here.
fn proc(node: &Node) -> PathBuf {
    let mounted = node.kubernetes.as_ref().map(|kubernetes| kubernetes.proc.clone());
    mounted.filter(|proc| proc.join("1").exists()).unwrap_or_else(|| "/proc".into())
}

fn wanted_ports(node: &Node) -> [(&'static str, std::net::SocketAddr); 3] {
    [("admin", node.admin), ("metrics", node.metrics), ("readiness", node.readiness)]
}

fn unreadable(settings: &Settings) -> Vec<String> {
    let fails = |(field, path): (&str, &Path)| {
        let error = fs::read(path).err()?;
        Some(format!("{field} {}: {error}", path.display()))
    };
    settings.files().into_iter().filter_map(fails).collect()
}
