//! What may be written in the node's file. Unknown fields are mistakes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::duration;
use super::port::Port;
pub use dns::Dns;
use forms::{https, name, shards};

pub mod dns;
mod forms;

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
    #[serde(default = "run_dir")]
    pub run_dir: PathBuf,
    #[serde(default = "bpf_fs")]
    pub bpf_fs: PathBuf,
    /// Root of a cgroup2 hierarchy that holds the pods; default the first one mounted.
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
    pub ca: Ca,
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

/// Where the certificate authority is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ca {
    #[serde(deserialize_with = "https")]
    pub address: String,
    pub root: PathBuf,
    pub token: PathBuf,
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
    #[serde(default = "interface")]
    pub interface: String,
    #[serde(default)]
    pub probe_ports: Vec<Port>,
    #[serde(default)]
    pub when_down: WhenDown,
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
    #[serde(default = "yes")]
    pub healthy: bool,
    #[serde(default = "one")]
    pub capacity: u32,
    #[serde(default)]
    pub locality: Locality,
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

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    #[serde(deserialize_with = "name")]
    pub name: String,
    #[serde(default = "default_name")]
    pub namespace: String,
    pub hostname: Option<String>,
    /// Virtual addresses; none for a headless service.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    #[serde(default)]
    pub ports: Vec<ServicePort>,
    /// Workloads of the namespace with these labels are endpoints.
    #[serde(default)]
    pub selector: BTreeMap<String, String>,
    /// Further endpoints, as `namespace/name`.
    #[serde(default)]
    pub endpoints: Vec<String>,
    #[serde(default)]
    pub publish_not_ready: bool,
    #[serde(default)]
    pub subject_alt_names: Vec<String>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServicePort {
    pub port: Port,
    pub target_port: Option<Port>,
}

/// The Kubernetes object's `spec`, with its name and namespace beside.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthorizationPolicy {
    #[serde(deserialize_with = "name")]
    pub name: String,
    #[serde(default = "default_name")]
    pub namespace: String,
    #[serde(default)]
    pub selector: Option<BTreeMap<String, String>>,
    #[serde(default)]
    pub action: Action,
    #[serde(default)]
    pub dry_run: bool,
    #[serde(default)]
    pub rules: Vec<Rule>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Action {
    #[default]
    Allow,
    Deny,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rule {
    pub from: Vec<From>,
    pub to: Vec<To>,
    pub when: Vec<When>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct From {
    pub source: Source,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Source {
    pub principals: Vec<String>,
    pub not_principals: Vec<String>,
    pub namespaces: Vec<String>,
    pub not_namespaces: Vec<String>,
    pub service_accounts: Vec<String>,
    pub not_service_accounts: Vec<String>,
    pub ip_blocks: Vec<String>,
    pub not_ip_blocks: Vec<String>,
    pub request_principals: Vec<String>,
    pub not_request_principals: Vec<String>,
    pub remote_ip_blocks: Vec<String>,
    pub not_remote_ip_blocks: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct To {
    pub operation: Operation,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Operation {
    pub ports: Vec<String>,
    pub not_ports: Vec<String>,
    pub hosts: Vec<String>,
    pub not_hosts: Vec<String>,
    pub methods: Vec<String>,
    pub not_methods: Vec<String>,
    pub paths: Vec<String>,
    pub not_paths: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct When {
    pub key: String,
    #[serde(default)]
    pub values: Vec<String>,
    #[serde(default)]
    pub not_values: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerAuthentication {
    #[serde(deserialize_with = "name")]
    pub name: String,
    #[serde(default = "default_name")]
    pub namespace: String,
    #[serde(default)]
    pub selector: Option<BTreeMap<String, String>>,
    #[serde(default)]
    pub mode: Mode,
    #[serde(default)]
    pub port_level: BTreeMap<Port, Mode>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Mode {
    #[default]
    Unset,
    Disable,
    Permissive,
    Strict,
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

fn bpf_fs() -> PathBuf {
    PathBuf::from("/sys/fs/bpf")
}

fn drain() -> Duration {
    Duration::from_secs(5)
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
