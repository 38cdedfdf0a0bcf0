//! Agents that end in order and come back.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_e2e::socket::{Ending, ending};
use mesh_e2e::{Lab, Pod, Topology, binary};
use rustix::process::Signal;

use super::talk::{PATIENCE, alive, open, try_open};
use super::traces;
use crate::runner::say;

const DRAIN: Duration = Duration::from_secs(3);
const SLACK: Duration = Duration::from_secs(1);
/// How long is waited for a connection that must not come about.
const FAILS: Duration = Duration::from_millis(700);

/// The capture stays when an agent ends (the default).
pub(super) fn keeping() -> Topology {
    Topology::new().pod(Pod::new("client", "n1")).pod(Pod::new("server", "n2")).node_setting("drain", "3s")
}

/// SIGTERM on either node: open connections go on, new ones wait for the next agent, which takes the pods over.
pub(super) fn keeps(lab: &mut Lab) -> Result<()> {
    let (client, to) = (lab.pod("client"), lab.pod("server").at4(80));
    let _echo = lab.pod("server").echo(80)?;
    for (node, pod) in [("n1", "client"), ("n2", "server")] {
        let agent = lab.agent(node);
        let (wire, open_one) = (lab.wire(node)?, open(client, to)?);
        let captured = traces::of(lab.pod(pod))?;
        agent.signal(Signal::TERM)?;
        agent.log().wait(SLACK, |line| line.message.starts_with("stopping"))?;
        alive(&open_one).with_context(|| format!("{node} drains"))?;
        ensure!(try_open(client, to, FAILS).is_err(), "{node}: a new connection is taken by an agent that ends");
        alive(&open_one).with_context(|| format!("{node} still drains"))?;
        let at = Instant::now();
        drop(open_one);
        let status = agent.wait_end()?;
        say(format_args!("    {node}: ended {:?} after its last connection", at.elapsed()));
        ensure!(status.success(), "{node}: the agent ends with {status}");
        ensure!(at.elapsed() < SLACK, "{node}: the agent ends {:?} after its last connection", at.elapsed());
        ensure!(try_open(client, to, FAILS).is_err(), "{node}: a connection gets through without an agent");
        let sockets = |line: &String| !line.starts_with("listening sockets") && !line.starts_with("datagram sockets");
        let gone: Vec<_> = captured.changes(&traces::of(lab.pod(pod))?).into_iter().filter(sockets).collect();
        ensure!(gone.is_empty(), "{node}: the capture does not stay as it is: {gone:?}");
        agent.start()?;
        let state = agent.status()?.pod(pod).map(|pod| pod.state.clone());
        ensure!(state.as_deref() == Some("captured (taken over)"), "{node}: the next agent says {state:?}");
        mesh_e2e::eventually(2 * SLACK, || try_open(client, to, FAILS)).context("after the agent's return")?;
        let seen = wire.finish()?;
        let plain: Vec<_> = seen.plaintext().take(5).map(ToString::to_string).collect();
        ensure!(plain.is_empty(), "{node}: packets went out in plaintext: {plain:?}");
    }
    Ok(())
}

/// A connection that does not end is cut when the drain time is over.
pub(super) fn cuts(lab: &mut Lab) -> Result<()> {
    let _echo = lab.pod("server").echo(80)?;
    let stubborn = open(lab.pod("client"), lab.pod("server").at4(80))?;
    let (agent, at) = (lab.agent("n1"), Instant::now());
    agent.signal(Signal::TERM)?;
    let status = agent.wait_end()?;
    let time = at.elapsed();
    say(format_args!("    ended after {time:?} of {DRAIN:?}"));
    ensure!(status.success(), "the agent ends with {status}");
    ensure!(time + SLACK / 10 > DRAIN && time < DRAIN + SLACK, "the agent ends after {time:?}, with a drain of 3s");
    ensure!(ending(&stubborn, PATIENCE)? == Ending::Reset, "the connection ends as if it were complete");
    Ok(())
}

/// A second agent on the same files is told so, and the first one is none the worse.
pub(super) fn second(lab: &mut Lab) -> Result<()> {
    let (client, to) = (lab.pod("client"), lab.pod("server").at4(80));
    let _echo = lab.pod("server").echo(80)?;
    let open_one = open(client, to)?;
    for node in ["n1", "n2"] {
        let agent = lab.agent(node);
        let mut command = lab.node(node).command(binary::find()?);
        let output = command.arg("node").arg("--config").arg(agent.config_file()).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success(), "{node}: a second agent ends well");
        let run_dir = agent.run_dir().display().to_string();
        ensure!(said.contains("another agent") && said.contains(&run_dir), "{node}: the second agent says {said:?}");
        ensure!(said.trim().lines().count() == 1, "{node}: more than one sentence: {said:?}");
        let status = agent.status()?;
        ensure!(Some(status.pid) == agent.pid(), "{node}: another agent answers");
        ensure!(status.pods.iter().all(|pod| pod.state == "captured"), "{node}: {:?}", status.pods);
    }
    alive(&open_one)?;
    open(client, to).map(drop)
}

/// What an agent holds: descriptors by kind, pins, programs in the pod's namespace.
fn holdings(lab: &Lab) -> Result<BTreeMap<String, usize>> {
    let agent = lab.agent("n1");
    let pid = agent.pid().context("the agent runs")?;
    let mut kinds = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))?.flatten() {
        let link = fs::read_link(entry.path()).unwrap_or_default().display().to_string();
        // "socket:[123]", "anon_inode:bpf-map", "/path": the part before a number is the kind.
        let kind = link.split(":[").next().unwrap_or_default();
        *kinds.entry(format!("descriptor {kind}")).or_insert(0) += 1;
    }
    *kinds.entry("pins and files".to_owned()).or_insert(0) = traces::files(agent).len();
    Ok(kinds)
}

/// Restarts, in order and by SIGKILL, add nothing.
pub(super) fn ten_times(lab: &mut Lab) -> Result<()> {
    let (client, to) = (lab.pod("client"), lab.pod("server").at4(80));
    let _echo = lab.pod("server").echo(80)?;
    let agent = lab.agent("n1");
    let settled = |round: usize| -> Result<(BTreeMap<String, usize>, traces::Traces)> {
        lab.settle()?;
        mesh_e2e::eventually(PATIENCE, || open(client, to)).with_context(|| format!("start {round}"))?;
        agent.log().wait(PATIENCE, |line| line.message == "certificate issued")?;
        mesh_e2e::eventually(PATIENCE, || {
            let open = agent.status()?.connections.outbound;
            ensure!(open == 0, "{open} connections are open");
            Ok(())
        })?;
        Ok((holdings(lab)?, traces::of(client)?))
    };
    agent.restart()?;
    let (held, traces_then) = settled(1)?;
    for round in 2..=11 {
        if round % 2 == 0 {
            agent.kill()?
        } else {
            agent.stop().map(drop)?
        }
        agent.start()?;
        settled(round)?;
    }
    let (held_now, traces_now) = settled(12)?;
    let more: Vec<_> =
        held_now.iter().filter(|(kind, count)| **count > held.get(*kind).copied().unwrap_or(0) + 2).collect();
    ensure!(more.is_empty(), "after ten restarts there is more: {more:?}, at first {held:?}");
    traces::same("the pod after ten restarts", &traces_then, &traces_now)
}
