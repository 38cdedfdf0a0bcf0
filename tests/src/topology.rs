//! What a lab is made of: nodes, pods, services, and how the agents are to run.
//!
//! Nodes and pods get addresses of both families by their place in the list, so that a lab always looks the same:
//!
//! | | IPv4 | IPv6 |
//! |---|---|---|
//! | node K | `172.30.0.K` | `fd00:30::K` |
//! | pod I of node K | `10.40.K.(9+I)` | `fd00:40:K::(9+I)`, the number in decimal digits |
//! | service J | `10.50.0.J` | `fd00:50::J` |

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Map, Value};

mod addresses;
mod pod;
mod service;

use addresses::service_addresses;
pub(crate) use addresses::{node_addresses, node_number, pod_addresses};
pub use pod::{Membership, Pod};
use service::Headless;
pub use service::Service;

/// A lab to be started.
#[derive(Clone, Debug)]
pub struct Topology {
    pub(crate) nodes: Vec<String>,
    pub(crate) pods: Vec<Pod>,
    pub(crate) services: Vec<Service>,
    pub(crate) authorization: String,
    pub(crate) peer_authentication: String,
    /// Networks of nodes that are not on the one without a name.
    pub(crate) networks: BTreeMap<String, String>,
    pub(crate) settings: Settings,
}

/// How the processes are to run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The lab's name, for one that others must find; default one of its own.
    pub(crate) name: Option<String>,
    pub(crate) binary: Option<PathBuf>,
    /// Whether [`crate::Lab::start`] starts the agents.
    pub(crate) agents: Start,
    pub(crate) log: String,
    pub(crate) log_format: LogFormat,
    pub(crate) trust_domain: String,
    pub(crate) certificate_ttl: String,
    pub(crate) pods: PodSource,
    /// Further fields of `node` in the agents' files.
    pub(crate) node: Map<String, Value>,
    /// Kubernetes and istiod, for labs that have them.
    pub(crate) kubernetes: Option<crate::kube::Settings>,
}

/// Where the agents hear of their pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodSource {
    /// In their files.
    File,
    /// From a CNI agent, which is the caller's part: [`crate::zds`].
    Cni,
}

/// When the agents start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the lab.
    AtOnce,
    /// When [`crate::Agent::start`] is called.
    OnDemand,
}

/// The agents' log format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Json,
    Text,
}

impl Default for Topology {
    fn default() -> Self {
        Self::new()
    }
}

/// Fields of `node`, as a JSON object, that agents get whose lab says nothing else of them: every test in another mode.
pub const NODE_VARIABLE: &str = "MESH_LAB_NODE";

/// What [`NODE_VARIABLE`] says.
#[expect(clippy::disallowed_methods, reason = "of the run, not of a lab")]
fn usual() -> Map<String, Value> {
    let Ok(text) = std::env::var(NODE_VARIABLE) else { return Map::new() };
    // A run in another mode than was asked for would prove nothing.
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{NODE_VARIABLE}={text}: {error}"))
}

impl Topology {
    /// Two nodes, `n1` and `n2`, and nothing else.
    pub fn new() -> Self {
        let settings = Settings {
            name: None,
            binary: None,
            agents: Start::AtOnce,
            log: "info".to_owned(),
            log_format: LogFormat::Json,
            trust_domain: "cluster.local".to_owned(),
            certificate_ttl: "24h".to_owned(),
            pods: PodSource::File,
            node: usual(),
            kubernetes: None,
        };
        Self {
            nodes: vec!["n1".to_owned(), "n2".to_owned()],
            pods: Vec::new(),
            services: Vec::new(),
            authorization: String::new(),
            peer_authentication: String::new(),
            networks: BTreeMap::new(),
            settings,
        }
    }

    /// Other nodes than `n1` and `n2`.
    #[must_use]
    pub fn nodes(mut self, names: &[&str]) -> Self {
        self.nodes = names.iter().map(|name| (*name).to_owned()).collect();
        self
    }

    /// Puts a node and its pods on a network: those of other networks do not see the pods. Packets get there all the same,
    /// which is how a test sees that none are sent.
    #[must_use]
    pub fn network(mut self, node: &str, network: &str) -> Self {
        self.networks.insert(node.to_owned(), network.to_owned());
        self
    }

    #[must_use]
    pub fn pod(mut self, pod: Pod) -> Self {
        self.pods.push(pod);
        self
    }

    #[must_use]
    pub fn service(mut self, service: Service) -> Self {
        self.services.push(service);
        self
    }

    /// Authorization policies from the start: a YAML list.
    #[must_use]
    pub fn authorize(mut self, policies: &str) -> Self {
        self.authorization.push_str(&crate::world::list(policies));
        self
    }

    /// Peer authentications from the start: a YAML list.
    #[must_use]
    pub fn peer_authentication(mut self, policies: &str) -> Self {
        self.peer_authentication.push_str(&crate::world::list(policies));
        self
    }

    /// A field of `node` in each agent's file, such as `drain`, `shards`, `capture` or `on_shutdown`.
    #[must_use]
    pub fn node_setting(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.settings.node.insert(name.to_owned(), value.into());
        self
    }

    /// How pods of one node talk, whatever [`NODE_VARIABLE`] says: for tests that are about one of the modes.
    #[must_use]
    pub fn same_node(self, mode: &str) -> Self {
        self.node_setting("same_node", serde_json::json!({"mode": mode}))
    }

    /// A Kubernetes API with the lab's nodes, pods and services in it, and an istiod, which is the agents' authority.
    #[must_use]
    pub fn kubernetes(mut self, settings: crate::kube::Settings) -> Self {
        self.settings.kubernetes = Some(settings);
        self
    }

    /// Longest lifetime of a certificate, such as `10s`.
    #[must_use]
    pub fn certificate_ttl(mut self, lifetime: &str) -> Self {
        lifetime.clone_into(&mut self.settings.certificate_ttl);
        self
    }

    #[must_use]
    pub fn trust_domain(mut self, name: &str) -> Self {
        name.clone_into(&mut self.settings.trust_domain);
        self
    }

    /// The agents' log filter; `info` unless said otherwise. [`crate::Lab::publish`] needs `info` of the rest.
    #[must_use]
    pub fn log(mut self, filter: &str) -> Self {
        filter.clone_into(&mut self.settings.log);
        self
    }

    #[must_use]
    pub fn log_format(mut self, format: LogFormat) -> Self {
        self.settings.log_format = format;
        self
    }

    /// Agents that take their pods from a CNI agent, which is the caller's part, and so is starting them then.
    #[must_use]
    pub fn handed_over(mut self) -> Self {
        self.settings.pods = PodSource::Cni;
        self.without_agents()
    }

    /// Leaves starting the agents to the caller; the authority runs.
    #[must_use]
    pub fn without_agents(mut self) -> Self {
        self.settings.agents = Start::OnDemand;
        self
    }

    /// Another agent than [`crate::binary::find`] gives.
    #[must_use]
    pub fn binary(mut self, path: PathBuf) -> Self {
        self.settings.binary = Some(path);
        self
    }

    /// A name by which others find the lab's namespaces. Two labs of one name cannot run at a time.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.settings.name = Some(name.to_owned());
        self
    }

    /// Gives pods and services the addresses of their places.
    pub(crate) fn assign_addresses(&mut self) {
        let mut counts = BTreeMap::new();
        for pod in &mut self.pods {
            let node = node_number(&self.nodes, &pod.node);
            let count = counts.entry(node).or_insert(0);
            *count += 1;
            pod.addresses = pod_addresses(node, 9 + *count);
        }
        for (at, service) in (1..).zip(&mut self.services) {
            if service.headless == Headless::No && service.addresses.is_empty() {
                service.addresses = service_addresses(at);
            }
        }
    }
}
