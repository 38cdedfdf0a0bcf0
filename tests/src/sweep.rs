//! A lab's claim on its name, and removing labs: at their end, on SIGINT and SIGTERM, and at the next start when their
//! process was killed.
//!
//! All of a lab hangs on its name: the directory `/run/mesh-lab/NAME`, namespaces called `NAME-...`, control groups below
//! `mesh-lab.NAME`. Who owns a lab holds a lock in its directory, which the kernel releases whatever becomes of the owner.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, WaitOptions, kill_process};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::cgroup;
use crate::eventually::{eventually, until};
use crate::wiring;

/// Directory of all labs of the machine.
const ROOT: &str = "/run/mesh-lab";
const NAMESPACES: &str = "/run/netns";
const LOCK: &str = "owner";
/// How long killed processes may take until they are gone.
const END: Duration = Duration::from_secs(5);

/// Names of this process's labs. Held while namespaces are made and removed, so that a signal never comes in between.
static OWN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// A lab's name and directory. Dropping it removes everything that has the name.
#[derive(Debug)]
pub(crate) struct Claim {
    name: String,
    _lock: File,
}

impl Claim {
    /// Takes `name`, having removed what was left of labs whose owners are gone.
    pub(crate) fn new(name: &str) -> Result<Self> {
        on_signals();
        let _all = lock_all()?;
        for left in left_behind() {
            remove(&left)?;
        }
        let directory = directory(name);
        fs::create_dir(&directory)
            .with_context(|| format!("{}, maybe a lab of this name runs already", directory.display()))?;
        let lock = File::create(directory.join(LOCK))?;
        lock.try_lock().context("the lab's lock")?;
        own().insert(name.to_owned());
        Ok(Self { name: name.to_owned(), _lock: lock })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn directory(&self) -> PathBuf {
        directory(&self.name)
    }

    /// Makes the namespaces `NAME-x` for each `x`.
    pub(crate) fn add_namespaces<'a>(&self, names: impl Iterator<Item = &'a str>) -> Result<()> {
        let own = own();
        if !own.contains(&self.name) {
            bail!("the lab was removed while it started");
        }
        let lines: String = names.map(|name| format!("netns add {}-{name}\n", self.name)).collect();
        wiring::batch(None, &lines)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut own = own();
        if own.remove(&self.name)
            && let Err(error) = remove(&self.name)
        {
            eprintln!("lab {} is not removed completely: {error:#}", self.name);
        }
    }
}

/// Where a lab keeps its files.
pub fn directory(name: &str) -> PathBuf {
    Path::new(ROOT).join(name)
}

/// Whether a lab of this name has an owner.
pub fn is_owned(name: &str) -> bool {
    // Who cannot open the lock finds no lab; who cannot take it finds its owner.
    File::open(directory(name).join(LOCK)).is_ok_and(|lock| lock.try_lock().is_err())
}

/// Removes what was left of labs whose owners are gone.
pub fn remove_left_behind() -> Result<()> {
    let _all = lock_all()?;
    left_behind().iter().try_for_each(|name| remove(name))
}

/// Kills the processes of the lab `name`, whoever started them, and removes its mounts, namespaces and files. Goes on
/// where something cannot be removed, and tells the first failure.
pub fn remove(name: &str) -> Result<()> {
    let (namespaces, groups) = (namespaces(name), cgroup::of(name));
    let inhabitants = || {
        let grouped = groups.iter().flat_map(|group| cgroup::inhabitants(group));
        inhabitants(&namespaces).into_iter().chain(grouped).collect::<Vec<_>>()
    };
    for pid in inhabitants() {
        // It may have ended just now.
        kill_process(pid, Signal::KILL).ok();
    }
    let empty = || inhabitants().is_empty();
    let ended = until(END, "killed processes are still there", empty);
    let directory = directory(name);
    for place in mounts(name)?.iter().rev() {
        // What is left is told as a failure to remove its folder.
        unmount(place.as_str(), UnmountFlags::DETACH).ok();
    }
    let lines: String = namespaces.iter().map(|namespace| format!("netns del {namespace}\n")).collect();
    let deleted = wiring::batch(None, &lines);
    let cleared = match fs::remove_dir_all(&directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| directory.display().to_string())
        }
        _ => Ok(()),
    };
    let ungrouped = eventually(END, || groups.iter().try_for_each(|group| cgroup::remove(group)));
    ended.and(deleted).and(cleared).and(ungrouped)
}

/// The processes that live in any of these namespaces.
fn inhabitants(namespaces: &[String]) -> Vec<Pid> {
    let inode = |name: &String| fs::metadata(Path::new(NAMESPACES).join(name)).ok().map(|meta| meta.ino());
    let homes: BTreeSet<String> = namespaces.iter().filter_map(inode).map(|inode| format!("net:[{inode}]")).collect();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let lives_there = |directory: &Path| {
        fs::read_link(directory.join("ns/net")).is_ok_and(|home| home.to_str().is_some_and(|home| homes.contains(home)))
    };
    let at_home = processes.filter(|entry| lives_there(&entry.path()));
    at_home.filter_map(|entry| entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw)).collect()
}

/// What there is of the lab `name`: namespaces, directories, mounts, control groups. Nothing, once it is removed.
pub fn leftovers(name: &str) -> Result<Vec<String>> {
    let directory = directory(name);
    let left = directory.exists().then(|| directory.display().to_string());
    let groups = cgroup::of(name).into_iter().map(|group| group.display().to_string());
    Ok(namespaces(name).into_iter().chain(mounts(name)?).chain(left).chain(groups).collect())
}

/// Where something is mounted below the lab's directory, in the order in which it was.
fn mounts(name: &str) -> Result<Vec<String>> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let below = format!("{}/", directory(name).display());
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    Ok(places.filter(|place| place.starts_with(&below)).map(str::to_owned).collect())
}

fn own() -> MutexGuard<'static, BTreeSet<String>> {
    OWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Held by whoever makes or looks for labs, so that one that is being made is not taken for an abandoned one.
fn lock_all() -> Result<File> {
    fs::create_dir_all(ROOT).context("the lab needs root")?;
    let lock = File::create(Path::new(ROOT).join(".lock"))?;
    lock.lock()?;
    Ok(lock)
}

fn left_behind() -> Vec<String> {
    let entries = fs::read_dir(ROOT).into_iter().flatten().flatten();
    let directories = entries.filter(|entry| entry.path().is_dir());
    directories.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| !is_owned(name)).collect()
}

fn namespaces(name: &str) -> Vec<String> {
    let entries = fs::read_dir(NAMESPACES).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|found| found.strip_prefix(name).is_some_and(|rest| rest.starts_with('-'))).collect()
}

/// From the first lab on, SIGINT and SIGTERM remove this process's labs before they end it.
fn on_signals() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let started = Signals::new([SIGINT, SIGTERM]).and_then(|mut signals| {
            let wait = move || signals.forever().next().map_or((), end);
            std::thread::Builder::new().name("signals".to_owned()).spawn(wait)
        });
        if let Err(error) = started {
            eprintln!("signals will not remove the lab: {error}");
        }
    });
}

#[expect(clippy::exit, clippy::disallowed_methods, reason = "a signal ends the process, whatever its other threads do")]
fn end(signal: i32) {
    let mut own = own();
    for name in std::mem::take(&mut *own) {
        eprintln!("removing the lab {name}");
        if let Err(error) = remove(&name) {
            eprintln!("lab {name} is not removed completely: {error:#}");
        }
    }
    // Whoever inherits our children may not look after the dead ones.
    while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
    std::process::exit(128 + signal);
}
