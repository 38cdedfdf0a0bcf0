//! The few netlink requests of the enrolment, in the calling thread's namespace: one rule and one route per family,
//! the clsact discipline ([`clsact`]), what an interface carries ([`link`]), the list of open TCP connections; and questions
//! about addresses ([`address`]).

pub mod address;
pub mod clsact;
pub mod link;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use mesh_common::abi::{CAPTURED_MARK, MARK_MASK, ROUTE_TABLE, RULE_PRIORITY};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_sys::protocols::{NETLINK_ROUTE, NETLINK_SOCK_DIAG};
use netlink_sys::{Socket, SocketAddr as NetlinkAddress};

/// Interface index of `lo`, the same in every namespace (`LOOPBACK_IFINDEX`).
pub const LO: u32 = 1;
pub const LO_NAME: &str = "lo";

/// The index of an interface in the thread's namespace.
pub fn interface_index(name: &str) -> io::Result<i32> {
    let index = rustix::net::netdevice::name_to_index(super::socket::any_socket()?, name)?;
    i32::try_from(index).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}

/// An IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

/// Add or remove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Add,
    Remove,
}

/// Adds or removes the rule that sends captured packets to the mesh's routing table. Doing it twice is no error.
pub fn captured_rule(family: Family, change: Change) -> io::Result<()> {
    let mut rule = RuleMessage::default();
    rule.header.family = address_family(family);
    rule.header.action = RuleAction::ToTable;
    rule.attributes = vec![
        RuleAttribute::Priority(RULE_PRIORITY),
        RuleAttribute::FwMark(CAPTURED_MARK),
        RuleAttribute::FwMask(MARK_MASK),
        RuleAttribute::Table(ROUTE_TABLE),
    ];
    apply(change, RouteNetlinkMessage::NewRule(rule.clone()), RouteNetlinkMessage::DelRule(rule))
}

/// Adds or removes the route that delivers every packet of the mesh's table locally. Doing it twice is no error.
pub fn local_route(family: Family, change: Change) -> io::Result<()> {
    let mut route = RouteMessage::default();
    route.header.address_family = address_family(family);
    route.header.protocol = RouteProtocol::Static;
    route.header.scope = RouteScope::Host;
    route.header.kind = RouteType::Local;
    let anywhere = match family {
        Family::V4 => RouteAddress::Inet(Ipv4Addr::UNSPECIFIED),
        Family::V6 => RouteAddress::Inet6(Ipv6Addr::UNSPECIFIED),
    };
    route.attributes =
        vec![RouteAttribute::Destination(anywhere), RouteAttribute::Oif(LO), RouteAttribute::Table(ROUTE_TABLE)];
    apply(change, RouteNetlinkMessage::NewRoute(route.clone()), RouteNetlinkMessage::DelRoute(route))
}

fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

fn apply(change: Change, add: RouteNetlinkMessage, remove: RouteNetlinkMessage) -> io::Result<()> {
    let (message, flags, already) = match change {
        Change::Add => (add, NLM_F_CREATE | NLM_F_EXCL, &[libc::EEXIST][..]),
        Change::Remove => (remove, 0, &[libc::ENOENT, libc::ESRCH][..]),
    };
    match request(NETLINK_ROUTE, message, flags | NLM_F_ACK, |_| {}) {
        Err(error) if error.raw_os_error().is_some_and(|code| already.contains(&code)) => Ok(()),
        // Without IPv6 in the kernel there is nothing to route.
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => Ok(()),
        result => result,
    }
}

/// An open TCP connection as its local socket sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Connection {
    pub local: SocketAddr,
    pub remote: SocketAddr,
}

/// All TCP connections of the namespace that have, or are about to have, both ends: no listeners, no SYN_SENT.
pub fn connections() -> io::Result<Vec<Connection>> {
    let mut found = Vec::new();
    for (family, socket_id) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
        let states = StateFlags::all() - StateFlags::LISTEN - StateFlags::SYN_SENT - StateFlags::CLOSE;
        let extensions = ExtensionFlags::empty();
        let ask = InetRequest { family, protocol: IPPROTO_TCP, extensions, states, socket_id };
        let collect = |message: SockDiagMessage| {
            if let SockDiagMessage::InetResponse(response) = message {
                let id = &response.header.socket_id;
                let end = |ip: IpAddr, port| SocketAddr::new(ip.to_canonical(), port);
                found.push(Connection {
                    local: end(id.source_address, id.source_port),
                    remote: end(id.destination_address, id.destination_port),
                });
            }
        };
        request(NETLINK_SOCK_DIAG, SockDiagMessage::InetRequest(ask), NLM_F_DUMP, collect)?;
    }
    Ok(found)
}

/// Ends a TCP connection: its local end gets an error, its remote one a reset. One that has ended is no error. Needs a kernel
/// with `CONFIG_INET_DIAG_DESTROY`.
pub fn destroy(connection: Connection) -> io::Result<()> {
    /// `SOCK_DESTROY` (linux/sock_diag.h).
    const DESTROY: u16 = 21;
    /// `INET_DIAG_NOCOOKIE` (linux/inet_diag.h): the addresses are name enough.
    const NO_COOKIE: [u8; 8] = [0xff; 8];
    /// `TCP_LISTEN` (net/tcp_states.h).
    const LISTEN: u8 = 10;
    let Connection { local, remote } = connection;
    let (family, blank) = match local {
        SocketAddr::V4(_) => (AF_INET, SocketId::new_v4()),
        SocketAddr::V6(_) => (AF_INET6, SocketId::new_v6()),
    };
    let socket_id = SocketId {
        source_address: local.ip(),
        source_port: local.port(),
        destination_address: remote.ip(),
        destination_port: remote.port(),
        cookie: NO_COOKIE,
        ..blank
    };
    let about = |socket_id| {
        let (states, extensions) = (StateFlags::all(), ExtensionFlags::empty());
        InetRequest { family, protocol: IPPROTO_TCP, extensions, states, socket_id }
    };
    // Where there is no such connection, the kernel takes the listener that it would come to, which must not be ended.
    let mut found = None;
    let collect = |message: SockDiagMessage| {
        if let SockDiagMessage::InetResponse(response) = message {
            let (id, state) = (&response.header.socket_id, response.header.state);
            let same = SocketAddr::new(id.destination_address.to_canonical(), id.destination_port) == remote;
            found = (state != LISTEN && same).then_some(id.cookie);
        }
    };
    let looked = request(NETLINK_SOCK_DIAG, SockDiagMessage::InetRequest(about(socket_id.clone())), NLM_F_ACK, collect);
    gone_is_fine(looked)?;
    let Some(cookie) = found else { return Ok(()) };
    let ask = SockDiagMessage::InetRequest(about(SocketId { cookie, ..socket_id }));
    gone_is_fine(request_as(Some(DESTROY), NETLINK_SOCK_DIAG, ask, NLM_F_ACK, |_| {}))
}

fn gone_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        result => result,
    }
}

/// Sends one request and reads its answers to their end.
fn request<M>(protocol: isize, message: M, flags: u16, each: impl FnMut(M)) -> io::Result<()>
where
    M: NetlinkSerializable + NetlinkDeserializable,
    NetlinkPayload<M>: From<M>,
{
    request_as(None, protocol, message, flags, each)
}

/// The same with another type than the message has by itself.
fn request_as<M>(kind: Option<u16>, protocol: isize, message: M, flags: u16, mut each: impl FnMut(M)) -> io::Result<()>
where
    M: NetlinkSerializable + NetlinkDeserializable,
    NetlinkPayload<M>: From<M>,
{
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    socket.connect(&NetlinkAddress::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    let mut packet = NetlinkMessage::new(header, message.into());
    packet.finalize();
    if let Some(kind) = kind {
        packet.header.message_type = kind;
    }
    let mut bytes = vec![0; packet.buffer_len()];
    packet.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        if take_datagram(&datagram, &mut each)? == Rest::Done {
            return Ok(());
        }
    }
}

#[derive(PartialEq, Eq)]
enum Rest {
    More,
    Done,
}

#[expect(clippy::wildcard_enum_match_arm, reason = "an open set, of which a few mean something here")]
fn take_datagram<M: NetlinkDeserializable>(datagram: &[u8], each: &mut impl FnMut(M)) -> io::Result<Rest> {
    let mut at = 0;
    while at < datagram.len() {
        let message = NetlinkMessage::<M>::deserialize(&datagram[at..])
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        let length = message.header.length as usize;
        match message.payload {
            NetlinkPayload::InnerMessage(inner) => each(inner),
            NetlinkPayload::Error(error) => {
                return error.code.map_or(Ok(Rest::Done), |code| Err(io::Error::from_raw_os_error(-code.get())));
            }
            NetlinkPayload::Done(_) => return Ok(Rest::Done),
            _ => {}
        }
        // Messages are aligned to four bytes.
        at += length.next_multiple_of(4).max(16);
    }
    Ok(Rest::More)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::{Connection, destroy};

    #[test]
    fn ending_a_connection_that_has_ended_leaves_its_listener_alone() {
        for place in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(place).unwrap();
            let local = listener.local_addr().unwrap();
            let remote = {
                let gone = TcpStream::connect(local).unwrap();
                gone.local_addr().unwrap()
            };
            drop(listener.accept().unwrap());
            let other = std::net::SocketAddr::new(remote.ip(), remote.port() ^ 1);
            destroy(Connection { local, remote: other }).unwrap();
            let _stream = TcpStream::connect(local).expect("somebody still listens");
            listener.accept().unwrap();
        }
    }
}
