//! A node's namespaces and its disk: all that a node is before anything runs on it.
//!
//! The first process makes them and lives in them: mounts, processes, host name; the network namespace is there already.
//! When it ends, the kernel ends all processes of the node, and its mounts are gone; its disk stays.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Write;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::mount::{MountFlags, mount};

use super::files;
use crate::eventually::eventually;
use crate::namespace::Namespace;
use crate::process::Process;

const START: Duration = Duration::from_secs(10);
/// The first process. Arguments: the disk, the node's name, the folder of programs that it needs to see.
///
/// The root is the machine's with the disk over it. The container runtime keeps its layers beside that: an overlay over
/// an overlay it could not have. Sysctls of the machine cannot be written, and those which a kubelet would set look as if
/// they were set; those of the network are the node's own. In the end it waits for its children, as a first process must.
const FIRST: &str = r#"set -eu
disk=$1 name=$2 programs=$3
echo "$name" > /proc/sys/kernel/hostname
mkdir -p "$disk/upper" "$disk/work" "$disk/root" "$disk/containerd" "$disk/kubelet" "$disk/sysctls"
mount -t overlay overlay -o "lowerdir=/,upperdir=$disk/upper,workdir=$disk/work" "$disk/root"
cd "$disk/root"
mkdir -p var/lib/containerd var/lib/kubelet etc/cni/net.d opt/cni/bin opt/lab/bin var/log/pods
mount --bind "$disk/containerd" var/lib/containerd
mount --bind "$disk/kubelet" var/lib/kubelet
mount --bind "$programs" opt/lab/bin
mount -t proc proc proc
for tree in kernel vm; do mount --bind proc/sys/$tree proc/sys/$tree; mount -o remount,bind,ro proc/sys/$tree; done
seem() { echo "$1" > "$disk/sysctls/$2"; mount --bind "$disk/sysctls/$2" "proc/sys/$3/$2"; }
seem 1 overcommit_memory vm
seem 0 panic_on_oom vm
seem 10 panic kernel
seem 1 panic_on_oops kernel
seem 1000000 root_maxkeys kernel/keys
seem 25000000 root_maxbytes kernel/keys
mount -t sysfs sysfs sys
mount --rbind /sys/fs/cgroup sys/fs/cgroup
mount -t bpf bpf sys/fs/bpf
mount --rbind /dev dev
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mkdir -p run/netns run/lock old
pivot_root . old
umount -l /old
rmdir /old
mount --make-rshared /
touch /run/booted
sleep infinity &
wait
"#;

/// What the node's programs know of their surroundings: nothing of the caller's.
const VARIABLES: [&str; 2] = ["PATH=/opt/lab/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"];

/// A node's namespaces, and its first process. Dropping it ends all processes of the node.
#[derive(Debug)]
pub struct Machine {
    inside: Inside,
    first: Mutex<Process>,
}

/// The way into a node's namespaces, for as long as its first process runs.
#[derive(Clone, Debug)]
pub struct Inside {
    home: Namespace,
    pid: u32,
}

impl Machine {
    /// Makes them for the node called `name` in the network namespace `home`, with a disk that [`make_disk`] made and the
    /// folder of programs.
    pub(super) fn start(home: &Namespace, name: &str, (disk, programs): (&Path, &Path), log: &Path) -> Result<Self> {
        let mut command = home.command("unshare");
        command.args([
            "--mount",
            "--pid",
            "--uts",
            "--fork",
            "--kill-child",
            "--propagation=private",
            "sh",
            "-c",
            FIRST,
        ]);
        command.arg("first").args([disk.as_os_str(), OsStr::new(name), programs.as_os_str()]);
        let first = Process::spawn("the first process of a node", &mut command, log)?;
        let inside = Inside { home: home.clone(), pid: first.pid() };
        let machine = Self { inside, first: Mutex::new(first) };
        eventually(START, || {
            machine.first().check_running()?;
            machine.output("test", ["-e", "/run/booted"])
        })?;
        Ok(machine)
    }

    /// Ends the first process, and with it all others.
    pub(super) fn kill(&self) -> Result<()> {
        self.first().kill()
    }

    fn first(&self) -> MutexGuard<'_, Process> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Deref for Machine {
    type Target = Inside;

    fn deref(&self) -> &Inside {
        &self.inside
    }
}

impl Inside {
    /// Of a node in the network namespace of this name, whose namespaces the process `pid` holds: [`Inside::pid`].
    pub fn of(netns: &str, pid: u32) -> Result<Self> {
        Ok(Self { home: Namespace::open(netns)?, pid })
    }

    /// The pid of the process that holds the namespaces.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    pub fn home(&self) -> &Namespace {
        &self.home
    }

    /// A program to be started in all the namespaces. The process that this gives waits for it.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.home.command("env");
        command.args(self.words(program));
        command
    }

    /// The arguments of `env` that start a program in all the namespaces, once in that of the network.
    pub(super) fn words(&self, program: impl AsRef<OsStr>) -> Vec<OsString> {
        let of = |kind: &str| format!("/proc/{}/ns/{kind}", self.pid);
        let mut words = vec!["--ignore-environment".to_owned()];
        words.extend(VARIABLES.map(str::to_owned));
        words.extend(["nsenter".to_owned(), format!("--mount={}", of("mnt")), format!("--uts={}", of("uts"))]);
        words.extend([format!("--pid={}", of("pid_for_children")), "--".to_owned()]);
        let mut words: Vec<OsString> = words.into_iter().map(Into::into).collect();
        words.push(program.as_ref().to_owned());
        words
    }

    /// Runs a program to its end and gives what it printed; its failure is an error with all it said.
    pub fn output<A: AsRef<OsStr>>(&self, program: &str, args: impl IntoIterator<Item = A>) -> Result<String> {
        let output = self.command(program).args(args).output().context("nsenter")?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "{program} in {}: {}: {out}{err}", self.home.netns(), output.status);
        Ok(out.into_owned())
    }

    /// Writes a file of the node, and makes the folders above it.
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        let mut command = self.command("sh");
        command.args(["-c", "mkdir -p \"$(dirname \"$1\")\" && cat > \"$1\"", "write", path]);
        let mut child = command.stdin(Stdio::piped()).spawn().context("nsenter")?;
        child.stdin.take().context("its input")?.write_all(text.as_bytes())?;
        let status = child.wait()?;
        if status.success() { Ok(()) } else { bail!("writing {path} on {}: {status}", self.home.netns()) }
    }

    /// Imports an image's archive into the node's container runtime.
    pub fn import(&self, archive: &Path) -> Result<()> {
        let mut command = self.command("ctr");
        command.args(["--address", files::SOCKET, "--namespace=k8s.io", "images", "import", "-"]);
        command.stdin(File::open(archive).with_context(|| archive.display().to_string())?);
        let output = command.output().context("nsenter")?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "importing {} in {}: {said}", archive.display(), self.home.netns());
        Ok(())
    }
}

/// A disk for a node, in memory: it is there until whoever removes the cluster unmounts it.
pub(super) fn make_disk(directory: &Path) -> Result<PathBuf> {
    let disk = directory.join("disk");
    fs::create_dir_all(&disk)?;
    mount("tmpfs", &disk, "tmpfs", MountFlags::empty(), None).with_context(|| disk.display().to_string())?;
    Ok(disk)
}
