//! The PROXY protocol towards an application behind an application tunnel (protocol note, section 6.4): who the client is
//! and where it wanted to go, said before its first byte.

use std::net::SocketAddr;

use super::dial::Seen;

/// Type of the TLV that carries the client's SPIFFE identity.
const IDENTITY: u8 = 0xD0;

/// Of a SPIFFE identity, in bytes (SPIFFE-ID specification, section 2.3).
const LONGEST_IDENTITY: usize = 2048;

/// How an application gets a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    /// As if the client itself had connected.
    FromClient(SocketAddr),
    /// From there, after this header.
    Announced(Seen, Vec<u8>),
}

impl Delivery {
    pub(super) fn source(&self) -> Seen {
        match self {
            Self::FromClient(client) => Seen::Client(client.ip()),
            Self::Announced(seen, _) => *seen,
        }
    }
}

/// A version 2 header (HAProxy's proxy-protocol.txt, section 2.2): command PROXY, stream. Addresses of different families
/// cannot be told; then only the identity is.
pub(super) fn header(client: SocketAddr, destination: SocketAddr, identity: Option<&str>) -> Vec<u8> {
    const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
    const VERSION_2_PROXY: u8 = 0x21;
    let (family, addresses) = match (client, destination) {
        (SocketAddr::V4(client), SocketAddr::V4(destination)) => {
            (0x11, [client.ip().octets().as_slice(), &destination.ip().octets()].concat())
        }
        (SocketAddr::V6(client), SocketAddr::V6(destination)) => {
            (0x21, [client.ip().octets().as_slice(), &destination.ip().octets()].concat())
        }
        _ => (0x00, Vec::new()),
    };
    let mut body = addresses;
    if !body.is_empty() {
        body.extend(client.port().to_be_bytes());
        body.extend(destination.port().to_be_bytes());
    }
    let identity = identity.filter(|text| text.len() <= LONGEST_IDENTITY);
    if let Some((identity, length)) = identity.and_then(|text| Some((text, u16::try_from(text.len()).ok()?))) {
        body.push(IDENTITY);
        body.extend(length.to_be_bytes());
        body.extend(identity.as_bytes());
    }
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX).to_be_bytes();
    [SIGNATURE.as_slice(), &[VERSION_2_PROXY, family], &length, &body].concat()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use proptest::prelude::*;

    use super::header;

    /// Family, addresses, ports, identity.
    type Told = (u8, Vec<u8>, Option<(u16, u16)>, Option<String>);

    /// What a reader makes of a header.
    fn read(header: &[u8]) -> Told {
        assert_eq!(&header[..13], b"\r\n\r\n\0\r\nQUIT\n\x21");
        let body = &header[16..];
        assert_eq!(usize::from(u16::from_be_bytes([header[14], header[15]])), body.len());
        let size = match header[13] {
            0x11 => 8,
            0x21 => 32,
            0x00 => 0,
            other => panic!("family {other:#x}"),
        };
        let port = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
        let ports = (size > 0).then(|| (port(size), port(size + 2)));
        let tlv = &body[if size > 0 { size + 4 } else { 0 }..];
        let identity = (!tlv.is_empty()).then(|| {
            assert_eq!((tlv[0], usize::from(u16::from_be_bytes([tlv[1], tlv[2]]))), (0xD0, tlv.len() - 3));
            String::from_utf8(tlv[3..].to_vec()).unwrap()
        });
        (header[13], body[..size].to_vec(), ports, identity)
    }

    #[test]
    fn trap_17_the_identity_is_in_tlv_d0() {
        let id = "spiffe://cluster.local/ns/shop/sa/cart";
        let (family, addresses, ports, identity) =
            read(&header("10.0.0.1:4000".parse().unwrap(), "10.96.0.1:80".parse().unwrap(), Some(id)));
        assert_eq!((family, addresses), (0x11, vec![10, 0, 0, 1, 10, 96, 0, 1]));
        assert_eq!((ports, identity.as_deref()), (Some((4000, 80)), Some(id)));
    }

    #[test]
    fn families_that_differ_leave_the_identity() {
        let mixed = header("[fd00::1]:4000".parse().unwrap(), "10.96.0.1:80".parse().unwrap(), Some("spiffe://a"));
        assert_eq!(read(&mixed), (0, vec![], None, Some("spiffe://a".to_owned())));
    }

    proptest! {
        #[test]
        fn reads_back(client: SocketAddr, destination: SocketAddr, identity in prop::option::of("[a-z:/.]{0,300}")) {
            let same = client.is_ipv4() == destination.is_ipv4();
            let (_, addresses, ports, read) = read(&header(client, destination, identity.as_deref()));
            prop_assert_eq!(addresses.is_empty(), !same);
            prop_assert_eq!(ports, same.then_some((client.port(), destination.port())));
            prop_assert_eq!(read, identity);
        }
    }
}
