//! Pods whose traffic somebody else's rules redirect to the agent's ports (protocol note, section 11.4): netfilter sends
//! outbound connections to 15001 and inbound ones to 15006, and leaves those to 15008 alone.
//!
//! Nothing in such a pod is changed. Serving it means listening in it; it is withdrawn when its listeners are closed,
//! and there is nothing that a later start would find.

use std::sync::Arc;

use super::capture::{Capture, CaptureError, Enrolled, Kernel, Routing, entering, foreign, open, system};
use super::listeners::{Names, open_listeners};
use super::owners::{Owners, own_cookie};
use crate::bpf::facts::Facts;
use crate::bpf::object::Origin;
use crate::model::{Captured, PodSpec};
use crate::sys::cores::Homes;

/// The kernel's part for redirected pods, which is small.
#[derive(Debug)]
pub struct Redirected {
    owners: Owners,
    /// Removes what an agent left here that captured pods by programs: packets must not be taken twice.
    former: Option<Kernel>,
    names: Names,
}

impl Redirected {
    /// `facts` is told which namespaces to watch. The rules redirect queries or do not; `names` says whether somebody
    /// listens for them.
    pub fn new(facts: Option<Arc<Facts>>, former: Option<Kernel>, names: Names) -> Self {
        Self { owners: Owners::new(facts), former, names }
    }

    fn remove_programs(&self, uid: &str) -> Result<(), CaptureError> {
        self.former.as_ref().map_or(Ok(()), |former| former.remove(uid, Routing::Leave))
    }
}

impl Capture for Redirected {
    fn enrol(&self, spec: &PodSpec, homes: &Homes) -> Result<Enrolled, CaptureError> {
        if !matches!(spec.captured, Captured::ByRules) {
            return Err(CaptureError::NotRedirected);
        }
        let netns = foreign(open(&spec.netns)?)?;
        self.remove_programs(&spec.uid)?;
        let inside = || -> Result<_, CaptureError> {
            let cookie = own_cookie().map_err(system("the namespace's cookie"))?;
            let listeners = open_listeners(self.names, homes)?;
            let others = |other| CaptureError::OthersNamespace { place: spec.netns.clone(), other };
            self.owners.claim(&spec.uid, cookie, &netns).map_err(others)?;
            Ok(listeners)
        };
        let listeners = netns.run(inside).map_err(entering(&spec.netns))??;
        Ok(Enrolled { netns, listeners, origin: Origin::Fresh })
    }

    fn reconfigure(&self, _spec: &PodSpec) -> Result<(), CaptureError> {
        Ok(())
    }

    /// The namespace is free again: under another uid it may be handed over before the last connection has ended.
    fn release(&self, uid: &str) -> Result<(), CaptureError> {
        self.owners.remove(uid);
        Ok(())
    }

    fn withdraw(&self, uid: &str) -> Result<(), CaptureError> {
        self.owners.remove(uid);
        self.remove_programs(uid)
    }

    fn left_behind(&self) -> Vec<Arc<str>> {
        self.former.as_ref().map(Kernel::left_behind).unwrap_or_default()
    }

    fn counters(&self, _uid: &str) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}
