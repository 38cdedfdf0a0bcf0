//! The one writer of the mesh's picture: takes single changes in any order, keeps the indexes, and makes a [`World`] of them
//! whenever it is asked to (protocol note, sections 1.10 and 1.11).
//!
//! A change costs what it touches: one workload is a few hash entries, and each service it serves gets its endpoints anew
//! when the next world is made, once however many of its endpoints changed.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::addr::NetworkAddress;
use super::balance::Vantage;
use super::blocks::Blocks;
use super::cow::CowMap;
use super::endpoints::Endpoints;
use super::policy::{Policy, PolicyName};
use super::ruling::{Policies, Selections};
use super::service::{Service, ServiceKey};
use super::workload::{NetworkMode, Tunnel, Workload};
use super::world::{Local, Place, World};

/// See the module.
#[derive(Debug)]
pub struct Store {
    world: World,
    /// Who says of itself that it serves a service, known or not, by uid.
    members: HashMap<ServiceKey, BTreeSet<Arc<str>>>,
    policies: HashMap<PolicyName, Arc<Policy>, RandomState>,
    local: Local,
    vantages: Vec<Vantage>,
    /// Services whose endpoints have to be prepared anew.
    stale: HashSet<ServiceKey>,
    changed: HashSet<Part>,
}

/// Parts of the world that are made as a whole, but for the first one, which is kept as changes come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Part {
    Workloads,
    Policies,
    Blocks,
    Local,
}

impl Store {
    pub fn new(place: Place) -> Self {
        Self {
            world: World { place, ..World::default() },
            members: HashMap::new(),
            policies: HashMap::default(),
            local: Local::new(),
            vantages: Vec::new(),
            stale: HashSet::new(),
            changed: HashSet::new(),
        }
    }

    /// Adds a workload, or replaces the one with its uid.
    pub fn put_workload(&mut self, workload: Workload) {
        let present = self.world.by_uid.get(&workload.uid);
        if present.is_some_and(|present| **present == workload) {
            return;
        }
        let uid = Arc::clone(&workload.uid);
        self.remove_workload(&uid);
        let workload = Arc::new(workload);
        // Many host-network workloads share one address: none of them can be meant by it.
        if workload.network_mode == NetworkMode::Standard {
            for ip in &workload.addresses {
                let key = NetworkAddress { network: Arc::clone(&workload.network), ip: *ip };
                let best_first = |all: &mut Vec<Arc<Workload>>| {
                    all.insert(0, Arc::clone(&workload));
                    all.sort_by_key(|one| std::cmp::Reverse(rank(one)));
                };
                change(&mut self.world.by_address, &key, best_first);
            }
        }
        if let Some(hostname) = &workload.hostname {
            self.world.by_name.insert(hostname, Arc::clone(&workload));
        }
        for service in workload.services.keys() {
            self.members.entry(service.clone()).or_default().insert(Arc::clone(&workload.uid));
            self.stale.insert(service.clone());
        }
        if self.is_local(&workload) {
            let namespace = self.local.entry(workload.namespace().into()).or_default();
            namespace.insert(Arc::clone(&workload.name), Arc::clone(&workload));
            self.changed.insert(Part::Local);
        }
        self.world.by_uid.insert(&uid, workload);
        self.changed.insert(Part::Workloads);
    }

    /// Removes a workload; tells whether there was one.
    pub fn remove_workload(&mut self, uid: &str) -> bool {
        let Some(gone) = self.world.by_uid.remove(uid) else { return false };
        self.changed.insert(Part::Workloads);
        for ip in &gone.addresses {
            let key = NetworkAddress { network: Arc::clone(&gone.network), ip: *ip };
            change(&mut self.world.by_address, &key, |all| all.retain(|one| !Arc::ptr_eq(one, &gone)));
        }
        if let Some(hostname) = &gone.hostname
            && self.world.by_name.get(hostname).is_some_and(|present| Arc::ptr_eq(present, &gone))
        {
            self.world.by_name.remove(hostname);
        }
        for service in gone.services.keys() {
            if let Some(members) = self.members.get_mut(service) {
                members.remove(uid);
                if members.is_empty() {
                    self.members.remove(service);
                }
            }
            self.stale.insert(service.clone());
        }
        if let Some(namespace) = self.local.get_mut(gone.namespace())
            && namespace.get(&gone.name).is_some_and(|present| Arc::ptr_eq(present, &gone))
        {
            namespace.remove(&gone.name);
            self.changed.insert(Part::Local);
        }
        true
    }

    /// Adds a service, or replaces the one with its key. Its endpoints may have come before it.
    pub fn put_service(&mut self, service: Service) {
        let key = service.key.clone();
        self.remove_service(&key);
        let service = Arc::new(service);
        for vip in &service.vips {
            change(&mut self.world.by_vip, vip, |all| all.push(Arc::clone(&service)));
        }
        change(&mut self.world.by_hostname, &service.key.hostname, |all| all.push(Arc::clone(&service)));
        if !service.cidr_vips.is_empty() {
            self.changed.insert(Part::Blocks);
        }
        self.world.services.insert(&key, service);
        self.stale.insert(key);
    }

    /// Removes a service; tells whether there was one.
    pub fn remove_service(&mut self, key: &ServiceKey) -> bool {
        let Some(gone) = self.world.services.remove(key) else { return false };
        for vip in &gone.vips {
            change(&mut self.world.by_vip, vip, |all| all.retain(|one| !Arc::ptr_eq(one, &gone)));
        }
        change(&mut self.world.by_hostname, &gone.key.hostname, |all| all.retain(|one| !Arc::ptr_eq(one, &gone)));
        if !gone.cidr_vips.is_empty() {
            self.changed.insert(Part::Blocks);
        }
        self.stale.insert(key.clone());
        true
    }

    /// Removes what a control plane calls by one name: a workload's uid, or a service's `namespace/hostname` (section 1.10).
    /// What is gone already is ignored.
    pub fn remove_address(&mut self, name: &str) {
        if self.remove_workload(name) {
            return;
        }
        if let Some((namespace, hostname)) = name.split_once('/')
            && !hostname.contains('/')
        {
            self.remove_service(&ServiceKey::new(namespace, hostname));
        }
    }

    /// Adds a policy, or replaces the one with its name.
    pub fn put_policy(&mut self, policy: Policy) {
        let present = self.policies.get(&policy.name);
        if present.is_none_or(|present| **present != policy) {
            self.policies.insert(policy.name.clone(), Arc::new(policy));
            self.changed.insert(Part::Policies);
        }
    }

    pub fn has_policy(&self, name: &PolicyName) -> bool {
        self.policies.contains_key(name)
    }

    pub fn remove_policy(&mut self, name: &PolicyName) {
        if self.policies.remove(name).is_some() {
            self.changed.insert(Part::Policies);
        }
    }

    /// Whether something has changed since the last world was made.
    pub fn is_changed(&self) -> bool {
        !self.changed.is_empty() || !self.stale.is_empty()
    }

    /// The picture as it is now.
    pub fn world(&mut self) -> World {
        let changed = std::mem::take(&mut self.changed);
        for part in &changed {
            match part {
                Part::Workloads => {}
                Part::Policies => {
                    let policies = Policies::new(self.policies.clone(), &self.world.policies);
                    self.world.policies = Arc::new(policies);
                }
                Part::Blocks => self.world.blocks = Arc::new(self.blocks()),
                Part::Local => self.index_local(),
            }
        }
        if changed.contains(&Part::Policies) || changed.contains(&Part::Local) {
            let World { policies, local, selections, .. } = &self.world;
            self.world.selections = Arc::new(Selections::new(policies, local, selections));
        }
        for key in std::mem::take(&mut self.stale) {
            self.prepare_endpoints(&key);
        }
        self.world.clone()
    }

    fn blocks(&self) -> HashMap<Arc<str>, Blocks> {
        let mut all = HashMap::<Arc<str>, Blocks>::new();
        // In the order of their names, so that the first of equals is always the same.
        let mut services: Vec<_> = self.world.services().filter(|service| !service.cidr_vips.is_empty()).collect();
        services.sort_by(|a, b| a.key.cmp(&b.key));
        for service in services {
            for (network, block) in &service.cidr_vips {
                all.entry(Arc::clone(network)).or_default().insert(*block, service);
            }
        }
        all
    }

    /// A workload is local by its node. A host-network one is not captured, and counts all the same: its name is its own.
    fn is_local(&self, workload: &Workload) -> bool {
        !self.world.place.node.is_empty() && workload.node == self.world.place.node
    }

    fn index_local(&mut self) {
        let mut vantages = Vec::new();
        for workload in self.local.values().flat_map(HashMap::values) {
            if !vantages.iter().any(|vantage: &Vantage| vantage.is_of(workload)) {
                vantages.push(Vantage::of(workload));
            }
        }
        if vantages.iter().any(|vantage| !self.vantages.contains(vantage)) {
            self.stale.extend(self.world.services().map(|service| service.key.clone()));
        }
        self.vantages = vantages;
        self.world.local = Arc::new(self.local.clone());
    }

    fn prepare_endpoints(&mut self, key: &ServiceKey) {
        let Some(service) = self.world.services.get(key) else {
            self.world.endpoints.remove(key);
            return;
        };
        let uids = self.members.get(key).into_iter().flatten();
        let members = uids.filter_map(|uid| self.world.by_uid.get(uid)).map(Arc::clone).collect();
        let endpoints = Arc::new(Endpoints::of(service, members, &self.vantages));
        self.world.endpoints.insert(key, endpoints);
    }
}

/// Changes the list under `key`; an empty list is not kept.
fn change<K: std::hash::Hash + Eq + Clone, T: Clone>(
    map: &mut CowMap<K, Arc<[T]>>,
    key: &K,
    edit: impl FnOnce(&mut Vec<T>),
) {
    let mut list = map.get(key).map(|list| list.to_vec()).unwrap_or_default();
    edit(&mut list);
    if list.is_empty() {
        map.remove(key);
    } else {
        map.insert(key, list.into());
    }
}

/// Of several workloads at one address the highest is meant (protocol note, section 7.2): pods before what others say of
/// that address, and of those the ones in the mesh.
fn rank(workload: &Workload) -> u8 {
    let hbone = u8::from(workload.tunnel == Tunnel::Hbone);
    let pod = u8::from(workload.uid.contains("//Pod/"));
    2 * pod + hbone
}

#[cfg(test)]
mod tests;
