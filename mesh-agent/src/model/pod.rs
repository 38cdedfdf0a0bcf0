//! A pod of this node that is to be enrolled: what the capture needs to know of it.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// What happens to a flow that should be captured when the agent has no listener for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenDown {
    /// Dropped: nothing leaves in plaintext.
    #[default]
    Refuse,
    /// Passed on as if the pod were not enrolled.
    Pass,
}

/// One local pod. `uid` is also the uid of its [`super::Workload`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSpec {
    pub uid: Arc<str>,
    pub name: String,
    pub namespace: String,
    /// Path of the network namespace, such as `/var/run/netns/x` or `/proc/PID/ns/net`.
    pub netns: PathBuf,
    /// The pod's interface towards the node.
    pub interface: String,
    pub addresses: Vec<IpAddr>,
    /// Ports that the kubelet probes: from a node address straight to the application.
    pub probe_ports: Vec<u16>,
    /// The node's own addresses, where probes come from.
    pub node_addresses: Vec<IpAddr>,
    pub when_down: WhenDown,
}
