//! A workload: one pod or virtual machine, as the mesh knows it (protocol note, section 2.3).
//!
//! A mesh has 100,000 of them, so texts that many share are `Arc`s, and there are no maps inside.

use std::net::IpAddr;
use std::sync::Arc;

use super::Identity;
use super::gateway::GatewayAddress;
use super::policy::PolicyName;
use super::service::{Ports, ServiceKey};

/// How a workload wants to be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tunnel {
    /// In the mesh: HBONE to port 15008 of its own address.
    Hbone,
    /// Outside the mesh: plain TCP.
    #[default]
    None,
}

/// Who ends the tunnels to a workload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TunnelEnd {
    /// Its node's agent.
    #[default]
    Agent,
    /// The workload itself (a waypoint, a gateway): what arrives for it is not captured.
    Workload,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    #[default]
    Healthy,
    Unhealthy,
}

/// A host-network workload shares its node's address, so it is never found by address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NetworkMode {
    #[default]
    Standard,
    HostNetwork,
}

/// What kind of object owns the workload. Control planes say `Pod` whatever it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WorkloadType {
    Deployment,
    CronJob,
    #[default]
    Pod,
    Job,
}

impl WorkloadType {
    /// As in baggage keys and documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deployment => "deployment",
            Self::CronJob => "cronjob",
            Self::Pod => "pod",
            Self::Job => "job",
        }
    }
}

/// How an inbound connection is handed to the application (section 6.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppTunnel {
    pub protocol: AppTunnelProtocol,
    /// The application's port; none keeps the one that was asked for.
    pub port: Option<u16>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AppTunnelProtocol {
    /// As it is.
    #[default]
    None,
    /// After a PROXY protocol header.
    Proxy,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Locality {
    pub region: Arc<str>,
    pub zone: Arc<str>,
    pub subzone: Arc<str>,
}

impl Default for Locality {
    fn default() -> Self {
        Self { region: "".into(), zone: "".into(), subzone: "".into() }
    }
}

/// The services that a workload belongs to, each with the ports on which it serves it. Few, so sorted and searched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memberships(Vec<(ServiceKey, Ports)>);

impl Memberships {
    pub fn insert(&mut self, service: ServiceKey, ports: Ports) {
        match self.find(&service) {
            Ok(at) => self.0[at].1 = ports,
            Err(at) => self.0.insert(at, (service, ports)),
        }
    }

    pub fn get(&self, service: &ServiceKey) -> Option<&Ports> {
        self.find(service).ok().map(|at| &self.0[at].1)
    }

    pub fn contains(&self, service: &ServiceKey) -> bool {
        self.find(service).is_ok()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&ServiceKey, &Ports)> {
        self.0.iter().map(|(key, ports)| (key, ports))
    }

    pub fn keys(&self) -> impl Iterator<Item = &ServiceKey> {
        self.0.iter().map(|(key, _)| key)
    }

    fn find(&self, service: &ServiceKey) -> Result<usize, usize> {
        self.0.binary_search_by(|(key, _)| key.cmp(service))
    }
}

impl FromIterator<(ServiceKey, Ports)> for Memberships {
    fn from_iter<I: IntoIterator<Item = (ServiceKey, Ports)>>(entries: I) -> Self {
        let mut all = Self::default();
        for (service, ports) in entries {
            all.insert(service, ports);
        }
        all.0.shrink_to_fit();
        all
    }
}

/// One workload. `uid` is unique in the mesh (`cluster//Pod/namespace/name` for pods).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    pub uid: Arc<str>,
    pub name: Arc<str>,
    pub identity: Identity,
    pub network: Arc<str>,
    pub addresses: Vec<IpAddr>,
    /// For a workload without addresses: a name to look up when it is connected to.
    pub hostname: Option<Arc<str>>,
    pub tunnel: Tunnel,
    pub tunnel_end: TunnelEnd,
    pub network_mode: NetworkMode,
    pub node: Arc<str>,
    pub cluster: Arc<str>,
    pub canonical_name: Arc<str>,
    pub canonical_revision: Arc<str>,
    /// The owner's name (Deployment and the like), for telemetry.
    pub workload_name: Arc<str>,
    pub workload_type: WorkloadType,
    pub locality: Arc<Locality>,
    pub health: Health,
    pub waypoint: Option<Arc<GatewayAddress>>,
    /// The entrance of its network, for clients on other networks.
    pub network_gateway: Option<Arc<GatewayAddress>>,
    pub app_tunnel: Option<AppTunnel>,
    /// Selector policies that apply to this workload, in addition to namespace and global ones.
    pub policies: Vec<PolicyName>,
    pub services: Memberships,
    /// Load-balancing weight; 0 is never picked.
    pub capacity: u32,
}

impl Workload {
    /// A healthy in-mesh workload with this identity and name and everything else empty.
    pub fn new(uid: &str, name: &str, identity: Identity) -> Self {
        let (name, empty): (Arc<str>, Arc<str>) = (name.into(), "".into());
        Self {
            uid: uid.into(),
            identity,
            network: Arc::clone(&empty),
            addresses: Vec::new(),
            hostname: None,
            tunnel: Tunnel::Hbone,
            tunnel_end: TunnelEnd::default(),
            network_mode: NetworkMode::Standard,
            node: empty,
            cluster: "Kubernetes".into(),
            canonical_name: Arc::clone(&name),
            canonical_revision: "latest".into(),
            workload_name: Arc::clone(&name),
            name,
            workload_type: WorkloadType::default(),
            locality: Arc::default(),
            health: Health::Healthy,
            waypoint: None,
            network_gateway: None,
            app_tunnel: None,
            policies: Vec::new(),
            services: Memberships::default(),
            capacity: 1,
        }
    }

    pub fn namespace(&self) -> &str {
        self.identity.namespace()
    }

    /// Whether there is something to connect to that the client's own network can reach.
    pub fn has_address(&self) -> bool {
        !self.addresses.is_empty() || self.hostname.is_some()
    }

    /// The port it takes instead of the one asked for, if its application tunnel says so.
    pub fn tunnel_port(&self) -> Option<u16> {
        self.app_tunnel.and_then(|tunnel| tunnel.port)
    }
}
