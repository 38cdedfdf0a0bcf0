//! Which resources are held, in which version. Made to be small: there are 100,000 of them.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

/// A resource's version; opaque but for its form. istiod's are 64-bit hashes in hexadecimal (protocol note, section 1.7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// The number whose shortest lower-case hexadecimal form the version is.
    Hash(u64),
    Text(Box<str>),
}

/// Names of resources to versions.
#[derive(Clone, Debug, Default)]
pub(super) struct Held(HashMap<Arc<str>, Version>);

const _: () = assert!(size_of::<Version>() == 16, "one for each resource of the mesh");

impl Version {
    pub(super) fn new(text: &str) -> Self {
        // Uppercase, a sign, or leading zeros would not come back.
        let canonical = !text.starts_with('0') && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        match u64::from_str_radix(text, 16) {
            Ok(hash) if canonical => Self::Hash(hash),
            _ => Self::Text(text.into()),
        }
    }

    /// Of a resource that the server gave no version, or whose newest version was rejected: nothing can be said to the
    /// server about it.
    pub(super) fn unknown() -> Self {
        Self::Text("".into())
    }

    pub(super) fn is_known(&self) -> bool {
        !matches!(self, Self::Text(text) if text.is_empty())
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hash(hash) => write!(f, "{hash:x}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl Held {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub(super) fn version(&self, name: &str) -> Option<&Version> {
        self.0.get(name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Version)> {
        self.0.iter()
    }

    /// The name, in the memory it has already if it is held.
    pub(super) fn share(&self, name: &str) -> Arc<str> {
        self.0.get_key_value(name).map_or_else(|| Arc::from(name), |(name, _)| Arc::clone(name))
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.0.remove(name);
        // A mesh that was large once does not cost its memory for ever.
        if self.0.len() < self.0.capacity() / 8 {
            self.0.shrink_to(self.0.len() * 2);
        }
    }

    /// Notes what became of the resources of one response, in their order. A rejected one stays on the list, in no known
    /// version: its former self may be in force still, or something in its place, and whoever looks after that wants to
    /// know when it is removed.
    pub(super) fn commit(&mut self, offered: Vec<(Arc<str>, Version)>, rejected: &HashSet<Arc<str>>) {
        for (name, version) in offered {
            let version = if rejected.contains(&name) { Version::unknown() } else { version };
            self.0.insert(name, version);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::{Held, Version};

    #[test]
    fn hashes_are_numbers_and_come_back_as_they_were() {
        assert_eq!(Version::new("1f"), Version::Hash(31));
        assert_eq!(Version::new("ffffffffffffffff"), Version::Hash(u64::MAX));
        for text in ["", "0", "01", "1F", "+1", "1ffffffffffffffff", "v1", "2026-10-01T00:00:00Z/12"] {
            assert_eq!(Version::new(text), Version::Text(text.into()), "{text:?}");
            assert_eq!(Version::new(text).is_known(), !text.is_empty());
        }
    }

    proptest! {
        #[test]
        fn versions_come_back(text in "[0-9a-fA-F+g]{0,18}") {
            prop_assert_eq!(Version::new(&text).to_string(), text);
        }
    }

    #[test]
    fn names_are_shared_with_what_is_held() {
        let mut held = Held::default();
        let name: Arc<str> = "a".into();
        held.commit(vec![(Arc::clone(&name), Version::new("1"))], &[].into());
        assert!(Arc::ptr_eq(&held.share("a"), &name));
        assert_eq!(&*held.share("b"), "b");
    }

    #[test]
    fn a_rejected_resource_is_held_in_no_known_version() {
        let mut held = Held::default();
        let offer = |name: &str, version: &str| (Arc::from(name), Version::new(version));
        held.commit(vec![offer("a", "1"), offer("b", "1")], &["b".into()].into());
        assert_eq!((held.version("a"), held.version("b")), (Some(&Version::Hash(1)), Some(&Version::unknown())));
        held.commit(vec![offer("a", "2"), offer("b", "2")], &["a".into()].into());
        assert_eq!((held.version("a"), held.version("b")), (Some(&Version::unknown()), Some(&Version::Hash(2))));
    }

    #[test]
    fn memory_follows_the_size() {
        let mut held = Held::default();
        let names: Vec<Arc<str>> = (0..10_000).map(|i| i.to_string().into()).collect();
        held.commit(names.iter().map(|name| (Arc::clone(name), Version::new("1"))).collect(), &[].into());
        names[10..].iter().for_each(|name| held.remove(name));
        assert_eq!(held.len(), 10);
        assert!(held.0.capacity() < 200, "{}", held.0.capacity());
    }
}
