//! Outbound: a connection the pod opened, on its way to another workload or out of the mesh.
//!
//! The application's handshake was completed by the kernel before any of this, so every failure reaches it as a reset.

use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use mesh_common::abi::{HBONE_PORT, OUTBOUND_PORT, PLAINTEXT_PORT};
use tokio::net::TcpStream;

use super::copy::{self, Role, Socket};
use super::dial;
use super::direct;
use super::error::{Error, outcome};
use super::joined;
use super::pod::{Pod, TunnelKey};
use super::record::{Ends, Record, Reporter, Security, refuse};
use super::source::described;
use super::tunnels::{self, Opened};
use crate::hbone::head::Connect;
use crate::model::route::{Authority, Leg, Trip, route};
use crate::model::{NoRoute, OrigDst, Route, SameNode, Service, Workload};
use crate::sys::socket::is_local;

/// Serves one captured connection from its accept to its record.
pub(super) async fn serve(pod: Rc<Pod>, tcp: TcpStream, client: SocketAddr) {
    let original = original_destination(&pod, &tcp);
    let tcp = Socket::new(tcp);
    let original = match original {
        Ok(original) => original,
        Err(error) => return refuse(Reporter::Source, client, None, &error.to_string()),
    };
    let way = match begin(&pod, client, original).await {
        Ok(way) => way,
        Err(error) => return refuse(Reporter::Source, client, Some(original.0), &error.to_string()),
    };
    if let Some(neighbour) = joined::neighbour(&pod, (&way.source, way.client), &way.route) {
        // Boxed: the rarer case, and the larger one.
        return Box::pin(next_door(&pod, tcp, &way, &neighbour)).await;
    }
    // Only the far end of a tunnel in a tunnel knows who serves it, so that is opened before its record.
    let opened = match &way.route {
        Route::Nested { .. } => Some(pod.unless_cut(Box::pin(open(&pod, &way)).as_mut()).await),
        Route::Tunnel { .. } | Route::Plain { .. } | Route::Passthrough { .. } => None,
    };
    let record =
        Record::open(&pod.books, ends(&pod, &way, opened.as_ref().and_then(|opened| opened.as_ref().ok()?.as_ref())));
    let result = pod.unless_cut(pin!(carry(&pod, tcp, &way, opened, &record))).await;
    record.finish(outcome(&result));
}

/// The destination is a pod of this node.
async fn next_door(pod: &Rc<Pod>, tcp: Socket, way: &Way, to: &joined::Neighbour) {
    let ends = without_tunnel(ends(pod, way, None), Security::Local, to.target);
    let service = ends.service.clone();
    if service.is_some() && to.mode == SameNode::Direct {
        direct::service::offer(pod, way.original);
    }
    let record = Record::open(&pod.books, ends);
    let service = service.as_deref().map(|service| &*service.key.hostname);
    let client = joined::Client { tcp, source: &way.source, original: way.original, service };
    let result = pod.unless_cut(pin!(joined::carry(pod, client, to, &record))).await;
    record.finish(outcome(&result));
}

fn without_tunnel(ends: Ends, security: Security, target: SocketAddr) -> Ends {
    Ends { security, hbone_addr: None, dst_addr: target, ..ends }
}

/// What the record of a connection that the kernel carries shows.
pub(super) fn direct_ends(
    pod: &Pod,
    source: &Arc<Workload>,
    (client, target): (SocketAddr, SocketAddr),
    route: Route,
) -> Ends {
    let way = Way { client, original: OrigDst(target), source: Arc::clone(source), route };
    without_tunnel(ends(pod, &way, None), Security::Direct, target)
}

/// Where the application wanted to go.
fn original_destination(pod: &Pod, tcp: &TcpStream) -> Result<OrigDst, Error> {
    let original = pod.original_destination(tcp)?;
    let own_port = matches!(original.port(), OUTBOUND_PORT | PLAINTEXT_PORT | HBONE_PORT);
    // Dialled by the pod itself, the agent's ports would make it call itself for ever.
    if own_port && pod.local.netns.run(|| is_local(original.ip())).unwrap_or(true) {
        return Err(Error::SelfCall(original));
    }
    Ok(OrigDst(original))
}

/// A connection whose way is known.
#[derive(Debug)]
struct Way {
    client: SocketAddr,
    original: OrigDst,
    source: Arc<Workload>,
    route: Route,
}

async fn begin(pod: &Pod, client: SocketAddr, original: OrigDst) -> Result<Way, Error> {
    let source = pod.workload().await?;
    let draw = fastrand::u64(..);
    let trip = Trip { source: &source, to: original, draw, names: &|host| pod.names.known(host) };
    if let Some(asker) = &pod.asker {
        asker.address(&pod.network, original.0.ip()).await?;
        if source.network != pod.network {
            asker.address(&source.network, original.0.ip()).await?;
        }
    }
    let mut lacked = 0;
    let route = loop {
        let lack = match route(&pod.world(), &trip) {
            Err(lack @ (NoRoute::Unresolved(_) | NoRoute::NoGateway { .. })) if lacked < LACKS => lack,
            route => break route?,
        };
        lacked += 1;
        if !supply(pod, &source, &lack).await? {
            return Err(lack.into());
        }
    };
    Ok(Way { client, original, source, route })
}

/// How many things a route may lack, one after the other: a waypoint, the entrance to its network, the address of its name.
const LACKS: usize = 4;

/// Gets what a route lacks, if there is a way to get it.
async fn supply(pod: &Pod, source: &Workload, lack: &NoRoute) -> Result<bool, Error> {
    if let NoRoute::Unresolved(host) = lack {
        pod.names.look_up(host, source).await?;
        return Ok(true);
    }
    if let (NoRoute::NoGateway { gateway, .. }, Some(asker)) = (lack, &pod.asker) {
        asker.gateway(gateway).await?;
        return Ok(true);
    }
    Ok(false)
}

/// What the record shows of a route.
struct Shown<'a> {
    next_hop: SocketAddr,
    authority: Option<&'a Authority>,
    destination: Option<&'a Arc<Workload>>,
    service: Option<&'a Arc<Service>>,
}

fn shown(route: &Route) -> Shown<'_> {
    match route {
        Route::Tunnel { leg, authority, workload, service } => Shown {
            next_hop: leg.next_hop.0,
            authority: Some(authority),
            destination: Some(workload),
            service: service.as_ref(),
        },
        Route::Nested { outer, authority, workload, service, .. } => Shown {
            next_hop: outer.next_hop.0,
            authority: Some(authority),
            destination: Some(workload),
            service: Some(service),
        },
        Route::Plain { next_hop, workload, service } => {
            Shown { next_hop: next_hop.0, authority: None, destination: Some(workload), service: service.as_ref() }
        }
        Route::Passthrough { next_hop, service } => {
            Shown { next_hop: next_hop.0, authority: None, destination: None, service: service.as_ref() }
        }
    }
}

fn ends(pod: &Pod, way: &Way, far: Option<&Opened>) -> Ends {
    let shown = shown(&way.route);
    let security = if shown.authority.is_some() { Security::MutualTls } else { Security::Plain };
    let tunnelled = security == Security::MutualTls;
    // What came back through two tunnels describes its sender better than the stand-in that was chosen.
    let far = far.and_then(|far| Some(Arc::new(described(far.far.identity.as_ref()?, &far.headers))));
    let destination = far.or_else(|| shown.destination.map(Arc::clone));
    let proven = destination.as_ref().filter(|_| tunnelled).map(|workload| workload.identity.clone());
    Ends {
        reporter: Reporter::Source,
        src_addr: way.client,
        dst_addr: shown.next_hop,
        hbone_addr: shown.authority.map(ToString::to_string),
        original: way.original.0,
        source: Some(Arc::clone(&way.source)),
        source_identity: tunnelled.then(|| way.source.identity.clone()),
        destination,
        destination_identity: proven,
        service: shown.service.map(Arc::clone),
        security,
        policy: None,
        netns_cookie: pod.netns_cookie,
        app_socket: Some((way.client, way.original.0)),
    }
}

/// Moves the bytes, through what is `opened` or is opened now.
async fn carry(
    pod: &Rc<Pod>,
    tcp: Socket,
    way: &Way,
    opened: Option<Result<Option<Opened>, Error>>,
    record: &Record,
) -> Result<(), Error> {
    let opened = match opened {
        Some(opened) => opened?,
        // Boxed: it ends soon, and needs more than all that follows.
        None => Box::pin(open(pod, way)).await?,
    };
    let watched = pod.placement.watch(record, Some(way.original.0));
    match opened {
        Some(Opened { stream, far, headers }) => {
            // Read, and not for as long as the connection lasts.
            drop(headers);
            tokio::select! {
                biased;
                () = far.revoked.cancelled() => return Err(Error::PeerRevoked),
                result = copy::tunnel((tcp, stream), Role::Client, &watched, pod.placement.lane()) => result?,
            }
        }
        None => {
            let server = dial::onward(&pod.local.netns, shown(&way.route).next_hop, "").await?;
            copy::relay(tcp, Socket::new(server), &watched, pod.placement.lane()).await?;
        }
    }
    Ok(())
}

/// Opens the stream of a route that has a tunnel.
async fn open(pod: &Rc<Pod>, way: &Way) -> Result<Option<Opened>, Error> {
    match &way.route {
        Route::Tunnel { leg, authority, service, .. } => {
            let head = || head(pod, way, authority, service.as_deref());
            tunnels::open(pod, &key(pod, way, leg), head).await.map(Some)
        }
        Route::Nested { outer, accepted, authority, service, .. } => {
            let head = || Connect { network: Some(&pod.network), ..head(pod, way, authority, Some(service)) };
            // Boxed: rare, and much larger than all else that a connection holds.
            Box::pin(tunnels::open_inside(pod, &key(pod, way, outer), accepted, head)).await.map(Some)
        }
        Route::Plain { .. } | Route::Passthrough { .. } => Ok(None),
    }
}

fn key(pod: &Pod, way: &Way, leg: &Leg) -> TunnelKey {
    TunnelKey {
        source: way.source.identity.clone(),
        accepted: leg.accepted.clone(),
        next_hop: leg.next_hop,
        source_ip: pod.source_ip(&way.source, leg.next_hop.0),
    }
}

fn head<'a>(pod: &Pod, way: &Way, authority: &Authority, service: Option<&'a Service>) -> Connect<'a> {
    Connect {
        authority: authority.to_string(),
        client: way.client,
        service_host: service.map(|service| &*service.key.hostname),
        baggage: pod.baggage(&way.source),
        network: None,
    }
}
