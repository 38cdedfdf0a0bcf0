//! Service addresses of direct connections: the `connect` programs on the cgroup of the pods give a client one of the
//! endpoints when it connects, and tell it the service's address when it asks for its peer.

use std::fmt;
use std::fs::File;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};

use aya::maps::{HashMap, MapData, MapError};
use aya::programs::{CgroupAttachMode, CgroupSockAddr};
use aya::{Ebpf, EbpfLoader};
use mesh_common::direct::{Served, ServiceKey};
use mesh_common::maps::names;

use super::direct::{Direct, NEW, lock};
use super::{BpfError, object};

const PROGRAMS: [&str; 4] = ["connect_v4", "connect_v6", "peer_v4", "peer_v6"];
/// `BPF_EXIST`.
const CHANGED: u64 = 2;

/// The programs, attached for as long as this lives.
pub struct Translation {
    services: Mutex<HashMap<MapData, ServiceKey, Served>>,
    _object: Ebpf,
}

impl Translation {
    /// Attaches to `cgroup`, the root of a cgroup2 hierarchy.
    pub fn attach(cgroup: &Path, direct: &Direct) -> Result<Self, BpfError> {
        let mut loader = EbpfLoader::new();
        direct.share_translated(&mut loader);
        let mut object = object::load_connect(loader)?;
        let directory = File::open(cgroup).map_err(|cause| BpfError::File { path: cgroup.to_owned(), cause })?;
        for name in PROGRAMS {
            let failed = |cause| BpfError::Program { name: name.to_owned(), cause };
            let program: &mut CgroupSockAddr =
                object.program_mut(name).ok_or(BpfError::Missing(name))?.try_into().map_err(failed)?;
            program.load().map_err(failed)?;
            program.attach(&directory, CgroupAttachMode::Single).map_err(failed)?;
        }
        let map = object.take_map(names::SERVICES).ok_or(BpfError::Missing(names::SERVICES))?;
        let map = HashMap::try_from(map).map_err(|cause| BpfError::Map { name: names::SERVICES, cause })?;
        Ok(Self { services: Mutex::new(map), _object: object })
    }

    /// Has clients get these endpoints, if nobody else has said so. Tells whether they do.
    pub fn add(&self, key: &ServiceKey, served: &Served) -> bool {
        self.services().insert(key, served, NEW).is_ok()
    }

    /// Other endpoints from now on.
    pub fn change(&self, key: &ServiceKey, served: &Served) -> Result<(), BpfError> {
        self.services().insert(key, served, CHANGED).map_err(failed)
    }

    /// Clients go to the service's own address.
    pub fn remove(&self, key: &ServiceKey) -> Result<(), BpfError> {
        match self.services().remove(key) {
            Err(MapError::KeyNotFound) | Ok(()) => Ok(()),
            Err(cause) => Err(failed(cause)),
        }
    }

    fn services(&self) -> MutexGuard<'_, HashMap<MapData, ServiceKey, Served>> {
        lock(&self.services)
    }
}

fn failed(cause: MapError) -> BpfError {
    BpfError::Map { name: names::SERVICES, cause }
}

impl fmt::Debug for Translation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Translation").finish_non_exhaustive()
    }
}
