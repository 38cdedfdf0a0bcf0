//! The machine comes late, the setting is changed, the agent dies, the pod leaves.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_e2e::{Lab, World, eventually};
use serde_json::json;

use super::machine::{Hidden, Machine};
use super::ways::{attached, opened, tunnelled};
use super::{APP, BRIDGE};
use crate::lifecycle::talk::{PATIENCE, alive, enrol, leave, open, says, try_open};
use crate::lifecycle::traces;

/// How long is waited for what must not come about.
const FAILS: Duration = Duration::from_millis(700);
const WORDS: &str = "words for the mesh alone";

fn reroutes(interfaces: &'static [&'static str]) -> impl FnOnce(&mut World) {
    move |world| drop(world.pod("host").capture.insert("reroute_virtual_interfaces".to_owned(), json!(interfaces)))
}

fn missing(lab: &Lab) -> Result<Vec<String>> {
    Ok(lab.agent("n1").status()?.pod("host").context("no such pod")?.missing_interfaces.clone())
}

/// The pod's line of `ctl status`.
fn shown(lab: &Lab) -> Result<String> {
    let output = lab.agent("n1").ctl().arg("status").output()?;
    let text = String::from_utf8(output.stdout)?;
    Ok(text.lines().find(|line| line.starts_with("default/host ")).context("no line of the pod")?.to_owned())
}

/// A machine that starts after its pod, stops, and starts again: its interface is another one each time.
pub(super) fn late(lab: &mut Lab) -> Result<()> {
    let host = lab.pod("host");
    for _ in 0..2 {
        eventually(PATIENCE, || {
            ensure!(missing(lab)? == [BRIDGE], "not missed");
            Ok(())
        })?;
        ensure!(shown(lab)?.contains(", br-vm (missing)"), "{}", shown(lab)?);
        let machine = Machine::start(lab, host, Hidden::Masqueraded)?;
        attached(lab)?;
        ensure!(!shown(lab)?.contains("(missing)"), "{}", shown(lab)?);
        tunnelled(lab, &machine)?;
        machine.stop(host)?;
    }
    Ok(())
}

/// Nothing of a machine's connections leaves in plaintext while no agent runs.
pub(super) fn killed(lab: &mut Lab) -> Result<()> {
    let (host, server) = (lab.pod("host"), lab.pod("server"));
    let machine = Machine::start(lab, host, Hidden::Masqueraded)?;
    attached(lab)?;
    let echo = server.echo(APP)?;
    let streams = [open(&machine, server.at4(APP))?, open(&machine, server.at6(APP))?];
    let wire = lab.wire_in(host, "eth0")?;
    lab.agent("n1").kill()?;
    for stream in &streams {
        ensure!(says(stream, WORDS).is_err(), "a connection outlives its agent");
    }
    for to in [server.at4(APP), server.at6(APP)] {
        ensure!(try_open(&machine, to, FAILS).is_err(), "{to} is reached without an agent");
    }
    let seen = wire.finish()?;
    ensure!(seen.showing(WORDS).next().is_none(), "they can be read on the wire");
    let plain: Vec<_> = seen.plaintext().filter(|packet| packet.opens()).map(ToString::to_string).collect();
    ensure!(plain.is_empty(), "connections leave without an agent: {plain:?}");
    lab.agent("n1").start()?;
    lab.settle()?;
    attached(lab)?;
    drop(echo);
    tunnelled(lab, &machine)
}

/// The setting is changed while the pod runs.
pub(super) fn turned(lab: &mut Lab) -> Result<()> {
    let (host, server) = (lab.pod("host"), lab.pod("server"));
    let machine = Machine::start(lab, host, Hidden::Routed)?;
    attached(lab)?;
    let with = traces::on(host, c"br-vm");
    ensure!(with.len() == 1, "{with:?}");
    let echo = server.echo(APP)?;
    let stream = opened(lab, &machine)?;
    lab.publish(reroutes(&[]))?;
    eventually(PATIENCE, || {
        ensure!(traces::on(host, c"br-vm").is_empty(), "a program is left");
        Ok(())
    })?;
    ensure!(missing(lab)?.is_empty(), "nothing can be missing");
    lab.publish(reroutes(&[BRIDGE]))?;
    eventually(PATIENCE, || {
        ensure!(traces::on(host, c"br-vm") == with, "the program is not back");
        Ok(())
    })?;
    alive(&stream).context("an open one, after both")?;
    drop(echo);
    tunnelled(lab, &machine)
}

/// The pod is as before when it has left the mesh.
pub(super) fn traceless(lab: &mut Lab) -> Result<()> {
    lab.publish(leave(&["host"]))?;
    let host = lab.pod("host");
    let machine = Machine::start(lab, host, Hidden::Masqueraded)?;
    let look = || -> Result<[String; 3]> {
        let tc = |words: [&str; 5]| host.output("tc", words.into_iter().filter(|word| !word.is_empty()));
        let programs = traces::on(host, c"br-vm").join("\n");
        Ok([tc(["qdisc", "show", "dev", BRIDGE, ""])?, tc(["filter", "show", "dev", BRIDGE, "ingress"])?, programs])
    };
    let (before, all) = (look()?, traces::of(host)?);
    lab.publish(enrol(&["host"]))?;
    attached(lab)?;
    tunnelled(lab, &machine)?;
    ensure!(look()? != before, "the program does not show: the comparison is blind");
    lab.publish(leave(&["host"]))?;
    eventually(PATIENCE, || {
        let now = look()?;
        ensure!(now == before, "{before:?} became {now:?}");
        traces::same("host", &all, &traces::of(host)?)
    })
}
