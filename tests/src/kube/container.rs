//! A pod's container, as a kubelet and its runtime would have started it: a process in the pod's network namespace, and in
//! a control group with the pod's uid in its path. Who looks for a pod's namespace in `/proc` finds it by that.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Signal, kill_process};

use super::init::Init;
use crate::cgroup;
use crate::eventually::until;
use crate::namespace::Namespace;
use crate::process::Process;

const START: Duration = Duration::from_secs(5);
/// Joins the group that the argument names, and does nothing.
const MAIN: &str = "echo 0 > \"$1/cgroup.procs\" && exec sleep infinity";

/// A running container. Dropping it ends it.
#[derive(Debug)]
pub struct Container {
    group: Group,
    process: Process,
}

#[derive(Debug)]
struct Group(PathBuf);

impl Container {
    /// Starts one that does nothing. `lab` is the lab's name, `uid` the pod's, as the API server gave it.
    pub(super) fn start(lab: &str, (pod, node): (&Namespace, &Init), uid: &str, log: &Path) -> Result<Self> {
        // A runtime's ids are as long.
        let id = uid.replace('-', "").repeat(2);
        ensure!(id.len() == 64, "{uid} is no uid");
        let group = cgroup::unified(lab)?.join(format!("kubepods/besteffort/pod{uid}/{id}"));
        fs::create_dir_all(&group).with_context(|| group.display().to_string())?;
        let group = Group(group);
        let mut command = pod.command("nsenter");
        command.arg(format!("--pid={}", node.path().display())).args(["sh", "-c", MAIN, "main"]).arg(&group.0);
        let process = Process::spawn("a container", &mut command, log)?;
        let container = Self { group, process };
        let inside = || !cgroup::inhabitants(&container.group.0).is_empty();
        until(START, "the container is not in its control group", inside)?;
        Ok(container)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        for pid in cgroup::inhabitants(&self.group.0) {
            kill_process(pid, Signal::KILL).ok();
        }
        // The one that waits for it.
        self.process.wait(START).ok();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The pod's own folder goes with the last of its containers; what is left goes with the lab.
        for folder in self.0.ancestors().take(2) {
            fs::remove_dir(folder).ok();
        }
    }
}
