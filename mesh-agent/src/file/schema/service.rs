//! Services, as they may be written.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;

use super::{default_name, name};
use crate::file::port::Port;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    #[serde(deserialize_with = "name")]
    pub name: String,
    #[serde(default = "default_name")]
    pub namespace: String,
    pub hostname: Option<String>,
    /// Virtual addresses; none for a headless service.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    #[serde(default)]
    pub ports: Vec<ServicePort>,
    /// Workloads of the namespace with these labels are endpoints.
    #[serde(default)]
    pub selector: BTreeMap<String, String>,
    /// Further endpoints, as `namespace/name`.
    #[serde(default)]
    pub endpoints: Vec<String>,
    #[serde(default)]
    pub publish_not_ready: bool,
    #[serde(default)]
    pub subject_alt_names: Vec<String>,
    /// Virtual addresses given as blocks.
    #[serde(default)]
    pub blocks: Vec<IpNet>,
    /// `namespace/hostname` or an address.
    pub waypoint: Option<String>,
    #[serde(default)]
    pub weighted_waypoints: Vec<WeightedWaypoint>,
    #[serde(default)]
    pub traffic: Traffic,
    #[serde(default)]
    pub ip_families: IpFamilies,
    #[serde(default)]
    pub visibility: Visibility,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightedWaypoint {
    pub waypoint: String,
    pub weight: u32,
}

/// Which endpoints are preferred.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Traffic {
    pub mode: TrafficMode,
    pub prefer: Vec<Scope>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrafficMode {
    #[default]
    Any,
    Strict,
    Failover,
    Passthrough,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    Region,
    Zone,
    Subzone,
    Node,
    Cluster,
    Network,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpFamilies {
    #[default]
    Automatic,
    Ipv4,
    Ipv6,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Visibility {
    #[default]
    Public,
    Namespace,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServicePort {
    pub port: Port,
    pub target_port: Option<Port>,
}
