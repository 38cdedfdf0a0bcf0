//! The setting is changed while the pod runs, the agent dies, the pod leaves.

use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_e2e::socket::{Ending, ending};
use mesh_e2e::{Lab, Packet, Pod, Topology, World, eventually};
use serde_json::Value;

use super::{APP, topology};
use crate::lifecycle::talk::{PATIENCE, alive, enrol, leave, open, says, try_open};
use crate::lifecycle::traces;
use crate::traffic::support::must_be_reset;

/// How long is waited for what must not come about.
const FAILS: Duration = Duration::from_millis(700);
/// Which socket takes over the mark of who connects.
const ACCEPTED: &str = "net.ipv4.tcp_fwmark_accept";

pub(super) fn captured() -> Topology {
    topology().pod(Pod::new("late", "n2")).node_setting("drain", "1s")
}

/// `later` is to be enrolled while it talks.
pub(super) fn not_yet() -> Topology {
    topology().pod(Pod::new("later", "n2").plain().bypasses_inbound())
}

pub(super) fn not_started() -> Topology {
    topology().without_agents().node_setting("drain", "1s")
}

fn bypassing(value: Value) -> impl FnOnce(&mut World) {
    move |world| drop(world.pod("late").capture.insert("bypass_inbound_capture".to_owned(), value))
}

/// Who comes in needs no agent. What the pod opened by one ends with it, and nothing of it leaves in plaintext.
pub(super) fn without_an_agent(lab: &mut Lab) -> Result<()> {
    let (plain, gate, client) = (lab.pod("plain"), lab.pod("gate"), lab.pod("client"));
    let _servers = [gate.echo(APP)?, client.echo(APP)?];
    let incoming = open(plain, gate.at4(APP))?;
    let (outgoing, tunnelled) = (open(gate, client.at4(APP))?, open(client, gate.at4(APP))?);
    let wire = lab.wire_in(gate, "eth0")?;
    lab.agent("n2").kill()?;
    alive(&incoming).context("a connection that has nothing to do with the agent")?;
    for to in [gate.at4(APP), gate.at6(APP)] {
        open(plain, to).context("a new one")?;
    }
    for stream in [&outgoing, &tunnelled] {
        ensure!(says(stream, "words for the mesh alone").is_err(), "a connection outlives its agent");
    }
    ensure!(try_open(gate, client.at4(APP), FAILS).is_err(), "what the pod opens gets out without an agent");
    let seen = wire.finish()?;
    ensure!(seen.showing("words for the mesh alone").next().is_none(), "they can be read on the wire");
    let to_client = |packet: &&Packet| packet.has_port(APP) && packet.opens();
    let opened: Vec<_> = seen.plaintext().filter(to_client).map(ToString::to_string).collect();
    ensure!(opened.len() == 2, "others than the two that came in: {opened:?}");
    lab.agent("n2").start()?;
    lab.settle()?;
    alive(&incoming).context("after the agent's return")?;
    open(plain, gate.at4(APP))?;
    open(gate, client.at4(APP))?;
    open(client, gate.at4(APP)).map(drop)
}

/// Turned on, and off again: new connections go by the setting, open ones go on as they began.
pub(super) fn changed(lab: &mut Lab) -> Result<()> {
    let (plain, late, client) = (lab.pod("plain"), lab.pod("late"), lab.pod("client"));
    let _echo = late.echo(APP)?;
    let tunnelled = open(client, late.at4(APP))?;
    must_be_reset(plain, late.at4(APP)).context("captured")?;
    ensure!(late.sysctl(ACCEPTED)?.trim() == "0", "changed before it is needed");
    lab.publish(bypassing(true.into()))?;
    let by_either = [late.at4(APP), late.at6(APP)].map(|to| eventually(PATIENCE, || try_open(plain, to, FAILS)));
    let bypassed = by_either.into_iter().collect::<Result<Vec<_>>>().context("turned on")?;
    alive(&tunnelled).context("a tunnelled one, turned on")?;
    // By what it has noted the next agent knows it.
    lab.agent("n2").restart()?;
    lab.settle()?;
    open(plain, late.at4(APP)).context("after a restart")?;
    let tunnelled = open(client, late.at4(APP))?;
    lab.publish(bypassing(false.into()))?;
    eventually(PATIENCE, || must_be_reset(plain, late.at4(APP))).context("turned off")?;
    for stream in &bypassed {
        alive(stream).context("one that came in before")?;
    }
    let wire = lab.wire_in(late, "eth0")?;
    says(&tunnelled, "words for the mesh alone")?;
    says(&open(client, late.at4(APP))?, "words for the mesh alone")?;
    ensure!(wire.finish()?.showing("words for the mesh").next().is_none(), "what is tunnelled can be read on the wire");
    lab.publish(leave(&["late"]))?;
    eventually(PATIENCE, || {
        ensure!(late.sysctl(ACCEPTED)?.trim() == "0", "the pod's sysctl is not put back");
        Ok(())
    })
}

/// Connections that are older than the enrolment go on, in either direction.
pub(super) fn older(lab: &mut Lab) -> Result<()> {
    let (plain, later, outside) = (lab.pod("plain"), lab.pod("later"), lab.outside());
    let _servers = [later.echo(APP)?, outside.echo(APP)?];
    let to = SocketAddr::new(lab.outside_addresses()[0], APP);
    let old = [open(plain, later.at4(APP))?, open(plain, later.at6(APP))?, open(later, to)?];
    lab.publish(enrol(&["later"]))?;
    old.iter().try_for_each(alive)?;
    open(plain, later.at4(APP))?;
    for stream in &old {
        stream.shutdown(Shutdown::Write)?;
        ensure!(ending(stream, PATIENCE)? == Ending::Fin, "an older connection cannot end in order");
    }
    Ok(())
}

/// Nothing is left in the pod once it has left the mesh.
pub(super) fn traceless(lab: &mut Lab) -> Result<()> {
    let before = traces::of(lab.pod("gate"))?;
    lab.start_agents()?;
    let during = traces::of(lab.pod("gate"))?;
    let shown = before.changes(&during).iter().any(|line| line.contains("tcp_fwmark_accept"));
    ensure!(shown, "the sysctl does not show: the comparison is blind");
    lab.publish(leave(&["gate"]))?;
    eventually(PATIENCE, || traces::same("gate", &before, &traces::of(lab.pod("gate"))?))
}
