//! Addresses by place.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The node's number, from 1; 0 for one that does not exist, which starting the lab refuses.
pub(crate) fn node_number(nodes: &[String], name: &str) -> u8 {
    let at = nodes.iter().position(|node| node == name);
    at.and_then(|at| u8::try_from(at + 1).ok()).unwrap_or_default()
}

pub(crate) fn node_addresses(number: u8) -> (Ipv4Addr, Ipv6Addr) {
    let v6 = Ipv6Addr::new(0xfd00, 0x30, 0, 0, 0, 0, 0, u16::from(number));
    (Ipv4Addr::new(172, 30, 0, number), v6)
}

pub(crate) fn pod_addresses(node: u8, number: u8) -> Vec<IpAddr> {
    let v6 = Ipv6Addr::new(0xfd00, 0x40, u16::from(node), 0, 0, 0, 0, decimal(number));
    vec![Ipv4Addr::new(10, 40, node, number).into(), v6.into()]
}

pub(super) fn service_addresses(number: u8) -> Vec<IpAddr> {
    let v6 = Ipv6Addr::new(0xfd00, 0x50, 0, 0, 0, 0, 0, decimal(number));
    vec![Ipv4Addr::new(10, 50, 0, number).into(), v6.into()]
}

/// The number whose hexadecimal digits are the decimal digits of `number`, so that both families read alike.
fn decimal(number: u8) -> u16 {
    let number = u16::from(number);
    ((number / 100) << 8) | ((number / 10 % 10) << 4) | (number % 10)
}
