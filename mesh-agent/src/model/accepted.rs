//! Who may answer at the far end of a tunnel: nearly always one identity, and then naming it allocates nothing.

use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::slice;
use std::sync::Arc;

use super::Identity;
use super::service::Service;
use super::workload::Workload;

/// A set of identities, of which the peer must prove one. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Accepted(Shape);

#[derive(Clone, Debug)]
enum Shape {
    One(Identity),
    /// Without repetitions.
    Listed(Arc<[Identity]>),
}

impl Accepted {
    /// Those that answer for a workload: itself, and what the service it was found by names.
    pub(super) fn of(workload: &Workload, service: Option<&Service>) -> Self {
        let named = service.map_or(&[][..], |service| &service.subject_alt_names);
        match named.is_empty() {
            true => Self(Shape::One(workload.identity.clone())),
            false => Self::listed([&workload.identity].into_iter().chain(named)),
        }
    }

    /// Those that a service names.
    pub(super) fn named(service: &Service) -> Self {
        Self::listed(service.subject_alt_names.iter())
    }

    fn listed<'a>(identities: impl Iterator<Item = &'a Identity>) -> Self {
        let mut all = Vec::new();
        for identity in identities {
            if !all.contains(identity) {
                all.push(identity.clone());
            }
        }
        Self(Shape::Listed(all.into()))
    }
}

/// Nobody.
impl Default for Accepted {
    fn default() -> Self {
        Self(Shape::Listed([].into()))
    }
}

impl Deref for Accepted {
    type Target = [Identity];

    fn deref(&self) -> &[Identity] {
        match &self.0 {
            Shape::One(identity) => slice::from_ref(identity),
            Shape::Listed(all) => all,
        }
    }
}

impl PartialEq for Accepted {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Accepted {}

impl Hash for Accepted {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}
