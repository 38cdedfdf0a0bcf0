//! The types of resources that a node proxy subscribes to (protocol note, section 1.2).

/// A type of resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Services and workloads: `istio.workload.Address`.
    Address,
    /// Policies: `istio.security.Authorization`.
    Authorization,
}

impl Kind {
    pub const ALL: [Self; 2] = [Self::Address, Self::Authorization];

    /// The type URL, in requests, responses and bodies.
    pub fn url(self) -> &'static str {
        match self {
            Self::Address => "type.googleapis.com/istio.workload.Address",
            Self::Authorization => "type.googleapis.com/istio.security.Authorization",
        }
    }

    /// The kind with this type URL.
    pub fn of(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.url() == url)
    }
}

/// One value for each kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PerKind<T>([T; 2]);

impl<T> PerKind<T> {
    pub fn new(mut value: impl FnMut(Kind) -> T) -> Self {
        Self(Kind::ALL.map(&mut value))
    }

    pub fn of(&self, kind: Kind) -> &T {
        &self.0[kind as usize]
    }

    pub fn of_mut(&mut self, kind: Kind) -> &mut T {
        &mut self.0[kind as usize]
    }

    pub fn iter(&self) -> impl Iterator<Item = (Kind, &T)> {
        Kind::ALL.into_iter().zip(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::{Kind, PerKind};

    #[test]
    fn urls_and_places() {
        let kinds = PerKind::new(|kind| kind);
        for kind in Kind::ALL {
            assert_eq!(Kind::of(kind.url()), Some(kind));
            assert_eq!(*kinds.of(kind), kind);
        }
        assert_eq!(Kind::of("type.googleapis.com/istio.workload.Workload"), None);
        assert_eq!(Kind::of(""), None);
    }
}
