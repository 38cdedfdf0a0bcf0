//! What the CNI agent's requests come to: which pods are to be served, and what is answered. No I/O (protocol note,
//! sections 10.3 and 10.4).
//!
//! Every request gets one answer and nothing else is ever sent (trap 10). A [`Violation`] gets none: it ends the
//! connection. What is served outlives connections; each new one names all pods again, and when it has, those that it
//! did not name are dropped.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::wire::{self, Info, Request, Undecodable};
use crate::model::{Captured, PodNetns, PodSpec};
use crate::sys::netns::Netns;

/// More pods than a node can have; a node of Kubernetes has some hundred.
const MOST_PODS: usize = 4096;

/// All that is known of the CNI agent's pods.
#[derive(Debug, Default)]
pub(super) struct Session {
    pods: BTreeMap<Arc<str>, Pod>,
    phase: Phase,
}

#[derive(Debug)]
struct Pod {
    spec: Arc<PodSpec>,
    standing: Standing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Not served yet, for all that is known.
    Pending,
    Running,
}

#[derive(Debug, Default)]
enum Phase {
    /// No connection.
    #[default]
    Apart,
    /// The connection is naming all pods; these it has named. Each of them is among `pods`.
    Snapshot(HashSet<Arc<str>>),
    Live,
}

/// What is to be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Ok,
    Error(String),
    /// That depends on whether this pod can be served.
    Of(Arc<PodSpec>),
    /// Ok, when this pod is served no more.
    Without(Arc<PodSpec>),
}

/// What the CNI agent must not send.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Violation {
    #[error(transparent)]
    Undecodable(#[from] Undecodable),
    #[error("add with {0} file descriptors instead of one")]
    Descriptors(usize),
    #[error("a file descriptor with something else than add")]
    StrayDescriptor,
    #[error("keep after the snapshot")]
    LateKeep,
    #[error("a second end of the snapshot")]
    SecondSnapshot,
    #[error("a message outside of a connection")]
    NotConnected,
}

impl Session {
    /// A connection begins. Pods that could not be served so far are forgotten: it will name them again.
    pub(super) fn connect(&mut self) {
        self.pods.retain(|_, pod| pod.standing == Standing::Running);
        self.phase = Phase::Snapshot(HashSet::new());
    }

    /// The connection has ended; what is served is served on.
    pub(super) fn disconnect(&mut self) {
        self.phase = Phase::Apart;
    }

    /// Takes one packet: its bytes, and the descriptors that came with it.
    pub(super) fn receive(&mut self, packet: &[u8], mut handles: Vec<Netns>) -> Result<Answer, Violation> {
        let request = wire::request(packet)?;
        if matches!(self.phase, Phase::Apart) {
            return Err(Violation::NotConnected);
        }
        match request {
            Request::Add { uid, info } => match (handles.pop(), handles.len()) {
                (Some(netns), 0) => Ok(self.add(uid.into(), info, netns)),
                (netns, more) => Err(Violation::Descriptors(more + usize::from(netns.is_some()))),
            },
            Request::Keep { .. } | Request::Del { .. } | Request::SnapshotSent if !handles.is_empty() => {
                Err(Violation::StrayDescriptor)
            }
            Request::Keep { uid } => self.keep(&uid),
            Request::Del { uid } => Ok(self.del(&uid)),
            Request::SnapshotSent => self.reconcile(),
        }
    }

    /// The pod of this very spec is served.
    pub(super) fn served(&mut self, spec: &Arc<PodSpec>) {
        if let Some(pod) = self.pods.get_mut(&spec.uid).filter(|pod| Arc::ptr_eq(&pod.spec, spec)) {
            pod.standing = Standing::Running;
        }
    }

    /// All pods that are to be served, sorted by uid.
    pub(super) fn pods(&self) -> Vec<Arc<PodSpec>> {
        self.pods.values().map(|pod| Arc::clone(&pod.spec)).collect()
    }

    /// Whether the connection has named all its pods.
    pub(super) fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Live)
    }

    /// Whether a pod is not served yet.
    pub(super) fn is_pending(&self) -> bool {
        self.pods.values().any(|pod| pod.standing == Standing::Pending)
    }

    fn add(&mut self, uid: Arc<str>, info: Option<Info>, netns: Netns) -> Answer {
        if uid.is_empty() {
            return Answer::Error("a pod without a uid".to_owned());
        }
        self.name(&uid);
        let Some(info) = info else { return Answer::Error(format!("pod {uid} has no workload info")) };
        let place = PodNetns::Handle(netns);
        let running = |pod: &&Pod| pod.standing == Standing::Running && pod.spec.netns == place;
        if self.pods.get(&uid).filter(running).is_some() {
            return Answer::Ok;
        }
        if self.pods.len() >= MOST_PODS && !self.pods.contains_key(&uid) {
            return Answer::Error(format!("there are {MOST_PODS} pods already"));
        }
        let spec = Arc::new(PodSpec {
            uid: Arc::clone(&uid),
            name: info.name,
            namespace: info.namespace,
            service_account: info.service_account,
            netns: place,
            captured: Captured::ByRules,
        });
        self.pods.insert(Arc::clone(&uid), Pod { spec: Arc::clone(&spec), standing: Standing::Pending });
        self.name(&uid);
        Answer::Of(spec)
    }

    /// A pod that is not known is nothing to keep.
    fn keep(&mut self, uid: &str) -> Result<Answer, Violation> {
        if self.is_live() {
            return Err(Violation::LateKeep);
        }
        self.name(uid);
        Ok(Answer::Ok)
    }

    /// Before the end of the snapshot a pod that is served is only no longer named.
    fn del(&mut self, uid: &str) -> Answer {
        let pending = self.pods.get(uid).is_some_and(|pod| pod.standing == Standing::Pending);
        let at_once = match &mut self.phase {
            Phase::Snapshot(named) => {
                named.remove(uid);
                pending
            }
            Phase::Live | Phase::Apart => true,
        };
        let gone = if at_once { self.pods.remove(uid) } else { None };
        gone.map_or(Answer::Ok, |pod| Answer::Without(pod.spec))
    }

    fn reconcile(&mut self) -> Result<Answer, Violation> {
        let Phase::Snapshot(named) = &self.phase else { return Err(Violation::SecondSnapshot) };
        self.pods.retain(|uid, _| named.contains(uid));
        self.phase = Phase::Live;
        Ok(Answer::Ok)
    }

    /// Notes that the connection has named a pod that is known.
    fn name(&mut self, uid: &str) {
        if let (Phase::Snapshot(named), Some((uid, _))) = (&mut self.phase, self.pods.get_key_value(uid)) {
            named.insert(Arc::clone(uid));
        }
    }
}

#[cfg(test)]
mod tests;
