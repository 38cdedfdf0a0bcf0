//! What an interface of the thread's namespace can carry.

use std::io;

use netlink_packet_core::NLM_F_ACK;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::{interface_index, request};

/// The largest packet that the interface sends, in bytes.
pub fn mtu(interface: &str) -> io::Result<u32> {
    let mut ask = LinkMessage::default();
    ask.header.index = interface_index(interface)?.unsigned_abs();
    let mut found = None;
    let each = |message: RouteNetlinkMessage| {
        if let RouteNetlinkMessage::NewLink(link) = message {
            found = link.attributes.iter().find_map(|attribute| {
                let LinkAttribute::Mtu(bytes) = attribute else { return None };
                Some(*bytes)
            });
        }
    };
    request(NETLINK_ROUTE, RouteNetlinkMessage::GetLink(ask), NLM_F_ACK, each)?;
    found.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the kernel tells no MTU"))
}

#[cfg(test)]
mod tests {
    use super::super::LO_NAME;

    #[test]
    fn loopback_has_one() {
        assert!(super::mtu(LO_NAME).unwrap() >= 1500);
        assert!(super::mtu("no-such-one").is_err());
    }
}
