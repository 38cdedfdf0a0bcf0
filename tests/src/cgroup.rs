//! A lab's control groups: those in which its pods' containers are, by the lab's name in each hierarchy of the machine.
//!
//! A machine has one hierarchy (cgroup v2), or several (v1, and maybe v2 beside them). What a kubelet or a container
//! runtime makes is in all of them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::process::Pid;

/// What a kubelet wants of cgroup v2.
const CONTROLLERS: [&str; 5] = ["cpuset", "cpu", "io", "memory", "pids"];

/// The folder of the lab `name` in the hierarchy of cgroup v2, without making it.
pub(crate) fn unified(name: &str) -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mut found = mounts.lines().filter_map(|line| mounted(line, "cgroup2"));
    let root = found.next().context("no hierarchy of cgroup v2 is mounted")?;
    Ok(root.join(folder(name)))
}

/// The name of a lab's folder, in every hierarchy.
pub(crate) fn folder(name: &str) -> String {
    format!("mesh-lab.{name}")
}

/// The folders that there are of the lab `name`.
pub(crate) fn of(name: &str) -> Vec<PathBuf> {
    hierarchies().iter().map(|root| root.join(folder(name))).filter(|path| path.is_dir()).collect()
}

/// Makes a group, of which this is the path, in every hierarchy.
pub(crate) fn make(group: &str) -> Result<()> {
    for root in hierarchies() {
        let path = root.join(group.trim_start_matches('/'));
        fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        hand_down(&root, group);
        // Of v1: nothing runs in a group that has neither processors nor memory.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            inherit(&root, group, file)?;
        }
    }
    Ok(())
}

/// Removes a group that was made, and all below it, from every hierarchy. Nobody may be in it any more.
pub(crate) fn unmake(group: &str) -> Result<()> {
    hierarchies().iter().try_for_each(|root| remove(&root.join(group.trim_start_matches('/'))))
}

/// The files by which a process joins a group that was made, in every hierarchy.
pub(crate) fn doors(group: &str) -> Vec<PathBuf> {
    let doors = hierarchies().into_iter().map(|root| root.join(group.trim_start_matches('/')).join("cgroup.procs"));
    doors.filter(|door| door.exists()).collect()
}

/// Of v2: a group has the controllers that all above it hand down. Which of them there are is the machine's affair.
fn hand_down(root: &Path, group: &str) {
    let mut place = root.to_owned();
    for name in group.split('/').filter(|name| !name.is_empty()) {
        for controller in CONTROLLERS {
            fs::write(place.join("cgroup.subtree_control"), format!("+{controller}")).ok();
        }
        place.push(name);
    }
}

fn inherit(root: &Path, group: &str, file: &str) -> Result<()> {
    let mut place = root.to_owned();
    let Ok(value) = fs::read_to_string(place.join(file)) else { return Ok(()) };
    for name in group.split('/').filter(|name| !name.is_empty()) {
        place.push(name);
        let own = place.join(file);
        if fs::read_to_string(&own).is_ok_and(|text| text.trim().is_empty()) {
            fs::write(&own, value.trim()).with_context(|| own.display().to_string())?;
        }
    }
    Ok(())
}

/// Where they are mounted.
fn hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let kinds = ["cgroup2", "cgroup"];
    let mut roots: Vec<_> =
        mounts.lines().filter_map(|line| kinds.iter().find_map(|kind| mounted(line, kind))).collect();
    roots.sort();
    roots.dedup();
    roots
}

/// The processes in a group and in all below it.
pub(crate) fn inhabitants(group: &Path) -> Vec<Pid> {
    let listed = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    let own = listed.lines().filter_map(|line| line.parse().ok().and_then(Pid::from_raw));
    own.chain(below(group).iter().flat_map(|child| inhabitants(child))).collect()
}

/// Removes a group and all below it, which must be empty of processes. One that is gone is as well.
pub(crate) fn remove(group: &Path) -> Result<()> {
    below(group).iter().try_for_each(|child| remove(child))?;
    match fs::remove_dir(group) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| group.display().to_string())
        }
        _ => Ok(()),
    }
}

fn below(group: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(group).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

/// The mount point of a line of `/proc/self/mounts`, if it is of this type.
fn mounted(line: &str, kind: &str) -> Option<PathBuf> {
    let mut words = line.split(' ').skip(1);
    let place = words.next()?;
    (words.next()? == kind).then(|| PathBuf::from(place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_by_type() {
        let line = "cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0";
        assert_eq!(mounted(line, "cgroup2"), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(mounted(line, "cgroup"), None);
        assert_eq!(mounted("", "cgroup"), None);
    }

    #[test]
    fn groups_are_found_and_removed_with_all_below() {
        // Folders do as well: what differs is that they have no files.
        let place = tempfile::tempdir().unwrap();
        let group = place.path().join("group");
        fs::create_dir_all(group.join("a/b")).unwrap();
        fs::create_dir_all(group.join("c")).unwrap();
        assert_eq!(inhabitants(&group), []);
        remove(&group).unwrap();
        assert!(!group.exists());
        remove(&group).unwrap();
    }
}
