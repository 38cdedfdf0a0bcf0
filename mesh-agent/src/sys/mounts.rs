//! What of the node is mounted where, as far as this process sees it: in a container some of it is hidden or read only.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{StatVfsMountFlags, statvfs};
use rustix::mount::{MountFlags, mount_remount};

const MOUNTS: &str = "/proc/self/mountinfo";
const SYSCTLS: &str = "/proc/sys";

/// One line of a mountinfo file, proc_pid_mountinfo(5).
struct Mount<'a> {
    id: &'a str,
    /// Major and minor number of the file system.
    device: &'a str,
    root: &'a str,
    place: &'a str,
    /// Whether what is mounted there is passed on to, or comes from, another mount namespace.
    shared: bool,
    kind: &'a str,
}

fn mounts(text: &str) -> impl Iterator<Item = Mount<'_>> {
    text.lines().filter_map(|line| {
        // ID, parent, device, root, mount point, options, any number of fields, "-", type.
        let (before, after) = line.split_once(" - ")?;
        let fields: Vec<&str> = before.split(' ').collect();
        let [id, _, device, root, place, _, ref tags @ ..] = fields[..] else { return None };
        let shared = tags.iter().any(|tag| tag.starts_with("shared:") || tag.starts_with("master:"));
        Some(Mount { id, device, root, place, shared, kind: after.split(' ').next()? })
    })
}

/// The highest point of the cgroup2 hierarchy that is mounted here. A container has a mount of its own, which begins at
/// its own group and does not hold the pods; the node's, where it is mounted beside it, begins above.
pub fn cgroup2() -> Option<PathBuf> {
    highest_cgroup2(&fs::read_to_string(MOUNTS).ok()?)
}

fn highest_cgroup2(text: &str) -> Option<PathBuf> {
    let found = mounts(text).filter(|mount| mount.kind == "cgroup2").map(|mount| {
        // The root is seen from the own group: what is above is written with dots.
        let above = mount.root.split('/').filter(|part| *part == "..").count();
        (above, mount.place)
    });
    // The first of the highest.
    let best = found.reduce(|best, next| if next.0 > best.0 { next } else { best });
    best.map(|(_, place)| PathBuf::from(place))
}

/// Who has mounted a file system, which says how long it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MountedBy {
    Node,
    /// It goes with the container that this process runs in.
    Container,
    Unknown,
}

/// Who has mounted what is at `place`; none when nothing is. `own` is the mountinfo of this process, `first` that of the
/// node's first process as far as it can be read, or of the container's where that is the first one to be seen.
pub fn mounted_by(place: &Path, own: &str, first: Option<&str>) -> Option<MountedBy> {
    let above = |mount: &Mount<'_>| place.starts_with(mount.place);
    // Of several at one place the last one is seen.
    let mount = mounts(own).filter(above).max_by_key(|mount| mount.place.len())?;
    let elsewhere = first.filter(|first| root(first).map(|root| root.id) != root(own).map(|root| root.id));
    let contained = root(own).is_some_and(|root| root.kind == "overlay");
    Some(match elsewhere {
        _ if mount.shared => MountedBy::Node,
        Some(first) if mounts(first).any(|other| other.device == mount.device) => MountedBy::Node,
        Some(_) => MountedBy::Container,
        // No other mount namespace can be seen: either this is the node's, or that of a container which sees only itself.
        None if contained => MountedBy::Unknown,
        None => MountedBy::Node,
    })
}

fn root(text: &str) -> Option<Mount<'_>> {
    mounts(text).find(|mount| mount.place == "/")
}

/// Makes the sysctls writable for this process, as they are outside of containers: those of the pods' network namespaces
/// are changed through them. Needs `CAP_SYS_ADMIN`.
pub fn writable_sysctls() -> io::Result<()> {
    if !sysctls_are_read_only()? {
        return Ok(());
    }
    let flags = MountFlags::BIND | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount_remount(SYSCTLS, flags, "")?;
    if sysctls_are_read_only()? { Err(io::ErrorKind::ReadOnlyFilesystem.into()) } else { Ok(()) }
}

pub fn sysctls_are_read_only() -> io::Result<bool> {
    is_read_only(Path::new(SYSCTLS))
}

/// Whether the file system at `path` is mounted read only.
pub fn is_read_only(path: &Path) -> io::Result<bool> {
    Ok(statvfs(path)?.f_flag.contains(StatVfsMountFlags::RDONLY))
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::MountedBy::{Container, Node, Unknown};
    use super::{highest_cgroup2, mounted_by};

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

    #[test]
    fn a_file_system_lasts_as_long_as_who_mounted_it() {
        let node = "27 1 254:0 / / rw - ext4 /dev/vda rw\n40 27 0:33 / /sys/fs/bpf rw,nosuid shared:9 - bpf bpf rw\n";
        let private = "27 1 254:0 / / rw - ext4 /dev/vda rw\n40 27 0:33 / /sys/fs/bpf rw,nosuid - bpf bpf rw\n";
        let container = |bpf: &str| format!("900 800 0:70 / / rw - overlay overlay rw\n{bpf}");
        let passed = container("901 900 0:33 / /sys/fs/bpf rw - bpf bpf rw\n");
        let followed = container("901 900 0:33 / /sys/fs/bpf rw master:9 - bpf bpf rw\n");
        let own = container(
            "901 900 0:22 /fs/bpf /sys/fs/bpf rw - sysfs sysfs rw\n902 901 0:71 / /sys/fs/bpf rw - bpf bpf rw\n",
        );
        let cases = [
            ("a machine", node, None, Some(Node)),
            ("a machine without peers", private, Some(private), Some(Node)),
            ("a volume of the node's", &passed, Some(node), Some(Node)),
            ("a volume that follows the node's", &followed, None, Some(Node)),
            ("mounted over the node's folder", &own, Some(node), Some(Container)),
            ("a container that sees itself", &own, Some(&own), Some(Unknown)),
            ("a container that sees nobody", &passed, None, Some(Unknown)),
            ("nothing", "", None, None),
        ];
        for (what, text, first, expected) in cases {
            assert_eq!(mounted_by(Path::new("/sys/fs/bpf"), text, first), expected, "{what}");
        }
        assert_eq!(mounted_by(Path::new("/sys/fs/bpf/below"), private, None), Some(Node), "a folder of it");
    }
}
