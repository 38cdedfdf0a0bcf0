//! Opening CONNECT streams: on a pooled tunnel, or on a tunnel of its own inside another one.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::{Instant, SystemTime};

use http::HeaderMap;
use tokio::io::{AsyncRead, AsyncWrite};

use super::dial;
use super::error::{Error, HBONE_HINT};
use super::far::Far;
use super::pod::{Pod, TunnelKey};
use super::record::Reporter;
use crate::hbone::client::{Driver, OpenError, Tunnel};
use crate::hbone::head::Connect;
use crate::hbone::io::StreamIo;
use crate::hbone::stream::Stream;
use crate::hbone::{self};
use crate::identity::revocation::Tracked;
use crate::identity::{Credentials, Proven, TLS_HANDSHAKE_LIMIT, TlsFailure};
use crate::model::{Identity, NextHop};
use crate::sys::socket::carry_streams;
use crate::task::Roaming;
use crate::tls::{
    self,
    handshake::{self, Peer},
};

/// A stream, what the far end said with its 200, and who it is.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) stream: Stream,
    pub(super) headers: HeaderMap,
    pub(super) far: Rc<Far>,
}

/// Opens a stream on a pooled tunnel. A tunnel that turns out to be leaving is replaced: its peer has not seen the request.
pub(super) async fn open<'a>(pod: &Rc<Pod>, key: &TunnelKey, head: impl Fn() -> Connect<'a>) -> Result<Opened, Error> {
    const TRIES: usize = 3;
    let mut tries = 0;
    loop {
        tries += 1;
        let dial = || dial_tunnel(Rc::clone(pod), key.clone());
        let tunnel = pod.tunnels.tunnel(key, dial).await.map_err(Error::Dial)?;
        match tunnel.open(head().request()?).await {
            Ok((stream, headers)) => return Ok(Opened { stream, headers, far: Rc::clone(&tunnel.peer) }),
            Err(_) if tunnel.peer.revoked.is_cancelled() => return Err(Error::PeerRevoked),
            Err(OpenError::GoingAway(_)) if tries < TRIES => tunnel.abandon(),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Opens a stream on a new tunnel inside a stream of a pooled one (protocol note, section 6.1). Inner tunnels are never
/// shared: each user connection has its own, which ends with it.
pub(super) async fn open_inside<'a>(
    pod: &Rc<Pod>,
    outer: &TunnelKey,
    accepted: &[Identity],
    head: impl Fn() -> Connect<'a>,
) -> Result<Opened, Error> {
    let stream = open(pod, outer, || Connect { network: None, ..head() }).await?.stream;
    let credentials = pod.credentials(&outer.source).await?;
    let (tls, shown) = secure(&credentials, accepted, outer.next_hop.0.ip(), StreamIo::new(stream)).await?;
    let proven = Proven::to(&credentials, Reporter::Source, shown.certificates.as_deref());
    let (far, settings) = (Far::new(proven.identity), &pod.habits.tunnels);
    let (tunnel, driver) = hbone::client::start(tls, far, settings).await.map_err(Error::Http2)?;
    pod.tasks.spawn_local(drive(Rc::clone(pod), driver, Rc::clone(&tunnel.peer), (proven.tracked, outer.next_hop)));
    let (stream, headers) = tunnel.open(head().request()?).await?;
    Ok(Opened { stream, headers, far: Rc::clone(&tunnel.peer) })
}

async fn dial_tunnel(pod: Rc<Pod>, key: TunnelKey) -> Result<Tunnel<Rc<Far>>, Error> {
    let credentials = pod.credentials(&key.source).await?;
    let tcp = dial::onward(&pod.local.netns, key.next_hop.0, HBONE_HINT).await?;
    // Without it the tunnel works, too.
    carry_streams(tcp.as_fd()).ok();
    let (tls, shown) = secure(&credentials, &key.accepted, key.next_hop.0.ip(), Roaming::new(tcp)).await?;
    let proven = Proven::to(&credentials, Reporter::Source, shown.certificates.as_deref());
    let ours = credentials.validity.not_after;
    let ends = proven.expires.map_or(ours, |theirs| theirs.min(ours));
    let (far, settings) = (Far::new(proven.identity), &pod.habits.tunnels);
    let (tunnel, driver) = hbone::client::start(tls, far, settings).await.map_err(Error::Http2)?;
    // Whoever has expired since has to prove itself anew.
    tunnel.end_at(Instant::now() + ends.duration_since(SystemTime::now()).unwrap_or_default());
    let driving = drive(Rc::clone(&pod), driver, Rc::clone(&tunnel.peer), (proven.tracked, key.next_hop));
    pod.tasks.spawn_local(driving);
    Ok(tunnel)
}

/// Drives a tunnel until it ends, or until its far end's certificate is revoked.
async fn drive<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    pod: Rc<Pod>,
    driver: Driver<T>,
    far: Rc<Far>,
    (tracked, peer): (Option<Tracked>, NextHop),
) {
    let driving = driver.run(pod.placement.lane());
    if let Some(Err(error)) = far.while_trusted(tracked, peer, driving).await {
        tracing::debug!(%error, %peer, "tunnel ended");
    }
}

/// The client's handshake on `io` with a peer that must prove one of `accepted`.
async fn secure<T: AsyncRead + AsyncWrite + Unpin>(
    credentials: &Credentials,
    accepted: &[Identity],
    ip: IpAddr,
    io: T,
) -> Result<(tls::stream::Stream<T>, Peer), Error> {
    let config = credentials.client_config(accepted);
    let config = config.map_err(|e| Error::Tls(TlsFailure::of(&io::Error::other(e))))?;
    // Not sent, and not what is checked: identities are.
    let name = rustls::pki_types::ServerName::from(ip);
    match tokio::time::timeout(TLS_HANDSHAKE_LIMIT, handshake::connect(config, name, io)).await {
        Ok(result) => result.map_err(|error| Error::Tls(TlsFailure::of(&error))),
        Err(_) => Err(Error::Tls(TlsFailure::timed_out())),
    }
}
