//! Where an outbound connection goes (protocol note, sections 6 and 7): a pure function of the world, the source and the
//! original destination.

pub(super) mod gateway;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mesh_common::abi::HBONE_PORT;

use super::World;
use super::accepted::Accepted;
use super::addr::{NextHop, OrigDst};
use super::balance::Mode;
use super::endpoints::{NoEndpoint, Purpose};
use super::gateway::GatewayAddress;
use super::service::{Service, ServiceKey};
use super::workload::{Tunnel, Workload};
use super::world::UnknownDestination;

/// How to reach the destination.
#[derive(Clone, Debug)]
pub enum Route {
    /// One tunnel: to the workload's node, or to its waypoint.
    Tunnel { leg: Leg, authority: Authority, workload: Arc<Workload>, service: Option<Arc<Service>> },
    /// A tunnel within a tunnel: `outer` ends at the gateway of another network, and takes the inner one to whoever proves
    /// one of `accepted`. Both ask for `authority`.
    Nested { outer: Leg, accepted: Accepted, authority: Authority, workload: Arc<Workload>, service: Arc<Service> },
    /// Plain TCP to a known workload that is outside the mesh.
    Plain { next_hop: NextHop, workload: Arc<Workload>, service: Option<Arc<Service>> },
    /// Plain TCP to the address that was asked for.
    Passthrough { next_hop: NextHop, service: Option<Arc<Service>> },
}

/// The first TCP connection of a tunnel: where it goes and who must be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leg {
    pub next_hop: NextHop,
    pub accepted: Accepted,
}

/// What CONNECT asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authority {
    Address(SocketAddr),
    /// A service's host name and port.
    Name(Arc<str>, u16),
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

/// Why there is no way to the destination.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRoute {
    #[error("service {service} has no port {port}")]
    NoSuchPort { service: ServiceKey, port: u16 },
    #[error("service {service} has no healthy endpoint for port {port}")]
    NoHealthyUpstream { service: ServiceKey, port: u16 },
    #[error("the chosen endpoint {workload} has no usable address")]
    NoAddress { workload: Arc<str> },
    /// Not a failure yet: with the name's addresses the question can be asked again.
    #[error("the host name {0} has no address")]
    Unresolved(Arc<str>),
    #[error("{kind} {gateway} is not known, or none of its endpoints can be used")]
    NoGateway { kind: &'static str, gateway: GatewayAddress },
    #[error("workload {workload} is on network {network:?}, which has no known gateway")]
    NoWayIn { workload: Arc<str>, network: Arc<str> },
    #[error(
        "workload {workload} is on network {network:?}: workloads of other networks are reached through services only"
    )]
    ForeignWorkload { workload: Arc<str>, network: Arc<str> },
    #[error("{0} is not in the mesh, and connections to the unknown are refused here")]
    Unknown(SocketAddr),
}

/// A question about one connection.
#[derive(Clone, Copy)]
pub struct Trip<'a> {
    pub source: &'a Workload,
    pub to: OrigDst,
    /// Uniformly random: picks among equals.
    pub draw: u64,
    /// The addresses of host names that have been looked up for this connection.
    pub names: &'a dyn Fn(&str) -> Option<Vec<IpAddr>>,
}

/// Nothing has been looked up yet.
pub fn no_names(_: &str) -> Option<Vec<IpAddr>> {
    None
}

impl fmt::Debug for Trip<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trip").field("source", &self.source.uid).field("to", &self.to).finish_non_exhaustive()
    }
}

/// Decides the route.
///
/// Two look-ups with opposite precedence are made, as the reference does: by what was *addressed* (on the node's network, a
/// workload before a service) a waypoint is chosen, and by where to *send* (on the source's network, a service before a
/// workload) everything else.
pub fn route(world: &World, trip: &Trip<'_>) -> Result<Route, NoRoute> {
    let OrigDst(to) = trip.to;
    let namespace = trip.source.namespace();
    let network = &world.place().network;
    let service = world.service_at(&trip.source.network, to.ip(), namespace);
    let addressed = match world.workload_at(network, to.ip()) {
        Some(_) => None,
        None if trip.source.network == *network => service,
        None => world.service_at(network, to.ip(), namespace),
    };
    if let Some(service) = addressed
        && let Some(waypoint) = service.waypoints.pick(trip.draw.rotate_left(17))
    {
        return gateway::service_waypoint(world, trip, service, waypoint);
    }
    match service {
        Some(service) if service.load_balancing.mode == Mode::Passthrough => {
            Ok(Route::Passthrough { next_hop: NextHop(to), service: Some(Arc::clone(service)) })
        }
        Some(service) => by_service(world, trip, service, addressed),
        None => match world.workload_at(&trip.source.network, to.ip()) {
            Some(workload) => by_address(world, trip, workload),
            None => unknown(world, to),
        },
    }
}

fn unknown(world: &World, to: SocketAddr) -> Result<Route, NoRoute> {
    match world.place().unknown {
        UnknownDestination::Passthrough => Ok(Route::Passthrough { next_hop: NextHop(to), service: None }),
        UnknownDestination::Refused => Err(NoRoute::Unknown(to)),
    }
}

fn by_address(world: &World, trip: &Trip<'_>, workload: &Arc<Workload>) -> Result<Route, NoRoute> {
    let OrigDst(to) = trip.to;
    if let Some(waypoint) = workload.waypoint.as_ref().filter(|waypoint| !gateway::is(world, waypoint, trip.source)) {
        return gateway::workload_waypoint(world, trip, to, None, waypoint);
    }
    Ok(towards(workload, to, None))
}

/// To an endpoint of `service`. What was `addressed` as a service has had its say about waypoints already.
fn by_service(
    world: &World,
    trip: &Trip<'_>,
    service: &Arc<Service>,
    addressed: Option<&Arc<Service>>,
) -> Result<Route, NoRoute> {
    let OrigDst(to) = trip.to;
    let (workload, port) = pick(world, trip, service, to.port(), Purpose::Client)?;
    if workload.network != trip.source.network {
        return gateway::other_network(world, trip, service, &workload);
    }
    let target = SocketAddr::new(target_ip(&workload, Some(service), trip)?, port);
    let waypoint = workload.waypoint.as_ref().filter(|_| addressed.is_none());
    if let Some(waypoint) = waypoint.filter(|waypoint| !gateway::is(world, waypoint, trip.source)) {
        return gateway::workload_waypoint(world, trip, target, Some(service), waypoint);
    }
    Ok(towards(&workload, target, Some(service)))
}

/// One of the service's endpoints, and the port it serves on.
fn pick(
    world: &World,
    trip: &Trip<'_>,
    service: &Service,
    port: u16,
    purpose: Purpose,
) -> Result<(Arc<Workload>, u16), NoRoute> {
    let name = || service.key.clone();
    let endpoints = world.endpoints(&service.key).ok_or_else(|| NoRoute::NoSuchPort { service: name(), port })?;
    match endpoints.pick(port, purpose, trip.source, trip.draw) {
        Ok((workload, port)) => Ok((Arc::clone(workload), port)),
        Err(NoEndpoint::NoSuchPort) => Err(NoRoute::NoSuchPort { service: name(), port }),
        Err(NoEndpoint::NoneUsable) => Err(NoRoute::NoHealthyUpstream { service: name(), port }),
    }
}

/// The workload's address to use (protocol note, section 7.5): the one that was addressed, else one of the same family, else
/// any that the service's families admit; for a workload with nothing but a name, one of the name's.
fn target_ip(workload: &Workload, service: Option<&Service>, trip: &Trip<'_>) -> Result<IpAddr, NoRoute> {
    let original = trip.to.0.ip();
    if workload.addresses.contains(&original) {
        return Ok(original);
    }
    let admitted = |ip: &&IpAddr| service.is_none_or(|service| service.ip_families.admits(**ip));
    let of_family = |all: &[IpAddr]| {
        let same = all.iter().filter(admitted).find(|ip| ip.is_ipv4() == original.is_ipv4());
        same.or_else(|| all.iter().find(admitted)).copied()
    };
    let no_address = || NoRoute::NoAddress { workload: Arc::clone(&workload.uid) };
    match &workload.hostname {
        _ if !workload.addresses.is_empty() => of_family(&workload.addresses).ok_or_else(no_address),
        None => Err(no_address()),
        Some(hostname) => {
            let found = (trip.names)(hostname).ok_or_else(|| NoRoute::Unresolved(Arc::clone(hostname)))?;
            of_family(&found).ok_or_else(no_address)
        }
    }
}

/// Straight to the workload.
fn towards(workload: &Arc<Workload>, target: SocketAddr, service: Option<&Arc<Service>>) -> Route {
    let (service, workload) = (service.map(Arc::clone), Arc::clone(workload));
    match workload.tunnel {
        Tunnel::Hbone => {
            let next_hop = NextHop(SocketAddr::new(target.ip(), HBONE_PORT));
            let leg = Leg { next_hop, accepted: Accepted::of(&workload, service.as_deref()) };
            Route::Tunnel { leg, authority: Authority::Address(target), workload, service }
        }
        Tunnel::None => Route::Plain { next_hop: NextHop(target), workload, service },
    }
}

#[cfg(test)]
mod tests;
