//! Loading the embedded objects, and the maps that go with a pod.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use aya::maps::{Array, HashMap, MapData, SockMap};
use aya::{Ebpf, EbpfLoader};
use aya_log::EbpfLogger;
use mesh_common::maps::{FlowKey, ListenerIndex, Phase, PodConfig, names};
use rustix::event::{PollFd, PollFlags, poll};

use super::BpfError;
use super::direct::{self, Direct};

/// An ELF image must be aligned for its parser.
#[repr(C, align(8))]
struct Aligned<T: ?Sized>(T);

static CAPTURE: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/capture")));
static CONNECT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/connect")));
static SOCKOPS: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/sockops")));

/// aya-log's ring buffer, which the capture object carries; one page is enough while logging is off.
const LOG_MAP: &str = "AYA_LOGS";
const LOG_MAP_BYTES: u32 = 4096;

/// How much the programs log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Logging {
    /// The log lines are removed by the verifier.
    #[default]
    Off,
    On,
}

/// Whether a pod's maps were found or made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A former agent left them in force.
    Adopted,
    Fresh,
}

/// A pod's capture programs and maps, loaded and not attached.
#[derive(Debug)]
pub struct Capture {
    pub(super) object: Ebpf,
    pub origin: Origin,
}

impl Capture {
    /// Loads the programs on the maps pinned in `pins`, which are made if they do not exist.
    /// `direct`: the node's maps of direct connections, if it has any.
    pub fn load(pins: &Path, direct: Option<&Direct>, logging: Logging) -> Result<Self, BpfError> {
        let complete = [names::CONFIG, names::PREEXISTING, names::COUNTERS].iter().all(|name| pins.join(name).exists());
        let origin = if complete { Origin::Adopted } else { Origin::Fresh };
        fs::create_dir_all(pins).map_err(|cause| BpfError::File { path: pins.to_owned(), cause })?;
        let mut loader = EbpfLoader::new();
        // Programs that are attached later, from another instance of the object, share the last one with the look-up.
        for name in [names::CONFIG, names::PREEXISTING, names::COUNTERS, names::REOPENED] {
            loader.map_pin_path(name, pins.join(name));
        }
        let directly = match direct {
            Some(direct) => {
                direct.share(&mut loader);
                &1
            }
            None => {
                direct::go_without(&mut loader);
                &0
            }
        };
        let object = load_capture(loader, logging, directly)?;
        Ok(Self { object, origin })
    }

    /// Passes the programs' log lines on to the agent's log, from a thread of its own, until the process ends.
    pub fn forward_log(&mut self, pod: &str) -> Result<(), BpfError> {
        let lines = Lines { pod: pod.to_owned() };
        let logger = EbpfLogger::init_with_logger(&mut self.object, lines).map_err(|_| BpfError::Missing(LOG_MAP))?;
        let thread = crate::sys::thread::spawn("bpf-log", move || forward(logger));
        thread.map(drop).map_err(|cause| BpfError::File { path: "/proc/self/task".into(), cause })
    }

    /// Publishes what the programs are to do.
    pub fn configure(&mut self, config: &PodConfig) -> Result<(), BpfError> {
        self.config()?.set(0, config, 0).map_err(|cause| BpfError::Map { name: names::CONFIG, cause })
    }

    /// The configuration in force.
    pub fn configured(&mut self) -> Result<PodConfig, BpfError> {
        self.config()?.get(&0, 0).map_err(|cause| BpfError::Map { name: names::CONFIG, cause })
    }

    /// Names the listeners for connections that reopen an old one's addresses (the programs' `reopen`).
    pub fn listen_with(&mut self, listeners: &[(ListenerIndex, &TcpListener)]) -> Result<(), BpfError> {
        let fail = |cause| BpfError::Map { name: names::LISTENERS, cause };
        let map = self.object.map_mut(names::LISTENERS).ok_or(BpfError::Missing(names::LISTENERS))?;
        let mut map = SockMap::try_from(map).map_err(fail)?;
        listeners.iter().try_for_each(|(index, listener)| map.set(*index as u32, *listener, 0)).map_err(fail)
    }

    fn config(&mut self) -> Result<Array<&mut MapData, PodConfig>, BpfError> {
        let map = self.object.map_mut(names::CONFIG).ok_or(BpfError::Missing(names::CONFIG))?;
        Array::try_from(map).map_err(|cause| BpfError::Map { name: names::CONFIG, cause })
    }

    /// Lists connections that are older than the enrolment: they are left alone until they end.
    pub fn leave_alone(&mut self, flows: &[FlowKey]) -> Result<(), BpfError> {
        let fail = |cause| BpfError::Map { name: names::PREEXISTING, cause };
        let map = self.object.map_mut(names::PREEXISTING).ok_or(BpfError::Missing(names::PREEXISTING))?;
        let mut map: HashMap<_, FlowKey, u8> = HashMap::try_from(map).map_err(fail)?;
        flows.iter().try_for_each(|flow| map.insert(flow, &1, 0)).map_err(fail)
    }
}

/// Turns the programs' log records into lines of the agent's own log, on the target `bpf`.
struct Lines {
    pod: String,
}

impl log::Log for Lines {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        tracing::debug!(target: "bpf", pod = self.pod, program = record.target(), "{}", record.args());
    }

    fn flush(&self) {}
}

fn forward(mut logger: EbpfLogger<Lines>) {
    loop {
        let mut ready = [PollFd::new(&logger, PollFlags::IN)];
        if poll(&mut ready, None).is_err() {
            return;
        }
        logger.flush();
    }
}

/// Changes the phase of a pod whose maps are pinned in `pins`.
pub fn set_phase(pins: &Path, phase: Phase) -> Result<(), BpfError> {
    let map = pinned_config(pins)?;
    let mut config = map.get(&0, 0).map_err(|cause| BpfError::Map { name: names::CONFIG, cause })?;
    config.phase = phase as u32;
    replace_config(pins, &config)
}

/// Publishes a new configuration for a pod whose maps are pinned in `pins`.
pub fn replace_config(pins: &Path, config: &PodConfig) -> Result<(), BpfError> {
    pinned_config(pins)?.set(0, config, 0).map_err(|cause| BpfError::Map { name: names::CONFIG, cause })
}

fn pinned_config(pins: &Path) -> Result<Array<MapData, PodConfig>, BpfError> {
    let fail = |cause| BpfError::Map { name: names::CONFIG, cause };
    let data = MapData::from_pin(pins.join(names::CONFIG)).map_err(fail)?;
    Array::try_from(aya::maps::Map::Array(data)).map_err(fail)
}

/// Loads the pod's object with maps that nobody else finds, as they are not pinned.
pub(super) fn load_unpinned() -> Result<Ebpf, BpfError> {
    let mut loader = EbpfLoader::new();
    direct::go_without(&mut loader);
    load_capture(loader, Logging::Off, &1)
}

/// Loads the pod's object for the maps of the node that `loader` names.
pub(super) fn load_shared(loader: EbpfLoader<'_>) -> Result<Ebpf, BpfError> {
    load_capture(loader, Logging::Off, &1)
}

fn load_capture<'a>(mut loader: EbpfLoader<'a>, logging: Logging, direct: &'a u32) -> Result<Ebpf, BpfError> {
    loader.override_global("DIRECT", direct, true);
    let level: &u32 = if logging == Logging::On { &1 } else { &0 };
    loader.override_global("LOG_LEVEL", level, true);
    if logging == Logging::Off {
        loader.map_max_entries(LOG_MAP, LOG_MAP_BYTES);
    }
    load(&mut loader, "capture", &CAPTURE.0)
}

/// Loads the node's object of connects, with the maps that `loader` names.
pub(super) fn load_connect(mut loader: EbpfLoader<'_>) -> Result<Ebpf, BpfError> {
    load(&mut loader, "connect", &CONNECT.0)
}

/// Loads the node's sockops object.
pub(super) fn load_sockops() -> Result<Ebpf, BpfError> {
    load(&mut EbpfLoader::new(), "sockops", &SOCKOPS.0)
}

fn load(loader: &mut EbpfLoader<'_>, name: &'static str, image: &[u8]) -> Result<Ebpf, BpfError> {
    if image.is_empty() {
        return Err(BpfError::BuiltWithout);
    }
    loader.load(image).map_err(|cause| BpfError::Load { name, cause })
}
