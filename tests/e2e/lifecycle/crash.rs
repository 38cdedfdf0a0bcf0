//! Agents that are killed, and pods without an agent.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_e2e::socket::exchange;
use mesh_e2e::{Lab, Pod, RunningPod, Topology, eventually};

use super::talk::{PATIENCE, alive, open, says, try_open};
use crate::runner::say;

/// What the mesh promises for the time after an agent's return.
const PROMISE: Duration = Duration::from_secs(2);
/// How long is waited for a connection that must not come about.
const FAILS: Duration = Duration::from_millis(700);

pub(super) fn closed() -> Topology {
    Topology::new()
        .pod(Pod::new("client", "n1"))
        .pod(Pod::new("plain", "n1").plain())
        .pod(Pod::new("server", "n2").probe(81))
}

pub(super) fn open_topology() -> Topology {
    Topology::new().pod(Pod::new("client", "n1").passes_when_down()).pod(Pod::new("server", "n2").passes_when_down())
}

/// Clients that never stop: short connections, and a long one that is opened anew whenever it breaks.
struct Load {
    stop: AtomicBool,
    answers: AtomicU64,
}

impl Load {
    fn short(&self, client: &RunningPod, to: [SocketAddr; 2]) {
        for to in to.iter().cycle() {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            if try_open(client, *to, FAILS).is_ok() {
                self.answers.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn long(&self, client: &RunningPod, to: SocketAddr) {
        while !self.stop.load(Ordering::Relaxed) {
            let Ok(stream) = try_open(client, to, FAILS) else { continue };
            while !self.stop.load(Ordering::Relaxed) && exchange(&stream, "secret words of a long talk").is_ok() {
                self.answers.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// `kill -9` of either agent under load: nothing is seen in plaintext, and new connections work soon after its return.
pub(super) fn killed(lab: &mut Lab) -> Result<()> {
    let (client, server) = (lab.pod("client"), lab.pod("server"));
    let to = [server.at4(80), server.at6(80)];
    let _echo = server.echo(80)?;
    let load = Load { stop: AtomicBool::new(false), answers: AtomicU64::new(0) };
    let wire = lab.wire("n1")?;
    let times = thread::scope(|scope| -> Result<Vec<Duration>> {
        scope.spawn(|| load.short(client, to));
        scope.spawn(|| load.short(client, to));
        to.iter().for_each(|to| drop(scope.spawn(|| load.long(client, *to))));
        let result = ["n1", "n2"].iter().map(|node| kill_and_return(lab, node, &load)).collect();
        load.stop.store(true, Ordering::Relaxed);
        result
    })?;
    let seen = wire.finish()?;
    let plain: Vec<_> = seen.plaintext().collect();
    let shown: Vec<_> = plain.iter().take(5).map(ToString::to_string).collect();
    say(format_args!(
        "    back after {times:?}; {} tunnelled packets, {} plain",
        seen.tunnelled().count(),
        plain.len()
    ));
    ensure!(plain.is_empty(), "{} packets in plaintext, such as {shown:?}", plain.len());
    ensure!(seen.tunnelled().count() > 1000, "there was hardly any load");
    ensure!(times.iter().all(|time| *time < PROMISE), "new connections work only after {times:?}");
    Ok(())
}

/// Gives the time from the agent's start to the first connection that works.
fn kill_and_return(lab: &Lab, node: &str, load: &Load) -> Result<Duration> {
    let (client, to) = (lab.pod("client"), lab.pod("server").at4(80));
    let before = load.answers.load(Ordering::Relaxed);
    eventually(PATIENCE, || {
        ensure!(load.answers.load(Ordering::Relaxed) > before + 200, "{node}: there is hardly any load");
        Ok(())
    })?;
    lab.agent(node).kill()?;
    // Until the other end has noticed: what happens to connections that go on is a part of this.
    thread::sleep(Duration::from_millis(700));
    let at = Instant::now();
    lab.agent(node).launch()?;
    eventually(PATIENCE, || try_open(client, to, Duration::from_millis(100)))
        .with_context(|| format!("after the return of {node}"))?;
    let time = at.elapsed();
    lab.agent(node).wait_ready()?;
    thread::sleep(Duration::from_millis(300));
    Ok(time)
}

/// `when_down: refuse`: without an agent nothing gets in or out, but for kubelet's probes.
pub(super) fn refuses(lab: &mut Lab) -> Result<()> {
    let (client, server) = (lab.pod("client"), lab.pod("server"));
    let _servers = [server.echo(80)?, server.echo(81)?];
    let wire = lab.wire("n1")?;
    lab.agent("n1").kill()?;
    for to in [server.at4(80), server.at6(80), SocketAddr::new(lab.outside_addresses()[0], 80)] {
        ensure!(try_open(client, to, FAILS).is_err(), "a connection to {to} gets out without an agent");
    }
    let seen = wire.finish()?;
    let plain: Vec<_> = seen.plaintext().take(5).map(ToString::to_string).collect();
    ensure!(plain.is_empty(), "packets left without an agent: {plain:?}");
    lab.agent("n2").kill()?;
    for from in [&**lab.pod("plain"), lab.outside(), lab.node("n2")] {
        ensure!(try_open(from, server.at4(80), FAILS).is_err(), "{} gets in without an agent", from.netns());
    }
    open(lab.node("n2"), server.at4(81)).context("kubelet's probe of a pod without an agent")?;
    ensure!(try_open(lab.node("n1"), server.at4(81), FAILS).is_err(), "another node gets in by a probe port");
    lab.start_agents()?;
    for node in ["n1", "n2"] {
        let count = lab.agent(node).status()?.counter("no_listener");
        ensure!(count > 0, "{node} counts no refused connection");
    }
    open(client, server.at4(80)).map(drop)
}

/// `when_down: pass`: without an agent everything passes, and is counted; with one it is captured again.
pub(super) fn passes(lab: &mut Lab) -> Result<()> {
    let (client, server) = (lab.pod("client"), lab.pod("server"));
    let _echo = server.echo(80)?;
    for node in ["n1", "n2"] {
        lab.agent(node).kill()?;
    }
    let wire = lab.wire("n1")?;
    for to in [server.at4(80), server.at6(80)] {
        says(&open(client, to)?, "words in the open")?;
    }
    ensure!(wire.finish()?.showing("words in the open").count() > 0, "nothing is seen on the wire");
    lab.start_agents()?;
    let counts = ["n1", "n2"].map(|node| lab.agent(node).status().map(|status| status.counter("failed_open")));
    for count in counts {
        let count = count?;
        ensure!(count == 2, "{count} connections are counted as passed, should be 2");
    }
    let wire = lab.wire("n1")?;
    says(&open(client, server.at4(80))?, "words in the tunnel")?;
    let seen = wire.finish()?;
    ensure!(seen.showing("words in the tunnel").count() == 0, "it is not captured again");
    ensure!(seen.plaintext().count() == 0, "packets went out in plaintext");
    Ok(())
}

/// What passed while there was no agent is not cut by the next one: like an enrolment, its start resets nobody.
pub(super) fn passed_lives_on(lab: &mut Lab) -> Result<()> {
    let _echo = lab.pod("server").echo(80)?;
    for node in ["n1", "n2"] {
        lab.agent(node).kill()?;
    }
    let passed = open(lab.pod("client"), lab.pod("server").at4(80))?;
    lab.start_agents()?;
    alive(&passed)
}
