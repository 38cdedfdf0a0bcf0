//! One immutable picture of the mesh, indexed by what the hot path asks: every look-up is a hash or two, and the
//! choice of an endpoint costs the same for ten as for ten thousand ([`super::endpoints`]).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::endpoints::Endpoints;
use super::policy::{Policy, PolicyName, Scope};
use super::service::{Service, ServiceKey};
use super::workload::{NetworkMode, Tunnel, Workload};

/// Everything the data path knows at one moment.
#[derive(Debug, Default)]
pub struct World {
    by_uid: HashMap<Arc<str>, Arc<Workload>>,
    /// network -> address -> workload.
    by_address: HashMap<Arc<str>, HashMap<IpAddr, Arc<Workload>>>,
    services: HashMap<ServiceKey, Arc<Service>>,
    /// network -> virtual address -> services that have it; nearly always one.
    by_vip: HashMap<Arc<str>, HashMap<IpAddr, Vec<Arc<Service>>>>,
    /// service -> service port -> who serves it.
    endpoints: HashMap<ServiceKey, HashMap<u16, Endpoints>>,
    policies: HashMap<PolicyName, Arc<Policy>>,
    global: Vec<Arc<Policy>>,
    by_namespace: HashMap<Arc<str>, Vec<Arc<Policy>>>,
}

impl World {
    /// Builds the indexes. Later entries with the same key replace earlier ones.
    pub fn new(workloads: Vec<Workload>, services: Vec<Service>, policies: Vec<Policy>) -> Self {
        let mut world = Self::default();
        for policy in policies {
            world.add_policy(Arc::new(policy));
        }
        for service in services {
            world.add_service(Arc::new(service));
        }
        for workload in workloads {
            world.add_workload(Arc::new(workload));
        }
        world.index_endpoints();
        world
    }

    fn add_policy(&mut self, policy: Arc<Policy>) {
        match policy.scope {
            Scope::Global => self.global.push(Arc::clone(&policy)),
            Scope::Namespace => {
                self.by_namespace.entry(Arc::clone(&policy.name.namespace)).or_default().push(Arc::clone(&policy));
            }
            Scope::WorkloadSelector => {}
        }
        self.policies.insert(policy.name.clone(), policy);
    }

    fn add_service(&mut self, service: Arc<Service>) {
        for vip in &service.vips {
            let network = self.by_vip.entry(Arc::clone(&vip.network)).or_default();
            network.entry(vip.ip).or_default().push(Arc::clone(&service));
        }
        self.services.insert(service.key.clone(), service);
    }

    fn add_workload(&mut self, workload: Arc<Workload>) {
        // Many host-network workloads share one address: none of them can be meant by it.
        if workload.network_mode == NetworkMode::Standard {
            let network = self.by_address.entry(Arc::clone(&workload.network)).or_default();
            for ip in &workload.addresses {
                let better = network.get(ip).is_none_or(|present| rank(&workload) >= rank(present));
                if better {
                    network.insert(*ip, Arc::clone(&workload));
                }
            }
        }
        self.by_uid.insert(Arc::clone(&workload.uid), workload);
    }

    fn index_endpoints(&mut self) {
        for (key, service) in &self.services {
            let members: Vec<_> = self.by_uid.values().filter(|workload| workload.services.contains_key(key)).collect();
            let ports = service.ports.keys().map(|port| (*port, Endpoints::of(service, *port, &members)));
            self.endpoints.insert(key.clone(), ports.collect());
        }
    }

    /// The best workload at this address of this network; host-network workloads are never found.
    pub fn workload_at(&self, network: &str, ip: IpAddr) -> Option<&Arc<Workload>> {
        self.by_address.get(network)?.get(&ip)
    }

    pub fn workload_by_uid(&self, uid: &str) -> Option<&Arc<Workload>> {
        self.by_uid.get(uid)
    }

    /// The service with this virtual address; of several, the one in the client's namespace, else the first.
    pub fn service_at(&self, network: &str, ip: IpAddr, client_namespace: &str) -> Option<&Arc<Service>> {
        let candidates = self.by_vip.get(network)?.get(&ip)?;
        let own = candidates.iter().find(|service| &*service.key.namespace == client_namespace);
        own.or_else(|| candidates.first())
    }

    pub fn service(&self, key: &ServiceKey) -> Option<&Arc<Service>> {
        self.services.get(key)
    }

    /// Who serves a service's port; none if the service has no such port.
    pub fn endpoints(&self, key: &ServiceKey, port: u16) -> Option<&Endpoints> {
        self.endpoints.get(key)?.get(&port)
    }

    pub fn policy(&self, name: &PolicyName) -> Option<&Arc<Policy>> {
        self.policies.get(name)
    }

    /// The policies that apply to every workload of a namespace: global ones, then the namespace's.
    pub fn policies_of(&self, namespace: &str) -> impl Iterator<Item = &Arc<Policy>> {
        self.global.iter().chain(self.by_namespace.get(namespace).into_iter().flatten())
    }

    /// How many workloads, services and policies it holds.
    pub fn size(&self) -> (usize, usize, usize) {
        (self.by_uid.len(), self.services.len(), self.policies.len())
    }
}

/// Of several workloads at one address the highest is meant (protocol note, section 7.2).
fn rank(workload: &Workload) -> u8 {
    match workload.tunnel {
        Tunnel::Hbone => 1,
        Tunnel::None => 0,
    }
}

#[cfg(test)]
mod tests;
