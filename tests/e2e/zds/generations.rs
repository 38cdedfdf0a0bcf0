//! Agents that come back, two agents at a time, and what an agent of the other kind has left.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_e2e::zds::Handed;
use mesh_e2e::{Lab, Node, binary, eventually};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::hands::{CONNECT, Hands, not_ready};
use super::traffic::visits;
use crate::lifecycle::talk::{PATIENCE, open, try_open};
use crate::lifecycle::traces;
use crate::traffic::support::{mirror, only_tunnelled};

/// How long is waited for a connection that must not come about.
const FAILS: Duration = Duration::from_millis(700);

/// An agent that was stopped or killed gets its pods again when it is back; until then nothing gets by it.
pub(super) fn restarted(lab: &mut Lab) -> Result<()> {
    let mut hands = Hands::start(lab, &["client", "server"])?;
    let (client, server) = (lab.pod("client"), lab.pod("server"));
    let _server = mirror(server, 80)?;
    let handed = Handed::of(server)?;
    for signal in [Signal::TERM, Signal::KILL] {
        let (agent, wire) = (lab.agent("n2"), lab.wire("n1")?);
        agent.signal(signal)?;
        agent.wait_end()?;
        hands.link("n2").closed(PATIENCE).with_context(|| format!("{signal:?}"))?;
        for from in [&**client, lab.outside()] {
            ensure!(try_open(from, server.at4(80), FAILS).is_err(), "{signal:?}: it gets in without an agent");
        }
        agent.launch()?;
        let link = hands.answer(lab, "n2")?;
        not_ready(lab, "n2", "pods").with_context(|| format!("{signal:?}"))?;
        link.snapshot([&handed])?;
        agent.wait_ready()?;
        eventually(PATIENCE, || visits(lab, 80)).with_context(|| format!("after {signal:?}"))?;
        only_tunnelled(&wire.finish()?, "a secret of some length").with_context(|| format!("{signal:?}"))?;
    }
    Ok(())
}

/// The fields of `node` in an agent's file.
fn settings(node: &Node) -> Result<(Value, String)> {
    let text = node.text();
    let (first, rest) = text.split_once('\n').context("a file")?;
    let settings = serde_json::from_str(first.strip_prefix("node: ").context("a node")?)?;
    Ok((settings, rest.to_owned()))
}

/// Trap 26: a second agent serves the pods beside the first one, which then ends, and nobody notices.
pub(super) fn two(lab: &mut Lab) -> Result<()> {
    let hands = Hands::start(lab, &["client", "server"])?;
    let (client, server, node) = (lab.pod("client"), lab.pod("server"), lab.node("n2"));
    let (_server, _echo) = (mirror(server, 80)?, server.echo(81)?);
    let stream = open(client, server.at4(81))?;
    let (mut second, rest) = settings(node)?;
    let directory = lab.directory().join("second");
    fs::create_dir_all(directory.join("bpf"))?;
    second["run_dir"] = json!(directory.join("run"));
    second["bpf_fs"] = json!(directory.join("bpf"));
    second["metrics"] = json!("[::]:16020");
    second["readiness"] = json!("[::]:16021");
    second["admin"] = json!("127.0.0.1:16000");
    let file = directory.join("node.yaml");
    fs::write(&file, format!("node: {second}\n{rest}"))?;
    let mut command = node.command(binary::find()?);
    command.arg("node").arg("--config").arg(&file);
    let mut process = lab.spawn("second", &mut command)?;
    let newest = hands.cni("n2").accept_while(CONNECT, || process.check_running())?;
    newest.snapshot([&Handed::of(server)?])?;
    hands.link("n2").silent().context("the first agent")?;
    for round in 0..20 {
        visits(lab, 80).with_context(|| format!("connection {round} while there are two"))?;
    }
    drop(stream);
    let status = lab.agent("n2").stop()?;
    ensure!(status.success(), "the first agent ends with {status}");
    for round in 0..20 {
        visits(lab, 80).with_context(|| format!("connection {round} after the first one's end"))?;
    }
    let stream = open(client, server.at4(81))?;
    newest.del(&Handed::of(server)?.uid)?;
    mesh_e2e::socket::ending(&stream, PATIENCE).context("after the pod was taken back")?;
    ensure!(process.stop(PATIENCE)?.success(), "the second agent ends badly");
    Ok(())
}

/// Pods that an agent has captured by programs are handed over by a CNI agent later: the programs go first.
pub(super) fn from_programs(lab: &mut Lab) -> Result<()> {
    let (server, agent, node) = (lab.pod("server"), lab.agent("n2"), lab.node("n2"));
    let handed = node.text();
    let (mut listed, rest) = settings(node)?;
    listed.as_object_mut().context("fields")?.remove("zds");
    let pods = format!("pods:\n- {{name: server, netns: {}}}\n", server.path().display());
    ensure!(rest.starts_with("pods: []\n"), "{rest}");
    node.rewrite(&format!("node: {listed}\n{}", rest.replacen("pods: []\n", &pods, 1)))?;
    let before = traces::of(server)?;
    agent.start()?;
    let _server = mirror(server, 80)?;
    ensure!(!before.changes(&traces::of(server)?).is_empty(), "nothing was captured");
    agent.stop()?;
    node.rewrite(&handed)?;
    ensure!(!traces::files(agent).is_empty(), "the programs did not stay");
    let _hands = Hands::start(lab, &["client", "server"])?;
    visits(lab, 80)?;
    let left = traces::files_of_pods(agent);
    ensure!(left.is_empty(), "the programs' files are left: {left:?}");
    let changes = before.changes(&traces::of(server)?);
    let programs: Vec<_> =
        changes.iter().filter(|change| change.contains("tcx") || change.contains("sysctls")).collect();
    ensure!(programs.is_empty(), "what the programs needed is left: {programs:?}");
    Ok(())
}
