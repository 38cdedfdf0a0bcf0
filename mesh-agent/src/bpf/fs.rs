//! The BPF file system and where things are pinned in it: `<bpf_fs>/mesh-agent/<node>/v<ABI>/`, and in there `pods/<pod>/`
//! and `direct/`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use mesh_common::abi::ABI;
use rustix::fs::statfs;
use rustix::mount::{MountFlags, mount};

use super::BpfError;

/// `BPF_FS_MAGIC` (linux/magic.h).
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// All that agents have in a BPF file system, of whatever node.
pub const FOLDER: &str = "mesh-agent";

/// The agent's directory in the BPF file system.
#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
}

impl Pins {
    /// Prepares the directory of `node` under `bpf_fs`, mounting a BPF file system there if none is.
    pub fn prepare(bpf_fs: &Path, node: &str) -> Result<Self, BpfError> {
        let fail = |cause: io::Error| BpfError::File { path: bpf_fs.to_owned(), cause };
        if !is_mounted(bpf_fs).map_err(fail)? {
            mount("bpf", bpf_fs, "bpf", MountFlags::empty(), None).map_err(|e| fail(e.into()))?;
        }
        let Self { root } = Self::of(bpf_fs, node);
        let pods = root.join("pods");
        fs::create_dir_all(&pods).map_err(|cause| BpfError::File { path: pods, cause })?;
        Ok(Self { root })
    }

    /// The directory of `node` under `bpf_fs`; it need not exist.
    pub fn of(bpf_fs: &Path, node: &str) -> Self {
        Self { root: bpf_fs.join(FOLDER).join(file_name(node)).join(format!("v{ABI}")) }
    }

    /// The directory of one pod; it need not exist.
    pub fn pod(&self, id: &str) -> PathBuf {
        self.root.join("pods").join(file_name(id))
    }

    /// What all pods share that may talk to each other directly; it need not exist.
    pub fn direct(&self) -> PathBuf {
        self.root.join("direct")
    }

    /// Removes a pod's pins, of whatever layout. What was attached through them alone is detached by that.
    pub fn remove_pod(&self, id: &str) -> Result<(), BpfError> {
        self.remove_other_layouts(id)?;
        remove(self.pod(id))
    }

    /// Removes what agents with another ABI number pinned for the pod; called once the pod is captured by this one. Tells
    /// whether there was anything.
    pub fn remove_other_layouts(&self, id: &str) -> Result<bool, BpfError> {
        let mut found = false;
        for layout in self.other_layouts() {
            let pod = layout.join("pods").join(file_name(id));
            found |= pod.exists();
            remove(pod)?;
            remove_if_empty(&layout);
        }
        Ok(found)
    }

    fn other_layouts(&self) -> Vec<PathBuf> {
        let Some(node) = self.root.parent() else { return Vec::new() };
        let layouts = fs::read_dir(node).into_iter().flatten().flatten().map(|entry| entry.path());
        layouts.filter(|layout| *layout != self.root).collect()
    }

    /// Removes what pods share, if there is no pod any more; then as [`Pins::remove_if_empty`].
    pub fn leave(&self) {
        let pods = self.root.join("pods");
        fs::remove_dir(&pods).ok();
        if !pods.exists() {
            fs::remove_dir_all(self.direct()).ok();
        }
        self.remove_if_empty();
    }

    /// Removes the agent's directories if they are empty.
    pub fn remove_if_empty(&self) {
        remove_if_empty(&self.root);
        if let Some(node) = self.root.parent() {
            fs::remove_dir(node).ok();
        }
    }
}

/// Whether a BPF file system is there.
pub fn is_mounted(path: &Path) -> io::Result<bool> {
    Ok(statfs(path)?.f_type as i64 == BPF_FS_MAGIC)
}

fn remove(directory: PathBuf) -> Result<(), BpfError> {
    match fs::remove_dir_all(&directory) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(BpfError::File { path: directory, cause }),
        _ => Ok(()),
    }
}

/// Removes one layout's directories. rmdir fails on what is not empty, and that is the point.
fn remove_if_empty(layout: &Path) {
    fs::remove_dir(layout.join("pods")).ok();
    fs::remove_dir(layout).ok();
}

/// The pods for which something is pinned, of `node` or of all nodes, whether or not an agent runs.
pub fn pinned(bpf_fs: &Path, node: Option<&str>) -> Vec<String> {
    let below = |path: PathBuf| fs::read_dir(path).into_iter().flatten().flatten();
    let wanted = node.map(file_name);
    let nodes = below(bpf_fs.join(FOLDER))
        .filter(|entry| wanted.as_ref().is_none_or(|wanted| entry.file_name().to_str() == Some(wanted)));
    let layouts = nodes.flat_map(|node| below(node.path()));
    let pods = layouts.flat_map(|layout| below(layout.path().join("pods")));
    pods.map(|pod| pod.file_name().to_string_lossy().into_owned()).collect()
}

/// A name that the BPF file system takes: it refuses dots.
pub fn file_name(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') { c } else { '~' }).collect()
}
