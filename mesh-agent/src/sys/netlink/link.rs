//! What an interface of the thread's namespace can carry, and has carried.

use std::io;

use netlink_packet_core::NLM_F_ACK;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkInfo, LinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::{interface_index, request};

/// The largest packet that the interface sends, in bytes.
pub fn mtu(interface: &str) -> io::Result<u32> {
    attribute(interface, "MTU", |attribute| {
        let LinkAttribute::Mtu(bytes) = attribute else { return None };
        Some(*bytes)
    })
}

/// The bytes that the interface has carried in both directions, of whatever protocol.
pub fn carried(interface: &str) -> io::Result<u64> {
    attribute(interface, "statistics", |attribute| {
        let LinkAttribute::Stats64(stats) = attribute else { return None };
        Some(stats.rx_bytes + stats.tx_bytes)
    })
}

/// The kind of a virtual interface, as `ip -details link` has it. None: it is a piece of hardware, or `lo`.
pub fn kind(index: u32) -> io::Result<Option<String>> {
    let read = |attribute: &LinkAttribute| {
        let LinkAttribute::LinkInfo(about) = attribute else { return None };
        about.iter().find_map(|about| if let LinkInfo::Kind(kind) = about { Some(kind.to_string()) } else { None })
    };
    read_link(index, read)
}

fn attribute<T>(interface: &str, name: &str, read: impl Fn(&LinkAttribute) -> Option<T>) -> io::Result<T> {
    let found = read_link(interface_index(interface)?.unsigned_abs(), read)?;
    found.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("the kernel tells no {name}")))
}

fn read_link<T>(index: u32, read: impl Fn(&LinkAttribute) -> Option<T>) -> io::Result<Option<T>> {
    let mut ask = LinkMessage::default();
    ask.header.index = index;
    let mut found = None;
    let each = |message: RouteNetlinkMessage| {
        if let RouteNetlinkMessage::NewLink(link) = message {
            found = link.attributes.iter().find_map(&read);
        }
    };
    request(NETLINK_ROUTE, RouteNetlinkMessage::GetLink(ask), NLM_F_ACK, each)?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::super::LO_NAME;

    #[test]
    fn loopback_has_one() {
        assert!(super::mtu(LO_NAME).unwrap() >= 1500);
        assert!(super::mtu("no-such-one").is_err());
    }

    #[test]
    fn loopback_is_of_no_kind() {
        assert_eq!(super::kind(super::super::LO).unwrap(), None);
        assert!(super::kind(u32::MAX).is_err());
    }

    #[test]
    fn loopback_counts_what_it_carries() {
        let before = super::carried(LO_NAME).unwrap();
        let (socket, bytes) = (std::net::UdpSocket::bind("127.0.0.1:0").unwrap(), [0; 1000]);
        socket.send_to(&bytes, socket.local_addr().unwrap()).unwrap();
        assert!(super::carried(LO_NAME).unwrap() >= before + 2000);
    }
}
