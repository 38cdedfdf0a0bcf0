//! Leaves the node as it was before the agent came to it: the plugin, the pods' namespaces, what is pinned, and what
//! Kubernetes was told of the pods. It can be done again, and goes on where it was interrupted.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};

use super::source::{Read, Source};
use super::{ADMIN_SOCKET, kubernetes, settings};
use crate::bpf::attach::Mechanism;
use crate::bpf::fs::{FOLDER, Pins};
use crate::bpf::object::Logging;
use crate::file::schema::Node;
use crate::pods::capture::{Capture, Kernel};
use crate::sys::grace::GracePeriods;
use crate::sys::{caps, kernel, mounts, signal};
use crate::task::Tasks;
use crate::telemetry::log::Log;

/// What the agent has in its run directory.
const RECORDS: &str = "pods";

/// What remains to be done when all is undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    End,
    /// Waits for SIGTERM: a DaemonSet's containers are not to end.
    Stay,
}

/// Undoes everything; whatever cannot be undone is told, and the rest is done all the same.
pub fn run(source: &Source, then: Then, log: Log) -> anyhow::Result<()> {
    caps::require_root()?;
    kernel::require()?;
    let Read { config, .. } = source.read()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let failures = runtime.block_on(undo(&config.node))?;
    if !failures.is_empty() {
        bail!("the node is not as it was: {}", failures.join("; "));
    }
    tracing::info!(node = config.node.name, "nothing of the agent is left on the node");
    if then == Then::Stay {
        runtime.block_on(signal::termination());
    }
    drop(log);
    Ok(())
}

async fn undo(node: &Node) -> anyhow::Result<Vec<String>> {
    let socket = node.run_dir.join(ADMIN_SOCKET);
    let running = UnixStream::connect(&socket).is_ok();
    ensure!(
        !running,
        "an agent runs on this node ({}): delete its DaemonSet, or stop its unit, first",
        socket.display()
    );
    let mut failures = Vec::new();
    let mut note = |what: &str, result: anyhow::Result<()>| {
        if let Err(error) = result {
            failures.push(format!("{what}: {error:#}"));
        }
    };
    // First of all: a pod that is announced to nobody cannot start.
    if let Some(cni) = &node.cni {
        note("the CNI plugin", kubernetes::installer(node, cni).remove().context("removing it"));
    }
    note("the pods", release(node));
    if let Some(cluster) = &node.kubernetes {
        let tasks = Tasks::new();
        note("the pods' annotations", kubernetes::unmark(node, cluster, &tasks).await);
    }
    clear(&node.run_dir);
    Ok(failures)
}

/// Restores every namespace of which there is a record.
fn release(node: &Node) -> anyhow::Result<()> {
    let own = node.bpf_fs.join(FOLDER);
    // Looking would make the folders anew, and a container that only stays is killed at any time.
    if !own.exists() && !node.run_dir.join(RECORDS).exists() {
        return Ok(());
    }
    mounts::writable_sysctls().context("making /proc/sys writable")?;
    let pins = Pins::prepare(&node.bpf_fs, &node.name)?;
    let kernel = Kernel::new(pins.clone(), &node.run_dir, Mechanism::detect(), Logging::Off, None)?;
    let left: Vec<Arc<str>> = kernel.left_behind();
    let periods = settings::grace_periods(node);
    let _quick = periods.as_ref().map(GracePeriods::expedite);
    let mut failed = Vec::new();
    for uid in &left {
        match kernel.withdraw(uid) {
            Ok(()) => tracing::info!(pod = %uid, "pod withdrawn"),
            Err(error) => failed.push(format!("{uid}: {error}")),
        }
    }
    pins.leave();
    // Several nodes may have one such file system, in labs.
    fs::remove_dir(own).ok();
    ensure!(failed.is_empty(), "{}", failed.join("; "));
    Ok(())
}

/// Removes what is empty now, and sockets that nobody listens on.
fn clear(run_dir: &Path) {
    for socket in [ADMIN_SOCKET, kubernetes::SOCKET] {
        fs::remove_file(run_dir.join(socket)).ok();
    }
    // rmdir fails on what is not empty, and that is the point.
    fs::remove_dir(run_dir.join(RECORDS)).ok();
    fs::remove_dir(run_dir).ok();
}
