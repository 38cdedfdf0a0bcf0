//! What of the node is mounted where, as far as this process sees it: in a container some of it is hidden or read only.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{StatVfsMountFlags, statvfs};
use rustix::mount::{MountFlags, mount_remount};

const MOUNTS: &str = "/proc/self/mountinfo";
const SYSCTLS: &str = "/proc/sys";

/// The highest point of the cgroup2 hierarchy that is mounted here. A container has a mount of its own, which begins at
/// its own group and does not hold the pods; the node's, where it is mounted beside it, begins above.
pub fn cgroup2() -> Option<PathBuf> {
    highest_cgroup2(&fs::read_to_string(MOUNTS).ok()?)
}

fn highest_cgroup2(mounts: &str) -> Option<PathBuf> {
    // proc_pid_mountinfo(5): ID, parent, device, root, mount point, options, any number of fields, "-", type.
    let found = mounts.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let (root, place) = (before.split(' ').nth(3)?, before.split(' ').nth(4)?);
        // The root is seen from the own group: what is above is written with dots.
        let above = root.split('/').filter(|part| *part == "..").count();
        after.starts_with("cgroup2 ").then_some((above, place))
    });
    // The first of the highest.
    let best = found.reduce(|best, next| if next.0 > best.0 { next } else { best });
    best.map(|(_, place)| PathBuf::from(place))
}

/// Makes the sysctls writable for this process, as they are outside of containers: those of the pods' network namespaces
/// are changed through them. Needs `CAP_SYS_ADMIN`.
pub fn writable_sysctls() -> io::Result<()> {
    if !is_read_only(Path::new(SYSCTLS))? {
        return Ok(());
    }
    let flags = MountFlags::BIND | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount_remount(SYSCTLS, flags, "")?;
    if is_read_only(Path::new(SYSCTLS))? { Err(io::ErrorKind::ReadOnlyFilesystem.into()) } else { Ok(()) }
}

fn is_read_only(path: &Path) -> io::Result<bool> {
    Ok(statvfs(path)?.f_flag.contains(StatVfsMountFlags::RDONLY))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::highest_cgroup2;

    #[test]
    fn the_nodes_hierarchy_goes_before_the_containers() {
        let machine = "24 1 0:22 / /proc rw - proc proc rw\n\
                       30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";
        assert_eq!(highest_cgroup2(machine), Some(PathBuf::from("/sys/fs/cgroup")));
        let container = "901 900 0:26 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw\n\
                         902 900 0:26 /../../.. /host/cgroup ro - cgroup2 cgroup rw\n\
                         903 900 0:30 / /tmp rw - tmpfs cgroup2 rw\n";
        assert_eq!(highest_cgroup2(container), Some(PathBuf::from("/host/cgroup")));
        assert_eq!(highest_cgroup2("24 1 0:22 / /proc rw - proc proc rw\n"), None);
    }
}
