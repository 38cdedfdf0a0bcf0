//! Ways that lead through a gateway: waypoints, and the entrances of other networks (protocol note, sections 6.1 and 6.2). A
//! gateway that cannot be found is an error: it is never passed by.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::{Authority, Leg, NoRoute, Purpose, Route, Trip, pick, target_ip};
use crate::model::World;
use crate::model::accepted::Accepted;
use crate::model::addr::{NetworkAddress, NextHop};
use crate::model::gateway::{GatewayAddress, GatewayPlace};
use crate::model::service::Service;
use crate::model::workload::Workload;

const WAYPOINT: &str = "waypoint";
const GATEWAY: &str = "network gateway";

/// A gateway that was found: the workload, the service it was found by, and its HBONE port.
struct Found {
    workload: Arc<Workload>,
    service: Option<Arc<Service>>,
    /// Its address, if that is how it was referred to.
    ip: Option<IpAddr>,
    port: u16,
}

impl Found {
    fn leg(&self, trip: &Trip<'_>) -> Result<Leg, NoRoute> {
        let ip = match self.ip {
            Some(ip) => ip,
            None => target_ip(&self.workload, self.service.as_deref(), trip)?,
        };
        let accepted = Accepted::of(&self.workload, self.service.as_deref());
        Ok(Leg { next_hop: NextHop(SocketAddr::new(ip, self.port)), accepted })
    }
}

/// To the waypoint of a service that was addressed: it gets the address as the client wrote it.
pub(super) fn service_waypoint(
    world: &World,
    trip: &Trip<'_>,
    service: &Arc<Service>,
    waypoint: &GatewayAddress,
) -> Result<Route, NoRoute> {
    let found = find(world, trip, waypoint, WAYPOINT)?;
    if found.workload.network != trip.source.network {
        // The waypoint proves what its service says, since nobody here knows who it is.
        let named = found.service.as_deref().map(Accepted::named).unwrap_or_default();
        return nested(world, trip, service, &found.workload, named);
    }
    let (leg, authority) = (found.leg(trip)?, Authority::Address(trip.to.0));
    Ok(Route::Tunnel { leg, authority, workload: found.workload, service: Some(Arc::clone(service)) })
}

/// To the waypoint of a workload, which gets the workload's address.
pub(super) fn workload_waypoint(
    world: &World,
    trip: &Trip<'_>,
    target: SocketAddr,
    service: Option<&Arc<Service>>,
    waypoint: &GatewayAddress,
) -> Result<Route, NoRoute> {
    let found = find(world, trip, waypoint, WAYPOINT)?;
    if found.workload.network != trip.source.network {
        let network = Arc::clone(&found.workload.network);
        return Err(NoRoute::ForeignWorkload { workload: Arc::clone(&found.workload.uid), network });
    }
    let (leg, authority) = (found.leg(trip)?, Authority::Address(target));
    Ok(Route::Tunnel { leg, authority, workload: found.workload, service: service.map(Arc::clone) })
}

/// To an endpoint on another network.
pub(super) fn other_network(
    world: &World,
    trip: &Trip<'_>,
    service: &Arc<Service>,
    workload: &Arc<Workload>,
) -> Result<Route, NoRoute> {
    nested(world, trip, service, workload, Accepted::named(service))
}

fn nested(
    world: &World,
    trip: &Trip<'_>,
    service: &Arc<Service>,
    workload: &Arc<Workload>,
    accepted: Accepted,
) -> Result<Route, NoRoute> {
    let entrance = workload.network_gateway.as_ref().ok_or_else(|| NoRoute::NoWayIn {
        workload: Arc::clone(&workload.uid),
        network: Arc::clone(&workload.network),
    })?;
    let outer = find(world, trip, entrance, GATEWAY)?.leg(trip)?;
    let authority = Authority::Name(Arc::clone(&service.key.hostname), trip.to.0.port());
    Ok(Route::Nested { outer, accepted, authority, workload: Arc::clone(workload), service: Arc::clone(service) })
}

/// Whether `source` is that waypoint itself: then it must not be sent back to it.
pub(in crate::model) fn is(world: &World, waypoint: &GatewayAddress, source: &Workload) -> bool {
    match &waypoint.place {
        GatewayPlace::Hostname(key) => source.services.contains(key),
        GatewayPlace::Address(NetworkAddress { network, ip }) => {
            let itself = source.network == *network && source.addresses.contains(ip);
            let serves = |service: &Arc<Service>| source.services.contains(&service.key);
            itself || world.service_at(network, *ip, source.namespace()).is_some_and(serves)
        }
    }
}

fn find(world: &World, trip: &Trip<'_>, gateway: &GatewayAddress, kind: &'static str) -> Result<Found, NoRoute> {
    let unknown = || NoRoute::NoGateway { kind, gateway: gateway.clone() };
    let by_service = |service: &Arc<Service>| {
        let picked = pick(world, trip, service, gateway.hbone_port, Purpose::Gateway);
        let (workload, port) = picked.map_err(|_| unknown())?;
        Ok(Found { workload, service: Some(Arc::clone(service)), ip: None, port })
    };
    let itself = |workload: &Arc<Workload>, ip: Option<IpAddr>| {
        Ok(Found { workload: Arc::clone(workload), service: None, ip, port: gateway.hbone_port })
    };
    match &gateway.place {
        GatewayPlace::Hostname(key) => match world.service(key) {
            Some(service) => by_service(service),
            None => world.workload_named(&key.hostname).map_or_else(|| Err(unknown()), |it| itself(it, None)),
        },
        GatewayPlace::Address(address) => {
            match world.service_at(&address.network, address.ip, trip.source.namespace()) {
                Some(service) => by_service(service),
                None => match world.workload_at(&address.network, address.ip) {
                    Some(workload) => itself(workload, Some(address.ip)),
                    None => Err(unknown()),
                },
            }
        }
    }
}
