//! Enrolling one pod in the kernel, and withdrawing it. Blocking; the driver calls it on a thread of its own.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use mesh_common::maps::{FlowKey, Phase};

use self::config::{config, phase_of};
pub use self::error::CaptureError;
pub(super) use self::error::{entering, system};
pub(super) use self::restore::Routing;
use self::virtuals::Virtuals;
use super::listeners::{Names, indexed, open_listeners};
use super::namespace;
use super::owners::{Claim, Owners, own_cookie};
use super::record::{Records, Undo};
use crate::bpf::attach::{self, Mechanism};
use crate::bpf::counters;
use crate::bpf::direct::Direct;
use crate::bpf::facts::Facts;
use crate::bpf::fs::Pins;
use crate::bpf::object::{self, Capture as Loaded, Logging, Origin};
use crate::model::{Captured, Older, PodNetns, PodSpec, Programs};
use crate::proxy::shard::PodListeners;
use crate::sys::cores::Homes;
use crate::sys::netlink::{Change, Connection, destroy, interface_index};
use crate::sys::netns::Netns;
use crate::sys::socket::is_local;
use crate::sys::thread::{self, Work};

mod config;
mod error;
mod restore;
mod virtuals;

/// An enrolled pod's namespace and listeners, one set per shard.
#[derive(Debug)]
pub struct Enrolled {
    pub netns: Netns,
    pub listeners: Vec<PodListeners>,
    pub origin: Origin,
}

/// A pod that is captured by programs.
#[derive(Clone, Copy, Debug)]
struct Pod<'a> {
    spec: &'a PodSpec,
    programs: &'a Programs,
}

impl<'a> Pod<'a> {
    fn of(spec: &'a PodSpec) -> Result<Self, CaptureError> {
        match &spec.captured {
            Captured::ByPrograms(programs) => Ok(Self { spec, programs }),
            Captured::ByRules => Err(CaptureError::Redirected),
        }
    }
}

/// What the pod was before this agent came to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    Open,
    /// By a former agent.
    Captured,
    /// By this agent: it is captured, or was and is leaving.
    Ours,
}

/// The kernel edge of the driver.
pub trait Capture: std::fmt::Debug + Send + Sync + 'static {
    /// Opens a set of listeners for each shard and starts the capture, or adopts a former agent's.
    fn enrol(&self, spec: &PodSpec, homes: &Homes) -> Result<Enrolled, CaptureError>;
    /// Applies changed probes, fail mode, names, and whether connections to the pod are captured.
    fn reconfigure(&self, spec: &PodSpec) -> Result<(), CaptureError>;
    /// Looks whether interfaces of virtual machines inside the pod have come or gone.
    fn follow(&self, _spec: &PodSpec) -> Result<(), CaptureError> {
        Ok(())
    }
    /// Such interfaces that are not there.
    fn missing(&self, _uid: &str) -> Vec<String> {
        Vec::new()
    }
    /// New connections pass from now on; captured ones go on.
    fn release(&self, uid: &str) -> Result<(), CaptureError>;
    /// Removes every trace of the pod's enrolment.
    fn withdraw(&self, uid: &str) -> Result<(), CaptureError>;
    /// Uids of pods that a former agent left enrolled.
    fn left_behind(&self) -> Vec<Arc<str>>;
    /// Those of them of which is known what they were captured as, and whose namespaces are still there.
    fn remembered(&self) -> Vec<PodSpec> {
        Vec::new()
    }
    /// The pod's capture counters by name.
    fn counters(&self, uid: &str) -> Vec<(&'static str, u64)>;
}

/// The real kernel.
#[derive(Debug)]
pub struct Kernel {
    pins: Pins,
    records: Records,
    mechanism: Mechanism,
    logging: Logging,
    names: Names,
    owners: Owners,
    virtuals: Virtuals,
    direct: Option<Arc<Direct>>,
}

impl Kernel {
    /// `facts` is told which namespaces to watch.
    pub fn new(
        pins: Pins,
        run_dir: &Path,
        mechanism: Mechanism,
        logging: Logging,
        facts: Option<Arc<Facts>>,
    ) -> io::Result<Self> {
        let records = Records::open(run_dir)?;
        Ok(Self {
            pins,
            records,
            mechanism,
            logging,
            names: Names::default(),
            owners: Owners::new(facts),
            virtuals: Virtuals::default(),
            direct: None,
        })
    }

    /// What happens to the queries of pods that are enrolled from now on.
    #[must_use]
    pub fn names(mut self, names: Names) -> Self {
        self.names = names;
        self
    }

    /// Connections between pods may go by these maps, which are in the folder of pins that is theirs.
    #[must_use]
    pub fn direct(mut self, direct: Option<Arc<Direct>>) -> Self {
        self.direct = direct;
        self
    }

    /// How programs are attached.
    pub fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    /// What is pinned under the pod's name may belong to a former pod, in another namespace or on another interface:
    /// adopting that would leave this one uncaptured, so it is removed.
    fn before(&self, Pod { spec, programs }: Pod<'_>, cookie: u64) -> Result<Before, CaptureError> {
        let same = |undo: &Undo| undo.cookie == cookie && undo.interface == programs.interface;
        if self.records.read(&spec.uid).is_some_and(|undo| same(&undo)) {
            return Ok(Before::Captured);
        }
        self.clear(&spec.uid, Routing::Remove)?;
        Ok(Before::Open)
    }

    /// Whether what this pod asks name servers is captured.
    fn captured(&self, programs: &Programs) -> Names {
        match programs.names {
            Some(true) => Names::Captured,
            Some(false) => Names::LeftAlone,
            None => self.names,
        }
    }

    /// Whether somebody listens for it: also where it is left alone now and need not be for ever.
    fn listened(&self, programs: &Programs) -> Names {
        if self.names == Names::Captured { Names::Captured } else { self.captured(programs) }
    }

    /// What was captured before stays captured; half an enrolment of our own is undone.
    fn failed(&self, uid: &str, before: Before) {
        match before {
            Before::Ours => {}
            Before::Captured => self.owners.remove(uid),
            Before::Open => {
                if let Err(error) = self.clear(uid, Routing::Remove) {
                    tracing::warn!(pod = uid, %error, "half an enrolment could not be undone");
                }
            }
        }
    }

    fn start(
        &self,
        Pod { spec, programs }: Pod<'_>,
        netns: &Netns,
        listeners: &[PodListeners],
        before: Before,
    ) -> Result<Origin, CaptureError> {
        let pins = self.pins.pod(&spec.uid);
        let mut loaded = Loaded::load(&pins, self.direct.as_deref(), self.logging)?;
        let phase = match loaded.origin {
            Origin::Fresh if before == Before::Open && programs.older == Older::LeftAlone => Phase::Learning,
            // What is open should not be; or the pod was captured, its maps are lost, and what is open is not older than that.
            Origin::Fresh => Phase::Strict,
            Origin::Adopted => phase_of(&loaded.configured()?, before),
        };
        let configured = |phase| config(programs, phase, self.captured(programs), self.directly(&spec.uid));
        // While some programs are missing, what others capture would be lost.
        loaded.configure(&configured(if phase == Phase::Learning { Phase::Attaching } else { phase }))?;
        if let Some(first) = listeners.first() {
            loaded.listen_with(&indexed(first))?;
        }
        attach::attach_lookup(&mut loaded, netns.as_fd(), &pins)?;
        self.connect(&mut loaded, programs, &pins)?;
        if self.pins.remove_other_layouts(&spec.uid)? {
            tracing::info!(pod = %spec.uid, "another version's programs were replaced");
        }
        if self.logging == Logging::On {
            loaded.forward_log(&spec.uid)?;
        }
        if phase == Phase::Learning {
            loaded.configure(&configured(phase))?;
            let older = namespace::older_flows().map_err(system("listing open connections"))?;
            loaded.leave_alone(&older)?;
        }
        loaded.configure(&configured(Phase::Strict))?;
        self.attach_virtuals(Pod { spec, programs })?;
        self.end_former(&spec.uid);
        if before == Before::Open && programs.older == Older::Cut {
            cut_older(&spec.uid);
        }
        Ok(loaded.origin)
    }
}

impl Kernel {
    /// The pod's namespace, if its connections may go directly to other pods.
    fn directly(&self, uid: &str) -> Option<u64> {
        self.direct.as_ref().and_then(|_| self.owners.cookie(uid))
    }

    /// What a former agent's programs carried directly is carried no more. (In the pod's namespace.)
    fn end_former(&self, uid: &str) {
        let (Some(direct), Some(netns)) = (&self.direct, self.owners.cookie(uid)) else { return };
        let former = direct.former(netns);
        let end = |flow: &FlowKey| destroy(Connection { local: flow.local(), remote: flow.remote() });
        match former.iter().try_for_each(end) {
            Ok(()) if former.is_empty() => {}
            Ok(()) => tracing::info!(pod = uid, count = former.len(), "direct connections of a former agent are ended"),
            Err(error) => tracing::warn!(pod = uid, %error, "direct connections of a former agent hang"),
        }
    }

    /// Attaches the programs, and puts rules and routes in place by which the stack takes what they capture.
    fn connect(&self, loaded: &mut Loaded, programs: &Programs, pins: &Path) -> Result<(), CaptureError> {
        let attaching = attach::attachments(loaded, &programs.interface, pins, self.mechanism)?.into_iter();
        let attaching = attaching.map(|work| -> Work<'_, _> { Box::new(|| work().map_err(CaptureError::from)) });
        let routing = namespace::routing(Change::Add).into_iter();
        let routing = routing.map(|work| -> Work<'_, _> { Box::new(|| work().map_err(system("routing"))) });
        let done = thread::together(attaching.chain(routing).collect()).map_err(system("threads"))?;
        done.into_iter().collect()
    }
}

/// Looks whether the thread's namespace is the pod's, and gives its cookie. A path is no proof: a pod must not be served
/// under another's identity.
fn inspect(Pod { spec, programs }: Pod<'_>) -> Result<u64, CaptureError> {
    let place = || spec.netns.clone();
    let cookie = own_cookie().map_err(system("the namespace's cookie"))?;
    let Programs { interface, addresses, .. } = programs;
    interface_index(interface).map_err(|cause| CaptureError::NoInterface {
        interface: interface.clone(),
        place: place(),
        cause,
    })?;
    if addresses.is_empty() || addresses.iter().any(|ip| is_local(*ip)) {
        return Ok(cookie);
    }
    Err(CaptureError::NoAddress { place: place(), addresses: addresses.clone() })
}

/// Nothing of them leaves any more; that they are ended as well spares their ends the wait.
fn cut_older(pod: &str) {
    match namespace::cut_older() {
        Ok(count) => tracing::info!(pod, count, "connections that were older than the capture are cut"),
        Err(error) => {
            tracing::warn!(pod, %error, "connections that are older than the capture hang, maybe the kernel lacks CONFIG_INET_DIAG_DESTROY")
        }
    }
}

impl Capture for Kernel {
    fn enrol(&self, spec: &PodSpec, homes: &Homes) -> Result<Enrolled, CaptureError> {
        let pod = Pod::of(spec)?;
        let netns = foreign(open(&spec.netns)?)?;
        let cookie = netns.run(|| inspect(pod)).map_err(entering(&spec.netns))??;
        let before = self.before(pod, cookie)?;
        let others = |other| CaptureError::OthersNamespace { place: spec.netns.clone(), other };
        let claim = self.owners.claim(&spec.uid, cookie, &netns).map_err(others)?;
        let before = if claim == Claim::Held { Before::Ours } else { before };
        let inside = || -> Result<_, CaptureError> {
            let listeners = open_listeners(self.listened(pod.programs), homes)?;
            self.prepare(pod, cookie).map_err(system("preparing the pod's namespace"))?;
            let origin = self.start(pod, &netns, &listeners, before)?;
            Ok((listeners, origin))
        };
        match netns.run(inside).map_err(entering(&spec.netns)).flatten() {
            Ok((listeners, origin)) => Ok(Enrolled { netns, listeners, origin }),
            Err(error) => {
                self.failed(&spec.uid, before);
                Err(error)
            }
        }
    }

    fn reconfigure(&self, spec: &PodSpec) -> Result<(), CaptureError> {
        let pod = Pod::of(spec)?;
        let (programs, netns) = (pod.programs, self.owners.netns(&spec.uid));
        let netns = netns.map_or_else(|| open(&spec.netns), Ok)?;
        netns.run(|| self.note(pod)).map_err(entering(&spec.netns))?.map_err(system("noting the pod's change"))?;
        let config = config(programs, Phase::Strict, self.captured(programs), self.directly(&spec.uid));
        object::replace_config(&self.pins.pod(&spec.uid), &config)?;
        self.follow_virtuals(pod)
    }

    fn follow(&self, spec: &PodSpec) -> Result<(), CaptureError> {
        self.follow_virtuals(Pod::of(spec)?)
    }

    fn missing(&self, uid: &str) -> Vec<String> {
        self.virtuals.missing(uid)
    }

    fn release(&self, uid: &str) -> Result<(), CaptureError> {
        Ok(object::set_phase(&self.pins.pod(uid), Phase::Draining)?)
    }

    fn withdraw(&self, uid: &str) -> Result<(), CaptureError> {
        self.remove(uid, Routing::Remove)
    }

    fn left_behind(&self) -> Vec<Arc<str>> {
        self.records.all().into_iter().map(|undo| undo.uid.into()).collect()
    }

    fn remembered(&self) -> Vec<PodSpec> {
        self.records.all().iter().filter_map(restore::remembered).collect()
    }

    fn counters(&self, uid: &str) -> Vec<(&'static str, u64)> {
        counters::read(&self.pins.pod(uid)).unwrap_or_default()
    }
}

pub(super) fn open(place: &PodNetns) -> Result<Netns, CaptureError> {
    let fail = |cause: io::Error| {
        let gone = cause.kind() == io::ErrorKind::NotFound;
        let hint = if gone { ", maybe the pod has ended or not started yet" } else { "" };
        CaptureError::Namespace { place: place.clone(), cause, hint }
    };
    match place {
        PodNetns::Path(path) => Netns::open(path).map_err(fail),
        PodNetns::Proven { netns, .. } | PodNetns::Handle(netns) => Ok(netns.clone()),
    }
}

/// The agent's own namespace is no pod's.
pub(super) fn foreign(netns: Netns) -> Result<Netns, CaptureError> {
    let own = Netns::current().map_err(system("own namespace"))?;
    if netns == own { Err(CaptureError::HostNetwork) } else { Ok(netns) }
}
