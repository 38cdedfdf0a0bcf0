//! A workload: one pod or virtual machine, as the mesh knows it (protocol note, section 2.3).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::policy::PolicyName;
use super::service::ServiceKey;
use super::{BadIdentity, Identity};

/// How a workload wants to be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tunnel {
    /// In the mesh: HBONE to port 15008 of its own address.
    Hbone,
    /// Outside the mesh: plain TCP.
    #[default]
    None,
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

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Locality {
    pub region: String,
    pub zone: String,
    pub subzone: String,
}

/// One workload. `uid` is unique in the mesh (`cluster//v1/Pod/namespace/name` for pods).
#[derive(Clone, Debug)]
pub struct Workload {
    pub uid: Arc<str>,
    pub name: String,
    pub identity: Identity,
    pub network: Arc<str>,
    pub addresses: Vec<IpAddr>,
    pub tunnel: Tunnel,
    pub network_mode: NetworkMode,
    pub node: String,
    pub cluster: String,
    pub canonical_name: String,
    pub canonical_revision: String,
    /// The owner's name (Deployment and the like), for telemetry.
    pub workload_name: String,
    pub locality: Locality,
    pub health: Health,
    /// Selector policies that apply to this workload, in addition to namespace and global ones.
    pub policies: Vec<PolicyName>,
    /// Membership: service -> (service port -> port on this workload).
    pub services: BTreeMap<ServiceKey, BTreeMap<u16, u16>>,
    /// Load-balancing weight; 0 is never picked.
    pub capacity: u32,
}

impl Workload {
    /// A healthy in-mesh workload with this identity and name and everything else empty.
    pub fn new(uid: &str, name: &str, identity: Identity) -> Self {
        Self {
            uid: uid.into(),
            name: name.to_owned(),
            identity,
            network: "".into(),
            addresses: Vec::new(),
            tunnel: Tunnel::Hbone,
            network_mode: NetworkMode::Standard,
            node: String::new(),
            cluster: "Kubernetes".to_owned(),
            canonical_name: name.to_owned(),
            canonical_revision: "latest".to_owned(),
            workload_name: name.to_owned(),
            locality: Locality::default(),
            health: Health::Healthy,
            policies: Vec::new(),
            services: BTreeMap::new(),
            capacity: 1,
        }
    }

    pub fn namespace(&self) -> &str {
        self.identity.namespace()
    }
}

/// The default identity for a workload without a declared one.
pub fn default_identity(namespace: &str) -> Result<Identity, BadIdentity> {
    Identity::new("cluster.local", namespace, "default")
}
