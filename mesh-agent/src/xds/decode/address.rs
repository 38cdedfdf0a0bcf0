//! Addresses and references to gateways.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::{Texts, Unusable, port};
use crate::model::addr::NetworkAddress;
use crate::model::gateway::{GatewayAddress, GatewayPlace};
use crate::model::service::ServiceKey;
use crate::proto::workload as wire;

/// 4 or 16 bytes. A v4-mapped address stays what it is.
pub(super) fn ip(field: &'static str, bytes: &[u8]) -> Result<IpAddr, Unusable> {
    let wrong = || Unusable::AddressLength { field, length: bytes.len() };
    match bytes.len() {
        4 => Ok(<[u8; 4]>::try_from(bytes).map_err(|_| wrong())?.into()),
        16 => Ok(<[u8; 16]>::try_from(bytes).map_err(|_| wrong())?.into()),
        _ => Err(wrong()),
    }
}

/// An address and its prefix length.
pub(super) fn net(field: &'static str, bytes: &[u8], length: u32) -> Result<IpNet, Unusable> {
    let address = ip(field, bytes)?;
    let too_long = || Unusable::PrefixLength { field, address, length };
    let short = u8::try_from(length).map_err(|_| too_long())?;
    Ok(IpNet::new(address, short).map_err(|_| too_long())?.trunc())
}

/// A virtual address: of one host, or a block.
pub(super) enum Vip {
    Host(NetworkAddress),
    Block(Arc<str>, IpNet),
}

pub(super) fn vip(address: &wire::NetworkAddress, texts: &mut Texts) -> Result<Vip, Unusable> {
    const FIELD: &str = "addresses";
    let network = texts.shared(&address.network);
    let ip = ip(FIELD, &address.address)?;
    let whole = if ip.is_ipv4() { 32 } else { 128 };
    match address.length {
        None => Ok(Vip::Host(NetworkAddress { network, ip })),
        Some(length) if length == whole => Ok(Vip::Host(NetworkAddress { network, ip })),
        Some(length) => Ok(Vip::Block(network, net(FIELD, &address.address, length)?)),
    }
}

pub(super) fn service_key(namespace: &str, hostname: &str, texts: &mut Texts) -> ServiceKey {
    let lower = hostname.bytes().any(|byte| byte.is_ascii_uppercase()).then(|| hostname.to_ascii_lowercase());
    ServiceKey { namespace: texts.shared(namespace), hostname: texts.shared(lower.as_deref().unwrap_or(hostname)) }
}

pub(super) fn gateway(
    field: &'static str,
    gateway: &wire::GatewayAddress,
    texts: &mut Texts,
) -> Result<GatewayAddress, Unusable> {
    use wire::gateway_address::Destination;
    let place = match gateway.destination.as_ref().ok_or(Unusable::NoDestination { field })? {
        Destination::Hostname(name) => GatewayPlace::Hostname(service_key(&name.namespace, &name.hostname, texts)),
        Destination::Address(address) => {
            let (network, ip) = (texts.shared(&address.network), ip(field, &address.address)?);
            GatewayPlace::Address(NetworkAddress { network, ip })
        }
    };
    Ok(GatewayAddress { place, hbone_port: port(gateway.hbone_mtls_port) })
}
