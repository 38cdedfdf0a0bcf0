//! Services that are addressed by blocks of addresses: the longest prefix counts.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::{Prefix, PrefixMap};

use super::service::{Service, meant};

/// The blocks of one network.
#[derive(Clone, Debug, Default)]
pub(super) struct Blocks {
    v4: PrefixMap<Ipv4Net, Vec<Arc<Service>>>,
    v6: PrefixMap<Ipv6Net, Vec<Arc<Service>>>,
}

impl Blocks {
    pub(super) fn insert(&mut self, block: IpNet, service: &Arc<Service>) {
        match block {
            IpNet::V4(block) => self.v4.entry(block.trunc()).or_default().push(Arc::clone(service)),
            IpNet::V6(block) => self.v6.entry(block.trunc()).or_default().push(Arc::clone(service)),
        }
    }

    /// The service that a client of `namespace` means by `ip`: one of its own namespace, else the one with the longest
    /// prefix, else a canonical one (protocol note, section 7.2).
    pub(super) fn meant(&self, ip: IpAddr, namespace: &str) -> Option<&Arc<Service>> {
        match ip {
            IpAddr::V4(ip) => longest(&self.v4, &Ipv4Net::from(ip), namespace),
            IpAddr::V6(ip) => longest(&self.v6, &Ipv6Net::from(ip), namespace),
        }
    }
}

fn longest<'a, P: Prefix>(
    blocks: &'a PrefixMap<P, Vec<Arc<Service>>>,
    ip: &P,
    namespace: &str,
) -> Option<&'a Arc<Service>> {
    // From the shortest prefix to the longest.
    let covering = blocks.cover(ip).filter_map(|(_, services)| meant(services, namespace));
    covering.fold(None, |best, service| match best {
        Some(best) if own(best, namespace) && !own(service, namespace) => Some(best),
        Some(_) | None => Some(service),
    })
}

fn own(service: &Service, namespace: &str) -> bool {
    *service.key.namespace == *namespace
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

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
}
