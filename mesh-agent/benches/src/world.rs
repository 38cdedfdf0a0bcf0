//! What the cases' worlds are made of.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;
use mesh_agent::model::addr::NetworkAddress;
use mesh_agent::model::service::ServiceKey;
use mesh_agent::model::world::Place;
use mesh_agent::model::{Identity, Service, Workload};

/// The network of everything here.
pub(crate) const NETWORK: &str = "";
pub(crate) const NODE: &str = "here";

pub(crate) fn place() -> Place {
    Place { node: NODE.into(), ..Place::default() }
}

/// The address that a workload of this number has.
pub(crate) fn pod_ip(number: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(0x0a40_0000 + number))
}

/// The address that a service of this number has.
pub(crate) fn vip(number: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(0x0ac8_0000 + number))
}

pub(crate) fn workload(number: u32, name: &str) -> Result<Workload> {
    let uid = format!("Kubernetes//Pod/default/{name}-{number}");
    let mut workload = Workload::new(&uid, name, Identity::new("cluster.local", "default", name)?);
    workload.addresses = vec![pod_ip(number)];
    Ok(workload)
}

/// A service of one port, 80.
pub(crate) fn service(number: u32) -> Service {
    let name = format!("shop-{number}");
    let mut service = Service::new(ServiceKey::new("default", &format!("{name}.default.svc.cluster.local")), &name);
    service.vips = vec![NetworkAddress { network: NETWORK.into(), ip: vip(number) }];
    service.ports = [(80, 8080)].into_iter().collect();
    service
}
