//! A service: a name, virtual addresses and ports in front of workloads (protocol note, section 2.2).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::Identity;
use super::addr::NetworkAddress;

/// Namespace and host name: the unique name of a service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    pub namespace: Arc<str>,
    pub hostname: Arc<str>,
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.hostname)
    }
}

/// A service. A headless one has no `vips`.
#[derive(Clone, Debug)]
pub struct Service {
    pub key: ServiceKey,
    pub name: String,
    pub vips: Vec<NetworkAddress>,
    /// Service port -> target port; 0 means that each endpoint names its own.
    pub ports: BTreeMap<u16, u16>,
    /// Further identities that endpoints may present.
    pub subject_alt_names: Vec<Identity>,
    /// Endpoints whose workloads are not ready are used too (`publishNotReadyAddresses`).
    pub publish_not_ready: PublishNotReady,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PublishNotReady {
    #[default]
    OnlyHealthy,
    All,
}
