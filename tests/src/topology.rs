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
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use serde_json::{Map, Value};

/// A lab to be started.
#[derive(Clone, Debug)]
pub struct Topology {
    pub(crate) nodes: Vec<String>,
    pub(crate) pods: Vec<Pod>,
    pub(crate) services: Vec<Service>,
    pub(crate) authorization: String,
    pub(crate) peer_authentication: String,
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
    /// Further fields of `node` in the agents' files.
    pub(crate) node: Map<String, Value>,
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

/// What the mesh knows of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Membership {
    /// In the mesh and captured by its node's agent.
    Enrolled,
    /// A known workload outside the mesh, spoken to in plaintext.
    Plain,
    /// Not in the mesh's configuration at all.
    Unknown,
}

/// A pod: where it lives and what the mesh is told of it.
#[derive(Clone, Debug)]
pub struct Pod {
    pub name: String,
    pub node: String,
    pub namespace: String,
    pub service_account: String,
    pub membership: Membership,
    pub labels: BTreeMap<String, String>,
    pub probe_ports: Vec<u16>,
    /// `refuse` or `pass`.
    pub when_down: String,
    /// Assigned when the lab starts.
    pub addresses: Vec<IpAddr>,
    /// Further fields of its entry under `workloads`.
    pub more: Map<String, Value>,
}

/// A service.
#[derive(Clone, Debug)]
pub struct Service {
    pub name: String,
    pub namespace: String,
    /// Assigned when the lab starts, unless [`Service::headless`].
    pub addresses: Vec<IpAddr>,
    /// Port and target port.
    pub ports: Vec<(u16, u16)>,
    pub selector: BTreeMap<String, String>,
    /// Endpoints by name, as `namespace/name`.
    pub endpoints: Vec<String>,
    /// Further fields of its entry.
    pub more: Map<String, Value>,
    pub(crate) headless: Headless,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Headless {
    Yes,
    No,
}

impl Default for Topology {
    fn default() -> Self {
        Self::new()
    }
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
            node: Map::new(),
        };
        Self {
            nodes: vec!["n1".to_owned(), "n2".to_owned()],
            pods: Vec::new(),
            services: Vec::new(),
            authorization: String::new(),
            peer_authentication: String::new(),
            settings,
        }
    }

    /// Other nodes than `n1` and `n2`.
    #[must_use]
    pub fn nodes(mut self, names: &[&str]) -> Self {
        self.nodes = names.iter().map(|name| (*name).to_owned()).collect();
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

impl Pod {
    /// A captured pod of namespace `default`, whose service account has the pod's name.
    pub fn new(name: &str, node: &str) -> Self {
        Self {
            name: name.to_owned(),
            node: node.to_owned(),
            namespace: "default".to_owned(),
            service_account: name.to_owned(),
            membership: Membership::Enrolled,
            labels: BTreeMap::new(),
            probe_ports: Vec::new(),
            when_down: "refuse".to_owned(),
            addresses: Vec::new(),
            more: Map::new(),
        }
    }

    #[must_use]
    pub fn namespace(mut self, name: &str) -> Self {
        name.clone_into(&mut self.namespace);
        self
    }

    #[must_use]
    pub fn service_account(mut self, name: &str) -> Self {
        name.clone_into(&mut self.service_account);
        self
    }

    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Outside the mesh, but known to it.
    #[must_use]
    pub fn plain(mut self) -> Self {
        self.membership = Membership::Plain;
        self
    }

    /// Nothing that the mesh knows of.
    #[must_use]
    pub fn unknown(mut self) -> Self {
        self.membership = Membership::Unknown;
        self
    }

    /// A port that the kubelet probes.
    #[must_use]
    pub fn probe(mut self, port: u16) -> Self {
        self.probe_ports.push(port);
        self
    }

    /// Fails open: traffic passes uncaptured while no agent runs.
    #[must_use]
    pub fn passes_when_down(mut self) -> Self {
        "pass".clone_into(&mut self.when_down);
        self
    }

    /// A further field of its entry under `workloads`, such as `healthy`, `capacity` or `locality`.
    #[must_use]
    pub fn with(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.more.insert(field.to_owned(), value.into());
        self
    }

    /// `spiffe://` and the rest, for the trust domain that the lab has by default.
    pub fn identity(&self) -> String {
        self.identity_in("cluster.local")
    }

    pub(crate) fn identity_in(&self, trust_domain: &str) -> String {
        format!("spiffe://{trust_domain}/ns/{}/sa/{}", self.namespace, self.service_account)
    }
}

impl Service {
    /// A service of namespace `default` with addresses of both families.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            namespace: "default".to_owned(),
            addresses: Vec::new(),
            ports: Vec::new(),
            selector: BTreeMap::new(),
            endpoints: Vec::new(),
            more: Map::new(),
            headless: Headless::No,
        }
    }

    #[must_use]
    pub fn namespace(mut self, name: &str) -> Self {
        name.clone_into(&mut self.namespace);
        self
    }

    #[must_use]
    pub fn port(mut self, port: u16, target_port: u16) -> Self {
        self.ports.push((port, target_port));
        self
    }

    /// Pods of its namespace with this label are endpoints.
    #[must_use]
    pub fn selects(mut self, key: &str, value: &str) -> Self {
        self.selector.insert(key.to_owned(), value.to_owned());
        self
    }

    /// A pod that is an endpoint whatever its labels, as `namespace/name`.
    #[must_use]
    pub fn endpoint(mut self, name: &str) -> Self {
        self.endpoints.push(name.to_owned());
        self
    }

    /// No addresses of its own.
    #[must_use]
    pub fn headless(mut self) -> Self {
        self.headless = Headless::Yes;
        self
    }

    /// A further field of its entry, such as `publish_not_ready`.
    #[must_use]
    pub fn with(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.more.insert(field.to_owned(), value.into());
        self
    }
}

/// The node's number, from 1; 0 for one that does not exist, which starting the lab refuses.
pub(crate) fn node_number(nodes: &[String], name: &str) -> u8 {
    let at = nodes.iter().position(|node| node == name);
    at.and_then(|at| u8::try_from(at + 1).ok()).unwrap_or_default()
}

pub(crate) fn node_addresses(number: u8) -> (Ipv4Addr, Ipv6Addr) {
    let v6 = Ipv6Addr::new(0xfd00, 0x30, 0, 0, 0, 0, 0, u16::from(number));
    (Ipv4Addr::new(172, 30, 0, number), v6)
}

pub(crate) fn pod_addresses(node: u8, number: u8) -> Vec<IpAddr> {
    let v6 = Ipv6Addr::new(0xfd00, 0x40, u16::from(node), 0, 0, 0, 0, decimal(number));
    vec![Ipv4Addr::new(10, 40, node, number).into(), v6.into()]
}

fn service_addresses(number: u8) -> Vec<IpAddr> {
    let v6 = Ipv6Addr::new(0xfd00, 0x50, 0, 0, 0, 0, 0, decimal(number));
    vec![Ipv4Addr::new(10, 50, 0, number).into(), v6.into()]
}

/// The number whose hexadecimal digits are the decimal digits of `number`, so that both families read alike.
fn decimal(number: u8) -> u16 {
    let number = u16::from(number);
    ((number / 100) << 8) | ((number / 10 % 10) << 4) | (number % 10)
}
