//! What an interface of the thread's namespace can carry, and has carried.

use std::io;

use netlink_packet_core::NLM_F_ACK;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
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

fn attribute<T>(interface: &str, name: &str, read: impl Fn(&LinkAttribute) -> Option<T>) -> io::Result<T> {
    let mut ask = LinkMessage::default();
    ask.header.index = interface_index(interface)?.unsigned_abs();
    let mut found = None;
    let each = |message: RouteNetlinkMessage| {
        if let RouteNetlinkMessage::NewLink(link) = message {
            found = link.attributes.iter().find_map(&read);
        }
    };
    request(NETLINK_ROUTE, RouteNetlinkMessage::GetLink(ask), NLM_F_ACK, each)?;
    found.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("the kernel tells no {name}")))
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
    fn loopback_counts_what_it_carries() {
        let before = super::carried(LO_NAME).unwrap();
        let (socket, bytes) = (std::net::UdpSocket::bind("127.0.0.1:0").unwrap(), [0; 1000]);
        socket.send_to(&bytes, socket.local_addr().unwrap()).unwrap();
        assert!(super::carried(LO_NAME).unwrap() >= before + 2000);
    }
}
