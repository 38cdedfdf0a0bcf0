//! Outbound: a connection the pod opened, on its way to another workload or out of the mesh.
//!
//! The application's handshake was completed by the kernel before any of this, so every failure reaches it as a reset.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use mesh_common::abi::{HBONE_PORT, OUTBOUND_PORT, PLAINTEXT_PORT};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::copy::{self, Role, reset_on_close};
use super::dial;
use super::error::{Error, HBONE_HINT, outcome};
use super::pod::{Pod, TunnelKey};
use super::record::{Ends, Record, Reporter, Security, refuse};
use crate::hbone::client::{OpenError, Tunnel};
use crate::hbone::head::Connect;
use crate::hbone::readahead::ReadAhead;
use crate::hbone::stream::Stream;
use crate::hbone::{self};
use crate::identity::{TLS_HANDSHAKE_LIMIT, TlsFailure, peer_expiry, peer_identity};
use crate::model::addr::canonical;
use crate::model::route::route;
use crate::model::{Identity, OrigDst, Route, Workload};
use crate::sys::socket::{carry_streams, is_local};

/// Serves one captured connection from its accept to its record.
pub(super) async fn serve(pod: Rc<Pod>, tcp: TcpStream, client: SocketAddr) {
    let original = match original_destination(&pod, &tcp) {
        Ok(original) => original,
        Err(error) => return early(&tcp, Reporter::Source, client, None, &error),
    };
    match begin(&pod, client, original).await {
        Ok(trip) => {
            let record = Record::open(&pod.books, ends(&pod, &trip));
            let journey = carry(&pod, &tcp, &trip, &record);
            let result = pod.cut.run_until_cancelled(journey).await.unwrap_or(Err(Error::Cut));
            if result.is_err() {
                reset_on_close(&tcp);
            }
            record.finish(outcome(&result));
        }
        Err(error) => early(&tcp, Reporter::Source, client, Some(original.0), &error),
    }
}

/// Ends a connection whose destination never became clear.
pub(super) fn early(tcp: &TcpStream, reporter: Reporter, src: SocketAddr, dst: Option<SocketAddr>, error: &Error) {
    reset_on_close(tcp);
    refuse(reporter, src, dst, &error.to_string());
}

/// With transparent capture the accepted socket's own address is where the application wanted to go.
fn original_destination(pod: &Pod, tcp: &TcpStream) -> Result<OrigDst, Error> {
    let local = tcp.local_addr().map_err(|cause| Error::Broken(copy::Broken::Local(cause)))?;
    let original = canonical(local);
    let own_port = matches!(original.port(), OUTBOUND_PORT | PLAINTEXT_PORT | HBONE_PORT);
    // Dialled by the pod itself, the agent's ports would make it call itself for ever.
    if own_port && pod.local.netns.run(|| is_local(original.ip())).unwrap_or(true) {
        return Err(Error::SelfCall(original));
    }
    Ok(OrigDst(original))
}

/// A connection whose way is known.
#[derive(Debug)]
struct Trip {
    client: SocketAddr,
    original: OrigDst,
    source: Arc<Workload>,
    route: Route,
}

async fn begin(pod: &Pod, client: SocketAddr, original: OrigDst) -> Result<Trip, Error> {
    let source = pod.workload().await?;
    let route = route(&pod.world(), &source, original, fastrand::u64(..))?;
    Ok(Trip { client, original, source, route })
}

fn ends(pod: &Pod, trip: &Trip) -> Ends {
    let (next_hop, authority, destination, service, security) = match &trip.route {
        Route::Tunnel { next_hop, authority, workload, service, .. } => {
            (next_hop, Some(*authority), Some(workload), service.as_ref(), Security::MutualTls)
        }
        Route::Plain { next_hop, workload, service } => {
            (next_hop, None, Some(workload), service.as_ref(), Security::Plain)
        }
        Route::Passthrough { next_hop } => (next_hop, None, None, None, Security::Plain),
    };
    let tunnelled = security == Security::MutualTls;
    Ends {
        reporter: Reporter::Source,
        src_addr: trip.client,
        dst_addr: next_hop.0,
        hbone_addr: authority.map(|address| address.to_string()),
        original: trip.original.0,
        source: Some(Arc::clone(&trip.source)),
        source_identity: tunnelled.then(|| trip.source.identity.clone()),
        destination: destination.map(Arc::clone),
        destination_identity: destination.filter(|_| tunnelled).map(|workload| workload.identity.clone()),
        service: service.map(Arc::clone),
        security,
        policy: None,
        netns_cookie: pod.netns_cookie,
        app_socket: Some((trip.client, trip.original.0)),
    }
}

async fn carry(pod: &Rc<Pod>, tcp: &TcpStream, trip: &Trip, record: &Record) -> Result<(), Error> {
    match &trip.route {
        Route::Tunnel { next_hop, authority, accepted, service, .. } => {
            let key = TunnelKey {
                source: trip.source.identity.clone(),
                accepted: accepted.clone(),
                next_hop: *next_hop,
                source_ip: pod.source_ip(&trip.source, next_hop.0),
            };
            let head = || Connect {
                authority: *authority,
                client: trip.client,
                service_host: service.as_ref().map(|service| &*service.key.hostname),
                baggage: pod.baggage(&trip.source),
            };
            let mut stream = open(pod, &key, head).await?;
            copy::tunnel(tcp, &mut stream, Role::Client, record).await?;
        }
        Route::Plain { next_hop, .. } | Route::Passthrough { next_hop } => {
            let server = dial::onward(&pod.local.netns, next_hop.0, "").await?;
            copy::relay(tcp, &server, record).await?;
        }
    }
    Ok(())
}

/// Opens a stream on a pooled tunnel. A tunnel that turns out to be leaving is replaced: its peer has not seen the request.
async fn open<'a>(pod: &Rc<Pod>, key: &TunnelKey, head: impl Fn() -> Connect<'a>) -> Result<Stream, Error> {
    const TRIES: usize = 3;
    let mut tries = 0;
    loop {
        tries += 1;
        let dial = || dial_tunnel(Rc::clone(pod), key.clone());
        let tunnel = pod.tunnels.tunnel(key, dial).await.map_err(Error::Dial)?;
        match tunnel.open(head().request()?).await {
            Ok((stream, _head)) => return Ok(stream),
            Err(OpenError::GoingAway(_)) if tries < TRIES => tunnel.abandon(),
            Err(error) => return Err(error.into()),
        }
    }
}

async fn dial_tunnel(pod: Rc<Pod>, key: TunnelKey) -> Result<Tunnel<Option<Identity>>, Error> {
    let credentials = pod.credentials(&key.source).await?;
    let tcp = dial::onward(&pod.local.netns, key.next_hop.0, HBONE_HINT).await?;
    // Without it the tunnel works, too.
    carry_streams(tcp.as_fd()).ok();
    let connector = TlsConnector::from(
        credentials.client_config(&key.accepted).map_err(|e| Error::Tls(TlsFailure::of(&io::Error::other(e))))?,
    );
    let name = rustls::pki_types::ServerName::from(key.next_hop.0.ip());
    let handshake = connector.connect(name, ReadAhead::new(tcp));
    let tls = match tokio::time::timeout(TLS_HANDSHAKE_LIMIT, handshake).await {
        Ok(result) => result.map_err(|error| Error::Tls(TlsFailure::of(&error)))?,
        Err(_) => return Err(Error::Tls(TlsFailure::timed_out())),
    };
    let certificates = tls.get_ref().1.peer_certificates();
    let peer = certificates.and_then(peer_identity);
    let ends = certificates
        .and_then(peer_expiry)
        .map_or(credentials.validity.not_after, |theirs| theirs.min(credentials.validity.not_after));
    let (tunnel, driver) = hbone::client::start(tls, peer).await.map_err(Error::Http2)?;
    // Whoever has expired since has to prove itself anew.
    tunnel.end_at(Instant::now() + ends.duration_since(SystemTime::now()).unwrap_or_default());
    pod.tasks.spawn_local(async move {
        if let Err(error) = driver.await {
            tracing::debug!(%error, peer = %key.next_hop, "tunnel ended");
        }
    });
    Ok(tunnel)
}
