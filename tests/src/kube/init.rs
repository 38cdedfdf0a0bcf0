//! A node's first process, and its processes beside it: a PID namespace, in which the node's containers are. `/proc` as
//! seen from there is what a node's own would be, and not the whole machine's.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::namespace::Namespace;
use crate::process::Process;

/// A node's first process. When it is dropped, all the node's containers end.
#[derive(Debug)]
pub struct Init {
    process: Process,
}

impl Init {
    /// It is called `kubelet`, in whose place it stands: who wants to know a kubelet's user looks for that. `directory` is
    /// the node's, for its files.
    pub(super) fn start(node: &Namespace, directory: &Path) -> Result<Self> {
        std::fs::create_dir_all(directory)?;
        let (program, log) = (directory.join("kubelet"), directory.join("kubelet.log"));
        if !program.exists() {
            // A program's name is that of the file by which it was started.
            std::os::unix::fs::symlink("/bin/sleep", &program).context("the name of the first process")?;
        }
        let mut command = node.command("unshare");
        command.args(["--pid", "--fork", "--kill-child"]).arg(program).arg("infinity");
        Ok(Self { process: Process::spawn("the first process of a node", &mut command, &log)? })
    }

    /// The file that stands for the PID namespace.
    pub(super) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/pid_for_children", self.process.pid()))
    }
}
