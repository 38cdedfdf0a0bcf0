//! Inbound HBONE: verify, authorise, then connect to the application, then answer 200, then copy.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderMap, StatusCode};
use mesh_common::abi::{HBONE_PORT, OUTBOUND_PORT, PLAINTEXT_PORT};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::copy::{self, Role, Socket};
use super::dial::{self, Ports, Seen};
use super::error::{Error, outcome};
use super::far::Far;
use super::pod::Pod;
use super::proxy_protocol::{self, Delivery};
use super::record::{Ends, Record, Reporter, Security, refuse};
use super::revoke::Question;
use super::shard::Applications;
use super::source;
use crate::hbone::head::{Authority, forwarded_host};
use crate::hbone::server::{self, Incoming};
use crate::identity::{Proven, TLS_HANDSHAKE_LIMIT, TlsFailure};
use crate::model::addr::canonical;
use crate::model::workload::AppTunnelProtocol;
use crate::model::{Identity, Peer, Service, Workload, World};
use crate::sys::socket::carry_streams;
use crate::task::Roaming;
use crate::tls;

type Tls = tls::stream::Stream<Roaming>;

/// Who is at the other end of one tunnel.
#[derive(Debug)]
pub(super) struct Tunnel {
    pub(super) peer: SocketAddr,
    pub(super) far: Rc<Far>,
    /// The pod's address that was dialled: the application is reached at it, whatever the authority says.
    pub(super) dialled: SocketAddr,
}

/// What a client asks for.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    pub(super) authority: Authority,
    /// The host name of the service that it went by.
    pub(super) service_host: Option<&'a str>,
}

/// Serves one connection to port 15008 until its last stream ended.
pub(super) async fn serve(pod: Rc<Pod>, tcp: TcpStream, peer: SocketAddr) {
    let dialled = tcp.local_addr().map(canonical).ok();
    let Ok(place) = pod.handshakes.try_acquire() else {
        return refuse(Reporter::Destination, peer, dialled, "too many handshakes at once");
    };
    let shaken = pod.unless_cut(pin!(handshake(&pod, tcp))).await;
    let (tls, proven, dialled) = match shaken {
        Ok(open) => open,
        Err(error) => return refuse(Reporter::Destination, peer, dialled, &error.to_string()),
    };
    let connection = match tokio::time::timeout(TLS_HANDSHAKE_LIMIT, server::start(tls, &pod.habits.tunnels)).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return refuse(Reporter::Destination, peer, Some(dialled), &Error::Http2(error).to_string()),
        Err(_) => return refuse(Reporter::Destination, peer, Some(dialled), "http2: the peer did not begin in time"),
    };
    drop(place);
    let (cut, leaving) = (pod.cut.clone(), pod.leaving.child_token());
    if let Some(expires) = proven.expires {
        pod.tasks.spawn_local(leave_at(expires, leaving.clone()));
    }
    let far = Far::new(proven.identity);
    let tunnel = Rc::new(Tunnel { peer, far: Rc::clone(&far), dialled });
    let _end = leaving.clone().drop_guard();
    let streams = pod.tasks.clone();
    let serving = server::serve(connection, leaving, pod.placement.lane(), |incoming| {
        streams.spawn_local(stream(Rc::clone(&pod), Rc::clone(&tunnel), incoming));
    });
    // Boxed: one long-lived allocation per tunnel instead of a large task.
    let serving = Box::pin(far.while_trusted(proven.tracked, peer, Box::pin(serving)));
    if let Some(Some(Err(error))) = cut.run_until_cancelled(serving).await {
        tracing::debug!(%error, %peer, "tunnel ended");
    }
}

/// From its certificate's expiry on, the peer gets no new streams on what it proved before.
async fn leave_at(expires: SystemTime, leaving: CancellationToken) {
    let left = expires.duration_since(SystemTime::now()).unwrap_or_default();
    tokio::select! {
        () = tokio::time::sleep(left) => leaving.cancel(),
        () = leaving.cancelled() => {}
    }
}

async fn handshake(pod: &Pod, tcp: TcpStream) -> Result<(Tls, Proven, SocketAddr), Error> {
    let dialled = tcp.local_addr().map(canonical).map_err(|e| Error::Broken(copy::Broken::Local(e)))?;
    // Without it the tunnel works, too.
    carry_streams(tcp.as_fd()).ok();
    let workload = pod.workload().await?;
    let credentials = pod.credentials(&workload.identity).await?;
    let accepting = tls::handshake::accept(credentials.server_config(), Roaming::new(tcp));
    let (tls, shown) = match tokio::time::timeout(TLS_HANDSHAKE_LIMIT, accepting).await {
        Ok(result) => result.map_err(|error| Error::Tls(TlsFailure::of(&error)))?,
        Err(_) => return Err(Error::Tls(TlsFailure::timed_out())),
    };
    let proven = Proven::to(&credentials, Reporter::Destination, shown.certificates.as_deref());
    Ok((tls, proven, dialled))
}

/// Serves one CONNECT.
pub(super) async fn stream(pod: Rc<Pod>, tunnel: Rc<Tunnel>, incoming: Incoming) {
    let request = match read(&pod, &tunnel, &incoming).await {
        Ok(request) => request,
        Err(error) => {
            refuse(Reporter::Destination, tunnel.peer, Some(tunnel.dialled), &error.to_string());
            return incoming.refuse(status(&error));
        }
    };
    let record = Record::open(&pod.books, ends(&pod, &tunnel, &request, (incoming.headers(), Security::MutualTls)));
    let result = pod.unless_cut(pin!(carry(&pod, &tunnel, &request, incoming, &record))).await;
    record.finish(outcome(&result));
}

async fn read(pod: &Pod, tunnel: &Tunnel, incoming: &Incoming) -> Result<Request, Error> {
    let (authority, service_host) = (incoming.authority()?, forwarded_host(incoming.headers()));
    understand(pod, tunnel, Asked { authority, service_host }).await
}

/// A CONNECT that is meant for this pod.
#[derive(Debug)]
pub(super) struct Request {
    authority: Authority,
    workload: Arc<Workload>,
    service: Option<Arc<Service>>,
    pub(super) question: Question,
    pub(super) delivery: Delivery,
}

/// Finds what is asked for in what this pod answers for.
pub(super) async fn understand(pod: &Pod, tunnel: &Tunnel, asked: Asked<'_>) -> Result<Request, Error> {
    let Asked { authority, service_host } = asked;
    let workload = pod.workload().await?;
    if let Some(asker) = &pod.asker {
        match authority {
            Authority::Name(..) => asker.services(&workload).await?,
            Authority::Address(_) => asker.labels(&pod.network, tunnel.peer.ip(), &workload).await,
        }
    }
    let world = pod.world();
    let asked = destination_port(&world, &workload, tunnel, &authority)?;
    let port = workload.tunnel_port().unwrap_or(asked);
    if matches!(port, HBONE_PORT | PLAINTEXT_PORT | OUTBOUND_PORT) {
        return Err(Error::SelfCall(SocketAddr::new(tunnel.dialled.ip(), port)));
    }
    let host = match &authority {
        Authority::Name(name, _) => Some(name.as_str()),
        Authority::Address(_) => service_host,
    };
    let service = source::service_label(&world, &workload, host, port);
    let question = Question {
        workload: Arc::clone(&workload.uid),
        peer: Peer { address: tunnel.peer, identity: tunnel.far.identity.clone() },
        target: SocketAddr::new(tunnel.dialled.ip(), port),
    };
    let delivery = delivery(pod, &workload, tunnel, &authority)?;
    Ok(Request { authority, workload, service, question, delivery })
}

/// The application's port, if the authority is one that this pod answers for (protocol note, section 8.2).
fn destination_port(world: &World, workload: &Workload, tunnel: &Tunnel, authority: &Authority) -> Result<u16, Error> {
    match authority {
        Authority::Address(address) if answers_for(world, workload, tunnel, address.ip()) => Ok(address.port()),
        Authority::Address(address) => Err(Error::ForeignTarget(address.to_string())),
        Authority::Name(host, port) => source::target_port(world, workload, host, *port)
            .ok_or_else(|| Error::UnknownService(authority.to_string())),
    }
}

/// Whether the pod answers for `ip`: its own address, or one whose waypoint it is. Behind an application tunnel it is told
/// the address, and decides itself.
fn answers_for(world: &World, workload: &Workload, tunnel: &Tunnel, ip: IpAddr) -> bool {
    ip == tunnel.dialled.ip() || workload.app_tunnel.is_some() || world.is_waypoint_of(workload, ip)
}

/// How the application gets the connection (protocol note, section 6.4).
fn delivery(pod: &Pod, workload: &Workload, tunnel: &Tunnel, authority: &Authority) -> Result<Delivery, Error> {
    if workload.app_tunnel.is_none_or(|tunnel| tunnel.protocol == AppTunnelProtocol::None) {
        return Ok(Delivery::FromClient(tunnel.peer));
    }
    let destination = match authority {
        Authority::Address(address) => Some(*address),
        Authority::Name(host, port) => {
            source::virtual_address(&pod.world(), workload, host).map(|ip| (ip, *port).into())
        }
    };
    let destination = destination.ok_or_else(|| Error::NoProxyDestination(authority.to_string()))?;
    let identity = tunnel.far.identity.as_ref().map(Identity::uri);
    let header = proxy_protocol::header(tunnel.peer, destination, identity);
    let seen = match pod.habits.applications {
        Applications::Loopback => Seen::Loopback,
        Applications::Address => Seen::Client(tunnel.peer.ip()),
    };
    Ok(Delivery::Announced(seen, header))
}

fn status(error: &Error) -> StatusCode {
    if matches!(error, Error::Head(_) | Error::ForeignTarget(_)) {
        StatusCode::BAD_REQUEST
    } else if matches!(error, Error::Denied(_)) {
        StatusCode::UNAUTHORIZED
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}

/// `said`: what the peer says of itself, and how the two are connected.
pub(super) fn ends(pod: &Pod, tunnel: &Tunnel, request: &Request, (said, security): (&HeaderMap, Security)) -> Ends {
    let world = pod.world();
    let nothing = HeaderMap::new();
    let said = if pod.habits.response_baggage { said } else { &nothing };
    let tunnelled = security == Security::MutualTls;
    let source = source::workload(&world, &pod.network, tunnel.peer.ip(), tunnel.far.identity.as_ref(), said);
    Ends {
        reporter: Reporter::Destination,
        src_addr: tunnel.peer,
        dst_addr: if tunnelled { tunnel.dialled } else { request.question.target },
        hbone_addr: tunnelled.then(|| request.authority.to_string()),
        original: request.question.target,
        source,
        source_identity: tunnel.far.identity.clone(),
        destination: Some(Arc::clone(&request.workload)),
        destination_identity: Some(request.workload.identity.clone()),
        service: request.service.clone(),
        security,
        policy: None,
        netns_cookie: pod.netns_cookie,
        app_socket: None,
    }
}

/// Asks for a permit, and connects to the application that it names, which sees the client as `seen`.
pub(super) async fn reach(
    pod: &Pod,
    question: &Question,
    seen: (Seen, Ports),
    record: &Record,
) -> Result<Socket, Error> {
    let world = pod.world();
    question.try_out(&world);
    let permit = question.ask(&world)?;
    record.allowed_by(permit.policy());
    let app = dial::application(&pod.local.netns, &permit, seen).await?;
    record.application_socket(question.target, app.local_addr().ok());
    Ok(Socket::new(app))
}

async fn carry(
    pod: &Pod,
    tunnel: &Tunnel,
    request: &Request,
    mut incoming: Incoming,
    record: &Record,
) -> Result<(), Error> {
    let mut worlds = pod.verdicts.clone();
    // A tunnel that is cut abandons its streams, too: which it was is asked first.
    let app = tokio::select! {
        biased;
        () = tunnel.far.revoked.cancelled() => return Err(Error::PeerRevoked),
        app = reach(pod, &request.question, (request.delivery.source(), Ports::Any), record) => app,
        () = incoming.abandoned() => return Err(Error::Abandoned),
    };
    let mut app = match app {
        Ok(app) => app,
        Err(error) => {
            incoming.refuse(status(&error));
            return Err(error);
        }
    };
    let stream = incoming
        .accept(pod.baggage(&request.workload).filter(|_| pod.habits.response_baggage))
        .map_err(Error::Http2)?;
    if let Delivery::Announced(_, header) = &request.delivery {
        app.say_first(header).await?;
    }
    let watched = pod.placement.watch(record, None);
    let denied = request.question.until_denied(&mut worlds);
    tokio::select! {
        biased;
        () = tunnel.far.revoked.cancelled() => Err(Error::PeerRevoked),
        denied = denied => Err(Error::Revoked(denied)),
        result = copy::tunnel((app, stream), Role::Server, &watched, pod.placement.lane()) => Ok(result?),
    }
}
