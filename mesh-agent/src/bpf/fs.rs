//! The BPF file system and where things are pinned in it: `<bpf_fs>/mesh-agent/<node>/v<ABI>/pods/<pod>/`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use mesh_common::abi::ABI;
use rustix::fs::statfs;
use rustix::mount::{MountFlags, mount};

use super::BpfError;

/// `BPF_FS_MAGIC` (linux/magic.h).
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// The agent's directory in the BPF file system.
#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
}

impl Pins {
    /// Prepares the directory of `node` under `bpf_fs`, mounting a BPF file system there if none is.
    pub fn prepare(bpf_fs: &Path, node: &str) -> Result<Self, BpfError> {
        let fail = |cause: io::Error| BpfError::File { path: bpf_fs.to_owned(), cause };
        let mounted = statfs(bpf_fs).map_err(|e| fail(e.into()))?.f_type as i64 == BPF_FS_MAGIC;
        if !mounted {
            mount("bpf", bpf_fs, "bpf", MountFlags::empty(), None).map_err(|e| fail(e.into()))?;
        }
        let root = bpf_fs.join("mesh-agent").join(file_name(node)).join(format!("v{ABI}"));
        let pods = root.join("pods");
        fs::create_dir_all(&pods).map_err(|cause| BpfError::File { path: pods, cause })?;
        Ok(Self { root })
    }

    /// The directory of one pod; it need not exist.
    pub fn pod(&self, id: &str) -> PathBuf {
        self.root.join("pods").join(file_name(id))
    }

    /// Removes a pod's pins. What was attached through them alone is detached by that.
    pub fn remove_pod(&self, id: &str) -> Result<(), BpfError> {
        let path = self.pod(id);
        match fs::remove_dir_all(&path) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(BpfError::File { path, cause }),
            _ => Ok(()),
        }
    }

    /// Removes the agent's directories if they are empty.
    pub fn remove_if_empty(&self) {
        let pods = self.root.join("pods");
        // rmdir fails on what is not empty, and that is the point.
        for directory in [Some(pods.as_path()), Some(self.root.as_path()), self.root.parent()].into_iter().flatten() {
            fs::remove_dir(directory).ok();
        }
    }
}

/// A name that the BPF file system takes: it refuses dots.
pub fn file_name(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') { c } else { '~' }).collect()
}
