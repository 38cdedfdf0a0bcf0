//! The maps by which the kernel carries connections between pods of this node ([`mesh_common::direct`]). The agent writes
//! grants and its lease, and reads connections; the pods' programs do the reverse.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aya::maps::{Array, HashMap, Map, MapData, MapError, RingBuf};
use aya::{Ebpf, EbpfLoader};
use mesh_common::direct::{DirectFlow, Event, Grant, GrantKey, MAX_GRANTS, Slot};
use mesh_common::maps::{FlowKey, names};
use rustix::time::{ClockId, clock_gettime};

use super::{BpfError, object};

/// The maps that all pods share, by their names.
const SHARED: [&str; 6] = [names::GRANTS, names::SLOTS, names::LEASE, names::FLOWS, names::EVENTS, names::TRANSLATED];

/// How long packets are let through without a sign of life.
const LEASE: Duration = Duration::from_secs(1);
/// `BPF_NOEXIST`.
pub(super) const NEW: u64 = 1;
/// One page: of those who need none, each has its own.
const SMALLEST_RING: u32 = 4096;

/// The maps of the node.
pub struct Direct {
    pins: PathBuf,
    connections: u32,
    grants: Mutex<Grants>,
    flows: Mutex<HashMap<MapData, FlowKey, DirectFlow>>,
    lease: Mutex<Array<MapData, u64>>,
    events: Mutex<RingBuf<MapData>>,
    /// What a former agent's programs carried: it has lost its permission, and its ends are to hear of it.
    former: Mutex<Vec<(u64, FlowKey)>>,
}

struct Grants {
    map: HashMap<MapData, GrantKey, Grant>,
    slots: Array<MapData, u32>,
    /// By their index; none was ever in use beyond.
    generations: Vec<u32>,
    free: Vec<u32>,
}

impl Direct {
    /// Makes the maps anew in `pins`, with room for so many connections.
    pub fn open(pins: &Path, connections: u32) -> Result<Self, BpfError> {
        let former = former(pins);
        remove(pins)?;
        fs::create_dir_all(pins).map_err(|cause| BpfError::File { path: pins.to_owned(), cause })?;
        let mut loader = EbpfLoader::new();
        share(&mut loader, pins, connections);
        let mut object = object::load_shared(loader)?;
        let grants = Grants {
            map: take(&mut object, names::GRANTS)?,
            slots: take(&mut object, names::SLOTS)?,
            generations: Vec::new(),
            free: Vec::new(),
        };
        Ok(Self {
            pins: pins.to_owned(),
            connections,
            grants: Mutex::new(grants),
            flows: Mutex::new(take(&mut object, names::FLOWS)?),
            lease: Mutex::new(take(&mut object, names::LEASE)?),
            events: Mutex::new(take(&mut object, names::EVENTS)?),
            former: Mutex::new(former),
        })
    }

    /// Has an object use these maps.
    pub(super) fn share(&self, loader: &mut EbpfLoader<'_>) {
        share(loader, &self.pins, self.connections);
    }

    /// Has the object of connects tell these where its sockets wanted to go.
    pub(super) fn share_translated(&self, loader: &mut EbpfLoader<'_>) {
        loader.map_pin_path(names::TRANSLATED, self.pins.join(names::TRANSLATED));
    }

    /// Promises to live for a while from now on.
    pub fn renew(&self) -> Result<(), BpfError> {
        let now = clock_gettime(ClockId::Monotonic);
        let now = Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or_default());
        let until = u64::try_from((now + LEASE).as_nanos()).unwrap_or(u64::MAX);
        lock(&self.lease).set(0, &until, 0).map_err(|cause| BpfError::Map { name: names::LEASE, cause })
    }

    /// What has happened since the last time, at most so much.
    pub fn events(&self, most: usize) -> Vec<Event> {
        let (mut ring, mut events) = (lock(&self.events), Vec::new());
        while events.len() < most
            && let Some(item) = ring.next()
        {
            events.extend(Event::read(&item));
        }
        events
    }

    /// Lets the kernel carry connections of the key to the namespace `server`. Slots are handed out so that their index
    /// leaves `rest` when divided by `of`. None: somebody has granted it already, or there is no room.
    pub fn grant(&self, (rest, of): (u32, u32), key: &GrantKey, server: u64) -> Option<Slot> {
        let mut grants = lock(&self.grants);
        let slot = grants.slot(rest, of)?;
        match grants.map.insert(key, &Grant { server, slot }, NEW) {
            Ok(()) => Some(slot),
            Err(_) => {
                grants.free.push(slot.index);
                None
            }
        }
    }

    /// New connections go to the agent from now on.
    pub fn withdraw(&self, key: &GrantKey) -> Result<(), BpfError> {
        match lock(&self.grants).map.remove(key) {
            Err(MapError::KeyNotFound) | Ok(()) => Ok(()),
            Err(cause) => Err(BpfError::Map { name: names::GRANTS, cause }),
        }
    }

    /// No packet of the connections that were opened under this grant is let through any more.
    pub fn cut(&self, slot: Slot) -> Result<(), BpfError> {
        lock(&self.grants).cut(slot)
    }

    /// The slot of a grant that was cut may serve another one.
    pub fn free(&self, slot: Slot) {
        lock(&self.grants).free.push(slot.index);
    }

    /// Grants in force.
    fn granted(&self) -> usize {
        let grants = lock(&self.grants);
        grants.generations.len() - grants.free.len()
    }

    pub fn flow(&self, flow: &FlowKey) -> Option<DirectFlow> {
        lock(&self.flows).get(flow, 0).ok()
    }

    /// Forgets a connection, unless its addresses have another one by now.
    pub fn forget(&self, flow: &FlowKey, opened: u64) {
        let mut flows = lock(&self.flows);
        if flows.get(flow, 0).is_ok_and(|found| found.opened == opened) {
            // Nobody else removes it.
            flows.remove(flow).ok();
        }
    }

    /// What a former agent's programs carried from or to a namespace, as seen in there. It is told once.
    pub fn former(&self, netns: u64) -> Vec<FlowKey> {
        lock(&self.former).extract_if(.., |(end, _)| *end == netns).map(|(_, key)| key).collect()
    }
}

impl fmt::Debug for Direct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Direct").field("granted", &self.granted()).finish_non_exhaustive()
    }
}

impl Grants {
    fn slot(&mut self, rest: u32, of: u32) -> Option<Slot> {
        let of = of.max(1);
        if let Some(at) = self.free.iter().position(|index| index % of == rest) {
            let index = self.free.swap_remove(at);
            return Some(Slot { index, generation: *self.generations.get(index as usize)? });
        }
        let next = self.generations.len();
        let index = (next..next + of as usize).find(|index| index % of as usize == rest as usize)?;
        let index = u32::try_from(index).ok().filter(|index| *index < MAX_GRANTS)?;
        // Those that were passed over are others'.
        self.free.extend((next as u32)..index);
        self.generations.resize(index as usize + 1, 0);
        Some(Slot { index, generation: 0 })
    }

    fn cut(&mut self, slot: Slot) -> Result<(), BpfError> {
        let next = slot.generation.wrapping_add(1);
        if let Some(generation) = self.generations.get_mut(slot.index as usize) {
            *generation = next;
        }
        self.slots.set(slot.index, &next, 0).map_err(|cause| BpfError::Map { name: names::SLOTS, cause })
    }
}

fn share(loader: &mut EbpfLoader<'_>, pins: &Path, connections: u32) {
    for name in SHARED {
        loader.map_pin_path(name, pins.join(name));
    }
    loader.map_max_entries(names::FLOWS, connections);
}

/// Gives an object maps of its own, which nobody writes: as small as may be.
pub(super) fn go_without(loader: &mut EbpfLoader<'_>) {
    for name in [names::GRANTS, names::SLOTS, names::FLOWS, names::TRANSLATED] {
        loader.map_max_entries(name, 1);
    }
    loader.map_max_entries(names::EVENTS, SMALLEST_RING);
}

/// Removes the pins of the maps.
fn remove(pins: &Path) -> Result<(), BpfError> {
    match fs::remove_dir_all(pins) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(BpfError::File { path: pins.to_owned(), cause }),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Another layout's cannot be read, and its programs end with its pins.
fn former(pins: &Path) -> Vec<(u64, FlowKey)> {
    let Ok(map) = MapData::from_pin(pins.join(names::FLOWS)) else { return Vec::new() };
    let Ok(map) = HashMap::<MapData, FlowKey, DirectFlow>::try_from(Map::HashMap(map)) else { return Vec::new() };
    let mirrored = |key: &FlowKey| FlowKey::of(key.remote(), key.local());
    let open = map.iter().flatten().filter(|(_, flow)| !flow.ended());
    open.flat_map(|(key, flow)| [(flow.client, key), (flow.server, mirrored(&key))]).collect()
}

fn take<T: TryFrom<Map, Error = MapError>>(object: &mut Ebpf, name: &'static str) -> Result<T, BpfError> {
    let map = object.take_map(name).ok_or(BpfError::Missing(name))?;
    T::try_from(map).map_err(|cause| BpfError::Map { name, cause })
}

pub(super) fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    // A writer that panicked between two calls to the kernel left every map whole.
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
