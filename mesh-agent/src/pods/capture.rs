//! Enrolling one pod in the kernel, and withdrawing it. Blocking; the driver calls it on a thread of its own.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mesh_common::abi::{DNS_PORT, HBONE_PORT, OUTBOUND_PORT, PLAINTEXT_PORT};
use mesh_common::maps::{ListenerIndex, MAX_NODE_ADDRESSES, MAX_PROBE_PORTS, Phase, PodConfig};

use super::namespace;
use super::record::{Records, Undo};
use crate::bpf::attach::{self, Mechanism};
use crate::bpf::facts::{Facts, Watched, address};
use crate::bpf::fs::Pins;
use crate::bpf::object::{self, Capture as Loaded, Logging, Origin};
use crate::bpf::{BpfError, counters};
use crate::dns::server::Sockets;
use crate::model::{PodSpec, WhenDown};
use crate::proxy::shard::PodListeners;
use crate::sys::netlink::{Change, LO_NAME, clsact, interface_index};
use crate::sys::netns::Netns;
use crate::sys::socket::{any_socket, is_local, listen, netns_cookie};

/// Why a pod could not be enrolled or withdrawn.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    #[error("network namespace {}: {cause}{hint}", path.display())]
    Namespace { path: PathBuf, cause: io::Error, hint: &'static str },
    #[error("the pod shares the agent's own network namespace (host network); such pods cannot be enrolled")]
    HostNetwork,
    #[error("network namespace {} is pod {other}'s", path.display())]
    OthersNamespace { path: PathBuf, other: String },
    #[error("network namespace {} has no interface {interface}: {cause}", path.display())]
    NoInterface { interface: String, path: PathBuf, cause: io::Error },
    #[error("none of the pod's addresses {addresses:?} is in network namespace {}, maybe it is another pod's or not set up yet", path.display())]
    NoAddress { path: PathBuf, addresses: Vec<IpAddr> },
    #[error("opening the listener on port {port}: {cause}, maybe the pod itself uses the port")]
    Listen { port: u16, cause: io::Error },
    #[error("{what}: {cause}")]
    System { what: &'static str, cause: io::Error },
    #[error("{0} probe ports are declared, at most {MAX_PROBE_PORTS} are possible")]
    TooManyProbes(usize),
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

/// What the pod was before this agent came to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    Open,
    /// By a former agent.
    Captured,
}

/// The kernel edge of the driver.
pub trait Capture: Send + Sync + 'static {
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

/// Whether what pods ask name servers is captured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Names {
    #[default]
    Captured,
    LeftAlone,
}

/// The real kernel.
#[derive(Debug)]
pub struct Kernel {
    pins: Pins,
    records: Records,
    mechanism: Mechanism,
    logging: Logging,
    names: Names,
    facts: Option<Arc<Facts>>,
    /// Cookies of the enrolled pods' namespaces, by uid. Only the driver comes here, one pod at a time.
    cookies: Mutex<HashMap<String, u64>>,
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
        Ok(Self { pins, records, mechanism, logging, names: Names::default(), facts, cookies: Mutex::default() })
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

    /// Facts are a bonus: a pod is enrolled without them, too.
    fn watch_facts(&self, uid: &str, cookie: u64) {
        let Some(facts) = &self.facts else { return };
        if let Err(error) = facts.set_watched(cookie, Watched::Yes) {
            tracing::warn!(pod = uid, %error, "no kernel facts for the pod's connections");
        }
    }

    fn forget(&self, uid: &str) {
        let cookie = self.cookies().remove(uid);
        if let (Some(facts), Some(cookie)) = (&self.facts, cookie) {
            // The entry may be gone with a former object.
            facts.set_watched(cookie, Watched::No).ok();
        }
    }

    fn cookies(&self) -> MutexGuard<'_, HashMap<String, u64>> {
        self.cookies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts rules, routes and sysctls in place, having first noted what they replace.
    fn prepare(&self, spec: &PodSpec, cookie: u64) -> io::Result<()> {
        let wanted = namespace::sysctls()?;
        let mut undo = self.records.read(&spec.uid).unwrap_or_else(|| Undo {
            uid: spec.uid.to_string(),
            netns: spec.netns.clone(),
            cookie,
            interface: spec.interface.clone(),
            clsact: self.mechanism == Mechanism::Clsact,
            ..Undo::default()
        });
        if undo.clsact {
            for interface in [LO_NAME, &spec.interface] {
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
    fn before(&self, spec: &PodSpec, cookie: u64) -> Result<Before, CaptureError> {
        let same = |undo: &Undo| undo.cookie == cookie && undo.interface == spec.interface;
        if self.records.read(&spec.uid).is_some_and(|undo| same(&undo)) {
            return Ok(Before::Captured);
        }
        self.withdraw(&spec.uid)?;
        Ok(Before::Open)
    }

    /// Looks whether the thread's namespace is the pod's, and gives its cookie. A path is no proof: a pod must not be served
    /// under another's identity.
    fn inspect(&self, spec: &PodSpec) -> Result<u64, CaptureError> {
        let path = || spec.netns.clone();
        let cookie = own_cookie().map_err(system("the namespace's cookie"))?;
        interface_index(&spec.interface).map_err(|cause| CaptureError::NoInterface {
            interface: spec.interface.clone(),
            path: path(),
            cause,
        })?;
        if let Some((other, _)) = self.cookies().iter().find(|(uid, known)| **known == cookie && **uid != *spec.uid) {
            return Err(CaptureError::OthersNamespace { path: path(), other: other.clone() });
        }
        if spec.addresses.is_empty() || spec.addresses.iter().any(|ip| is_local(*ip)) {
            return Ok(cookie);
        }
        Err(CaptureError::NoAddress { path: path(), addresses: spec.addresses.clone() })
    }

    fn start(
        &self,
        spec: &PodSpec,
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
        loaded.configure(&config(spec, phase, self.names)?)?;
        if let Some(first) = listeners.first() {
            let names = first.dns.iter().map(|sockets| (ListenerIndex::Dns, sockets.listener()));
            let listeners = [
                (ListenerIndex::Outbound, &first.outbound),
                (ListenerIndex::Plaintext, &first.plaintext),
                (ListenerIndex::Hbone, &first.hbone),
            ];
            loaded.listen_with(&listeners.into_iter().chain(names).collect::<Vec<_>>())?;
        }
        attach::attach_lookup(&mut loaded, netns.as_fd(), &pins)?;
        attach::attach(&mut loaded, &spec.interface, &pins, self.mechanism)?;
        self.pins.remove_other_layouts(&spec.uid)?;
        if self.logging == Logging::On {
            loaded.forward_log(&spec.uid)?;
        }
        if phase == Phase::Learning {
            let older = namespace::older_flows().map_err(system("listing open connections"))?;
            loaded.leave_alone(&older)?;
        }
        loaded.configure(&config(spec, Phase::Strict, self.names)?)?;
        Ok(loaded.origin)
    }

    fn undo(&self, undo: &Undo) -> io::Result<()> {
        if undo.clsact {
            attach::detach_clsact(&undo.interface).ok();
        }
        for interface in &undo.own_qdisc {
            // An interface that is gone took its discipline with it.
            clsact::remove_if_unused(interface).ok();
        }
        namespace::routing(Change::Remove)?;
        for (path, value) in undo.sysctls.iter().filter(|(path, _)| namespace::is_ours(path)) {
            namespace::write(path, value)?;
        }
        Ok(())
    }
}

impl Capture for Kernel {
    fn enrol(&self, spec: &PodSpec, shards: usize) -> Result<Enrolled, CaptureError> {
        let netns = open(&spec.netns)?;
        if same(&netns, &Netns::current().map_err(system("own namespace"))?)? {
            return Err(CaptureError::HostNetwork);
        }
        let cookie = netns.run(|| self.inspect(spec)).map_err(entering(&spec.netns))??;
        let before = self.before(spec, cookie)?;
        let inside = || -> Result<_, CaptureError> {
            let listeners = (0..shards).map(|_| open_listeners(self.names)).collect::<Result<Vec<_>, _>>()?;
            self.prepare(spec, cookie).map_err(system("preparing the pod's namespace"))?;
            let origin = self.start(spec, &netns, &listeners, before)?;
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
        self.cookies().insert(spec.uid.to_string(), cookie);
        self.watch_facts(&spec.uid, cookie);
        Ok(Enrolled { netns, listeners, origin })
    }

    fn reconfigure(&self, spec: &PodSpec) -> Result<(), CaptureError> {
        Ok(object::replace_config(&self.pins.pod(&spec.uid), &config(spec, Phase::Strict, self.names)?)?)
    }

    fn release(&self, uid: &str) -> Result<(), CaptureError> {
        Ok(object::set_phase(&self.pins.pod(uid), Phase::Draining)?)
    }

    fn withdraw(&self, uid: &str) -> Result<(), CaptureError> {
        self.forget(uid);
        self.pins.remove_pod(uid)?;
        if let Some(undo) = self.records.read(uid) {
            // A namespace that is gone has taken everything with it.
            let there = Netns::open(&undo.netns)
                .ok()
                .filter(|netns| matches!(netns.run(own_cookie), Ok(Ok(is)) if is == undo.cookie));
            if let Some(netns) = there {
                netns
                    .run(|| self.undo(&undo))
                    .map_err(entering(&undo.netns))?
                    .map_err(system("restoring the pod's namespace"))?;
            }
        }
        self.records.remove(uid).map_err(system("removing the pod's record"))?;
        self.pins.remove_if_empty();
        Ok(())
    }

    fn left_behind(&self) -> Vec<Arc<str>> {
        self.records.all().into_iter().map(|undo| undo.uid.into()).collect()
    }

    fn counters(&self, uid: &str) -> Vec<(&'static str, u64)> {
        counters::read(&self.pins.pod(uid)).unwrap_or_default()
    }
}

fn open(path: &Path) -> Result<Netns, CaptureError> {
    let fail = |cause: io::Error| {
        let gone = cause.kind() == io::ErrorKind::NotFound;
        let hint = if gone { ", maybe the pod has ended or not started yet" } else { "" };
        CaptureError::Namespace { path: path.to_owned(), cause, hint }
    };
    Netns::open(path).map_err(fail)
}

/// The number by which the kernel knows the thread's namespace, not used twice while it runs.
fn own_cookie() -> io::Result<u64> {
    netns_cookie(any_socket()?.as_fd())
}

fn same(a: &Netns, b: &Netns) -> Result<bool, CaptureError> {
    let id = |netns: &Netns| netns.id().map_err(system("comparing namespaces"));
    Ok(id(a)? == id(b)?)
}

fn entering(path: &Path) -> impl FnOnce(io::Error) -> CaptureError {
    let path = path.to_owned();
    move |cause| CaptureError::Namespace {
        path,
        cause,
        hint: ", it cannot be entered, maybe it is no network namespace",
    }
}

fn system(what: &'static str) -> impl Fn(io::Error) -> CaptureError {
    move |cause| CaptureError::System { what, cause }
}

fn open_listeners(names: Names) -> Result<PodListeners, CaptureError> {
    let failed = |port| move |cause| CaptureError::Listen { port, cause };
    let open = |port| listen(port).map_err(failed(port));
    let dns = match names {
        Names::Captured => Some(Sockets::open().map_err(failed(DNS_PORT))?),
        Names::LeftAlone => None,
    };
    Ok(PodListeners { outbound: open(OUTBOUND_PORT)?, plaintext: open(PLAINTEXT_PORT)?, hbone: open(HBONE_PORT)?, dns })
}

fn phase_of(config: &PodConfig) -> Phase {
    // A former agent that died before it had listed the older connections leaves that to us. One that died while it
    // withdrew the pod is overruled: the pod is wanted again.
    if config.phase == Phase::Learning as u32 { Phase::Learning } else { Phase::Strict }
}

fn config(spec: &PodSpec, phase: Phase, names: Names) -> Result<PodConfig, CaptureError> {
    let dns = u32::from(names == Names::Captured);
    let mut config = PodConfig { phase: phase as u32, lo: crate::sys::netlink::LO, dns, ..PodConfig::EMPTY };
    if spec.probe_ports.len() > MAX_PROBE_PORTS {
        return Err(CaptureError::TooManyProbes(spec.probe_ports.len()));
    }
    config.fail_open = u32::from(spec.when_down == WhenDown::Pass);
    for (slot, port) in config.probe_ports.iter_mut().zip(&spec.probe_ports) {
        *slot = *port;
        config.probe_count += 1;
    }
    for (slot, ip) in config.node_addresses.iter_mut().zip(spec.node_addresses.iter().take(MAX_NODE_ADDRESSES)) {
        *slot = address(*ip);
        config.node_count += 1;
    }
    Ok(config)
}
