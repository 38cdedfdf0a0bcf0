//! Attribution of inbound connections, for telemetry (protocol note, section 8.8), and host-name authorities (8.2).

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderMap;

use crate::hbone::head::Baggage;
use crate::model::workload::Locality;
use crate::model::{Identity, Service, Workload, World};

/// The source workload: the one at the peer's address if its identity is the one that TLS proved, else what the
/// certificate and the baggage say.
pub(super) fn workload(
    world: &World,
    network: &str,
    peer: IpAddr,
    identity: Option<&Identity>,
    headers: &HeaderMap,
) -> Option<Arc<Workload>> {
    let identity = identity?;
    if let Some(known) = world.workload_at(network, peer)
        && known.identity == *identity
    {
        return Some(Arc::clone(known));
    }
    Some(Arc::new(described(identity, headers)))
}

/// What a peer says of itself, under the identity that it has proven.
pub(super) fn described(identity: &Identity, headers: &HeaderMap) -> Workload {
    let baggage = Baggage::parse(headers);
    Workload {
        cluster: baggage.cluster.into(),
        canonical_name: baggage.service.into(),
        canonical_revision: baggage.version.into(),
        locality: Arc::new(Locality {
            region: baggage.region.into(),
            zone: baggage.zone.into(),
            ..Locality::default()
        }),
        ..Workload::new("", &baggage.workload, identity.clone())
    }
}

/// The service a connection came through: the one named by `host` if the workload belongs to it, else the first of the
/// workload's services with a port that leads to `port`.
pub(super) fn service_label(world: &World, workload: &Workload, host: Option<&str>, port: u16) -> Option<Arc<Service>> {
    let mut candidates = workload.services.iter().filter_map(|(key, ports)| Some((world.service(key)?, ports)));
    let named = host.and_then(|host| workload.services.keys().find(|key| &*key.hostname == host));
    if let Some(service) = named.and_then(|key| world.service(key)) {
        return Some(Arc::clone(service));
    }
    candidates
        .find(|(service, ports)| ports.lead_to(port) || service.ports.lead_to(port))
        .map(|(service, _)| Arc::clone(service))
}

/// A virtual address of the service `host` on the workload's network, of IPv4 if it has one.
pub(super) fn virtual_address(world: &World, workload: &Workload, host: &str) -> Option<IpAddr> {
    let named = world.services_named(host);
    let service = named.iter().find(|service| *service.key.namespace == *workload.namespace()).or(named.first())?;
    let own = service.vips.iter().filter(|vip| vip.network == workload.network);
    own.map(|vip| vip.ip).min_by_key(IpAddr::is_ipv6)
}

/// The workload's port behind `host:port`; none if it neither belongs to such a service nor is its waypoint.
pub(super) fn target_port(world: &World, workload: &Workload, host: &str, port: u16) -> Option<u16> {
    members_port(world, workload, host, port).or_else(|| {
        let named = world.services_named(host);
        let mut fronted: Vec<_> = named.iter().filter(|it| world.is_waypoint_of_service(workload, it)).collect();
        fronted.sort_by_key(|service| &*service.key.namespace != workload.namespace());
        fronted.first()?.ports.get(port).filter(|target| *target != 0)
    })
}

fn members_port(world: &World, workload: &Workload, host: &str, port: u16) -> Option<u16> {
    let mut members: Vec<_> = workload.services.iter().filter(|(key, _)| &*key.hostname == host).collect();
    members.sort_by_key(|(key, _)| &*key.namespace != workload.namespace());
    let (key, ports) = members.first()?;
    ports.get(port).or_else(|| world.service(key)?.ports.get(port)).filter(|target| *target != 0)
}

#[cfg(test)]
mod tests;
