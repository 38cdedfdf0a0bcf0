//! What a pod's namespace needs besides programs: one rule and one route per family, and two sysctls.
//!
//! Everything here runs on a thread inside the namespace, where `/proc/sys/net` shows that namespace's values.

use std::collections::HashSet;
use std::fs;
use std::io;

use mesh_common::maps::FlowKey;

use crate::model::Inbound;
use crate::sys::netlink::{Change, Connection, Family, captured_rule, connections, destroy, local_route};
use crate::sys::thread::Work;

const CONF: &str = "/proc/sys/net/ipv4/conf";
/// Whether a socket takes over the mark of the packet that opens its connection. It is for both families.
const ACCEPTED_MARKS: &str = "/proc/sys/net/ipv4/tcp_fwmark_accept";

/// A sysctl that is to have a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sysctl {
    pub(super) path: String,
    pub(super) value: String,
}

/// The sysctls to change, so that `lo` takes captured packets: they carry the pod's own address as their source, and their
/// way back is another interface. The effective reverse-path filter is the stricter of `all` and the interface's own,
/// so `all` goes to 0 and every other interface gets what was in force on it.
pub(super) fn sysctls() -> io::Result<Vec<Sysctl>> {
    let mut wanted = vec![Sysctl { path: format!("{CONF}/lo/accept_local"), value: "1".into() }];
    let all = read_number(&format!("{CONF}/all/rp_filter"))?;
    if all > 0 {
        for entry in fs::read_dir(CONF)? {
            let interface = entry?.file_name().to_string_lossy().into_owned();
            if !matches!(interface.as_str(), "all" | "lo" | "default") {
                let path = format!("{CONF}/{interface}/rp_filter");
                let effective = all.max(read_number(&path)?);
                wanted.push(Sysctl { path, value: effective.to_string() });
            }
        }
        wanted.push(Sysctl { path: format!("{CONF}/all/rp_filter"), value: "0".into() });
    }
    wanted.push(Sysctl { path: format!("{CONF}/lo/rp_filter"), value: "0".into() });
    Ok(wanted)
}

/// The sysctl to change where connections to the pod bypass the capture: their answers are known by the mark of the sockets
/// that accept them.
pub(super) fn marks_of_accepted(inbound: Inbound) -> Option<Sysctl> {
    (inbound == Inbound::Bypassed).then(|| Sysctl { path: ACCEPTED_MARKS.into(), value: "1".into() })
}

fn read_number(path: &str) -> io::Result<u8> {
    fs::read_to_string(path)?.trim().parse().map_err(|_| io::Error::new(io::ErrorKind::InvalidData, path.to_owned()))
}

/// The present values of `sysctls` that differ from the wanted ones.
pub(super) fn present(sysctls: &[Sysctl]) -> io::Result<Vec<(String, String)>> {
    let read = |sysctl: &Sysctl| -> io::Result<(String, String, String)> {
        Ok((sysctl.path.clone(), fs::read_to_string(&sysctl.path)?.trim().to_owned(), sysctl.value.clone()))
    };
    let all: io::Result<Vec<_>> = sysctls.iter().map(read).collect();
    Ok(all?.into_iter().filter(|(_, is, should)| is != should).map(|(path, is, _)| (path, is)).collect())
}

/// Whether it is one of the files that an enrolment changes: records are read back from the disk.
pub(super) fn is_ours(path: &str) -> bool {
    let parts: Vec<&str> = path.strip_prefix(CONF).unwrap_or_default().split('/').collect();
    path == ACCEPTED_MARKS || matches!(parts[..], ["", interface, "accept_local" | "rp_filter"] if interface != "..")
}

pub(super) fn write(path: &str, value: &str) -> io::Result<()> {
    fs::write(path, value)
}

/// What adds or removes the rules and routes of both families, in any order. Each waits for the kernel's lock of networks.
pub(super) fn routing(change: Change) -> Vec<Work<'static, io::Result<()>>> {
    let rule = |family| -> Work<'static, _> { Box::new(move || captured_rule(family, change)) };
    let route = |family| -> Work<'static, _> { Box::new(move || local_route(family, change)) };
    vec![rule(Family::V4), rule(Family::V6), route(Family::V4), route(Family::V6)]
}

/// The connections that were open before the enrolment, called while new ones are being captured already.
///
/// A captured connection has both its ends in this namespace, the application's and the proxy's, so it appears twice,
/// mirrored. The proxy's end exists before the application's is established; with mirrors taken from a second look as
/// well, none can be mistaken for an older one.
pub(super) fn older_flows() -> io::Result<Vec<FlowKey>> {
    Ok(older()?.iter().map(|c| FlowKey::of(c.local, c.remote)).collect())
}

/// Ends the connections that were open before the enrolment, and tells how many there were.
pub(super) fn cut_older() -> io::Result<usize> {
    let older = older()?;
    older.iter().try_for_each(|connection| destroy(*connection))?;
    Ok(older.len())
}

fn older() -> io::Result<Vec<Connection>> {
    let first = connections()?;
    let second = connections()?;
    let mirrors: HashSet<Connection> =
        first.iter().chain(&second).map(|c| Connection { local: c.remote, remote: c.local }).collect();
    Ok(first.into_iter().filter(|c| !mirrors.contains(c)).collect())
}

#[cfg(test)]
mod tests {
    use super::{is_ours, marks_of_accepted};
    use crate::model::Inbound;

    #[test]
    fn only_what_an_enrolment_changes_is_put_back() {
        let conf = |rest: &str| format!("/proc/sys/net/ipv4/conf/{rest}");
        let ours = [conf("lo/accept_local"), conf("eth0/rp_filter"), "/proc/sys/net/ipv4/tcp_fwmark_accept".to_owned()];
        assert!(ours.iter().all(|path| is_ours(path)));
        let others = [conf("../rp_filter"), conf("eth0/forwarding"), "/proc/sys/net/ipv4/ip_forward".to_owned()];
        assert!(others.iter().all(|path| !is_ours(path)), "{others:?}");
    }

    #[test]
    fn what_a_pod_changes_can_be_put_back() {
        assert_eq!(marks_of_accepted(Inbound::Captured), None);
        assert!(is_ours(&marks_of_accepted(Inbound::Bypassed).unwrap().path));
    }
}
