//! A pod, as the topology places it and the world tells of it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Map, Value};

/// What the mesh knows of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Membership {
    /// In the mesh and captured by its node's agent.
    Enrolled,
    /// In the mesh; a CNI agent redirects it and hands it over to its node's agent ([`crate::zds`]).
    Handed,
    /// In the mesh by itself: it ends its tunnels, as waypoints and gateways do, and no agent serves it.
    Gateway,
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
    /// Further fields of its entry under `pods`.
    pub capture: Map<String, Value>,
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
            capture: Map::new(),
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

    /// In the mesh by the hand of a CNI agent, which is the caller's part.
    #[must_use]
    pub fn handed(mut self) -> Self {
        self.membership = Membership::Handed;
        self
    }

    /// A waypoint or a gateway, which speaks HBONE itself.
    #[must_use]
    pub fn gateway(mut self) -> Self {
        self.membership = Membership::Gateway;
        self.with("tunnel_end", "workload")
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

    /// Connections to it are not captured.
    #[must_use]
    pub fn bypasses_inbound(mut self) -> Self {
        self.capture.insert("bypass_inbound_capture".to_owned(), true.into());
        self
    }

    /// Virtual machines are behind these interfaces of the pod.
    #[must_use]
    pub fn reroutes(mut self, interfaces: &[&str]) -> Self {
        self.capture.insert("reroute_virtual_interfaces".to_owned(), interfaces.into());
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
