//! Addresses by the part they play, so that two of them cannot be swapped.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use equivalent::Equivalent;

use super::Identity;

/// Where the application wanted to go, as the captured socket reports it (always canonical: never v4-mapped v6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OrigDst(pub SocketAddr);

/// Where the agent itself connects to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NextHop(pub SocketAddr);

/// Who is at the other end of an inbound connection: its address as TCP saw it, and its identity if TLS proved one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub address: SocketAddr,
    pub identity: Option<Identity>,
}

/// Turns a v4-mapped IPv6 socket address into the IPv4 one it stands for.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// An address on a named network; the same IP on another network is another endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetworkAddress {
    pub network: Arc<str>,
    pub ip: IpAddr,
}

/// The same, borrowed, for look-ups: it hashes like the owned one.
#[derive(Clone, Copy, Debug, Hash)]
pub(super) struct NetworkIp<'a>(pub(super) &'a str, pub(super) IpAddr);

impl Equivalent<NetworkAddress> for NetworkIp<'_> {
    fn equivalent(&self, key: &NetworkAddress) -> bool {
        self.1 == key.ip && *self.0 == *key.network
    }
}

impl fmt::Display for NetworkAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.ip)
    }
}

impl fmt::Display for OrigDst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for NextHop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
