//! Whether captured pods are captured, seen by a real connection from inside each.
//!
//! The connection goes to an address of the blocks that are kept for documentation (RFC 5737, RFC 3849), at which nobody
//! is. In a captured pod its handshake completes all the same, at once: the agent's listener in the pod takes it. What
//! proves it is the other end, a socket of the pod's own namespace. The agent then finds that the address cannot be
//! reached, and says so in its log.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::finding::{Report, some};
use crate::admin::documents::Pod;
use crate::sys::caps::User;
use crate::sys::netlink::{Connection, connections};
use crate::sys::netns::Netns;
use crate::sys::socket::start_application_connect;

/// Nobody is there: addresses of documentation, and the port of the discard service.
const NOBODY: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)), 9),
];

/// Pods that are tried.
const MOST_PODS: usize = 3;

/// How long a handshake may take that needs no network.
const PATIENCE: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// One pod, tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Probe {
    pub(super) pod: String,
    pub(super) by: By,
    /// Or why it could not be tried.
    pub(super) tries: Result<Vec<(SocketAddr, Outcome)>, String>,
}

/// What brings a pod's connections to the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    Programs,
    /// Somebody else's, which name the agent's port in the place of where the client wanted to go.
    Rules,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The handshake completed, and the other end is in the pod's namespace, under this address.
    Taken(SocketAddr),
    /// It completed, and the connection was gone again before anybody could look.
    Reset,
    /// It completed with somebody outside of the pod.
    Answered,
    Silence,
    Failed(String),
    /// The pod has no way to such addresses, captured or not.
    NoRoute,
}

/// Tries the first captured pods. Entering their namespaces needs root.
pub(super) fn read(pods: &[Pod], user: User) -> Vec<Probe> {
    let captured = pods.iter().filter(|pod| pod.state.starts_with("captured"));
    captured.take(MOST_PODS).map(|pod| probe(pod, user)).collect()
}

fn probe(pod: &Pod, user: User) -> Probe {
    let v6 = pod.addresses.iter().any(|address| address.parse().is_ok_and(|ip: IpAddr| ip.is_ipv6()));
    let to: Vec<SocketAddr> = NOBODY.into_iter().filter(|to| to.is_ipv4() || v6).collect();
    let tries = match user {
        User::Root => enter(Path::new(&pod.netns), &to),
        User::Other => Err("this needs root".to_owned()),
    };
    let by = if pod.capture.as_deref() == Some("rules") { By::Rules } else { By::Programs };
    Probe { pod: format!("{}/{}", pod.namespace, pod.name), by, tries }
}

fn enter(netns: &Path, to: &[SocketAddr]) -> Result<Vec<(SocketAddr, Outcome)>, String> {
    let fails = |error: io::Error| format!("{} cannot be entered from here: {error}", netns.display());
    let namespace = Netns::open(netns).map_err(fails)?;
    namespace.run(|| to.iter().map(|to| (*to, attempt(*to))).collect()).map_err(fails)
}

fn attempt(to: SocketAddr) -> Outcome {
    if !has_route(to) {
        return Outcome::NoRoute;
    }
    connect(to).unwrap_or_else(|error| Outcome::Failed(error.to_string()))
}

fn connect(to: SocketAddr) -> io::Result<Outcome> {
    let socket = start_application_connect(to)?;
    let own = socket.local_addr()?;
    // In a captured pod the other end is there already. It may not be for long.
    let early = other_end(own, &connections()?);
    if poll(&mut [PollFd::new(&socket, PollFlags::OUT)], Some(&PATIENCE))? == 0 {
        return Ok(Outcome::Silence);
    }
    match socket.take_error()? {
        // Before its handshake was complete, a reset would have been a refusal.
        Some(error) if error.kind() != io::ErrorKind::ConnectionReset => return Err(error),
        _ if matches!(early, Outcome::Taken(_)) => return Ok(early),
        _ => {}
    }
    let late = other_end(own, &connections()?);
    // That look may have met its end half way.
    if late == Outcome::Answered { Ok(other_end(own, &connections()?)) } else { Ok(late) }
}

/// Whether the pod would send to that address at all. No packet is sent for that.
fn has_route(to: SocketAddr) -> bool {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    UdpSocket::bind((any, 0)).and_then(|socket| socket.connect(to)).is_ok()
}

/// Who has the other end of the connection from `own`, by all connections of the namespace.
fn other_end(own: SocketAddr, connections: &[Connection]) -> Outcome {
    match connections.iter().find(|connection| connection.remote == own) {
        Some(end) => Outcome::Taken(end.local),
        None if connections.iter().any(|connection| connection.local == own) => Outcome::Answered,
        None => Outcome::Reset,
    }
}

pub(super) fn judge(probes: &[Probe], report: &mut Report) {
    for probe in probes {
        judge_one(probe, report);
    }
}

fn judge_one(probe: &Probe, report: &mut Report) {
    let what = format!("capture of {}", probe.pod);
    let tries = match &probe.tries {
        Ok(tries) => tries,
        Err(reason) => {
            let fix = "run the check as root, where the agent runs, such as in its container";
            return report.warning(&what, format!("not verified: {reason}"), fix);
        }
    };
    let wrong: Vec<String> =
        tries.iter().filter_map(|(to, outcome)| Some(format!("{to} {}", fault(*to, outcome, probe.by)?))).collect();
    let verified: Vec<String> =
        tries.iter().filter(|(_, outcome)| is_proof(outcome)).map(|(to, _)| to.to_string()).collect();
    if !wrong.is_empty() {
        let fix = "start the agent again, which attaches its programs anew; then see whether other programs or rules are in the pod";
        report.wrong(&what, format!("NOT CAPTURED: a connection to {}", some(&wrong)), fix);
    } else if verified.is_empty() {
        let fix = "give the pod a default route if it is to reach anything";
        report.warning(&what, "not verified: the pod has no route to other networks", fix);
    } else {
        report.ok(&what, format!("verified: the agent took a connection to {}", verified.join(" and ")));
    }
}

fn is_proof(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Taken(_) | Outcome::Reset)
}

/// Why the outcome is not that of a captured pod.
fn fault(to: SocketAddr, outcome: &Outcome, by: By) -> Option<String> {
    match outcome {
        Outcome::Taken(at) if *at == to || by == By::Rules => None,
        Outcome::Taken(at) => Some(format!("was redirected to {at} by somebody else")),
        Outcome::Reset | Outcome::NoRoute => None,
        Outcome::Answered => Some("was answered by somebody outside of the pod".to_owned()),
        Outcome::Silence => Some(format!("has no answer within {}s", PATIENCE.tv_sec)),
        Outcome::Failed(error) => Some(format!("failed: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener};

    use socket2::SockRef;

    use super::{By, NOBODY, Outcome, Probe, attempt, judge_one, other_end, probe, read};
    use crate::admin::documents::Pod;
    use crate::ctl::check::finding::{Finding, Group, Level, Report};
    use crate::sys::caps::User;
    use crate::sys::netlink::Connection;

    fn judged(tries: Result<Vec<(SocketAddr, Outcome)>, String>, by: By) -> Finding {
        let mut report = Report::about(Group::Agent);
        judge_one(&Probe { pod: "shop/web".into(), by, tries }, &mut report);
        let mut findings = report.finish();
        assert_eq!(findings.len(), 1);
        findings.remove(0)
    }

    #[test]
    fn what_proves_a_capture() {
        let [v4, v6] = NOBODY;
        let redirected: SocketAddr = "127.0.0.1:15001".parse().unwrap();
        let cases = [
            (Outcome::Taken(v4), By::Programs, Level::Ok, "192.0.2.1:9"),
            (Outcome::Reset, By::Programs, Level::Ok, "verified"),
            (Outcome::Taken(redirected), By::Rules, Level::Ok, "verified"),
            (Outcome::Taken(redirected), By::Programs, Level::Wrong, "redirected to 127.0.0.1:15001"),
            (Outcome::Answered, By::Programs, Level::Wrong, "outside of the pod"),
            (Outcome::Answered, By::Rules, Level::Wrong, "outside of the pod"),
            (Outcome::Silence, By::Programs, Level::Wrong, "no answer within 1s"),
            (Outcome::Failed("No route to host".into()), By::Programs, Level::Wrong, "failed: No route to host"),
            (Outcome::NoRoute, By::Programs, Level::Warning, "not verified"),
        ];
        for (outcome, by, level, part) in cases {
            let finding = judged(Ok(vec![(v4, outcome)]), by);
            assert_eq!((finding.level, finding.what.as_str()), (level, "capture of shop/web"), "{finding:?}");
            assert!(finding.found.contains(part), "{finding:?}");
        }
        let half = judged(Ok(vec![(v4, Outcome::Taken(v4)), (v6, Outcome::Silence)]), By::Programs);
        assert!(half.level == Level::Wrong && half.found.contains("[2001:db8::1]:9"), "{half:?}");
        let only_v4 = judged(Ok(vec![(v4, Outcome::Taken(v4)), (v6, Outcome::NoRoute)]), By::Programs);
        assert!(only_v4.level == Level::Ok && !only_v4.found.contains("2001"), "{only_v4:?}");
        assert_eq!(judged(Err("gone".into()), By::Programs).level, Level::Warning);
    }

    #[test]
    fn the_other_end_is_known_by_its_mirror() {
        let at = |text: &str| -> SocketAddr { text.parse().unwrap() };
        let (own, to) = (at("10.0.0.2:40000"), NOBODY[0]);
        let ours = Connection { local: own, remote: to };
        let mirror = Connection { local: to, remote: own };
        let unrelated = Connection { local: at("10.0.0.2:1"), remote: to };
        assert_eq!(other_end(own, &[unrelated, ours, mirror]), Outcome::Taken(to));
        assert_eq!(other_end(own, &[unrelated, ours]), Outcome::Answered);
        assert_eq!(other_end(own, &[unrelated]), Outcome::Reset);
    }

    #[test]
    fn real_connections() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        assert_eq!(attempt(to), Outcome::Taken(to));
        drop(listener);
        assert!(matches!(attempt(to), Outcome::Failed(error) if error.contains("refused")));
    }

    #[test]
    fn a_connection_that_is_reset_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let resets = crate::sys::thread::spawn("resets", move || {
            for stream in listener.incoming().take(50) {
                SockRef::from(&stream.unwrap()).set_linger(Some(std::time::Duration::ZERO)).unwrap();
            }
        });
        for _ in 0..50 {
            let outcome = attempt(to);
            assert!(super::is_proof(&outcome), "{outcome:?}");
        }
        resets.unwrap().join().unwrap();
    }

    #[test]
    fn only_captured_pods_are_tried_and_not_all() {
        let pod = |state: &str| Pod { state: state.into(), netns: "/no/such".into(), ..Pod::default() };
        let states =
            ["failed", "captured", "retiring", "captured (taken over)", "captured, a change failed", "captured"];
        let pods: Vec<Pod> = states.iter().map(|state| pod(state)).collect();
        assert_eq!(read(&pods, User::Root).len(), 3);
        let tried = probe(&pods[1], User::Root);
        assert!(tried.tries.as_ref().is_err_and(|reason| reason.contains("/no/such")), "{tried:?}");
        assert!(probe(&pods[1], User::Other).tries.is_err_and(|reason| reason.contains("root")));
    }
}
