//! Which addresses the interfaces of the thread's namespace have, and which of them its stack would speak from.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::request;

/// The name of the interface that has one of `addresses`; `lo` counts for none.
pub fn interface_with(addresses: &[IpAddr]) -> io::Result<Option<String>> {
    let mut found = Vec::new();
    let collect = |message| {
        if let RouteNetlinkMessage::NewAddress(message) = message
            && message.header.index != super::LO
            && own_address(&message).is_some_and(|ip| addresses.contains(&ip))
        {
            found.push(message.header.index);
        }
    };
    let ask = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    request(NETLINK_ROUTE, ask, NLM_F_DUMP, collect)?;
    let Some(index) = found.first() else { return Ok(None) };
    Ok(Some(rustix::net::netdevice::index_to_name(crate::sys::socket::any_socket()?, *index)?))
}

/// The interface's own address; `IFA_ADDRESS` is the peer's where there are two (rtnetlink(7)).
fn own_address(message: &AddressMessage) -> Option<IpAddr> {
    let local =
        |attribute: &AddressAttribute| if let AddressAttribute::Local(ip) = attribute { Some(*ip) } else { None };
    let address =
        |attribute: &AddressAttribute| if let AddressAttribute::Address(ip) = attribute { Some(*ip) } else { None };
    message.attributes.iter().find_map(local).or_else(|| message.attributes.iter().find_map(address))
}

/// The address that the stack would choose as its own for a packet to `ip` (`RTA_PREFSRC` of the route). None: it has no
/// route there, or the route names none.
pub fn source_towards(ip: IpAddr) -> io::Result<Option<IpAddr>> {
    route_towards(ip, preferred_source)
}

/// The index of the interface by which the stack would send a packet to `ip`. None: it has no route there.
pub fn interface_towards(ip: IpAddr) -> io::Result<Option<u32>> {
    route_towards(ip, |attribute| if let RouteAttribute::Oif(index) = attribute { Some(*index) } else { None })
}

/// What the route to `ip` says.
fn route_towards<T>(ip: IpAddr, read: impl Fn(&RouteAttribute) -> Option<T>) -> io::Result<Option<T>> {
    let mut ask = RouteMessage::default();
    let (family, bits, to) = match ip {
        IpAddr::V4(v4) => (AddressFamily::Inet, 32, RouteAddress::Inet(v4)),
        IpAddr::V6(v6) => (AddressFamily::Inet6, 128, RouteAddress::Inet6(v6)),
    };
    ask.header.address_family = family;
    ask.header.destination_prefix_length = bits;
    ask.attributes = vec![RouteAttribute::Destination(to)];
    let mut said = None;
    let collect = |message| {
        if let RouteNetlinkMessage::NewRoute(route) = message {
            said = route.attributes.iter().find_map(&read);
        }
    };
    match request(NETLINK_ROUTE, RouteNetlinkMessage::GetRoute(ask), NLM_F_ACK, collect) {
        Err(error) if error.raw_os_error().is_some_and(|code| UNROUTED.contains(&code)) => Ok(None),
        result => result.map(|()| said),
    }
}

/// What the kernel says of an address that nothing leads to; the last three are routes made to say so.
const UNROUTED: [i32; 5] = [libc::ENETUNREACH, libc::EAFNOSUPPORT, libc::EHOSTUNREACH, libc::EACCES, libc::EINVAL];

fn preferred_source(attribute: &RouteAttribute) -> Option<IpAddr> {
    let RouteAttribute::PrefSource(address) = attribute else { return None };
    if let RouteAddress::Inet(v4) = address {
        return Some((*v4).into());
    }
    if let RouteAddress::Inet6(v6) = address { Some((*v6).into()) } else { None }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::{interface_towards, interface_with, source_towards};

    #[test]
    fn loopback_is_spoken_to_from_loopback_and_proves_nothing() {
        let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
        assert_eq!(source_towards(loopback).unwrap(), Some(loopback));
        assert_eq!(interface_towards(loopback).unwrap(), Some(super::super::LO));
        assert_eq!(interface_with(&[loopback]).unwrap(), None);
    }
}
