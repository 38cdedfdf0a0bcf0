//! A pod of this node that is to be enrolled: what the capture needs to know of it, and how it is doing.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::sys::netns::Netns;

/// What happens to a flow that should be captured when the agent has no listener for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenDown {
    /// Dropped: nothing leaves in plaintext.
    #[default]
    Refuse,
    /// Passed on as if the pod were not enrolled.
    Pass,
}

/// One local pod. Its workload is the one with its name, namespace and service account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSpec {
    /// The pod's own id, unique on the node for as long as the pod lives: for one that a CNI agent hands over, the
    /// Kubernetes uid of the pod.
    pub uid: Arc<str>,
    pub name: String,
    pub namespace: String,
    pub service_account: String,
    pub netns: PodNetns,
    pub captured: Captured,
}

/// Where a pod's network namespace is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodNetns {
    /// By its path, such as `/var/run/netns/x` or `/proc/PID/ns/net`. What is there may change.
    Path(PathBuf),
    /// By the handle of what was at the path when it was looked at; by the path a later process finds it.
    Proven { path: PathBuf, netns: Netns },
    /// By an open handle: always the same namespace.
    Handle(Netns),
}

/// What brings the pod's connections to the agent's listeners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Captured {
    /// The agent's own programs. They leave the packets as they are: an accepted socket's own address is where its client
    /// wanted to go.
    ByPrograms(Programs),
    /// Rules that somebody else keeps in the pod. They write the listener's address into the packets; where the client
    /// wanted to go is what connection tracking remembers.
    ByRules,
}

/// What the programs of one pod go by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Programs {
    /// The pod's interface towards the node.
    pub interface: String,
    pub addresses: Vec<IpAddr>,
    /// Ports that the kubelet probes: from a node address straight to the application.
    pub probe_ports: Vec<u16>,
    /// The node's own addresses, where probes come from.
    pub node_addresses: Vec<IpAddr>,
    pub when_down: WhenDown,
    /// Whether what the pod asks name servers is captured, if it is not as for the node's other pods.
    pub names: Option<bool>,
    pub inbound: Inbound,
    /// Interfaces inside the pod behind which virtual machines are: what those open is the pod's.
    pub virtual_interfaces: Vec<String>,
    pub older: Older,
}

/// What becomes of connections that come to the pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Inbound {
    #[default]
    Captured,
    /// They reach the application as if there were no mesh. Tunnels to the HBONE port are served all the same.
    Bypassed,
}

/// What becomes of connections that are open when the capture begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Older {
    /// They go on beside the mesh to their end: the pod was none of the mesh's until now.
    #[default]
    LeftAlone,
    /// They should not exist.
    Cut,
}

impl fmt::Display for PodNetns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) | Self::Proven { path, .. } => path.display().fmt(f),
            Self::Handle(netns) => write!(f, "net:[{}]", netns.inode()),
        }
    }
}

/// How a pod is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodState {
    Enrolled,
    /// A former agent's capture was taken over.
    Adopted,
    /// Captured as it was: the last change could not be made.
    Outdated(String),
    Draining,
    Failed(String),
}

impl PodState {
    /// Whether the pod's new connections are taken.
    pub fn is_captured(&self) -> bool {
        matches!(self, Self::Enrolled | Self::Adopted | Self::Outdated(_))
    }
}

/// One pod's state, for status and readiness, and for whoever wanted the pod enrolled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodStatus {
    /// The very spec that was tried, not only an equal one.
    pub spec: Arc<PodSpec>,
    pub state: PodState,
}
