//! What the process must be allowed to do, checked before anything is changed.

use rustix::process::geteuid;

/// The capabilities that the node agent uses, by number (linux/capability.h).
const NEEDED: [(u32, &str); 7] = [
    (1, "DAC_OVERRIDE"),
    (12, "NET_ADMIN"),
    (13, "NET_RAW"),
    (19, "SYS_PTRACE"),
    (21, "SYS_ADMIN"),
    (38, "PERFMON"),
    (39, "BPF"),
];

/// A missing permission, with what it is needed for.
#[derive(Debug, thiserror::Error)]
#[error("the node agent must run as root: it enters pod namespaces, loads eBPF and opens transparent sockets")]
pub struct NotRoot;

/// Fails early and clearly instead of late and obscurely.
pub fn require_root() -> Result<(), NotRoot> {
    match user() {
        User::Root => Ok(()),
        User::Other => Err(NotRoot),
    }
}

/// Who the process runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    Root,
    Other,
}

pub fn user() -> User {
    if geteuid().is_root() { User::Root } else { User::Other }
}

/// Which needed capabilities a process lacks, by what `/proc/PID/status` says of it; none when it says nothing of any.
pub fn missing(status: &str) -> Option<Vec<&'static str>> {
    let written = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    let effective = u64::from_str_radix(written.trim(), 16).ok()?;
    Some(NEEDED.iter().filter(|(number, _)| effective >> number & 1 == 0).map(|(_, name)| *name).collect())
}

#[cfg(test)]
mod tests {
    use super::missing;

    #[test]
    fn what_is_lacking_is_named() {
        let of =
            |effective: &str| missing(&format!("Name:\tmesh-agent\nCapInh:\t0\nCapEff:\t{effective}\nSeccomp:\t2\n"));
        assert_eq!(of("000001ffffffffff"), Some(vec![]));
        // What container runtimes give to root.
        let usual = ["NET_ADMIN", "SYS_PTRACE", "SYS_ADMIN", "PERFMON", "BPF"];
        assert_eq!(of("00000000a80425fb"), Some(usual.to_vec()));
        assert_eq!(of("000000c000283002"), Some(vec![]), "exactly the needed ones");
        assert_eq!(of("0000000000000000").map(|all| all.len()), Some(7));
        assert_eq!(of("x"), None);
        assert_eq!(missing("Name:\tmesh-agent\n"), None);
    }
}
