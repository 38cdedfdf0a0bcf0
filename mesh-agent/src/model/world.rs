//! One immutable picture of the mesh, indexed by what the hot path asks: every look-up is a hash or two, and the choice of
//! an endpoint costs the same for ten as for ten thousand ([`super::endpoints`]).
//!
//! A [`World`] is cheap to clone and shares nearly all of its memory with the one before it. The [`super::store::Store`]
//! makes them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::addr::{NetworkAddress, NetworkIp};
use super::blocks::Blocks;
use super::cow::CowMap;
use super::endpoints::Endpoints;
use super::gateway::GatewayAddress;
use super::policy::{Policy, PolicyName};
use super::route::gateway;
use super::ruling::{Policies, Ruling, Selected, Selections};
use super::service::{Service, ServiceKey, meant};
use super::store::Store;
use super::workload::Workload;

/// What happens to connections to addresses that the mesh does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownDestination {
    /// They go on plainly.
    #[default]
    Passthrough,
    /// They are refused ("registry only").
    Refused,
}

/// Where in the mesh this node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub node: Arc<str>,
    pub network: Arc<str>,
    pub unknown: UnknownDestination,
}

impl Default for Place {
    fn default() -> Self {
        Self { node: "".into(), network: "".into(), unknown: UnknownDestination::default() }
    }
}

/// Everything the data path knows at one moment.
#[derive(Clone, Debug, Default)]
pub struct World {
    pub(super) place: Place,
    pub(super) by_uid: CowMap<Arc<str>, Arc<Workload>>,
    /// The best first.
    pub(super) by_address: CowMap<NetworkAddress, Arc<[Arc<Workload>]>>,
    pub(super) services: CowMap<ServiceKey, Arc<Service>>,
    pub(super) by_hostname: CowMap<Arc<str>, Arc<[Arc<Service>]>>,
    /// Workloads that are known by a name of their own.
    pub(super) by_name: CowMap<Arc<str>, Arc<Workload>>,
    /// Services that share a virtual address; nearly always one.
    pub(super) by_vip: CowMap<NetworkAddress, Arc<[Arc<Service>]>>,
    pub(super) blocks: Arc<HashMap<Arc<str>, Blocks>>,
    pub(super) endpoints: CowMap<ServiceKey, Arc<Endpoints>>,
    pub(super) policies: Arc<Policies>,
    pub(super) local: Arc<Local>,
    pub(super) selections: Arc<Selections>,
}

/// The node's own workloads, by namespace and name.
pub(super) type Local = HashMap<Arc<str>, HashMap<Arc<str>, Arc<Workload>>>;

impl World {
    /// A whole world at once. Later entries with the same key replace earlier ones.
    pub fn new(place: Place, workloads: Vec<Workload>, services: Vec<Service>, policies: Vec<Policy>) -> Self {
        let mut store = Store::new(place);
        policies.into_iter().for_each(|policy| store.put_policy(policy));
        services.into_iter().for_each(|service| store.put_service(service));
        workloads.into_iter().for_each(|workload| store.put_workload(workload));
        store.world()
    }

    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The best workload at this address of this network; host-network workloads are never found.
    pub fn workload_at(&self, network: &str, ip: IpAddr) -> Option<&Arc<Workload>> {
        self.by_address.get(&NetworkIp(network, ip))?.first()
    }

    pub fn workload_by_uid(&self, uid: &str) -> Option<&Arc<Workload>> {
        self.by_uid.get(uid)
    }

    /// A workload that is reached by this host name.
    pub fn workload_named(&self, hostname: &str) -> Option<&Arc<Workload>> {
        self.by_name.get(hostname)
    }

    /// This node's workload of that name.
    pub fn local_workload(&self, namespace: &str, name: &str) -> Option<&Arc<Workload>> {
        self.local.get(namespace)?.get(name)
    }

    /// This node's workloads.
    pub fn local_workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.local.values().flat_map(HashMap::values)
    }

    /// The service with this virtual address that a client of `client_namespace` means (protocol note, section 7.2).
    pub fn service_at(&self, network: &str, ip: IpAddr, client_namespace: &str) -> Option<&Arc<Service>> {
        let exact = self.by_vip.get(&NetworkIp(network, ip)).and_then(|all| meant(all, client_namespace));
        exact.or_else(|| self.blocks.get(network)?.meant(ip, client_namespace))
    }

    /// Whether the address itself, not only a block around it, is some service's.
    pub fn is_virtual(&self, network: &str, ip: IpAddr) -> bool {
        self.by_vip.get(&NetworkIp(network, ip)).is_some()
    }

    pub fn service(&self, key: &ServiceKey) -> Option<&Arc<Service>> {
        self.services.get(key)
    }

    /// Whether `workload` is the waypoint of what has this address: then requests for the address are its business
    /// (protocol note, section 8.2).
    pub fn is_waypoint_of(&self, workload: &Workload, ip: IpAddr) -> bool {
        let is = |gateway: &GatewayAddress| gateway::is(self, gateway, workload);
        let service = self.service_at(&workload.network, ip, workload.namespace());
        let of_workload = || self.workload_at(&workload.network, ip)?.waypoint.as_deref().map(is);
        service.is_some_and(|service| self.is_waypoint_of_service(workload, service)) || of_workload() == Some(true)
    }

    /// Whether `workload` is a waypoint of `service`.
    pub fn is_waypoint_of_service(&self, workload: &Workload, service: &Service) -> bool {
        service.waypoints.iter().any(|gateway| gateway::is(self, gateway, workload))
    }

    /// The services of that host name, in lower case, in all namespaces.
    pub fn services_named(&self, hostname: &str) -> &[Arc<Service>] {
        self.by_hostname.get(hostname).map_or(&[], |all| &**all)
    }

    /// Who serves a service.
    pub fn endpoints(&self, key: &ServiceKey) -> Option<&Arc<Endpoints>> {
        self.endpoints.get(key)
    }

    pub fn policy(&self, name: &PolicyName) -> Option<&Arc<Policy>> {
        self.policies.by_name.get(name)
    }

    /// What the policies decide that apply to every workload of a namespace: global ones, then the namespace's.
    pub(super) fn rulings_of(&self, namespace: &str) -> [Option<&Ruling>; 2] {
        [Some(&*self.policies.global), self.policies.of_namespace(namespace).map(|ruling| &**ruling)]
    }

    /// What the policies decide that select the workload: compiled already if it is one of this node's.
    pub(super) fn selected_for(&self, workload: &Workload) -> Option<Arc<Selected>> {
        if workload.policies.is_empty() {
            return None;
        }
        let compiled = self.selections.of(workload).map(Arc::clone);
        Some(compiled.unwrap_or_else(|| Arc::new(Selected::by(workload, &self.policies, None))))
    }

    /// Whether every question of authorisation on this node has the same answer in `other`: nothing that they depend on was
    /// changed between the two. (May say no when it has.)
    pub fn judges_like(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.policies, &other.policies) && Arc::ptr_eq(&self.local, &other.local)
    }

    /// How many workloads, services and policies it holds.
    pub fn size(&self) -> (usize, usize, usize) {
        (self.by_uid.len(), self.services.len(), self.policies.by_name.len())
    }

    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.by_uid.values()
    }

    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    pub fn policies(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.policies.by_name.values()
    }
}

#[cfg(test)]
mod tests;
