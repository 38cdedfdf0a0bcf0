//! Kernel facts of connections: one sockops program on the cgroup that holds the pods, one map, read when a record ends.

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;

use aya::Ebpf;
use aya::maps::{HashMap, MapData};
use aya::programs::{CgroupAttachMode, SockOps};
use mesh_common::maps::{ConnFacts, FactsKey, FlowKey, names};

use super::{BpfError, object};

const PROGRAM: &str = "connection_facts";

/// The program, attached for as long as this lives.
#[derive(Debug)]
pub struct Facts {
    facts: HashMap<MapData, FactsKey, ConnFacts>,
    /// Only enrolments write; the lock is held for one call.
    enrolled: Mutex<HashMap<MapData, u64, u8>>,
    _object: Ebpf,
}

impl Facts {
    /// Attaches to `cgroup`, the root of a cgroup2 hierarchy.
    pub fn attach(cgroup: &Path) -> Result<Self, BpfError> {
        let mut object = object::load_sockops()?;
        let directory = File::open(cgroup).map_err(|cause| BpfError::File { path: cgroup.to_owned(), cause })?;
        let failed = |cause| BpfError::Program { name: PROGRAM.to_owned(), cause };
        let program: &mut SockOps =
            object.program_mut(PROGRAM).ok_or(BpfError::Missing(PROGRAM))?.try_into().map_err(failed)?;
        program.load().map_err(failed)?;
        program.attach(directory, CgroupAttachMode::Single).map_err(failed)?;
        let facts = take(&mut object, names::FACTS)?;
        let enrolled = Mutex::new(take(&mut object, names::ENROLLED)?);
        Ok(Self { facts, enrolled, _object: object })
    }

    /// Starts or stops watching the connections of a namespace, by its cookie.
    pub fn set_watched(&self, netns: u64, watched: Watched) -> Result<(), BpfError> {
        // A poisoned lock means that a writer panicked between two map calls; the map itself is whole.
        let mut enrolled = self.enrolled.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let result = match watched {
            Watched::Yes => enrolled.insert(&netns, &1, 0),
            Watched::No => enrolled.remove(&netns),
        };
        result.map_err(|cause| BpfError::Map { name: names::ENROLLED, cause })
    }

    /// The last facts of a connection, `local` being the end whose facts are asked for.
    pub fn read(&self, netns: u64, local: SocketAddr, remote: SocketAddr) -> Option<ConnFacts> {
        self.facts.get(&FactsKey { netns, flow: FlowKey::of(local, remote), reserved: 0 }, 0).ok()
    }
}

/// Whether a namespace's connections are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watched {
    Yes,
    No,
}

fn take<K: aya::Pod, V: aya::Pod>(object: &mut Ebpf, name: &'static str) -> Result<HashMap<MapData, K, V>, BpfError> {
    let map = object.take_map(name).ok_or(BpfError::Missing(name))?;
    HashMap::try_from(map).map_err(|cause| BpfError::Map { name, cause })
}
