//! One pod of the node: what is known of it, where its namespace is, and what is wanted of it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh_common::maps::MAX_NODE_ADDRESSES;
use tokio::time::Instant;

use super::Plugin;
use super::backoff::Backoff;
use super::marks::{ENABLED, Marking, PENDING, Wish};
use super::questions::Number;
use crate::kubernetes::{Outside, Pod, Standing};
use crate::model::pod::PodStatus;
use crate::model::{Captured, Older, PodNetns, PodSpec, Programs};
use crate::pods::find::Place;

/// A namespace that was not found is looked for again so often.
const SEARCH: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
/// How often it is looked whether a pod that has gone, or is about to, has left its namespace.
const POLL: Duration = Duration::from_secs(1);
/// The same of all pods, where no plugin announces that a sandbox was replaced.
const SWEEP: Duration = Duration::from_secs(10);
/// A namespace that was announced may be without a process for so long: the sandbox is only about to start.
const GRACE: Duration = Duration::from_secs(30);
/// How long a pod may be uncaptured before that is said.
const PATIENCE: Duration = Duration::from_secs(1);
/// The same of one that a former agent has left: its programs are in place, and a node's pods are many.
const RETURN: Duration = Duration::from_secs(30);

/// Where the kubelet's probes of a pod come from.
#[derive(Clone, Debug)]
pub struct Probers {
    /// The address that the node's stack speaks to another one from.
    pub towards: fn(IpAddr) -> Option<IpAddr>,
    /// More of the node's addresses.
    pub others: Vec<IpAddr>,
}

impl Probers {
    fn of(&self, pod: &[IpAddr]) -> Vec<IpAddr> {
        let mut all = Vec::new();
        for ip in pod.iter().filter_map(|ip| (self.towards)(*ip)).chain(self.others.iter().copied()) {
            if !all.contains(&ip) {
                all.push(ip);
            }
        }
        all.truncate(MAX_NODE_ADDRESSES);
        all
    }
}

/// By whom a pod is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// By what a former agent has left; there is no picture yet.
    Remembered,
    /// By the API server, which was asked; no picture shows it yet.
    Told,
    Pictured,
    /// By former pictures: the API server has it no more.
    Gone,
}

/// Where a pod is.
#[derive(Clone, Debug)]
pub(super) struct Site {
    pub(super) place: Place,
    /// As announced; the API server may tell them later.
    pub(super) addresses: Vec<IpAddr>,
    /// The runtime's id of the sandbox, if it was announced.
    pub(super) container: Option<String>,
    /// By which question, and when.
    pub(super) announced: Option<(Number, Instant)>,
    pub(super) life: Life,
    /// When it was last seen that a process is in it.
    pub(super) checked: Instant,
    pub(super) older: Older,
}

impl Site {
    /// A namespace that nobody announced.
    pub(super) fn found(place: Place, addresses: Vec<IpAddr>, older: Older, now: Instant) -> Self {
        Self { place, addresses, container: None, announced: None, life: Life::Assumed, checked: now, older }
    }
}

/// Whether a namespace may have no process any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    Assumed,
    /// That is to be looked at soon.
    Doubted,
}

/// Since when a pod is a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// It may have run before, or was announced.
    Later,
    /// From its beginning, and its runtime has to announce it.
    Born,
}

/// How a pod's capture is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Capture {
    /// It is not to be captured, or has no namespace yet: then it is only about to start.
    Unconcerned,
    /// Since when it could be captured, or is said to be, and is not.
    Missing(Instant),
    Captured,
}

#[derive(Debug)]
pub(super) struct Member {
    pub(super) pod: Arc<Pod>,
    pub(super) known: Known,
    pub(super) entry: Entry,
    /// Whether it is to be captured. A pod that has ended stays what it was until it has left its namespace.
    pub(super) belongs: bool,
    pub(super) site: Option<Site>,
    pub(super) spec: Option<Arc<PodSpec>>,
    pub(super) search: Backoff,
    /// Why the namespace was not found.
    pub(super) lost: Option<String>,
    capture: Capture,
    patience: Duration,
    pub(super) marking: Marking,
}

impl Member {
    pub(super) fn new(pod: Arc<Pod>, known: Known) -> Self {
        Self {
            belongs: pod.standing == Standing::Member,
            marking: Marking::new(pod.mark.clone()),
            pod,
            known,
            entry: Entry::Later,
            site: None,
            spec: None,
            search: SEARCH,
            lost: None,
            capture: Capture::Unconcerned,
            patience: PATIENCE,
        }
    }

    pub(super) fn entering(self, entry: Entry) -> Self {
        Self { entry, ..self }
    }

    /// A pod that a former agent left enrolled. It is wanted as it was until there is a picture.
    pub(super) fn remembered(spec: Arc<PodSpec>, now: Instant) -> Option<Self> {
        let (PodNetns::Proven { path, netns }, Captured::ByPrograms(programs)) = (&spec.netns, &spec.captured) else {
            return None;
        };
        let place =
            Place { path: path.clone(), netns: netns.clone(), interface: programs.interface.clone(), carried: 0 };
        let pod = Pod {
            uid: Arc::clone(&spec.uid),
            object: Arc::clone(&spec.uid),
            name: spec.name.clone(),
            namespace: spec.namespace.clone(),
            service_account: spec.service_account.clone(),
            addresses: programs.addresses.clone(),
            probe_ports: programs.probe_ports.clone(),
            names: programs.names,
            inbound: programs.inbound,
            standing: Standing::Member,
            mark: None,
            virtual_interfaces: programs.virtual_interfaces.clone(),
        };
        let addresses = programs.addresses.clone();
        let site = Site::found(place, addresses, Older::LeftAlone, now);
        Some(Self {
            site: Some(site),
            spec: Some(spec),
            patience: RETURN,
            ..Self::new(Arc::new(pod), Known::Remembered)
        })
    }

    /// Whether `pod` has the uid of this one, which is on the node, and is another one.
    pub(super) fn is_usurped(&self, pod: &Pod) -> bool {
        self.site.is_some() && !self.pod.is_namesake(pod)
    }

    /// The pod as the API server has it now, and by whom it is known from now on.
    pub(super) fn update(&mut self, pod: &Arc<Pod>, known: Known, probers: &Probers) {
        if self.known == known && Arc::ptr_eq(&self.pod, pod) {
            return;
        }
        // What a former agent knew may be long ago.
        if self.known == Known::Remembered {
            self.doubt(|_| true);
        }
        self.known = known;
        self.pod = Arc::clone(pod);
        self.belongs = match pod.standing {
            Standing::Member => true,
            Standing::Outside(Outside::Ended) => self.belongs,
            Standing::Outside(_) => false,
        };
        self.marking.see(pod.mark.as_deref());
        self.search = SEARCH;
        self.rebuild(probers);
    }

    /// The namespace is at another place from now on, or at the same in other words.
    pub(super) fn settle(&mut self, mut site: Site, probers: &Probers) {
        if let Some(old) = self.site.take().filter(|old| old.place.netns == site.place.netns) {
            // The same namespace keeps its path: another one would be another pod to the driver.
            (site.place.path, site.older) = (old.place.path, old.older);
        }
        if site.announced.is_some() {
            self.entry = Entry::Later;
        }
        (self.site, self.lost) = (Some(site), None);
        self.rebuild(probers);
    }

    /// The pod has left its namespace.
    pub(super) fn leave(&mut self, now: Instant) {
        (self.site, self.spec) = (None, None);
        // It has come and gone between two pictures.
        if self.known == Known::Told {
            self.known = Known::Gone;
        }
        self.search = SEARCH;
        self.search.failed(now);
    }

    /// Wants the same anew, so that its fate is told anew.
    pub(super) fn renew(&mut self) {
        self.spec = self.spec.take().map(|spec| Arc::new(PodSpec::clone(&spec)));
    }

    pub(super) fn rebuild(&mut self, probers: &Probers) {
        let site = self.site.as_ref().filter(|_| self.belongs);
        let spec = site.map(|site| spec(&self.pod, site, probers));
        if self.spec.as_deref() != spec.as_ref() {
            self.spec = spec.map(Arc::new);
        }
    }

    /// Whether the API server says that the pod is to be captured, now.
    pub(super) fn is_member(&self) -> bool {
        self.belongs && self.pod.standing == Standing::Member && self.known != Known::Gone
    }

    /// Whether its namespace is unknown and can be looked for.
    pub(super) fn is_sought(&self) -> bool {
        self.known == Known::Pictured && self.is_member() && self.site.is_none() && !self.pod.addresses.is_empty()
    }

    /// When it is to be looked whether the namespace has a process; never, if nothing suggests that it has none.
    pub(super) fn check(&self, plugin: Plugin) -> Option<Instant> {
        let site = self.site.as_ref()?;
        let ended = self.pod.standing == Standing::Outside(Outside::Ended);
        let due = match self.known {
            Known::Remembered => return None,
            Known::Gone | Known::Told => site.checked + POLL,
            Known::Pictured if site.life == Life::Doubted => site.checked,
            Known::Pictured if ended => site.checked + POLL,
            Known::Pictured if plugin == Plugin::Absent => site.checked + SWEEP,
            Known::Pictured => return None,
        };
        Some(site.announced.map_or(due, |(_, at)| due.max(at + GRACE)))
    }

    /// If `whether`, the namespace is to be looked at.
    pub(super) fn doubt(&mut self, whether: impl FnOnce(&Site) -> bool) {
        if let Some(site) = &mut self.site
            && whether(site)
        {
            site.life = Life::Doubted;
        }
    }

    /// The namespace was looked at, and a process is in it.
    pub(super) fn lives(&mut self, now: Instant) {
        if let Some(site) = &mut self.site {
            (site.life, site.checked) = (Life::Assumed, now);
        }
    }

    /// Notes how the capture is doing.
    pub(super) fn see(&mut self, status: Option<&PodStatus>, now: Instant) {
        let concerned = self.spec.is_some() || self.marking.is() == Some(ENABLED);
        self.capture = match self.capture {
            _ if status.is_some_and(|status| self.is_captured(status)) => Capture::Captured,
            _ if !(self.is_member() && concerned) => Capture::Unconcerned,
            Capture::Missing(since) => Capture::Missing(since),
            Capture::Unconcerned | Capture::Captured => Capture::Missing(now),
        };
        if self.capture == Capture::Captured {
            self.patience = PATIENCE;
        }
    }

    fn is_captured(&self, status: &PodStatus) -> bool {
        let there = self.spec.as_ref().is_some_and(|spec| spec.netns == status.spec.netns);
        there && status.state.is_captured()
    }

    /// What the annotation should be.
    pub(super) fn wish(&self, now: Instant) -> Wish {
        if !matches!(self.known, Known::Pictured | Known::Told) {
            return Wish::AsItIs;
        }
        match self.pod.standing {
            Standing::Outside(Outside::Ended) => Wish::AsItIs,
            Standing::Outside(_) => Wish::Mark(None),
            Standing::Member if self.capture == Capture::Captured => Wish::Mark(Some(ENABLED)),
            Standing::Member if self.patience().is_some_and(|at| at <= now) => Wish::Mark(Some(PENDING)),
            Standing::Member => Wish::AsItIs,
        }
    }

    /// When the wish may change by itself.
    pub(super) fn patience(&self) -> Option<Instant> {
        match self.capture {
            Capture::Missing(since) => Some(since + self.patience),
            Capture::Unconcerned | Capture::Captured => None,
        }
    }
}

fn spec(pod: &Pod, site: &Site, probers: &Probers) -> PodSpec {
    let addresses = if pod.addresses.is_empty() { &site.addresses } else { &pod.addresses };
    let Place { path, netns, interface, .. } = site.place.clone();
    let programs = Programs {
        interface,
        node_addresses: probers.of(addresses),
        addresses: addresses.clone(),
        probe_ports: pod.probe_ports.clone(),
        names: pod.names,
        inbound: pod.inbound,
        virtual_interfaces: pod.virtual_interfaces.clone(),
        older: site.older,
        ..Programs::default()
    };
    PodSpec {
        uid: Arc::clone(&pod.uid),
        name: pod.name.clone(),
        namespace: pod.namespace.clone(),
        service_account: pod.service_account.clone(),
        netns: PodNetns::Proven { path, netns },
        captured: Captured::ByPrograms(programs),
    }
}
