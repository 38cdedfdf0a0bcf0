//! Texts that many resources have in common, kept once: a hundred thousand workloads have a few hundred namespaces, nodes
//! and owners between them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::model::workload::Locality;
use crate::model::{BadIdentity, Identity};

/// Below this many entries nothing is thrown away.
const SMALL: usize = 4096;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Texts {
    texts: HashSet<Arc<str>>,
    identities: HashMap<[Arc<str>; 3], Identity>,
    localities: HashSet<Arc<Locality>>,
    /// When so many entries are there, those that nobody else has are thrown away.
    limit: usize,
}

impl Texts {
    /// The text as others have it.
    pub(super) fn shared(&mut self, text: &str) -> Arc<str> {
        if let Some(present) = self.texts.get(text) {
            return Arc::clone(present);
        }
        let fresh: Arc<str> = text.into();
        self.texts.insert(Arc::clone(&fresh));
        fresh
    }

    /// The identity with these parts.
    pub(super) fn identity(&mut self, domain: &str, namespace: &str, account: &str) -> Result<Identity, BadIdentity> {
        let parts = [domain, namespace, account].map(|part| self.shared(part));
        if let Some(present) = self.identities.get(&parts) {
            return Ok(present.clone());
        }
        let identity = Identity::new(domain, namespace, account)?;
        self.identities.insert(parts, identity.clone());
        Ok(identity)
    }

    pub(super) fn locality(&mut self, region: &str, zone: &str, subzone: &str) -> Arc<Locality> {
        let [region, zone, subzone] = [region, zone, subzone].map(|part| self.shared(part));
        let locality = Locality { region, zone, subzone };
        if let Some(present) = self.localities.get(&locality) {
            return Arc::clone(present);
        }
        let fresh = Arc::new(locality);
        self.localities.insert(Arc::clone(&fresh));
        fresh
    }

    /// Throws away what nobody has any more, when much has come since it was last done.
    pub(super) fn tidy(&mut self) {
        let count = self.texts.len() + self.identities.len();
        if count < self.limit.max(SMALL) {
            return;
        }
        // An identity that only this table has leaves its parts to be thrown away next.
        self.identities.retain(|_, identity| identity.is_shared());
        self.localities.retain(|locality| Arc::strong_count(locality) > 1);
        self.texts.retain(|text| Arc::strong_count(text) > 1);
        self.texts.shrink_to_fit();
        self.limit = 2 * (self.texts.len() + self.identities.len());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{SMALL, Texts};

    #[test]
    fn equal_texts_are_one() {
        let mut texts = Texts::default();
        assert!(Arc::ptr_eq(&texts.shared("a"), &texts.shared("a")));
        assert!(Arc::ptr_eq(&texts.locality("r", "z", ""), &texts.locality("r", "z", "")));
        let (one, other) = (texts.identity("td", "ns", "sa").unwrap(), texts.identity("td", "ns", "sa").unwrap());
        assert_eq!(one, other);
        assert!(one.is_shared());
        assert!(texts.identity("td", "n/s", "sa").is_err());
    }

    #[test]
    fn what_nobody_has_is_thrown_away() {
        let mut texts = Texts::default();
        let kept = texts.identity("td", "kept", "sa").unwrap();
        for number in 0..SMALL {
            texts.identity("td", &number.to_string(), "sa").unwrap();
        }
        texts.tidy();
        assert_eq!(texts.identities.len(), 1);
        assert!(texts.texts.len() < 10, "{}", texts.texts.len());
        assert_eq!(texts.identity("td", "kept", "sa").unwrap(), kept);
    }
}
