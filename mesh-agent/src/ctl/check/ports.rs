//! Whether the ports of the agent's pages are free, or held by the agent itself.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use super::agent::Agent;
use super::finding::Report;

/// A port that the agent listens on, in the node's network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Port {
    /// What the agent shows there, and the setting that moves it.
    pub(super) page: &'static str,
    pub(super) address: SocketAddr,
    pub(super) holder: Holder,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    Nobody,
    Process {
        pid: u32,
        name: String,
    },
    /// Of another PID namespace, or of another user.
    Unseen,
}

/// A listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Listening {
    address: SocketAddr,
    inode: u64,
}

/// Who holds the wanted addresses. `net` has the tables of sockets, `proc` the processes.
pub(super) fn read(net: &Path, proc: &Path, wanted: &[(&'static str, SocketAddr)]) -> Vec<Port> {
    let tables = ["tcp", "tcp6"].map(|table| fs::read_to_string(net.join(table)).unwrap_or_default());
    let listening: Vec<Listening> = tables.iter().flat_map(|table| table.lines().filter_map(parse)).collect();
    let port = |&(page, address): &(&'static str, SocketAddr)| {
        let taken = listening.iter().find(|held| collide(held.address, address));
        let holder = taken.map_or(Holder::Nobody, |held| holder(proc, held.inode));
        Port { page, address, holder }
    };
    wanted.iter().map(port).collect()
}

/// One line of /proc/net/tcp or tcp6, if its socket listens.
fn parse(line: &str) -> Option<Listening> {
    const LISTEN: &str = "0A";
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
    let (address, port) = local.split_once(':')?;
    let address = SocketAddr::new(hexadecimal(address)?, u16::from_str_radix(port, 16).ok()?);
    (*state == LISTEN).then_some(Listening { address, inode: inode.parse().ok()? })
}

/// An address as the kernel prints it: words of four bytes, each as the machine holds it.
fn hexadecimal(text: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(text.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            let bytes: [u8; 16] = words.concat().try_into().ok()?;
            Some(IpAddr::from(Ipv6Addr::from(bytes)).to_canonical())
        }
        _ => None,
    }
}

/// Whether two sockets cannot both listen. The unspecified IPv6 address stands for those of IPv4, too.
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let covers = |all: IpAddr, ip: IpAddr| all.is_unspecified() && (all.is_ipv6() || ip.is_ipv4());
    let (a, b) = (one.ip().to_canonical(), other.ip().to_canonical());
    one.port() == other.port() && (a == b || covers(a, b) || covers(b, a))
}

/// The process that has the socket among its files.
fn holder(proc: &Path, inode: u64) -> Holder {
    let link = format!("socket:[{inode}]");
    let has = |process: &Path| {
        let files = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        files.into_iter().any(|file| fs::read_link(file.path()).is_ok_and(|to| to.as_os_str() == link.as_str()))
    };
    for entry in fs::read_dir(proc).into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if has(&entry.path()) {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            return Holder::Process { pid, name: name.trim().to_owned() };
        }
    }
    Holder::Unseen
}

pub(super) fn judge(ports: &[Port], agent: &Agent, report: &mut Report) {
    for port in ports {
        judge_one(port, agent, report);
    }
}

fn judge_one(port: &Port, agent: &Agent, report: &mut Report) {
    const AGENT: &str = "mesh-agent";
    let what = format!("port {}", port.address.port());
    let what = what.as_str();
    let move_it = format!("end it, or give the agent another port by node.{}", port.page);
    let (lives, pid) = (agent.lives(), agent.pid());
    match &port.holder {
        Holder::Nobody if lives => report.warning(
            what,
            format!("nobody listens on {} for {}, though an agent answers", port.address, port.page),
            "run the check in the agent's network namespace, and with its --config",
        ),
        Holder::Nobody => report.ok(what, format!("free, for {}", port.page)),
        // In another PID namespace its number is another one.
        Holder::Process { pid: held_by, name } if lives && (Some(*held_by) == pid || name == AGENT) => {
            report.ok(what, format!("held by the agent, for {}", port.page));
        }
        Holder::Unseen if lives => report.ok(what, format!("held, as it should be, for {}", port.page)),
        Holder::Process { pid, name } if name == AGENT => report.wrong(
            what,
            format!("held by another agent (pid {pid}), which does not answer on {}", agent.socket().display()),
            format!("name its socket with --socket, or {move_it}"),
        ),
        Holder::Process { pid, name } => report.wrong(what, format!("held by {name} (pid {pid})"), move_it),
        Holder::Unseen => report.wrong(what, "held by a process that cannot be seen from here", move_it),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener};
    use std::path::Path;

    use super::{Holder, Listening, Port, collide, judge_one, parse, read};
    use crate::admin::documents::Status;
    use crate::ctl::check::agent::{Agent, State};
    use crate::ctl::check::finding::{Group, Level, Report};

    #[test]
    #[cfg(target_endian = "little")]
    fn tables_of_the_kernel() {
        let v4 =
            "   0: 0100007F:3A98 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0";
        assert_eq!(parse(v4), Some(Listening { address: "127.0.0.1:15000".parse().unwrap(), inode: 4711 }));
        let v6 =
            "   0: 000080FE00000000000000000100000A:3AAC 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 12 1";
        assert_eq!(parse(v6), Some(Listening { address: "[fe80::a00:1]:15020".parse().unwrap(), inode: 12 }));
        assert_eq!(parse(&v4.replace(" 0A ", " 01 ")), None, "a connection");
        assert_eq!(parse("  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn sockets_that_exclude_each_other() {
        let cases = [
            ("127.0.0.1:1", "127.0.0.1:1", true),
            ("127.0.0.1:1", "127.0.0.1:2", false),
            ("127.0.0.1:1", "192.0.2.1:1", false),
            ("[::]:1", "127.0.0.1:1", true),
            ("0.0.0.0:1", "127.0.0.1:1", true),
            ("0.0.0.0:1", "[::1]:1", false),
            ("0.0.0.0:1", "[::]:1", true),
            ("[::ffff:127.0.0.1]:1", "127.0.0.1:1", true),
        ];
        for (one, other, expected) in cases {
            let (one, other): (SocketAddr, SocketAddr) = (one.parse().unwrap(), other.parse().unwrap());
            assert_eq!((collide(one, other), collide(other, one)), (expected, expected), "{one} {other}");
        }
    }

    #[test]
    fn the_holder_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let proc = Path::new("/proc");
        let holder = |proc: &Path| read(Path::new("/proc/net"), proc, &[("metrics", address)])[0].holder.clone();
        let Holder::Process { pid, name } = holder(proc) else { panic!("{:?}", holder(proc)) };
        assert_eq!(pid, std::process::id());
        assert!(!name.is_empty());
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(holder(empty.path()), Holder::Unseen);
        drop(listener);
        assert_eq!(holder(proc), Holder::Nobody);
    }

    #[test]
    fn free_or_our_own_is_well() {
        let process = |pid, name: &str| Holder::Process { pid, name: name.into() };
        let answer = Status { pid: 7, ..Status::default() };
        let answers = Agent { socket: "/s".into(), state: State::Answers(Box::new(answer)) };
        let absent = Agent { socket: "/s".into(), state: State::Absent("none".into()) };
        let cases = [
            (Holder::Nobody, &absent, Level::Ok, "free"),
            (Holder::Nobody, &answers, Level::Warning, "though an agent answers"),
            (process(7, "other-name"), &answers, Level::Ok, "by the agent"),
            (process(8, "mesh-agent"), &answers, Level::Ok, "by the agent"),
            (process(8, "nginx"), &answers, Level::Wrong, "nginx (pid 8)"),
            (process(8, "nginx"), &absent, Level::Wrong, "nginx (pid 8)"),
            (process(8, "mesh-agent"), &absent, Level::Wrong, "another agent (pid 8)"),
            (Holder::Unseen, &answers, Level::Ok, "held"),
            (Holder::Unseen, &absent, Level::Wrong, "cannot be seen"),
        ];
        for (holder, agent, level, part) in cases {
            let mut report = Report::about(Group::Node);
            let port = Port { page: "metrics", address: "[::]:15020".parse().unwrap(), holder };
            judge_one(&port, agent, &mut report);
            let findings = report.finish();
            assert_eq!(
                (findings.len(), findings[0].level, findings[0].what.as_str()),
                (1, level, "port 15020"),
                "{port:?}"
            );
            assert!(findings[0].found.contains(part), "{:?}", findings[0]);
        }
    }
}
