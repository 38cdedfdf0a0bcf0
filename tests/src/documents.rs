//! What the agent's admin socket says, as far as tests look at it: a field that is not named here is passed over.

use serde::Deserialize;

/// `ctl status`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Status {
    pub node: String,
    pub pid: u32,
    /// Empty when ready.
    pub pending: Vec<String>,
    pub config: Config,
    /// Only where an istiod says what the mesh is.
    pub istiod: Option<Istiod>,
    pub pods: Vec<Pod>,
    pub certificates: Vec<Certificate>,
    pub connections: Connections,
    pub capture: Vec<Counter>,
}

/// The agent's stream to istiod.
#[derive(Clone, Debug, Deserialize)]
pub struct Istiod {
    pub state: String,
    pub error: Option<String>,
    #[serde(default)]
    pub rejected: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Config {
    pub workloads: u64,
    pub services: u64,
    pub policies: u64,
    pub rejected: Option<Rejected>,
}

/// An edit of the file that is not in force.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Rejected {
    pub line: Option<u64>,
    pub reason: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Pod {
    pub namespace: String,
    pub name: String,
    /// `captured` when it is enrolled, `captured (taken over)` when a former agent had enrolled it.
    pub state: String,
    /// `tcx` or `clsact`.
    pub capture: Option<String>,
    pub bypasses_inbound: bool,
    pub missing_interfaces: Vec<String>,
    pub when_down: String,
    pub listeners: Vec<u16>,
    pub error: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Certificate {
    pub identity: String,
    /// `valid`, `expired`, `pending`, `failed`.
    pub state: String,
    pub serial: Option<String>,
    pub expires_s: Option<i64>,
    pub error: Option<String>,
}

/// Open connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Connections {
    pub outbound: u64,
    pub inbound: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Counter {
    pub name: String,
    pub value: u64,
}

/// `ctl flows`: one open connection.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Flow {
    /// `outbound` or `inbound`.
    pub direction: String,
    pub source: End,
    pub destination: End,
    pub original: String,
    pub hbone: Option<String>,
    pub service: Option<String>,
    /// `mutual_tls`, `local`, `direct` or `plain`.
    pub security: String,
    pub policy: Option<String>,
    pub age_ms: u64,
    /// Of the agent that tells of it.
    pub shard: u32,
    pub to_server: u64,
    pub to_client: u64,
    pub rtt_us: Option<u32>,
    pub retransmits: Option<u32>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct End {
    pub address: String,
    pub workload: Option<String>,
    pub namespace: Option<String>,
    pub identity: Option<String>,
}

/// The whole answer of `ctl flows`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Flows {
    pub(crate) flows: Vec<Flow>,
}

impl Status {
    /// The pod called `name`, in whatever namespace.
    pub fn pod(&self, name: &str) -> Option<&Pod> {
        self.pods.iter().find(|pod| pod.name == name)
    }

    /// A capture counter; 0 when there is none of this name.
    pub fn counter(&self, name: &str) -> u64 {
        self.capture.iter().find(|counter| counter.name == name).map_or(0, |counter| counter.value)
    }
}
