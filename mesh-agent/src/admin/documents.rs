//! The JSON documents of the admin socket: written by the node, read by `ctl` and by scripts.
//!
//! Only plain types, so that both ends and other programs agree. Times are relative (seconds, milliseconds), so that no
//! reader needs the node's clock. A field that is unknown is absent.

use serde::{Deserialize, Serialize};

/// `GET /status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub node: String,
    pub version: String,
    pub pid: u32,
    pub uptime_s: u64,
    pub shards: u32,
    /// Empty when ready: the names of what is still awaited.
    pub pending: Vec<String>,
    pub config: Config,
    /// Where the picture of the mesh comes from, if not from the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub istiod: Option<Istiod>,
    /// Where the pods come from, if from Kubernetes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<Kubernetes>,
    pub pods: Vec<Pod>,
    pub certificates: Vec<Certificate>,
    /// The authority's revocation list, if the node has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revocation: Option<Revocation>,
    pub connections: Connections,
    /// Counters of the capture programs, in display order.
    pub capture: Vec<Counter>,
    pub log_filter: String,
}

/// The configuration in force, and the last edit that was refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    pub file: String,
    /// Seconds since the configuration in force was loaded.
    pub loaded_s: u64,
    pub workloads: u64,
    pub services: u64,
    pub policies: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<Rejected>,
}

/// The stream to istiod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Istiod {
    pub address: String,
    /// `connecting`, `connected`, `disconnected`: what is in force stays in force.
    pub state: String,
    /// Seconds since that state began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_s: Option<u64>,
    /// Seconds until the next try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_s: Option<i64>,
    /// Seconds since the last response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_message_s: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The latest resources that could not be used, each with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejected: Vec<String>,
}

/// The API server, the plugin, and the pods that are not in the mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kubernetes {
    pub address: String,
    /// `connecting`, `connected`, `disconnected`: pods stay as they are.
    pub state: String,
    /// Seconds since that state began.
    pub since_s: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Where the plugin is; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin: Option<String>,
    /// How often what the agent keeps on the node for new pods had to be put right; absent without the plugin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repairs: Option<u64>,
    /// Pods of the node that are not in the mesh, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outside: Vec<Outside>,
    /// Pods of the mesh that something is wrong with beside their capture, such as that they are not found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub troubled: Vec<Outside>,
}

/// A pod that is not in the mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outside {
    pub namespace: String,
    pub name: String,
    pub reason: String,
}

/// The revocation list in force, and why its file as it is now is not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    pub file: String,
    /// Serial numbers in it.
    pub entries: u64,
    /// Seconds since it was loaded; absent if it never was, and nothing is revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loaded_s: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<Rejected>,
}

/// An edit that is not in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    /// Seconds since.
    pub ago_s: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    pub reason: String,
}

/// `GET /pods`: a list of these.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    pub namespace: String,
    pub name: String,
    pub addresses: Vec<String>,
    pub netns: String,
    pub interface: String,
    /// `captured`, `pending`, `failed`, `retiring`.
    pub state: String,
    /// `tcx` or `clsact`, once captured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capture: Option<String>,
    /// Connections to it are not captured.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bypasses_inbound: bool,
    /// Interfaces of virtual machines inside the pod, whose connections are the pod's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub virtual_interfaces: Vec<String>,
    /// Those of them that are not there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing_interfaces: Vec<String>,
    /// `refuse` or `pass`.
    pub when_down: String,
    /// Ports that are listened on inside the pod.
    pub listeners: Vec<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// `GET /certs`: a list of these.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    pub identity: String,
    /// `valid`, `expired`, `pending`, `failed`.
    pub state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Seconds until it expires; negative once it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_s: Option<i64>,
    /// Seconds until it is renewed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renews_s: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Open connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    pub outbound: u64,
    pub inbound: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    pub name: String,
    pub value: u64,
}

/// `GET /flows`: every connection that is open.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flows {
    pub node: String,
    pub flows: Vec<Flow>,
}

/// One open connection. `shard` and `number` together are its name as long as the agent runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    pub shard: u32,
    pub number: u64,
    pub direction: Direction,
    pub source: End,
    pub destination: End,
    /// Where the application wanted to go.
    pub original: String,
    /// The authority of the HBONE request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hbone: Option<String>,
    /// Host name of the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    pub security: Security,
    /// The ALLOW policy that matched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    pub age_ms: u64,
    /// Bytes from the client to the server.
    pub to_server: u64,
    /// Bytes from the server to the client.
    pub to_client: u64,
    /// Smoothed round-trip time of the application's socket, microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_us: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retransmits: Option<u32>,
}

/// One end of a flow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Address and port as TCP sees them.
    pub address: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Only when TLS proved it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
}

/// Seen from the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    Outbound,
    Inbound,
}

impl Direction {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Security {
    MutualTls,
    /// Without a wire: both ends are pods of this node.
    Local,
    /// The same, and the kernel carries the packets.
    Direct,
    Plain,
}

/// Answer of `POST /logging`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logging {
    pub filter: String,
}
