//! How two pods of one node talk, where there is no wire between them.

use std::collections::BTreeMap;

/// From what trusts the node least to what trusts it most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum SameNode {
    /// As between nodes: mutual TLS over a tunnel.
    Mtls,
    /// The agent authorises the two, and joins their connections in its own process.
    #[default]
    Local,
    /// The agent authorises the two, and the kernel carries the packets of their connections from one to the other.
    Direct,
}

/// The modes of all namespaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SameNodeModes {
    pub default: SameNode,
    pub namespaces: BTreeMap<String, SameNode>,
}

impl SameNodeModes {
    /// The mode between pods of two namespaces: neither has to trust the node more than it says.
    pub fn between(&self, one: &str, other: &str) -> SameNode {
        self.of(one).min(self.of(other))
    }

    /// Whether any two could talk directly.
    pub fn any_direct(&self) -> bool {
        self.default == SameNode::Direct || self.namespaces.values().any(|mode| *mode == SameNode::Direct)
    }

    fn of(&self, namespace: &str) -> SameNode {
        self.namespaces.get(namespace).copied().unwrap_or(self.default)
    }
}

#[cfg(test)]
mod tests {
    use super::SameNode::{Direct, Local, Mtls};
    use super::SameNodeModes;

    #[test]
    fn the_stricter_of_two_namespaces_decides() {
        let modes = SameNodeModes { default: Local, namespaces: [("bank".to_owned(), Mtls)].into() };
        for (one, other, expected) in
            [("a", "b", Local), ("a", "bank", Mtls), ("bank", "a", Mtls), ("bank", "bank", Mtls)]
        {
            assert_eq!(modes.between(one, other), expected, "{one} {other}");
        }
        let strict = SameNodeModes { default: Mtls, namespaces: [("lab".to_owned(), Local)].into() };
        assert_eq!((strict.between("lab", "lab"), strict.between("lab", "a")), (Local, Mtls));
        assert!(!modes.any_direct() && !strict.any_direct());
        let fast = SameNodeModes { default: Local, namespaces: [("fast".to_owned(), Direct)].into() };
        assert_eq!((fast.between("fast", "fast"), fast.between("fast", "a")), (Direct, Local));
        assert!(fast.any_direct());
    }
}
