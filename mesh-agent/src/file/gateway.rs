//! How a waypoint or a network's gateway is written: `namespace/hostname`, or an address; a port may follow.

use std::net::{IpAddr, SocketAddr};

use mesh_common::abi::HBONE_PORT;

use crate::model::addr::NetworkAddress;
use crate::model::gateway::{GatewayAddress, GatewayPlace};
use crate::model::service::ServiceKey;

/// What is wrong with a text.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither NAMESPACE/HOSTNAME nor an address, with or without :PORT")]
pub(super) struct BadGateway(String);

/// Reads a gateway; an address is one of `network`. The port is 15008 if none is written.
pub(super) fn read(text: &str, network: &str) -> Result<GatewayAddress, BadGateway> {
    let address = |ip: IpAddr, hbone_port| {
        let address = NetworkAddress { network: network.into(), ip: ip.to_canonical() };
        GatewayAddress { place: GatewayPlace::Address(address), hbone_port }
    };
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(address(ip, HBONE_PORT));
    }
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return Ok(address(socket.ip(), socket.port()));
    }
    let bad = || BadGateway(text.to_owned());
    let (name, hbone_port) = match text.rsplit_once(':') {
        Some((name, port)) => (name, port.parse().ok().filter(|port| *port > 0).ok_or_else(bad)?),
        None => (text, HBONE_PORT),
    };
    let (namespace, hostname) = name.split_once('/').ok_or_else(bad)?;
    if namespace.is_empty() || hostname.is_empty() || hostname.contains(['/', ':']) {
        return Err(bad());
    }
    let key = ServiceKey::new(namespace, &hostname.to_ascii_lowercase());
    Ok(GatewayAddress { place: GatewayPlace::Hostname(key), hbone_port })
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn gateways() {
        for (text, expected) in [
            ("shop/Waypoint.shop.svc.cluster.local", Some("shop/waypoint.shop.svc.cluster.local:15008")),
            ("shop/waypoint:15009", Some("shop/waypoint:15009")),
            ("10.0.0.1", Some("n/10.0.0.1:15008")),
            ("10.0.0.1:15009", Some("n/10.0.0.1:15009")),
            ("fd00::1", Some("n/fd00::1:15008")),
            ("[fd00::1]:1", Some("n/fd00::1:1")),
            ("waypoint", None),
            ("shop/", None),
            ("/waypoint", None),
            ("shop/waypoint:0", None),
            ("shop/waypoint:x", None),
            ("a/b/c", None),
            ("", None),
        ] {
            assert_eq!(read(text, "n").ok().map(|gateway| gateway.to_string()).as_deref(), expected, "{text}");
        }
    }
}
