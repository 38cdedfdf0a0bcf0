//! Every table of policies is tried on the same clients and ports, and each row says which of them get through.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use mesh_e2e::{Agent, Lab, Namespace, Pod, Server, Topology, socket};

/// What each client may reach, in the form that rows use.
pub(super) const ALICE: &str = "alice:80 alice:81 alice6:80";
pub(super) const BOB: &str = "bob:80 bob:81";
/// A pod outside the mesh, known to it.
pub(super) const PLAIN: &str = "plain:80 plain:81";
/// A host that the mesh knows nothing of.
pub(super) const OUTSIDE: &str = "outside:80";
/// All probes.
pub(super) const ALL: &[&str] = &[ALICE, BOB, PLAIN, OUTSIDE];
pub(super) const NONE: &[&str] = &[];

/// Two meshed clients of different namespaces, one outside the mesh, and servers near, far, and in another namespace.
pub(super) fn topology() -> Topology {
    Topology::new()
        .pod(Pod::new("alice", "n1"))
        .pod(Pod::new("bob", "n1").namespace("shop"))
        .pod(Pod::new("plain", "n1").plain())
        .pod(Pod::new("near", "n1").label("app", "near"))
        .pod(Pod::new("server", "n2").label("app", "server"))
        .pod(Pod::new("till", "n2").namespace("shop").label("app", "server"))
}

/// The same with the server on its clients' node, where connections have no tunnel.
pub(super) fn one_node() -> Topology {
    Topology::new()
        .pod(Pod::new("alice", "n1"))
        .pod(Pod::new("bob", "n1").namespace("shop"))
        .pod(Pod::new("plain", "n1").plain())
        .pod(Pod::new("server", "n1").label("app", "server"))
        .pod(Pod::new("till", "n1").namespace("shop").label("app", "server"))
}

/// The agent of the server's node.
pub(super) fn servers_agent(lab: &Lab) -> &Agent {
    lab.agent(&lab.pod("server").node)
}

/// A row of a table: what it is about, its policies, and the probes that get through.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row<'a> {
    pub(super) what: &'a str,
    /// YAML list.
    pub(super) authorization: &'a str,
    /// YAML list.
    pub(super) peer_authentication: &'a str,
    pub(super) allowed: &'a [&'a str],
}

/// Rules, each tried as an ALLOW policy, which lets the named probes through, and as a DENY policy, which stops these
/// and no others. A rule is the inside of a YAML map.
pub(super) fn check_rules(lab: &Lab, rules: &[(&str, &str, &[&str])]) -> Result<()> {
    let mut wrong = Vec::new();
    let _servers = servers(lab)?;
    for (what, rule, matching) in rules {
        for (action, expected) in [("ALLOW", flat(matching)), ("DENY", &flat(ALL) - &flat(matching))] {
            let policy = format!("- {{name: tried, action: {action}, rules: [{{{rule}}}]}}");
            wrong.extend(compare(lab, &format!("{action} {what}"), (&policy, ""), &expected)?);
        }
    }
    verdict(&wrong)
}

/// Policies, each row with its own expectation.
pub(super) fn check(lab: &Lab, rows: &[Row<'_>]) -> Result<()> {
    let mut wrong = Vec::new();
    let _servers = servers(lab)?;
    for row in rows {
        let policies = (row.authorization, row.peer_authentication);
        wrong.extend(compare(lab, row.what, policies, &flat(row.allowed))?);
    }
    verdict(&wrong)
}

/// All rows are tried, so that one mistake does not hide the next.
fn verdict(wrong: &[String]) -> Result<()> {
    if wrong.is_empty() { Ok(()) } else { bail!("{}", wrong.join("\n  ")) }
}

fn compare(lab: &Lab, what: &str, policies: (&str, &str), expected: &BTreeSet<&str>) -> Result<Option<String>> {
    lab.publish(|world| {
        world.clear_policies();
        world.authorize(&list(policies.0));
        world.peer_authentication(&list(policies.1));
    })
    .with_context(|| what.to_owned())?;
    let mut got = through(lab, what)?;
    if got != *expected {
        // A change is in force within a second, and not at once on each thread of a busy machine.
        thread::sleep(Duration::from_millis(300));
        got = through(lab, what)?;
    }
    let list = |probes: &BTreeSet<&str>| probes.iter().copied().collect::<Vec<_>>().join(" ");
    Ok((got != *expected).then(|| format!("{what}: got through: [{}], should: [{}]", list(&got), list(expected))))
}

/// The probes that get through.
fn through(lab: &Lab, what: &str) -> Result<BTreeSet<&'static str>> {
    let mut got = BTreeSet::new();
    for probe in flat(ALL) {
        if reaches(lab, probe).with_context(|| format!("{what}: {probe}"))? {
            got.insert(probe);
        }
    }
    Ok(got)
}

/// The entries of a list of flow maps, however the source indents them.
fn list(text: &str) -> String {
    let entry = |line: &str| if line.starts_with("- ") { format!("{line}\n") } else { format!("  {line}\n") };
    text.lines().map(|line| entry(line.trim())).collect()
}

fn servers(lab: &Lab) -> Result<Vec<Server>> {
    [80, 81].into_iter().map(|port| lab.pod("server").echo(port)).collect()
}

fn flat<'a>(probes: &[&'a str]) -> BTreeSet<&'a str> {
    probes.iter().flat_map(|probes| probes.split(' ')).collect()
}

/// Whether the probe `CLIENT:PORT` gets its bytes back from the server. `CLIENT6` goes by IPv6.
fn reaches(lab: &Lab, probe: &str) -> Result<bool> {
    let (client, port) = probe.split_once(':').context("a probe is CLIENT:PORT")?;
    let (server, port) = (lab.pod("server"), port.parse()?);
    let (client, to) = match client.strip_suffix('6') {
        Some(client) => (client, server.at6(port)),
        None => (client, server.at4(port)),
    };
    let from: &Namespace = if client == "outside" { lab.outside() } else { lab.pod(client) };
    echoes(from, to)
}

/// Whether an echo server answers; a reset is the only other answer there is.
pub(super) fn echoes(from: &Namespace, to: SocketAddr) -> Result<bool> {
    match from.try_connect(to).and_then(|stream| answered(&stream)) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => Ok(false),
        Err(error) => Err(error).context("neither an echo nor a reset"),
    }
}

fn answered(stream: &std::net::TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let echo = socket::exchange(stream, "may I?")?;
    if echo == "may I?" { Ok(()) } else { Err(io::Error::other(format!("got {echo:?} back"))) }
}
