//! What a case is: a name, a function that can fail, and what lab it wants.

use std::time::Duration;

use anyhow::Result;
use mesh_e2e::{Cluster, Lab, Topology};

/// How long a case may take, its lab's start included, unless it says otherwise.
const LIMIT: Duration = Duration::from_secs(60);

/// The same where a cluster may have to be started.
const CLUSTER_LIMIT: Duration = Duration::from_secs(180);

/// A lab that several cases use one after the other. It is started for the first of them in a row, and again after each
/// case that failed.
///
/// Its cases get it as `&Lab`. They may change the world: the runner publishes the old one afterwards. They must leave
/// the agents running.
#[derive(Debug)]
pub(crate) struct Fixture {
    /// Fixtures of the same name are the same lab.
    pub(crate) name: &'static str,
    pub(crate) topology: fn() -> Topology,
}

/// A test.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(super) limit: Duration,
    pub(super) when: When,
    pub(super) body: Body,
}

/// Whether a case is part of every run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    Always,
    /// Only when a filter is its whole name: it takes minutes.
    Named,
}

/// The function and the lab that it wants.
#[derive(Clone, Copy, Debug)]
pub(super) enum Body {
    Shared(&'static Fixture, fn(&Lab) -> Result<()>),
    Fresh(fn() -> Topology, fn(&mut Lab) -> Result<()>),
    Alone(fn() -> Result<()>),
    Cluster(fn(&Cluster) -> Result<()>),
}

impl Case {
    /// A case in a lab that others use before and after it.
    pub(crate) const fn shared(name: &'static str, fixture: &'static Fixture, body: fn(&Lab) -> Result<()>) -> Self {
        Self { name, limit: LIMIT, when: When::Always, body: Body::Shared(fixture, body) }
    }

    /// A case with a lab of its own, which it may do anything with.
    pub(crate) const fn fresh(
        name: &'static str,
        topology: fn() -> Topology,
        body: fn(&mut Lab) -> Result<()>,
    ) -> Self {
        Self { name, limit: LIMIT, when: When::Always, body: Body::Fresh(topology, body) }
    }

    /// A case that needs no lab.
    pub(crate) const fn alone(name: &'static str, body: fn() -> Result<()>) -> Self {
        Self { name, limit: LIMIT, when: When::Always, body: Body::Alone(body) }
    }

    /// A case that takes so long that it runs only when it is named in full, with its group or without.
    #[must_use]
    pub(crate) const fn only_when_named(mut self) -> Self {
        self.when = When::Named;
        self
    }

    /// A case in a cluster that others use before and after it: what it makes, it must delete, and all nodes must be ready
    /// in the end.
    pub(crate) const fn cluster(name: &'static str, body: fn(&Cluster) -> Result<()>) -> Self {
        Self { name, limit: CLUSTER_LIMIT, when: When::Always, body: Body::Cluster(body) }
    }

    /// Another time limit. It is there so that nothing hangs, not to measure: leave room for a busy machine.
    #[must_use]
    pub(crate) const fn limit(mut self, seconds: u64) -> Self {
        self.limit = Duration::from_secs(seconds);
        self
    }
}
