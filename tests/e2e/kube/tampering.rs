//! What becomes of pods when somebody else changes the node under the agent.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_e2e::cluster::{Cluster, shop};
use mesh_e2e::eventually;
use serde_json::{Value, json};

use super::failures::{announced, captured, nothing_leaks, order, with_shop, without_plugin};
use super::support::{SOON, echo, list, namespace, pod, pods, said, script, service, wait_ready, with_mesh};
use crate::runner::say;

const NAMESPACE: &str = "missed";
const HTTP: u16 = 8080;
const IDLE: u16 = 9000;
const PINS: &str = "/sys/fs/bpf/mesh-agent/n1";

/// Sends a signal to the agent's process of a node.
fn signal(cluster: &Cluster, node: &str, signal: &str) -> Result<()> {
    let text = format!("pkill -{signal} -f '^[^ ]*mesh-agent node '");
    cluster.node(node).output("sh", ["-c", &text]).map(drop).with_context(|| format!("SIG{signal} to the agent"))
}

/// A pod with a connection that it keeps open from its first moment, and says when it has ended.
fn early() -> Value {
    let text = format!(
        "mkfifo /tmp/in; (sleep 600 > /tmp/in &); echo began; nc $SERVER_SERVICE_HOST {IDLE} < /tmp/in; echo ended; \
         sleep 600 & wait"
    );
    pod((NAMESPACE, "early"), "n1", vec![script("early", &text)])
}

/// A pod of the mesh that starts without the plugin, while the agent looks away, is captured as soon as the agent looks: what it
/// has open then is cut, and both is counted.
pub(super) fn missed(cluster: &Cluster) -> Result<()> {
    with_mesh(cluster)?;
    let mut space = namespace(NAMESPACE);
    space["metadata"]["labels"] = json!({"istio.io/dataplane-mode": "ambient"});
    let idle = script("idle", &format!("nc -ll -p {IDLE} -e cat & wait"));
    let server = pod((NAMESPACE, "server"), "n2", vec![echo(HTTP), idle]);
    let ports = [(HTTP, HTTP), (IDLE, IDLE)];
    let first = cluster.kubectl().applied(&list(vec![space, service((NAMESPACE, "server"), &ports), server]))?;
    wait_ready(cluster, NAMESPACE, 1)?;
    let count = |what: &str| cluster.mesh_metric("n1", &format!("mesh_cni_missed_{what}_total"));
    let before = (count("pods")?, count("bytes")?);
    signal(cluster, "n1", "STOP")?;
    let started = without_plugin(cluster, "n1").and_then(|()| {
        let started = cluster.kubectl().applied(&list(vec![early()]))?;
        eventually(SOON, || {
            let text = said(cluster, (NAMESPACE, "early"), "early")?;
            ensure!(text == "began\n", "{text:?}");
            Ok(())
        })?;
        Ok(started)
    });
    signal(cluster, "n1", "CONT")?;
    let started = started?;
    cluster.wait_captured(SOON, "n1", &[format!("{NAMESPACE}/early")])?;
    eventually(SOON, || {
        let text = said(cluster, (NAMESPACE, "early"), "early")?;
        ensure!(text == "began\nended\n", "the connection from before the capture goes on: {text:?}");
        Ok(())
    })?;
    let (pods, bytes) = (count("pods")? - before.0, count("bytes")? - before.1);
    ensure!(pods == 1.0 && bytes > 0.0, "{pods} pods, {bytes} bytes");
    ensure!(cluster.mesh_log().contains("the runtime has not called the plugin"), "the log does not say it");
    eventually(SOON, || announced(cluster, "n1"))?;
    say(format_args!("a pod that was not announced: captured, its connection cut, {bytes} bytes counted"));
    started.delete()?;
    first.delete()
}

/// The agent of another version has left pins in another layout, and dies: what it captured stays captured, by this one.
pub(super) fn stale_pins(cluster: &Cluster) -> Result<()> {
    with_shop(cluster, || {
        let node = cluster.node("n1");
        let layout = || node.output("ls", [PINS]).map(|text| text.trim().to_owned());
        let current = layout()?;
        nothing_leaks(cluster, || {
            signal(cluster, "n1", "STOP")?;
            let moved = node.output("mv", [&*format!("{PINS}/{current}"), &format!("{PINS}/v1")]);
            signal(cluster, "n1", "KILL")?;
            moved?;
            thread::sleep(Duration::from_secs(1));
            cluster.wait_mesh()?;
            eventually(SOON, || order(cluster))
        })?;
        captured(cluster)?;
        eventually(SOON, || {
            let now = layout()?;
            ensure!(now == current, "{now:?} instead of {current:?}");
            Ok(())
        })?;
        let pinned = node.output("ls", [&*format!("{PINS}/{current}/pods")])?.lines().count();
        let here = pods(cluster, shop::NAMESPACE)?;
        let here = here.iter().filter(|pod| pod["spec"]["nodeName"] == "n1").count();
        ensure!(pinned == here, "{pinned} pods have pins, {here} are here");
        ensure!(cluster.mesh_log().contains("another version's programs were replaced"), "the log does not say it");
        Ok(())
    })
}
