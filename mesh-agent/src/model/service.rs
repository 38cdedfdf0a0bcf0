//! A service: a name, virtual addresses and ports in front of workloads (protocol note, section 2.2).

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::Identity;
use super::addr::NetworkAddress;
use super::balance::LoadBalancing;
use super::gateway::Waypoints;

/// Namespace and host name: the unique name of a service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    pub namespace: Arc<str>,
    pub hostname: Arc<str>,
}

impl ServiceKey {
    pub fn new(namespace: &str, hostname: &str) -> Self {
        Self { namespace: namespace.into(), hostname: hostname.into() }
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.hostname)
    }
}

/// What is spoken on a port, as far as the control plane knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AppProtocol {
    #[default]
    Unknown,
    Http11,
    Http2,
    Grpc,
    Tcp,
    Tls,
}

/// One port: what clients address, and what the workload listens on; target 0 means that each endpoint names its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    pub service: u16,
    pub target: u16,
    pub protocol: AppProtocol,
}

/// Ports by service port. Few, so sorted and searched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports(Box<[Port]>);

impl Ports {
    /// Of several entries with the same service port the last counts.
    pub fn new(mut ports: Vec<Port>) -> Self {
        ports.reverse();
        ports.sort_by_key(|port| port.service);
        ports.dedup_by_key(|port| port.service);
        Self(ports.into())
    }

    pub fn get(&self, service: u16) -> Option<u16> {
        let at = self.0.binary_search_by_key(&service, |port| port.service).ok()?;
        Some(self.0[at].target)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Port> {
        self.0.iter()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether some service port leads to `target`.
    pub fn lead_to(&self, target: u16) -> bool {
        self.0.iter().any(|port| port.target == target)
    }
}

impl FromIterator<(u16, u16)> for Ports {
    fn from_iter<I: IntoIterator<Item = (u16, u16)>>(pairs: I) -> Self {
        let port = |(service, target)| Port { service, target, protocol: AppProtocol::Unknown };
        Self::new(pairs.into_iter().map(port).collect())
    }
}

/// Which families of addresses clients may be sent to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IpFamilies {
    #[default]
    Automatic,
    V4Only,
    V6Only,
    Dual,
}

impl IpFamilies {
    pub fn admits(self, ip: IpAddr) -> bool {
        match self {
            Self::Automatic | Self::Dual => true,
            Self::V4Only => ip.is_ipv4(),
            Self::V6Only => ip.is_ipv6(),
        }
    }
}

/// Who sees a service by its addresses and names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Visibility {
    #[default]
    Public,
    /// Clients of its own namespace.
    Namespace,
}

/// Of several services at one address or name, which is preferred: Kubernetes Services are canonical.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    #[default]
    Ordinary,
    Canonical,
}

/// Whether gateways send what enters the mesh through the service's waypoint. The node does not decide that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IngressWaypoint {
    #[default]
    Skipped,
    Used,
}

/// A service. A headless one has no `vips`.
#[derive(Clone, Debug)]
pub struct Service {
    pub key: ServiceKey,
    pub name: Arc<str>,
    pub vips: Vec<NetworkAddress>,
    /// Virtual addresses given as blocks: network and block.
    pub cidr_vips: Vec<(Arc<str>, IpNet)>,
    pub ports: Ports,
    /// Further identities that endpoints may present.
    pub subject_alt_names: Vec<Identity>,
    pub waypoints: Waypoints,
    pub load_balancing: LoadBalancing,
    pub ip_families: IpFamilies,
    pub standing: Standing,
    pub visibility: Visibility,
    pub ingress: IngressWaypoint,
}

impl Service {
    /// A service without addresses, ports and preferences.
    pub fn new(key: ServiceKey, name: &str) -> Self {
        Self {
            key,
            name: name.into(),
            vips: Vec::new(),
            cidr_vips: Vec::new(),
            ports: Ports::default(),
            subject_alt_names: Vec::new(),
            waypoints: Waypoints::default(),
            load_balancing: LoadBalancing::default(),
            ip_families: IpFamilies::default(),
            standing: Standing::default(),
            visibility: Visibility::default(),
            ingress: IngressWaypoint::default(),
        }
    }

    pub fn visible_from(&self, namespace: &str) -> bool {
        self.visibility == Visibility::Public || *self.key.namespace == *namespace
    }
}

/// The service that a client of `namespace` means, of those that share an address or a name (protocol note, section 7.2):
/// only visible ones; its own namespace's, then a canonical one, then the first.
pub(super) fn meant<'a>(candidates: &'a [Arc<Service>], namespace: &str) -> Option<&'a Arc<Service>> {
    if let [only] = candidates {
        return Some(only).filter(|service| service.visible_from(namespace));
    }
    let rank = |service: &Service| (*service.key.namespace == *namespace, service.standing);
    // `max_by_key` gives the last of several; the first is wanted.
    candidates.iter().filter(|service| service.visible_from(namespace)).rev().max_by_key(|service| rank(service))
}
