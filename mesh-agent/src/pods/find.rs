//! The network namespaces of pods that run already, found by their processes; and which namespaces have none any more.
//!
//! A pod's processes are known by their control groups. The oldest one outside of the agent's own namespace is the pod's
//! sandbox, as a rule; what proves a namespace is one of the pod's addresses on an interface in it. One pass over all
//! processes answers for all pods.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::cgroup;
use crate::sys::netlink::address::interface_with;
use crate::sys::netlink::link::carried;
use crate::sys::netns::Netns;

/// Where to look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// The node's processes.
    pub proc: PathBuf,
    /// Where the container runtime keeps handles of the pods' network namespaces.
    pub netns: PathBuf,
}

/// What is looked for in one pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    pub pods: Vec<Sought>,
    /// Namespaces that may have no process any more, by the pod's uid.
    pub deserted: Vec<(Arc<str>, Netns)>,
}

/// A pod whose namespace is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sought {
    pub uid: Arc<str>,
    pub addresses: Vec<IpAddr>,
}

/// A pod's namespace, proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// By which a later process finds it.
    pub path: PathBuf,
    pub netns: Netns,
    /// The pod's interface in it.
    pub interface: String,
    /// The bytes that it had carried when it was found.
    pub carried: u64,
}

/// What a pass has found.
#[derive(Debug, Default)]
pub struct Found {
    /// For each pod that was sought its namespace, or what is wrong, in words.
    pub pods: Vec<(Arc<str>, Result<Place, String>)>,
    /// The pods whose namespaces have no process.
    pub deserted: Vec<Arc<str>>,
}

impl Found {
    /// Nothing, for this reason.
    pub fn failed(look: &Look, error: &str) -> Self {
        let failed = |sought: &Sought| (Arc::clone(&sought.uid), Err(error.to_owned()));
        Self { pods: look.pods.iter().map(failed).collect(), deserted: Vec::new() }
    }
}

/// A namespace as the kernel numbers it, device and inode. The numbers of one that has gone are given to another one.
type Id = (u64, u64);

/// A process of a pod: the oldest one of its namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    /// In ticks since the machine was started.
    started: u64,
    pid: u32,
    netns: Id,
}

/// What one pass over the processes has seen.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    /// One for each namespace of the pod's processes, the oldest first.
    pods: HashMap<Arc<str>, Vec<Candidate>>,
    /// Namespaces that have a process.
    alive: HashSet<Id>,
}

/// Makes one pass. Blocking.
pub fn look(places: &Places, look: &Look) -> Found {
    let seen = match pass(places, look) {
        Ok(seen) => seen,
        Err(error) => {
            let error = format!("the node's processes in {} cannot be listed: {error}", places.proc.display());
            return Found::failed(look, &error);
        }
    };
    let handles = if seen.pods.is_empty() { HashMap::new() } else { handles(&places.netns) };
    let place = |sought: &Sought| {
        let candidates = seen.pods.get(&sought.uid).map(Vec::as_slice).unwrap_or_default();
        (Arc::clone(&sought.uid), prove(places, &handles, &sought.addresses, candidates))
    };
    let gone = |(_, netns): &&(Arc<str>, Netns)| !seen.alive.contains(&netns.id());
    Found {
        pods: look.pods.iter().map(place).collect(),
        deserted: look.deserted.iter().filter(gone).map(|(uid, _)| Arc::clone(uid)).collect(),
    }
}

fn pass(places: &Places, look: &Look) -> io::Result<Seen> {
    let sought: HashMap<&str, &Arc<str>> = look.pods.iter().map(|pod| (&*pod.uid, &pod.uid)).collect();
    let own = Netns::current()?.id();
    let mut seen = Seen::default();
    for entry in fs::read_dir(&places.proc)? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let process = places.proc.join(&name);
        let pods = if sought.is_empty() { BTreeSet::new() } else { pods_of(&process, &sought) };
        if pods.is_empty() && look.deserted.is_empty() {
            continue;
        }
        // A process that has ended meanwhile, or waits to be reaped, is in no namespace.
        let Ok(meta) = fs::metadata(process.join("ns/net")) else { continue };
        let netns = (meta.dev(), meta.ino());
        seen.alive.insert(netns);
        if netns == own || pods.is_empty() {
            continue;
        }
        let Some(started) = started(&process) else { continue };
        for uid in pods {
            seen.pods.entry(uid).or_default().push(Candidate { started, pid, netns });
        }
    }
    seen.pods.values_mut().for_each(|candidates| {
        candidates.sort_unstable();
        let mut known = HashSet::new();
        candidates.retain(|candidate| known.insert(candidate.netns));
    });
    Ok(seen)
}

fn pods_of(process: &Path, sought: &HashMap<&str, &Arc<str>>) -> BTreeSet<Arc<str>> {
    let text = fs::read_to_string(process.join("cgroup")).unwrap_or_default();
    cgroup::pods(&text).filter_map(|uid| sought.get(&*uid).map(|uid| Arc::clone(uid))).collect()
}

/// When a process was started, in ticks: the 22nd field of proc_pid_stat(5). The second one, the program's name in
/// brackets, may have any character.
fn started(process: &Path) -> Option<u64> {
    let text = fs::read(process.join("stat")).ok()?;
    let text = String::from_utf8_lossy(&text);
    text.rsplit_once(')')?.1.split_ascii_whitespace().nth(22 - 3)?.parse().ok()
}

/// The runtime's handles by the namespace that they keep.
fn handles(directory: &Path) -> HashMap<Id, PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter_map(|path| fs::metadata(&path).ok().map(|meta| ((meta.dev(), meta.ino()), path))).collect()
}

fn prove(
    places: &Places,
    handles: &HashMap<Id, PathBuf>,
    addresses: &[IpAddr],
    candidates: &[Candidate],
) -> Result<Place, String> {
    if candidates.is_empty() {
        return Err(format!("no process of the pod is among those in {}", places.proc.display()));
    }
    let mut wrong = Vec::new();
    for candidate in candidates {
        match inspect(places, handles, addresses, candidate.pid) {
            Ok(place) => return Ok(place),
            Err(error) => wrong.push(error),
        }
    }
    Err(wrong.join("; "))
}

/// The namespace of one process, if it has one of the addresses.
fn inspect(places: &Places, handles: &HashMap<Id, PathBuf>, addresses: &[IpAddr], pid: u32) -> Result<Place, String> {
    let by_process = places.proc.join(pid.to_string()).join("ns/net");
    let cannot = |what: &'static str| move |error: io::Error| format!("the namespace of process {pid} {what}: {error}");
    let netns = Netns::open(&by_process).map_err(cannot("cannot be opened"))?;
    let interface = || {
        let Some(interface) = interface_with(addresses)? else { return Ok(None) };
        carried(&interface).map(|carried| Some((interface, carried)))
    };
    let interface = netns.run(interface).map_err(cannot("cannot be entered"))?;
    let interface = interface.map_err(cannot("does not tell its addresses"))?;
    let Some((interface, carried)) = interface else {
        return Err(format!("the namespace of process {pid} has none of the pod's addresses {addresses:?}"));
    };
    // What the runtime keeps outlives processes.
    let kept = handles.get(&netns.id()).filter(|path| Netns::open(path).is_ok_and(|kept| kept == netns));
    Ok(Place { path: kept.cloned().unwrap_or(by_process), netns, interface, carried })
}

#[cfg(test)]
mod tests;
