//! One immutable picture of the mesh, indexed by what the hot path asks.

use std::net::IpAddr;
use std::sync::Arc;

use super::policy::{Policy, PolicyName};
use super::service::{Service, ServiceKey};
use super::workload::Workload;

/// Everything the data path knows at one moment.
#[derive(Debug, Default)]
pub struct World {}

impl World {
    /// Builds the indexes. Later entries with the same key replace earlier ones.
    pub fn new(workloads: Vec<Workload>, services: Vec<Service>, policies: Vec<Policy>) -> Self {
        drop((workloads, services, policies));
        Self {}
    }

    /// The best workload at this address of this network; host-network workloads are never found.
    pub fn workload_at(&self, _network: &str, _ip: IpAddr) -> Option<&Arc<Workload>> {
        None
    }

    pub fn workload_by_uid(&self, _uid: &str) -> Option<&Arc<Workload>> {
        None
    }

    pub fn service_at(&self, _network: &str, _ip: IpAddr, _client_namespace: &str) -> Option<&Arc<Service>> {
        None
    }

    pub fn service(&self, _key: &ServiceKey) -> Option<&Arc<Service>> {
        None
    }

    pub fn policy(&self, _name: &PolicyName) -> Option<&Arc<Policy>> {
        None
    }
}
