//! A datagram as it is on the wire: IP header, UDP header, payload.

use std::net::{IpAddr, SocketAddr};

const UDP: u8 = 17;
const UDP_HEADER: usize = 8;
const V4_HEADER: usize = 20;
const HOPS: u8 = 64;
const DONT_FRAGMENT: [u8; 2] = [0x40, 0];

/// The packet that carries `payload` from `from` to `to`; none if they are of two families or it is too long for one.
///
/// The kernel fills in an IPv4 header's length, identification and checksum (raw(7)).
pub(super) fn datagram(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(UDP_HEADER + payload.len()).ok()?;
    let mut packet = Vec::with_capacity(40 + usize::from(length));
    match (from.ip(), to.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            u16::try_from(V4_HEADER + usize::from(length)).ok()?;
            packet.extend([0x45, 0, 0, 0, 0, 0]);
            packet.extend(DONT_FRAGMENT);
            packet.extend([HOPS, UDP, 0, 0]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            packet.extend([0x60, 0, 0, 0]);
            packet.extend(length.to_be_bytes());
            packet.extend([UDP, HOPS]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
    }
    let addresses = if from.is_ipv4() { packet.len() - 8 } else { packet.len() - 32 };
    let pseudo = sum(0, &packet[addresses..]) + u32::from(UDP) + u32::from(length);
    let udp = packet.len();
    packet.extend(from.port().to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    packet.extend(length.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    let checksum = match !folded(sum(pseudo, &packet[udp..])) {
        // That would say that there is none.
        0 => u16::MAX,
        other => other,
    };
    packet[udp + 6..udp + 8].copy_from_slice(&checksum.to_be_bytes());
    Some(packet)
}

/// Adds 16-bit words in network order (RFC 1071). At most 64 KiB, so that it cannot overflow.
fn sum(start: u32, bytes: &[u8]) -> u32 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or_default());
    bytes.chunks(2).map(word).fold(start, u32::wrapping_add)
}

fn folded(mut sum: u32) -> u16 {
    while sum > u32::from(u16::MAX) {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use proptest::prelude::*;

    use super::{datagram, folded, sum};

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// Computed by hand, after RFC 768 and RFC 1071.
    #[test]
    fn a_known_datagram() {
        let packet = datagram(address("10.0.0.1:53"), address("10.0.0.2:4096"), b"hi!").unwrap();
        // Pseudo header 0a00 + 0001 + 0a00 + 0002 + 0011 + 000b, header 0035 + 1000 + 000b, data 6869 + 2100.
        let expected =
            !(0x0a00u16 + 0x0001 + 0x0a00 + 0x0002 + 0x0011 + 0x000b + 0x0035 + 0x1000 + 0x000b + 0x6869 + 0x2100);
        assert_eq!(packet[..10], [0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17]);
        assert_eq!(packet[12..20], [10, 0, 0, 1, 10, 0, 0, 2]);
        assert_eq!(packet[20..26], [0, 53, 0x10, 0, 0, 11]);
        assert_eq!(packet[26..28], expected.to_be_bytes());
        assert_eq!(&packet[28..], b"hi!");
    }

    #[test]
    fn what_is_no_datagram() {
        let (v4, v6) = (address("10.0.0.1:53"), address("[fd00::1]:53"));
        assert!(datagram(v4, v6, b"").is_none());
        assert!(datagram(v6, v4, b"").is_none());
        assert!(datagram(v4, v4, &[0; 65_507]).is_some());
        assert!(datagram(v4, v4, &[0; 65_508]).is_none());
        assert!(datagram(v6, v6, &[0; 65_527]).is_some());
        assert!(datagram(v6, v6, &[0; 65_528]).is_none());
    }

    proptest! {
        /// What a receiver does: pseudo header and datagram, the checksum included, add up to all ones.
        #[test]
        fn checksums_hold(
            v4 in any::<([u8; 4], [u8; 4])>(), v6 in any::<([u8; 16], [u8; 16])>(), ports in any::<(u16, u16)>(),
            payload in prop::collection::vec(any::<u8>(), 0..600),
        ) {
            let ends = [(SocketAddr::from((v4.0, ports.0)), SocketAddr::from((v4.1, ports.1)), 20, 12),
                (SocketAddr::from((v6.0, ports.0)), SocketAddr::from((v6.1, ports.1)), 40, 8)];
            for (from, to, header, addresses) in ends {
                let packet = datagram(from, to, &payload).unwrap();
                let length = u32::try_from(packet.len() - header).unwrap();
                let pseudo = sum(17 + length, &packet[addresses..header]);
                prop_assert_eq!(folded(sum(pseudo, &packet[header..])), u16::MAX);
                prop_assert!(packet[header + 6..header + 8] != [0, 0]);
                prop_assert_eq!(&packet[header + 8..], &payload[..]);
            }
        }
    }
}
