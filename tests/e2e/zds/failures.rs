//! Pods that cannot be served, and messages that break the protocol.

use std::fs::File;
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_e2e::zds::{DEADLINE, Handed, Link, message};
use mesh_e2e::{Lab, eventually};

use super::hands::{Hands, handles, not_ready, readiness};
use super::traffic::visits;
use crate::lifecycle::talk::{alive, open};
use crate::traffic::support::mirror;

const SOON: Duration = Duration::from_secs(1);
/// Between two tries of a pod that cannot be served, and some more.
const NEXT_TRY: Duration = Duration::from_secs(7);

/// After each wrong message the agent ends the connection and comes back; the pods notice nothing.
pub(super) fn wrong(lab: &mut Lab) -> Result<()> {
    let mut hands = Hands::start(lab, &["client", "server"])?;
    let server = Handed::of(lab.pod("server"))?;
    let (_server, _echo) = (mirror(lab.pod("server"), 80)?, lab.pod("server").echo(81)?);
    let stream = open(lab.pod("client"), lab.pod("server").at4(81))?;
    let file = File::open(&server.netns)?;
    let rights = [file.as_fd(); 3];
    let long = message::add(&"u".repeat(1200), None);
    let wrong: [(&str, Vec<u8>, usize); 11] = [
        ("garbage", b"hello".to_vec(), 0),
        ("an unknown payload", b"\x32\x00".to_vec(), 0),
        ("a packet that is too long", long, 1),
        ("add without a descriptor", server.message(), 0),
        ("add with two", server.message(), 2),
        ("add with three", server.message(), 3),
        ("keep with one", message::keep(&server.uid), 1),
        ("keep after the snapshot", message::keep(&server.uid), 0),
        ("del with one", message::del(&server.uid), 1),
        ("a second end of the snapshot", message::snapshot_sent(), 0),
        ("nothing at all", Vec::new(), 1),
    ];
    for (what, bytes, count) in wrong {
        hands.link("n2").send(&bytes, rights.get(..count).unwrap_or(&rights))?;
        hands.link("n2").closed(SOON).context(what)?;
        not_ready(lab, "n2", "CNI agent").context(what)?;
        alive(&stream).context(what)?;
        hands.answer(lab, "n2").and_then(|link| link.snapshot([&server])).context(what)?;
        visits(lab, 80).context(what)?;
    }
    let held = handles(lab, "n2", "server")?;
    ensure!(held == 1, "the agent holds {held} descriptors of the pod's namespace");
    Ok(())
}

/// Fails unless the answer is an error that says `reason`.
fn refuses(link: &Link, pod: &Handed, reason: &str) -> Result<()> {
    let error = link.add(pod).err().with_context(|| format!("no error; expected: {reason}"))?;
    let text = format!("{error:#}");
    ensure!(text.contains("refused") && text.contains(reason), "{text:?} does not say {reason:?}");
    Ok(())
}

/// What cannot be served is answered with the reason, is tried again, and holds up nobody.
pub(super) fn refused(lab: &mut Lab) -> Result<()> {
    let hands = Hands::start(lab, &["client", "server"])?;
    let link = hands.link("n2");
    let (server, spare) = (Handed::of(lab.pod("server"))?, Handed::of(lab.pod("spare"))?);
    let _server = mirror(lab.pod("server"), 80)?;
    let elsewhere = |netns: std::path::PathBuf| Handed { netns, ..spare.clone() };
    refuses(link, &elsewhere("/etc/hostname".into()), "no network namespace")?;
    refuses(link, &elsewhere(lab.node("n2").path()), "host network")?;
    refuses(link, &elsewhere(server.netns.clone()), "is pod")?;
    let nameless = message::add(&spare.uid, None);
    link.send(&nameless, &[File::open(&spare.netns)?.as_fd()])?;
    let error = link.acknowledged(DEADLINE).err().context("a pod without a name is taken")?;
    ensure!(error.to_string().contains("no workload info"), "{error:#}");
    let squatter = lab.pod("spare").listen(15008)?;
    refuses(link, &spare, "port 15008")?;
    visits(lab, 80).context("while another pod cannot be served")?;
    let state = |wanted: &str| -> Result<()> {
        let status = lab.agent("n2").status()?;
        let pod = status.pod("spare").context("status does not show it")?;
        ensure!(pod.state == wanted, "it is {} {:?}", pod.state, pod.error);
        Ok(())
    };
    state("failed")?;
    ensure!(readiness(lab, "n2")?.0 == 200, "a pod that comes later makes a ready node unready");
    drop(squatter);
    eventually(NEXT_TRY, || state("captured")).context("when the reason has gone")?;
    link.add(&spare).context("what has come about meanwhile")?;
    link.silent()
}
