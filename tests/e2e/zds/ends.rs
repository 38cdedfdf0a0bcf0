//! Pods that are taken back, that move, and connections to the CNI agent that end.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_e2e::socket::{Ending, ending};
use mesh_e2e::zds::Handed;
use mesh_e2e::{Lab, eventually};

use super::hands::{Hands, handles, not_ready, readiness};
use super::traffic::visits;
use crate::lifecycle::talk::{alive, open, try_open};
use crate::runner::say;
use crate::traffic::support::mirror;

/// A pod that is taken back is cut much sooner than its drain would end.
const AT_ONCE: Duration = Duration::from_secs(2);
/// How long is waited for a connection that must not come about.
const FAILS: Duration = Duration::from_millis(700);

/// `del` ends the pod's connections at once, at either end, and those of no other pod.
pub(super) fn taken_back(lab: &mut Lab) -> Result<()> {
    let hands = Hands::start(lab, &["client", "server"])?;
    let (client, server) = (lab.pod("client"), lab.pod("server"));
    let _echo = server.echo(80)?;
    for (node, pod) in [("n2", server), ("n1", client)] {
        let stream = open(client, server.at4(80))?;
        let plain = open(lab.outside(), server.at4(80))?;
        let at = Instant::now();
        hands.link(node).del(&Handed::of(pod)?.uid)?;
        let acknowledged = at.elapsed();
        ending(&stream, AT_ONCE).with_context(|| format!("after {} was taken back", pod.name))?;
        say(format_args!("    {}: acknowledged after {acknowledged:?}, cut after {:?}", pod.name, at.elapsed()));
        if node == "n2" {
            ending(&plain, AT_ONCE).context("a connection in plaintext")?;
        } else {
            alive(&plain).context("the other pod's connection")?;
        }
        ensure!(try_open(client, server.at4(80), FAILS).is_err(), "the rules are there, and somebody listens");
        eventually(AT_ONCE, || {
            let status = lab.agent(node).status()?;
            ensure!(status.pods.is_empty() && status.certificates.is_empty(), "{node} still has {:?}", status.pods);
            ensure!(handles(lab, node, &pod.name)? == 0, "{node} still holds the namespace");
            Ok(())
        })?;
        hands.link(node).add(&Handed::of(pod)?)?;
        open(client, server.at4(80)).with_context(|| format!("after {} was handed over again", pod.name))?;
    }
    Ok(())
}

/// The same uid in another namespace: served there at once, while connections in the old one get their time.
pub(super) fn moved(lab: &mut Lab) -> Result<()> {
    let hands = Hands::start(lab, &["client", "server"])?;
    let (client, server, spare) = (lab.pod("client"), lab.pod("server"), lab.pod("spare"));
    let (_old, _new) = (server.echo(80)?, spare.echo(80)?);
    let stream = open(client, server.at4(80))?;
    let at = Instant::now();
    hands.link("n2").add(&Handed { netns: spare.path(), ..Handed::of(server)? })?;
    ensure!(at.elapsed() < Duration::from_secs(1), "it takes {:?}", at.elapsed());
    alive(&stream).context("the old connection")?;
    ensure!(try_open(client, server.at4(80), FAILS).is_err(), "the old namespace is served");
    open(lab.outside(), spare.at4(80)).context("in the new namespace")?;
    let end = ending(&stream, Duration::from_secs(6)).context("the old connection's time")?;
    let time = at.elapsed();
    ensure!(end == Ending::Reset && time > Duration::from_secs(2), "it ended with {end:?} after {time:?} of 3s");
    open(lab.outside(), spare.at4(80)).context("after the end of the old one")?;
    let status = lab.agent("n2").status()?;
    ensure!(status.pods.len() == 1 && status.pods[0].state == "captured", "{:?}", status.pods);
    Ok(())
}

/// The CNI agent goes away and comes back: pods are served all the time, and after it has named them again, those that it
/// did not name are not.
pub(super) fn kept(lab: &mut Lab) -> Result<()> {
    let mut hands = Hands::start(lab, &["client", "server", "spare"])?;
    let (client, server, spare) = (lab.pod("client"), lab.pod("server"), lab.pod("spare"));
    let (_server, _echo, _spare) = (mirror(server, 80)?, server.echo(81)?, spare.echo(81)?);
    let (stream, lost) = (open(client, server.at4(81))?, open(client, spare.at4(81))?);
    hands.hang_up("n2");
    not_ready(lab, "n2", "CNI agent")?;
    visits(lab, 80).context("while the CNI agent is away")?;
    let link = hands.answer(lab, "n2")?;
    link.keep(&Handed::of(server)?.uid)?;
    link.keep("of a pod that nobody knows")?;
    alive(&lost).context("before the snapshot is complete")?;
    link.snapshot_sent()?;
    ending(&lost, AT_ONCE).context("what was not named again")?;
    ensure!(try_open(client, spare.at4(81), FAILS).is_err(), "what was not named again is served");
    alive(&stream).context("what was named again")?;
    visits(lab, 80)?;
    eventually(AT_ONCE, || {
        let (status, body) = readiness(lab, "n2")?;
        ensure!(status == 200, "{body}");
        Ok(())
    })?;
    let link = hands.answer(lab, "n2")?;
    link.snapshot(&[Handed::of(server)?, Handed::of(spare)?]).context("named with their namespaces")?;
    alive(&stream)?;
    open(client, spare.at4(81)).map(drop)
}
