//! Services that are addressed by blocks of addresses: the longest prefix counts.
//!
//! There is one hash table for each length of prefix that occurs, asked from the longest on: a mesh has thousands of blocks,
//! but of few lengths.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::fast::RandomState;
use ipnet::IpNet;

use super::service::{Service, meant};

/// The blocks of one network.
#[derive(Clone, Debug, Default)]
pub(super) struct Blocks {
    v4: Vec<Length>,
    v6: Vec<Length>,
}

/// All blocks whose prefixes are of one length, in bits.
#[derive(Clone, Debug)]
struct Length {
    length: u8,
    /// By the bits of the prefix.
    services: HashMap<u128, Vec<Arc<Service>>, RandomState>,
}

impl Length {
    fn meant(&self, address: u128, namespace: &str) -> Option<&Arc<Service>> {
        meant(self.services.get(&prefix(address, self.length))?, namespace)
    }
}

impl Blocks {
    pub(super) fn insert(&mut self, block: IpNet, service: &Arc<Service>) {
        let lengths = if block.addr().is_ipv4() { &mut self.v4 } else { &mut self.v6 };
        let length = block.prefix_len();
        // The longest first.
        let at = lengths.binary_search_by_key(&std::cmp::Reverse(length), |one| std::cmp::Reverse(one.length));
        let at = at.unwrap_or_else(|at| {
            lengths.insert(at, Length { length, services: HashMap::default() });
            at
        });
        lengths[at].services.entry(prefix(bits(block.addr()), length)).or_default().push(Arc::clone(service));
    }

    /// The service that a client of `namespace` means by `ip`: one of its own namespace, else the one with the longest
    /// prefix, else a canonical one (protocol note, section 7.2).
    pub(super) fn meant(&self, ip: IpAddr, namespace: &str) -> Option<&Arc<Service>> {
        let lengths = if ip.is_ipv4() { &self.v4 } else { &self.v6 };
        let address = bits(ip);
        let mut covering = lengths.iter().filter_map(|one| one.meant(address, namespace));
        let longest = covering.next()?;
        // Nearly always the only one, and then whose it is does not matter.
        let own = |service: &&Arc<Service>| *service.key.namespace == *namespace;
        match covering.next() {
            Some(second) if !own(&longest) => [second].into_iter().chain(covering).find(own).or(Some(longest)),
            Some(_) | None => Some(longest),
        }
    }
}

/// An address, the first bit of either family being the highest.
fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(ip.to_bits()) << 96,
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

fn prefix(address: u128, length: u8) -> u128 {
    address & !u128::MAX.checked_shr(u32::from(length)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::Arc;

    use ipnet::IpNet;
    use proptest::prelude::*;

    use super::Blocks;
    use crate::model::service::{Service, ServiceKey};

    fn blocks(all: &[(&str, &str)]) -> Blocks {
        let mut blocks = Blocks::default();
        for (block, namespace) in all {
            let service = Arc::new(Service::new(ServiceKey::new(namespace, block), block));
            blocks.insert(block.parse().unwrap(), &service);
        }
        blocks
    }

    #[test]
    fn the_longest_prefix_counts_but_the_own_namespace_comes_first() {
        let blocks = blocks(&[
            ("10.0.0.0/8", "a"),
            ("10.1.0.0/16", "b"),
            ("10.1.2.0/24", "c"),
            ("0.0.0.0/0", "all"),
            ("fd00::/8", "a"),
        ]);
        for (ip, namespace, expected) in [
            ("10.1.2.3", "x", Some("10.1.2.0/24")),
            ("10.1.3.3", "x", Some("10.1.0.0/16")),
            ("10.2.0.1", "x", Some("10.0.0.0/8")),
            ("11.0.0.1", "x", Some("0.0.0.0/0")),
            ("10.1.2.3", "b", Some("10.1.0.0/16")),
            ("10.1.2.3", "all", Some("0.0.0.0/0")),
            ("fd00::1", "x", Some("fd00::/8")),
            ("fe00::1", "x", None),
        ] {
            let found = blocks.meant(ip.parse().unwrap(), namespace).map(|service| &*service.name);
            assert_eq!(found, expected, "{ip} from {namespace}");
        }
    }

    proptest! {
        /// As one walk over all of the blocks would have it.
        #[test]
        fn agrees_with_a_search_through_all(
            written in prop::collection::vec((any::<u8>(), 0u8..=32, 0usize..3), 0..40),
            ip in any::<u8>(),
            client in 0usize..3,
        ) {
            const NAMESPACES: [&str; 3] = ["a", "b", "c"];
            // Few addresses, so that blocks meet: the bits that differ are at both ends.
            let address = |bits: u8| Ipv4Addr::new(bits & 0xf0, 0, 0, bits & 0x0f);
            let all: Vec<(String, &str)> = written.iter()
                .map(|(bits, length, namespace)| (format!("{}/{length}", address(*bits)), NAMESPACES[*namespace]))
                .collect();
            let listed: Vec<(&str, &str)> = all.iter().map(|(block, namespace)| (block.as_str(), *namespace)).collect();
            let ip = IpAddr::V4(address(ip));
            let covering = listed.iter().map(|(block, namespace)| (block.parse::<IpNet>().unwrap(), *namespace));
            let expected = covering
                .filter(|(block, _)| block.contains(&ip))
                .map(|(block, namespace)| (namespace == NAMESPACES[client], block.prefix_len()))
                .max();
            let blocks = blocks(&listed);
            let found = blocks.meant(ip, NAMESPACES[client]).map(|service| {
                let block: IpNet = service.name.parse().unwrap();
                (*service.key.namespace == *NAMESPACES[client], block.prefix_len())
            });
            prop_assert_eq!(found, expected);
        }
    }
}
