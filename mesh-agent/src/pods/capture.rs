//! Enrolling one pod in the kernel, and withdrawing it. Blocking; the driver calls it on a thread of its own.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use mesh_common::maps::{MAX_PROBE_PORTS, Phase};

use self::config::{config, phase_of};
use super::listeners::{Names, indexed, open_listeners};
use super::namespace;
use super::owners::{Owners, own_cookie};
use super::record::{Records, Undo};
use crate::bpf::attach::{self, Mechanism};
use crate::bpf::facts::Facts;
use crate::bpf::fs::Pins;
use crate::bpf::object::{self, Capture as Loaded, Logging, Origin};
use crate::bpf::{BpfError, counters};
use crate::model::{Captured, PodNetns, PodSpec, Programs};
use crate::proxy::shard::PodListeners;
use crate::sys::netlink::{Change, LO_NAME, clsact, interface_index};
use crate::sys::netns::Netns;
use crate::sys::socket::is_local;

mod config;

/// Why a pod could not be enrolled or withdrawn.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    #[error("network namespace {place}: {cause}{hint}")]
    Namespace { place: PodNetns, cause: io::Error, hint: &'static str },
    #[error("the pod shares the agent's own network namespace (host network); such pods cannot be enrolled")]
    HostNetwork,
    #[error("network namespace {place} is pod {other}'s")]
    OthersNamespace { place: PodNetns, other: String },
    #[error("network namespace {place} has no interface {interface}: {cause}")]
    NoInterface { interface: String, place: PodNetns, cause: io::Error },
    #[error(
        "none of the pod's addresses {addresses:?} is in network namespace {place}, maybe it is another pod's or not set up yet"
    )]
    NoAddress { place: PodNetns, addresses: Vec<IpAddr> },
    #[error("opening the listener on port {port}: {cause}, maybe the pod itself uses the port")]
    Listen { port: u16, cause: io::Error },
    #[error("{what}: {cause}")]
    System { what: &'static str, cause: io::Error },
    #[error("{0} probe ports are declared, at most {MAX_PROBE_PORTS} are possible")]
    TooManyProbes(usize),
    #[error("the pod is redirected by somebody else's rules, and this agent captures pods by its own programs")]
    Redirected,
    #[error("the pod is to be captured by programs, and this agent serves pods that somebody else's rules redirect")]
    NotRedirected,
    #[error(transparent)]
    Bpf(#[from] BpfError),
}

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
}

/// What becomes of the rules and routes by which captured packets are delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Routing {
    Remove,
    /// A CNI agent's are the very same, and it may have put its own into the pod already.
    Leave,
}

/// The kernel edge of the driver.
pub trait Capture: std::fmt::Debug + Send + Sync + 'static {
    /// Opens `shards` sets of listeners and starts the capture, or adopts a former agent's.
    fn enrol(&self, spec: &PodSpec, shards: usize) -> Result<Enrolled, CaptureError>;
    /// Applies changed probes and fail mode.
    fn reconfigure(&self, spec: &PodSpec) -> Result<(), CaptureError>;
    /// New connections pass from now on; captured ones go on.
    fn release(&self, uid: &str) -> Result<(), CaptureError>;
    /// Removes every trace of the pod's enrolment.
    fn withdraw(&self, uid: &str) -> Result<(), CaptureError>;
    /// Uids of pods that a former agent left enrolled.
    fn left_behind(&self) -> Vec<Arc<str>>;
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
        Ok(Self { pins, records, mechanism, logging, names: Names::default(), owners: Owners::new(facts) })
    }

    /// What happens to the queries of pods that are enrolled from now on.
    #[must_use]
    pub fn names(mut self, names: Names) -> Self {
        self.names = names;
        self
    }

    /// How programs are attached.
    pub fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    /// Puts rules, routes and sysctls in place, having first noted what they replace.
    fn prepare(&self, Pod { spec, programs }: Pod<'_>, cookie: u64) -> io::Result<()> {
        let wanted = namespace::sysctls()?;
        let netns = restorable(&spec.netns)?;
        let mut undo = self.records.read(&spec.uid).unwrap_or_else(|| Undo {
            uid: spec.uid.to_string(),
            netns: netns.to_owned(),
            cookie,
            interface: programs.interface.clone(),
            clsact: self.mechanism == Mechanism::Clsact,
            ..Undo::default()
        });
        if undo.clsact {
            for interface in [LO_NAME, &programs.interface] {
                let noted = undo.own_qdisc.iter().any(|own| own == interface);
                if !noted && !clsact::present(interface)? {
                    undo.own_qdisc.push(interface.to_owned());
                }
            }
        }
        for (path, value) in namespace::present(&wanted)? {
            // The first value noted is the one that was there before us.
            if !undo.sysctls.iter().any(|(noted, _)| *noted == path) {
                undo.sysctls.push((path, value));
            }
        }
        self.records.write(&undo)?;
        wanted.iter().try_for_each(|sysctl| namespace::write(&sysctl.path, &sysctl.value))?;
        namespace::routing(Change::Add)
    }

    /// What is pinned under the pod's name may belong to a former pod, in another namespace or on another interface:
    /// adopting that would leave this one uncaptured, so it is removed.
    fn before(&self, Pod { spec, programs }: Pod<'_>, cookie: u64) -> Result<Before, CaptureError> {
        let same = |undo: &Undo| undo.cookie == cookie && undo.interface == programs.interface;
        if self.records.read(&spec.uid).is_some_and(|undo| same(&undo)) {
            return Ok(Before::Captured);
        }
        self.withdraw(&spec.uid)?;
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

    /// Looks whether the thread's namespace is the pod's, and gives its cookie. A path is no proof: a pod must not be served
    /// under another's identity.
    fn inspect(&self, Pod { spec, programs }: Pod<'_>) -> Result<u64, CaptureError> {
        let place = || spec.netns.clone();
        let cookie = own_cookie().map_err(system("the namespace's cookie"))?;
        let Programs { interface, addresses, .. } = programs;
        interface_index(interface).map_err(|cause| CaptureError::NoInterface {
            interface: interface.clone(),
            place: place(),
            cause,
        })?;
        if let Some(other) = self.owners.other_than(&spec.uid, cookie) {
            return Err(CaptureError::OthersNamespace { place: place(), other });
        }
        if addresses.is_empty() || addresses.iter().any(|ip| is_local(*ip)) {
            return Ok(cookie);
        }
        Err(CaptureError::NoAddress { place: place(), addresses: addresses.clone() })
    }

    fn start(
        &self,
        Pod { spec, programs }: Pod<'_>,
        netns: &Netns,
        listeners: &[PodListeners],
        before: Before,
    ) -> Result<Origin, CaptureError> {
        let pins = self.pins.pod(&spec.uid);
        let mut loaded = Loaded::load(&pins, self.logging)?;
        let phase = match loaded.origin {
            Origin::Fresh if before == Before::Open => Phase::Learning,
            // The pod was captured, and its maps are lost: what is open is not older than that.
            Origin::Fresh => Phase::Strict,
            Origin::Adopted => phase_of(&loaded.configured()?),
        };
        loaded.configure(&config(programs, phase, self.captured(programs))?)?;
        if let Some(first) = listeners.first() {
            loaded.listen_with(&indexed(first))?;
        }
        attach::attach_lookup(&mut loaded, netns.as_fd(), &pins)?;
        attach::attach(&mut loaded, &programs.interface, &pins, self.mechanism)?;
        self.pins.remove_other_layouts(&spec.uid)?;
        if self.logging == Logging::On {
            loaded.forward_log(&spec.uid)?;
        }
        if phase == Phase::Learning {
            let older = namespace::older_flows().map_err(system("listing open connections"))?;
            loaded.leave_alone(&older)?;
        }
        loaded.configure(&config(programs, Phase::Strict, self.captured(programs))?)?;
        Ok(loaded.origin)
    }

    /// Removes the pod's programs and what they needed. With [`Routing::Leave`] the rules and routes stay.
    pub(super) fn remove(&self, uid: &str, routing: Routing) -> Result<(), CaptureError> {
        self.owners.remove(uid);
        self.pins.remove_pod(uid)?;
        if let Some(undo) = self.records.read(uid) {
            // A namespace that is gone has taken everything with it.
            let there = Netns::open(&undo.netns)
                .ok()
                .filter(|netns| matches!(netns.run(own_cookie), Ok(Ok(is)) if is == undo.cookie));
            if let Some(netns) = there {
                netns
                    .run(|| self.undo(&undo, routing))
                    .map_err(entering(&PodNetns::Path(undo.netns.clone())))?
                    .map_err(system("restoring the pod's namespace"))?;
            }
        }
        self.records.remove(uid).map_err(system("removing the pod's record"))?;
        self.pins.remove_if_empty();
        Ok(())
    }

    fn undo(&self, undo: &Undo, routing: Routing) -> io::Result<()> {
        if undo.clsact {
            attach::detach_clsact(&undo.interface).ok();
        }
        for interface in &undo.own_qdisc {
            // An interface that is gone took its discipline with it.
            clsact::remove_if_unused(interface).ok();
        }
        if routing == Routing::Remove {
            namespace::routing(Change::Remove)?;
        }
        for (path, value) in undo.sysctls.iter().filter(|(path, _)| namespace::is_ours(path)) {
            namespace::write(path, value)?;
        }
        Ok(())
    }
}

impl Capture for Kernel {
    fn enrol(&self, spec: &PodSpec, shards: usize) -> Result<Enrolled, CaptureError> {
        let pod = Pod::of(spec)?;
        let netns = foreign(open(&spec.netns)?)?;
        let cookie = netns.run(|| self.inspect(pod)).map_err(entering(&spec.netns))??;
        let before = self.before(pod, cookie)?;
        let inside = || -> Result<_, CaptureError> {
            let listeners =
                (0..shards).map(|_| open_listeners(self.listened(pod.programs))).collect::<Result<Vec<_>, _>>()?;
            self.prepare(pod, cookie).map_err(system("preparing the pod's namespace"))?;
            let origin = self.start(pod, &netns, &listeners, before)?;
            Ok((listeners, origin))
        };
        let (listeners, origin) = match netns.run(inside).map_err(entering(&spec.netns))? {
            Ok(done) => done,
            Err(error) => {
                // What a former agent captured stays captured; half an enrolment of our own is undone.
                if before == Before::Open
                    && let Err(error) = self.withdraw(&spec.uid)
                {
                    tracing::warn!(pod = %spec.uid, %error, "half an enrolment could not be undone");
                }
                return Err(error);
            }
        };
        self.owners.add(&spec.uid, cookie);
        Ok(Enrolled { netns, listeners, origin })
    }

    fn reconfigure(&self, spec: &PodSpec) -> Result<(), CaptureError> {
        let programs = Pod::of(spec)?.programs;
        let config = config(programs, Phase::Strict, self.captured(programs))?;
        Ok(object::replace_config(&self.pins.pod(&spec.uid), &config)?)
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
        PodNetns::Handle(netns) => Ok(netns.clone()),
    }
}

/// The agent's own namespace is no pod's.
pub(super) fn foreign(netns: Netns) -> Result<Netns, CaptureError> {
    let own = Netns::current().map_err(system("own namespace"))?;
    if netns == own { Err(CaptureError::HostNetwork) } else { Ok(netns) }
}

/// The path by which another process will find the namespace, to undo what was done in it.
fn restorable(place: &PodNetns) -> io::Result<&Path> {
    match place {
        PodNetns::Path(path) => Ok(path),
        PodNetns::Handle(_) => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "a namespace that is known only by a handle could not be restored by another start",
        )),
    }
}

pub(super) fn entering(place: &PodNetns) -> impl FnOnce(io::Error) -> CaptureError {
    let place = place.clone();
    move |cause| CaptureError::Namespace {
        place,
        cause,
        hint: ", it cannot be entered, maybe it is no network namespace",
    }
}

pub(super) fn system(what: &'static str) -> impl Fn(io::Error) -> CaptureError {
    move |cause| CaptureError::System { what, cause }
}
