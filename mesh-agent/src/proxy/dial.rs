//! Connecting from inside a pod's namespace.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::TcpStream;

use super::error::Error;
use crate::model::Permit;
use crate::sys::netns::Netns;
use crate::sys::socket::{Source, start_connect};

/// How long a TCP connect may take (protocol note, section 5.8).
const TIMEOUT: Duration = Duration::from_secs(10);

/// Connects to `to` from `netns`. `hint` is added to errors that have a likely cause.
pub(super) async fn onward(netns: &Netns, to: SocketAddr, hint: &'static str) -> Result<TcpStream, Error> {
    connect(netns, Source::Own, to, hint).await
}

/// What the application sees as its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// The client's address.
    Client(IpAddr),
    /// The pod's own loopback address, which it is then reached at, too.
    Loopback,
}

/// From which ports the application is dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ports {
    Any,
    /// From such as clients do not get by themselves, where their own packets reach the application as well.
    Apart,
}

/// Connects to the application that the permit names: nothing else can be dialled inbound.
pub(super) async fn application(
    netns: &Netns,
    permit: &Permit,
    (seen, ports): (Seen, Ports),
) -> Result<TcpStream, Error> {
    let target = permit.target();
    let (source, target) = match seen {
        // A client that is the pod itself needs no other source.
        Seen::Client(ip) if ip == target.ip() => (Source::Own, target),
        Seen::Client(ip) if ports == Ports::Apart => (Source::Apart(ip), target),
        Seen::Client(ip) => (Source::Of(ip), target),
        Seen::Loopback => (Source::Own, SocketAddr::new(loopback(target.ip()), target.port())),
    };
    connect(netns, source, target, "").await
}

fn loopback(like: IpAddr) -> IpAddr {
    if like.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() }
}

async fn connect(netns: &Netns, source: Source, to: SocketAddr, hint: &'static str) -> Result<TcpStream, Error> {
    let attempt = async {
        let started = netns.run(|| start_connect(source, to))??;
        let stream = TcpStream::from_std(started)?;
        stream.writable().await?;
        match stream.take_error()? {
            None => Ok(stream),
            Some(error) => Err(error),
        }
    };
    match tokio::time::timeout(TIMEOUT, attempt).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(cause)) => Err(Error::Connect { to, hint: refused_hint(&cause, hint), cause }),
        Err(_) => Err(Error::ConnectTimeout { to, hint }),
    }
}

/// A refusal says that nothing listens: the firewall hint would mislead.
fn refused_hint(cause: &io::Error, hint: &'static str) -> &'static str {
    if cause.kind() == io::ErrorKind::ConnectionRefused && !hint.is_empty() {
        ", maybe its node's agent is down or does not serve the pod"
    } else {
        ""
    }
}
