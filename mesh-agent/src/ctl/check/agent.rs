//! Whether the agent that runs works: what it says of itself, judged.

use std::path::{Path, PathBuf};

use super::super::client::CtlError;
use super::super::text::seconds;
use super::finding::{Level, Report, some};
use crate::admin::documents::{Certificate, Pod, Status};

/// A certificate that ends so soon, in seconds, is to have a renewal before that.
const SOON: i64 = 600;

/// An agent that has started so recently, in seconds, may still be on its way.
const YOUNG: u64 = 60;

/// The agent with this admin socket.
#[derive(Debug)]
pub(super) struct Agent {
    pub(super) socket: PathBuf,
    pub(super) state: State,
}

#[derive(Debug)]
pub(super) enum State {
    /// There is no such socket, in words.
    Absent(String),
    /// The socket is there, and nobody behind it.
    Gone(String),
    /// Somebody may be there, and cannot be understood or reached, in words.
    Unclear(String),
    Answers(Box<Status>),
}

impl Agent {
    pub(super) fn from_answer(socket: PathBuf, answer: Result<Status, CtlError>) -> Self {
        let state = match answer {
            Ok(status) => State::Answers(Box::new(status)),
            Err(error @ CtlError::NoSocket { .. }) => State::Absent(error.to_string()),
            Err(error @ CtlError::Gone(_)) => State::Gone(error.to_string()),
            Err(error) => State::Unclear(error.to_string()),
        };
        Self { socket, state }
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Whether one runs, as far as can be seen.
    pub(super) fn lives(&self) -> bool {
        matches!(self.state, State::Answers(_) | State::Unclear(_))
    }

    fn status(&self) -> Option<&Status> {
        match &self.state {
            State::Answers(status) => Some(status),
            State::Absent(_) | State::Gone(_) | State::Unclear(_) => None,
        }
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.status().map(|status| status.pid)
    }

    /// The pods that it serves or should serve.
    pub(super) fn pods(&self) -> &[Pod] {
        self.status().map(|status| &status.pods[..]).unwrap_or_default()
    }
}

/// `pinned` are the pods that stay captured without an agent.
pub(super) fn judge(agent: &Agent, pinned: &[String], report: &mut Report) {
    const WHAT: &str = "agent";
    let captured = format!("{} pods stay captured without it ({})", pinned.len(), some(pinned));
    match &agent.state {
        State::Absent(told) if pinned.is_empty() => report.ok(WHAT, told),
        State::Absent(told) => report.wrong(
            WHAT,
            format!("{told}; {captured}"),
            "start the agent, which takes them over; to give them up, end it with node.on_shutdown: withdraw",
        ),
        State::Gone(told) => report.wrong(
            WHAT,
            if pinned.is_empty() { told.clone() } else { format!("{told}; {captured}") },
            "start the agent, and see in its log, or that of its pod, why it ended",
        ),
        State::Unclear(told) => report.wrong(WHAT, told, "run the check as root, with the binary that the agent runs"),
        State::Answers(status) => judge_answer(status, report),
    }
}

fn judge_answer(status: &Status, report: &mut Report) {
    readiness(status, report);
    version(&status.version, env!("CARGO_PKG_VERSION"), report);
    if let Some(rejected) = &status.config.rejected {
        report.wrong(
            "configuration in force",
            format!("an edit of {} is not in force: {}", status.config.file, rejected.reason),
            "correct the file; the one before it stays in force until then",
        );
    }
    if let Some(istiod) = &status.istiod {
        link("istiod", (&istiod.address, &istiod.state, istiod.error.as_deref()), report);
        if !istiod.rejected.is_empty() {
            let found = format!("{} resources cannot be used: {}", istiod.rejected.len(), some(&istiod.rejected));
            report.warning("istiod", found, "correct the objects that they are made from");
        }
    }
    if let Some(kubernetes) = &status.kubernetes {
        link("Kubernetes", (&kubernetes.address, &kubernetes.state, kubernetes.error.as_deref()), report);
    }
    certificates(&status.certificates, report);
    pods(&status.pods, report);
}

fn readiness(status: &Status, report: &mut Report) {
    const WHAT: &str = "ready";
    if status.pending.is_empty() {
        return report.ok(WHAT, format!("pid {}, up {}", status.pid, seconds(status.uptime_s)));
    }
    let level = if status.uptime_s < YOUNG { Level::Warning } else { Level::Wrong };
    report.bad(
        level,
        WHAT,
        format!("not after {}: it waits for {}", seconds(status.uptime_s), status.pending.join(", ")),
        "see the findings below, and the agent's log",
    );
}

fn version(agent: &str, own: &str, report: &mut Report) {
    if agent == own {
        return report.ok("version", agent);
    }
    let found = format!("the agent is {agent}, this program is {own}");
    report.warning("version", found, "check with the agent's own binary, or start the agent again if it was replaced");
}

/// How the connection to somebody who tells the agent what to do is doing: whose, in which state, and why.
fn link(what: &str, (address, state, error): (&str, &str, Option<&str>), report: &mut Report) {
    let found = match error {
        Some(error) => format!("{state} {address}: {error}"),
        None => format!("{state} {address}"),
    };
    match state {
        "connected" => report.ok(what, found),
        "connecting" if error.is_none() => report.warning(what, found, "check again in some seconds"),
        _ => report.wrong(
            what,
            found,
            "what is in force stays in force; see whether it runs, can be reached from here and trusts the agent's token",
        ),
    }
}

fn certificates(certificates: &[Certificate], report: &mut Report) {
    const WHAT: &str = "certificates";
    let before = certificates.len();
    let bad: Vec<_> = certificates.iter().filter_map(|one| Some((one, doubt(one)?))).collect();
    if bad.is_empty() {
        return report.ok(WHAT, format!("{before} valid"));
    }
    for (certificate, (level, found)) in bad {
        let found = match &certificate.error {
            Some(error) => format!("{} {found}: {error}", certificate.identity),
            None => format!("{} {found}", certificate.identity),
        };
        report.bad(
            level,
            WHAT,
            found,
            "see whether the authority (node.ca) runs, can be reached and takes the agent's token",
        );
    }
}

/// What is wrong with a certificate.
fn doubt(certificate: &Certificate) -> Option<(Level, String)> {
    match (certificate.state.as_str(), certificate.expires_s, certificate.renews_s) {
        ("pending", _, _) => Some((Level::Warning, "is being asked for".to_owned())),
        ("valid", Some(end), None) if end < SOON => Some((Level::Wrong, unrenewed(end))),
        ("valid", Some(end), Some(next)) if end < SOON && next >= end => Some((Level::Wrong, unrenewed(end))),
        // It is tried again and again; so far it has failed.
        ("valid", Some(end), Some(_)) if end < SOON && certificate.error.is_some() => {
            Some((Level::Warning, format!("expires in {}, and could not be renewed yet", seconds(end.unsigned_abs()))))
        }
        ("valid", _, _) => None,
        (state, _, _) => Some((Level::Wrong, format!("is {state}"))),
    }
}

fn unrenewed(end: i64) -> String {
    format!("expires in {} without a renewal before that", seconds(end.unsigned_abs()))
}

fn pods(pods: &[Pod], report: &mut Report) {
    let captured = pods.iter().filter(|pod| pod.state.starts_with("captured")).count();
    report.ok("pods", format!("{captured} of {} captured", pods.len()));
    for pod in pods {
        if let Some(error) = &pod.error {
            let found = format!("{}/{} is {}: {error}", pod.namespace, pod.name, pod.state);
            report.wrong("pods", found, "mend what it says; the agent tries again by itself");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Agent, State, judge};
    use crate::admin::documents::{Certificate, Config, Istiod, Kubernetes, Pod, Rejected, Status};
    use crate::ctl::check::finding::{Finding, Group, Level, Report};
    use crate::ctl::client::CtlError;

    fn good() -> Status {
        let certificate = Certificate {
            identity: "spiffe://td/ns/a/sa/b".into(),
            state: "valid".into(),
            expires_s: Some(80_000),
            renews_s: Some(40_000),
            ..Certificate::default()
        };
        let pod = Pod { namespace: "shop".into(), name: "web".into(), state: "captured".into(), ..Pod::default() };
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            uptime_s: 100,
            certificates: vec![certificate],
            pods: vec![pod],
            ..Status::default()
        }
    }

    fn findings(state: State, pinned: &[String]) -> Vec<Finding> {
        let mut report = Report::about(Group::Agent);
        judge(&Agent { socket: "/s".into(), state }, pinned, &mut report);
        report.finish()
    }

    fn bad(status: Status) -> Vec<(Level, String, String)> {
        let all = findings(State::Answers(Box::new(status)), &[]).into_iter().filter(|f| f.level != Level::Ok);
        all.inspect(|finding| assert!(finding.fix.is_some())).map(|f| (f.level, f.what, f.found)).collect()
    }

    fn one(status: Status, level: Level, what: &str, part: &str) {
        let found = bad(status);
        let [(its_level, its_what, text)] = &found[..] else { panic!("{what}: {found:?}") };
        assert_eq!((*its_level, its_what.as_str()), (level, what), "{text}");
        assert!(text.contains(part), "{text}");
    }

    #[test]
    fn a_good_agent() {
        assert_eq!(bad(good()), []);
        let short =
            Certificate { state: "valid".into(), expires_s: Some(18), renews_s: Some(8), ..Certificate::default() };
        assert_eq!(bad(Status { certificates: vec![short], ..good() }), []);
    }

    #[test]
    fn what_it_says_of_itself() {
        use Level::{Warning, Wrong};
        let pending = vec!["mesh configuration".to_owned(), "pods".to_owned()];
        one(Status { pending: pending.clone(), ..good() }, Wrong, "ready", "waits for mesh configuration, pods");
        one(Status { pending, uptime_s: 3, ..good() }, Warning, "ready", "not after 3s");
        one(Status { version: "0.0.1".into(), ..good() }, Warning, "version", "the agent is 0.0.1");
        let rejected = Some(Rejected { reason: "unknown field".into(), ..Rejected::default() });
        one(
            Status { config: Config { rejected, ..Config::default() }, ..good() },
            Wrong,
            "configuration in force",
            "unknown field",
        );
        let failed = Pod { error: Some("no namespace".into()), state: "failed".into(), ..good().pods[0].clone() };
        one(Status { pods: vec![failed], ..good() }, Wrong, "pods", "shop/web is failed: no namespace");
    }

    #[test]
    fn links() {
        use Level::{Warning, Wrong};
        let istiod = |state: &str, error: Option<&str>| {
            let istiod = Istiod { state: state.into(), error: error.map(str::to_owned), ..Istiod::default() };
            Status { istiod: Some(istiod), ..good() }
        };
        assert_eq!(bad(istiod("connected", None)), []);
        one(istiod("connecting", None), Warning, "istiod", "connecting");
        one(istiod("connecting", Some("refused")), Wrong, "istiod", "refused");
        one(istiod("disconnected", None), Wrong, "istiod", "disconnected");
        let rejected = Istiod { state: "connected".into(), rejected: vec!["ns/p: bad".into()], ..Istiod::default() };
        one(Status { istiod: Some(rejected), ..good() }, Warning, "istiod", "ns/p: bad");
        let away = Kubernetes { state: "disconnected".into(), error: Some("401".into()), ..Kubernetes::default() };
        let found = bad(Status { kubernetes: Some(away), ..good() });
        assert!(
            matches!(&found[..], [(Wrong, what, text)] if what == "Kubernetes" && text.contains("401")),
            "{found:?}"
        );
    }

    #[test]
    fn certificates_that_end() {
        use Level::{Warning, Wrong};
        let with = |state: &str, expires_s, renews_s, error: Option<&str>| {
            let identity = "spiffe://td/ns/a/sa/b".to_owned();
            let error = error.map(str::to_owned);
            let one = Certificate { identity, state: state.into(), expires_s, renews_s, error, serial: None };
            Status { certificates: vec![one], ..good() }
        };
        one(with("expired", Some(-5), Some(1), None), Wrong, "certificates", "is expired");
        one(with("failed", None, Some(1), Some("denied")), Wrong, "certificates", "is failed: denied");
        one(with("pending", None, None, None), Warning, "certificates", "being asked for");
        one(with("valid", Some(500), None, None), Wrong, "certificates", "without a renewal");
        one(with("valid", Some(500), Some(700), None), Wrong, "certificates", "without a renewal");
        one(
            with("valid", Some(500), Some(20), Some("away")),
            Warning,
            "certificates",
            "could not be renewed yet: away",
        );
    }

    #[test]
    fn no_agent() {
        let pinned = ["pod-a".to_owned()];
        let first = |state, pinned: &[String]| {
            let found = findings(state, pinned);
            assert_eq!(found.len(), 1, "{found:?}");
            (found[0].level, found[0].found.clone())
        };
        assert_eq!(first(State::Absent("none".into()), &[]), (Level::Ok, "none".into()));
        let (level, text) = first(State::Absent("none".into()), &pinned);
        assert!(level == Level::Wrong && text.contains("1 pods stay captured without it (pod-a)"), "{text}");
        let (level, text) = first(State::Gone("it is gone".into()), &pinned);
        assert!(level == Level::Wrong && text.starts_with("it is gone; 1 pods"), "{text}");
        assert_eq!(first(State::Gone("it is gone".into()), &[]), (Level::Wrong, "it is gone".into()));
        assert_eq!(first(State::Unclear("forbidden".into()), &[]).0, Level::Wrong);
    }

    #[test]
    fn answers_and_their_absence() {
        let of = |answer| Agent::from_answer("/s".into(), answer);
        let answer: Status = serde_json::from_value(serde_json::to_value(good()).unwrap()).unwrap();
        assert_eq!(answer, good());
        let mut written = serde_json::to_value(good()).unwrap();
        written["kubernetes"] = serde_json::json!({"address": "https://api", "state": "connected", "since_s": 4});
        let answer: Status = serde_json::from_value(written).unwrap();
        assert_eq!(answer.kubernetes.as_ref().map(|link| link.state.as_str()), Some("connected"));
        let agent = of(Ok(answer));
        assert!(agent.lives() && agent.pid() == Some(0) && agent.pods().len() == 1);
        assert!(!of(Err(CtlError::Gone("/s".into()))).lives());
        assert!(!of(Err(CtlError::NoSocket { path: "/s".into(), hint: String::new() })).lives());
        assert!(of(Err(CtlError::Forbidden("/s".into()))).lives());
    }
}
