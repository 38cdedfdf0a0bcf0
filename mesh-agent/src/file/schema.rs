//! What may be written in the node's file. Unknown fields are mistakes.

pub mod dns;
mod kubernetes;
mod peers;
mod policy;
mod same_node;
mod service;
mod tunnels;
pub mod xds;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::duration;
use super::port::Port;
pub use dns::Dns;
pub use kubernetes::{Cni, Kubernetes};
pub use peers::{Ca, Zds};
pub use policy::{Action, AuthorizationPolicy, From, Mode, Operation, PeerAuthentication, Rule, Source, To, When};
pub use same_node::{SameNode, SameNodeMode};
pub use service::{IpFamilies, Scope, Service, ServicePort, Traffic, TrafficMode, Visibility, WeightedWaypoint};
pub use tunnels::{Applications, Keepalive, Tunnels};
pub use xds::Xds;

/// The whole file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeFile {
    pub node: Node,
    #[serde(default)]
    pub pods: Vec<Spanned<Pod>>,
    #[serde(default)]
    pub workloads: Vec<Spanned<Workload>>,
    #[serde(default)]
    pub services: Vec<Spanned<Service>>,
    #[serde(default)]
    pub authorization_policies: Vec<Spanned<AuthorizationPolicy>>,
    #[serde(default)]
    pub peer_authentications: Vec<Spanned<PeerAuthentication>>,
    #[serde(default = "root_namespace")]
    pub root_namespace: String,
}

/// This node, and how the agent runs on it. Changes take effect at the next start.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    #[serde(deserialize_with = "name")]
    pub name: String,
    /// The node's own addresses: where kubelet probes come from.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    #[serde(default)]
    pub network: String,
    #[serde(default = "cluster")]
    pub cluster: String,
    #[serde(default = "trust_domain")]
    pub trust_domain: String,
    /// Threads that carry traffic; default one per core.
    #[serde(default, deserialize_with = "shards")]
    pub shards: Option<usize>,
    #[serde(default)]
    pub steering: Steering,
    #[serde(default = "run_dir")]
    pub run_dir: PathBuf,
    #[serde(default = "bpf_fs")]
    pub bpf_fs: PathBuf,
    /// The kernel's switch for quick grace periods, turned on while pods are enrolled or removed; null: never.
    #[serde(default = "rcu_expedited")]
    pub rcu_expedited: Option<PathBuf>,
    /// Root of a cgroup2 hierarchy that holds the pods; default the highest one that is mounted.
    pub cgroup: Option<PathBuf>,
    #[serde(default)]
    pub on_shutdown: OnShutdown,
    #[serde(default = "drain", deserialize_with = "duration::deserialize")]
    pub drain: Duration,
    #[serde(default)]
    pub capture: CaptureBy,
    #[serde(default = "metrics")]
    pub metrics: SocketAddr,
    #[serde(default = "readiness")]
    pub readiness: SocketAddr,
    /// Log lines from the eBPF programs, for debugging them.
    #[serde(default)]
    pub bpf_log: bool,
    #[serde(default)]
    pub dns: Dns,
    #[serde(default)]
    pub unknown_destinations: UnknownDestinations,
    #[serde(default)]
    pub tunnels: Tunnels,
    #[serde(default)]
    pub same_node: SameNode,
    #[serde(default)]
    pub keepalive: Keepalive,
    /// The pods come from Istio's CNI agent, which keeps rules in them, and not from this file.
    pub zds: Option<Zds>,
    /// The pods are those of this node that Kubernetes has, as far as they are in the mesh, and not those of this file.
    pub kubernetes: Option<Kubernetes>,
    /// The CNI plugin, for pods that come from Kubernetes.
    pub cni: Option<Cni>,
    /// The mesh is as an istiod says, not as this file does.
    pub xds: Option<Xds>,
    /// Where `/config_dump` and `/logging` are served, as Istio's tools expect.
    #[serde(default = "admin")]
    pub admin: SocketAddr,
    pub ca: Ca,
}

/// What happens to connections to addresses that the mesh does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnknownDestinations {
    #[default]
    Passthrough,
    Refuse,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnShutdown {
    #[default]
    Keep,
    Withdraw,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CaptureBy {
    #[default]
    Auto,
    Tcx,
    Clsact,
}

/// A pod of this node to enrol; the workload of the same name says what it is.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pod {
    #[serde(deserialize_with = "name")]
    pub name: String,
    #[serde(default = "default_name")]
    pub namespace: String,
    pub netns: PathBuf,
    /// For a pod that an istiod and not this file describes; default whatever it says.
    #[serde(default)]
    pub service_account: String,
    /// Its addresses, when an istiod and not this file says what the pod is.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    #[serde(default = "interface")]
    pub interface: String,
    #[serde(default)]
    pub probe_ports: Vec<Port>,
    #[serde(default)]
    pub when_down: WhenDown,
    /// Whether what it asks name servers is captured; default as the node says.
    pub dns_capture: Option<bool>,
    /// Whether connections to it reach it uncaptured.
    #[serde(default)]
    pub bypass_inbound_capture: bool,
    /// Interfaces inside the pod behind which virtual machines are.
    #[serde(default)]
    pub reroute_virtual_interfaces: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WhenDown {
    #[default]
    Refuse,
    Pass,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    #[serde(deserialize_with = "name")]
    pub name: String,
    #[serde(default = "default_name")]
    pub namespace: String,
    #[serde(default = "default_name")]
    pub service_account: String,
    #[serde(default)]
    pub trust_domain: Option<String>,
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    #[serde(default)]
    pub node: String,
    #[serde(default)]
    pub protocol: Protocol,
    #[serde(default)]
    pub network: Option<String>,
    #[serde(default)]
    pub network_mode: NetworkMode,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    pub workload_name: Option<String>,
    /// For a workload without addresses: a name to look up when it is connected to.
    pub hostname: Option<String>,
    /// `namespace/hostname` or an address, of what takes connections to it.
    pub waypoint: Option<String>,
    /// The same, of the entrance to its network.
    pub network_gateway: Option<String>,
    #[serde(default)]
    pub tunnel_end: TunnelEnd,
    pub application_tunnel: Option<ApplicationTunnel>,
    #[serde(default = "yes")]
    pub healthy: bool,
    #[serde(default = "one")]
    pub capacity: u32,
    #[serde(default)]
    pub locality: Locality,
}

/// Who ends the tunnels to a workload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TunnelEnd {
    #[default]
    Agent,
    Workload,
}

/// How inbound connections are handed to the application.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApplicationTunnel {
    #[serde(default)]
    pub protocol: TunnelProtocol,
    pub port: Option<Port>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum TunnelProtocol {
    #[default]
    None,
    Proxy,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum Protocol {
    #[default]
    #[serde(rename = "HBONE")]
    Hbone,
    #[serde(rename = "TCP")]
    Tcp,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    #[default]
    Standard,
    Host,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Locality {
    pub region: String,
    pub zone: String,
    pub subzone: String,
}

fn name<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    if name.is_empty() { Err(serde::de::Error::custom("a name must not be empty")) } else { Ok(name) }
}

/// Threads; more than this is a slip of the pen.
const MOST_SHARDS: usize = 1024;

/// Which of the shards a connection gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Steering {
    /// Any, by its addresses.
    Spread,
    /// That of the core on which it comes up, which stays there.
    #[default]
    Core,
}

fn shards<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    match Option::<usize>::deserialize(deserializer)? {
        Some(count) if !(1..=MOST_SHARDS).contains(&count) => Err(serde::de::Error::custom(format!(
            "{count} shards; write a number from 1 to {MOST_SHARDS}, or leave it out"
        ))),
        count => Ok(count),
    }
}

fn root_namespace() -> String {
    "istio-system".to_owned()
}

fn cluster() -> String {
    "Kubernetes".to_owned()
}

fn trust_domain() -> String {
    "cluster.local".to_owned()
}

fn run_dir() -> PathBuf {
    PathBuf::from("/run/mesh-agent")
}

fn rcu_expedited() -> Option<PathBuf> {
    Some(crate::sys::grace::SWITCH.into())
}

fn bpf_fs() -> PathBuf {
    PathBuf::from("/sys/fs/bpf")
}

fn drain() -> Duration {
    Duration::from_secs(5)
}

fn admin() -> SocketAddr {
    SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 15000)
}

fn metrics() -> SocketAddr {
    SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 15020)
}

fn readiness() -> SocketAddr {
    SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 15021)
}

fn default_name() -> String {
    "default".to_owned()
}

fn interface() -> String {
    "eth0".to_owned()
}

fn yes() -> bool {
    true
}

fn one() -> u32 {
    1
}
