//! Whether the machine can run an agent: permissions, kernel, file systems, limits.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, getrlimit};

use super::finding::Report;
use crate::bpf::attach::Mechanism;
use crate::bpf::{fs as bpf_fs, trial};
use crate::file::schema::Node;
use crate::sys::caps::User;
use crate::sys::mounts::{MountedBy, mounted_by};
use crate::sys::{caps, kernel, mounts};

/// Where the kernel describes its own types.
const BTF: &str = "/sys/kernel/btf/vmlinux";

/// Open files below which a busy node gets into trouble: each connection takes two.
const FEW_FILES: u64 = 65_536;

/// The machine as this process sees it.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    pub(super) user: User,
    /// Capabilities that are needed and lacking, if it can be told.
    pub(super) lacking: Option<Vec<&'static str>>,
    /// The kernel's.
    pub(super) release: String,
    pub(super) btf: bool,
    pub(super) bpf_fs: (PathBuf, BpfFs),
    pub(super) cgroup: Option<PathBuf>,
    pub(super) sysctls: Sysctls,
    pub(super) programs: Programs,
    /// None when there is no limit.
    pub(super) open_files: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum BpfFs {
    Missing,
    /// The folder is there, and no BPF file system.
    Folder,
    Mounted(MountedBy),
    ReadOnly,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sysctls {
    Writable,
    ReadOnly,
    Unknown(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Programs {
    /// The verifier takes them, and they would be attached so.
    Taken(&'static str),
    Refused(String),
    /// Only root can try.
    NotTried,
}

impl Machine {
    /// `proc` has the node's processes, as far as they can be seen.
    pub(super) fn read(node: &Node, proc: &Path) -> Self {
        let user = caps::user();
        Self {
            user,
            lacking: fs::read_to_string("/proc/self/status").ok().and_then(|status| caps::missing(&status)),
            release: kernel::release(),
            btf: Path::new(BTF).exists(),
            bpf_fs: (node.bpf_fs.clone(), bpf_file_system(&node.bpf_fs, proc)),
            cgroup: node.cgroup.clone().or_else(mounts::cgroup2),
            sysctls: match mounts::sysctls_are_read_only() {
                Ok(true) => Sysctls::ReadOnly,
                Ok(false) => Sysctls::Writable,
                Err(error) => Sysctls::Unknown(error.to_string()),
            },
            programs: if user == User::Root { programs() } else { Programs::NotTried },
            open_files: getrlimit(Resource::Nofile).maximum,
        }
    }

    pub(super) fn judge(&self, report: &mut Report) {
        self.permissions(report);
        self.kernel(report);
        self.programs(report);
        self.bpf_file_system(report);
        self.sysctls(report);
        match &self.cgroup {
            Some(cgroup) => report.ok("cgroup2", cgroup.display().to_string()),
            None => report.warning(
                "cgroup2",
                "no hierarchy is mounted: records of connections will have no kernel facts",
                "mount one, or the node's into the agent's container, and name it in node.cgroup",
            ),
        }
        match self.open_files {
            Some(limit) if limit < FEW_FILES => report.warning(
                "open files",
                format!("at most {limit}, which is enough for {} connections", limit / 2),
                "raise the hard limit: LimitNOFILE= of the systemd unit, or that of the container runtime",
            ),
            Some(limit) => report.ok("open files", format!("at most {limit}")),
            None => report.ok("open files", "no limit"),
        }
    }

    fn permissions(&self, report: &mut Report) {
        if self.user != User::Root {
            report.wrong("root", "this is not root", "run the check, and the agent, as root");
        }
        match self.lacking.as_deref() {
            _ if self.user != User::Root => {}
            None => report.warning("capabilities", "/proc/self/status does not tell", "mount /proc"),
            Some([]) => report.ok("capabilities", "all that are needed"),
            Some(lacking) => report.wrong(
                "capabilities",
                format!("without {}", lacking.join(", ")),
                "add them to the container's securityContext.capabilities, or to the unit's CapabilityBoundingSet=",
            ),
        }
    }

    fn kernel(&self, report: &mut Report) {
        let running = format!("Linux {}", self.release);
        if kernel::is_too_old(&self.release) {
            report.wrong("kernel", format!("{running} cannot capture connections"), "use Linux 6.6 or newer");
        } else {
            report.ok("kernel", running);
        }
        if self.btf {
            report.ok("BTF", BTF);
        } else {
            report.wrong("BTF", format!("{BTF} is missing"), "use a kernel that is built with CONFIG_DEBUG_INFO_BTF=y");
        }
    }

    fn programs(&self, report: &mut Report) {
        const WHAT: &str = "programs";
        match &self.programs {
            Programs::Taken(how) => report.ok(WHAT, format!("taken by the verifier, to be attached by {how}")),
            Programs::Refused(reason) => report.wrong(
                WHAT,
                reason,
                "mend what is wrong above; if all is well there, this kernel needs another build of the agent",
            ),
            Programs::NotTried => report.warning(WHAT, "not tried", "run the check as root"),
        }
    }

    fn bpf_file_system(&self, report: &mut Report) {
        const WHAT: &str = "BPF file system";
        let (path, state) = &self.bpf_fs;
        let place = path.display();
        match state {
            BpfFs::Mounted(MountedBy::Node) => report.ok(WHAT, place.to_string()),
            BpfFs::Missing => report.wrong(
                WHAT,
                format!("{place} is not there"),
                "use a kernel with CONFIG_BPF_SYSCALL=y and mount /sys, or name another folder in node.bpf_fs",
            ),
            BpfFs::ReadOnly => report.wrong(WHAT, format!("{place} is read only"), "mount it writable"),
            BpfFs::Folder => report.warning(
                WHAT,
                format!("{place} has none; the agent mounts one, which in a container ends with the container"),
                format!("on the node: mount -t bpf bpf {place}"),
            ),
            BpfFs::Mounted(MountedBy::Container) => report.warning(
                WHAT,
                format!("{place} is mounted inside this container only: with the container, pods lose their capture"),
                format!("on the node: mount -t bpf bpf {place}, and mount that into the agent's container"),
            ),
            BpfFs::Mounted(MountedBy::Unknown) => report.warning(
                WHAT,
                format!("whether the node has mounted {place}, or only this container, cannot be seen from here"),
                "mount the node's /proc into the container, and name it in node.kubernetes.proc",
            ),
        }
    }

    fn sysctls(&self, report: &mut Report) {
        const WHAT: &str = "sysctls";
        let can_mount = self.lacking.as_ref().is_some_and(|lacking| !lacking.contains(&"SYS_ADMIN"));
        match &self.sysctls {
            Sysctls::Writable => report.ok(WHAT, "/proc/sys is writable"),
            Sysctls::ReadOnly if can_mount => {
                report.ok(WHAT, "/proc/sys is read only here; the agent makes it writable")
            }
            Sysctls::ReadOnly => report.wrong(WHAT, "/proc/sys is read only", "add the capability SYS_ADMIN"),
            Sysctls::Unknown(error) => report.wrong(WHAT, format!("/proc/sys: {error}"), "mount /proc"),
        }
    }
}

fn bpf_file_system(path: &Path, proc: &Path) -> BpfFs {
    match bpf_fs::is_mounted(path) {
        Err(_) => return BpfFs::Missing,
        Ok(false) => return BpfFs::Folder,
        Ok(true) if mounts::is_read_only(path).unwrap_or(false) => return BpfFs::ReadOnly,
        Ok(true) => {}
    }
    let place = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let own = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let first = fs::read_to_string(proc.join("1/mountinfo")).ok();
    BpfFs::Mounted(mounted_by(&place, &own, first.as_deref()).unwrap_or(MountedBy::Unknown))
}

fn programs() -> Programs {
    match trial::load() {
        Ok(mechanism) => Programs::Taken(Mechanism::as_str(mechanism)),
        Err(error) => Programs::Refused(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::{BpfFs, Machine, Programs, Sysctls};
    use crate::ctl::check::finding::{Group, Level, Report};
    use crate::sys::caps::User;
    use crate::sys::mounts::MountedBy;

    fn good() -> Machine {
        Machine {
            user: User::Root,
            lacking: Some(Vec::new()),
            release: "6.8.0".into(),
            btf: true,
            bpf_fs: ("/sys/fs/bpf".into(), BpfFs::Mounted(MountedBy::Node)),
            cgroup: Some("/sys/fs/cgroup".into()),
            sysctls: Sysctls::Writable,
            programs: Programs::Taken("tcx"),
            open_files: Some(1 << 20),
        }
    }

    /// What is not well: level, what, found.
    fn bad(machine: &Machine) -> Vec<(Level, String, String)> {
        let mut report = Report::about(Group::Node);
        machine.judge(&mut report);
        let bad = report.finish().into_iter().filter(|finding| finding.level != Level::Ok);
        bad.inspect(|finding| assert!(finding.fix.is_some())).map(|f| (f.level, f.what, f.found)).collect()
    }

    #[test]
    fn a_good_machine_has_nothing_to_mend() {
        assert_eq!(bad(&good()), []);
        assert_eq!(bad(&Machine { open_files: None, ..good() }), []);
        let in_container = Machine { sysctls: Sysctls::ReadOnly, ..good() };
        assert_eq!(bad(&in_container), [], "the agent mends that itself");
    }

    #[test]
    fn each_lack_is_named() {
        use Level::{Warning, Wrong};
        let bpf_fs = |state| Machine { bpf_fs: ("/b".into(), state), ..good() };
        let cases = [
            (Machine { lacking: Some(vec!["BPF", "NET_RAW"]), ..good() }, Wrong, "capabilities", "BPF, NET_RAW"),
            (Machine { lacking: None, ..good() }, Warning, "capabilities", "does not tell"),
            (Machine { release: "6.5.13".into(), ..good() }, Wrong, "kernel", "6.5.13"),
            (Machine { btf: false, ..good() }, Wrong, "BTF", "missing"),
            (bpf_fs(BpfFs::Missing), Wrong, "BPF file system", "/b is not there"),
            (bpf_fs(BpfFs::ReadOnly), Wrong, "BPF file system", "read only"),
            (bpf_fs(BpfFs::Folder), Warning, "BPF file system", "has none"),
            (bpf_fs(BpfFs::Mounted(MountedBy::Container)), Warning, "BPF file system", "this container only"),
            (bpf_fs(BpfFs::Mounted(MountedBy::Unknown)), Warning, "BPF file system", "cannot be seen"),
            (Machine { cgroup: None, ..good() }, Warning, "cgroup2", "no kernel facts"),
            (Machine { sysctls: Sysctls::Unknown("gone".into()), ..good() }, Wrong, "sysctls", "gone"),
            (Machine { programs: Programs::Refused("R1 !read_ok".into()), ..good() }, Wrong, "programs", "R1"),
            (Machine { open_files: Some(1024), ..good() }, Warning, "open files", "512 connections"),
        ];
        for (machine, level, what, part) in cases {
            let found = bad(&machine);
            let [(its_level, its_what, text)] = &found[..] else { panic!("{what}: {found:?}") };
            assert_eq!((*its_level, its_what.as_str()), (level, what), "{text}");
            assert!(text.contains(part), "{what}: {text}");
        }
    }

    #[test]
    fn without_root_little_can_be_tried() {
        let machine = Machine { user: User::Other, programs: Programs::NotTried, ..good() };
        let names: Vec<_> = bad(&machine).into_iter().map(|(_, what, _)| what).collect();
        assert_eq!(names, ["root", "programs"]);
        let machine = Machine { lacking: Some(vec!["SYS_ADMIN"]), sysctls: Sysctls::ReadOnly, ..good() };
        let names: Vec<_> = bad(&machine).into_iter().map(|(_, what, _)| what).collect();
        assert_eq!(names, ["capabilities", "sysctls"]);
    }
}
