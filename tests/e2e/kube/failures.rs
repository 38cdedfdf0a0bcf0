//! What becomes of pods in the mesh when something of the mesh, or of Kubernetes, goes away and comes back.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_e2e::cluster::{Cluster, mesh, shop};
use mesh_e2e::eventually;
use serde_json::Value;

use super::support::{SOON, START, names, pods, wait_ready, with_mesh};
use crate::runner::say;

/// How long the API server is away in the case that every run has; five minutes have a case of their own.
const AWAY: Duration = Duration::from_secs(20);
const LONG: Duration = Duration::from_secs(300);
pub(super) const FILE: &str = "/etc/cni/net.d/20-lab.conflist";

/// The shop in the mesh, open while `work` runs.
pub(super) fn with_shop(cluster: &Cluster, work: impl FnOnce() -> Result<()>) -> Result<()> {
    with_mesh(cluster)?;
    cluster.open_shop()?;
    cluster.label_namespace(shop::NAMESPACE, Some("ambient"))?;
    captured(cluster)?;
    eventually(SOON, || order(cluster))?;
    work()?;
    // Kubelets and controllers that were without an API server come back one after the other, each after a wait that has
    // doubled meanwhile.
    eventually(START * 2, || cluster.kubectl().delete(&shop::objects().to_string()))
}

pub(super) fn captured(cluster: &Cluster) -> Result<()> {
    let all = pods(cluster, shop::NAMESPACE)?;
    ["n1", "n2"].iter().try_for_each(|node| cluster.wait_captured(SOON, node, &names(&all, node)))
}

/// One request from the front end, which goes from node to node.
pub(super) fn order(cluster: &Cluster) -> Result<()> {
    let client = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "3", "http://payments/"];
    let status = cluster.in_shop("frontend", &client)?;
    ensure!(status == "200", "{status}");
    Ok(())
}

/// While `work` runs, no request crosses the link between the nodes in plaintext.
pub(super) fn nothing_leaks(cluster: &Cluster, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let wire = cluster.node("n1").watch_wire()?;
    work()?;
    let seen = wire.finish()?;
    let read: Vec<_> = seen.showing("GET / HTTP").map(ToString::to_string).collect();
    ensure!(read.is_empty(), "requests could be read: {read:?}");
    Ok(())
}

/// The agent's pod is deleted while requests are made: some fail, none is in plaintext, and all is well again.
pub(super) fn agent_deleted(cluster: &Cluster) -> Result<()> {
    with_shop(cluster, || {
        nothing_leaks(cluster, || {
            let pod = cluster.agent_pod("n1")?;
            cluster.kubectl().run(["delete", "pod", &pod, "--namespace", mesh::NAMESPACE, "--wait=false"])?;
            let start = Instant::now();
            let (mut good, mut bad) = (0, 0);
            while start.elapsed() < Duration::from_secs(8) {
                if order(cluster).is_ok() { good += 1 } else { bad += 1 }
            }
            cluster.wait_mesh()?;
            eventually(SOON, || order(cluster))?;
            say(format_args!("agent deleted: {good} requests answered, {bad} refused, none in plaintext"));
            Ok(())
        })?;
        captured(cluster)
    })
}

/// Everything on a node is killed, pins are gone, and the kubelet is back first.
pub(super) fn reboot(cluster: &Cluster) -> Result<()> {
    with_shop(cluster, || {
        let node = cluster.node("n1");
        node.kill()?;
        node.boot()?;
        nothing_leaks(cluster, || {
            node.start()?;
            cluster.wait_node("n1")?;
            let all = wait_ready(cluster, shop::NAMESPACE, shop::SERVICES.len())?;
            cluster.wait_captured(Duration::from_secs(60), "n1", &names(&all, "n1"))?;
            eventually(SOON, || order(cluster))
        })?;
        announced(cluster, "n1")
    })
}

/// Whether the node's plugin is in the network's file.
pub(super) fn announced(cluster: &Cluster, node: &str) -> Result<()> {
    let file: Value = serde_json::from_str(&cluster.node(node).output("cat", [FILE])?)?;
    let plugins = file["plugins"].as_array().context("no plugins")?;
    let last = plugins.last().context("no plugin")?;
    ensure!(last["type"] == "mesh-agent-cni", "the last plugin is {last}");
    Ok(())
}

/// Takes the plugin out of the network's file.
pub(super) fn without_plugin(cluster: &Cluster, node: &str) -> Result<()> {
    let text = format!(
        "python3 -c 'import json; f=\"{FILE}\"; d=json.load(open(f)); \
         d[\"plugins\"]=[p for p in d[\"plugins\"] if p[\"type\"]!=\"mesh-agent-cni\"]; json.dump(d, open(f, \"w\"))'"
    );
    cluster.node(node).output("sh", ["-c", &text]).map(drop)
}

/// Another agent writes the network's file anew, and one deletes the plugin: both are put right, and are told.
pub(super) fn network_rewritten(cluster: &Cluster) -> Result<()> {
    with_shop(cluster, || {
        announced(cluster, "n1")?;
        let node = cluster.node("n1");
        let repairs = || cluster.mesh_metric("n1", "mesh_cni_repairs_total");
        let before = repairs()?;
        without_plugin(cluster, "n1")?;
        let start = Instant::now();
        eventually(SOON, || announced(cluster, "n1"))?;
        say(format_args!("the network's file was put right after {:.1} s", start.elapsed().as_secs_f64()));
        node.output("rm", ["/opt/cni/bin/mesh-agent-cni"])?;
        eventually(SOON, || node.output("test", ["-x", "/opt/cni/bin/mesh-agent-cni"]))?;
        let now = repairs()?;
        ensure!(now >= before + 2.0, "repairs: {before}, then {now}");
        Ok(())
    })
}

fn api_away(cluster: &Cluster, length: Duration) -> Result<()> {
    with_shop(cluster, || {
        let server = &cluster.api().server;
        // A client that needs no API server: what kubectl does is done on the node.
        let address = payments(cluster)?;
        let client = frontend(cluster)?;
        let node = cluster.node("n1");
        let order = || {
            let url = format!("http://{address}/");
            let inside = ["--net", "--target", &client, "curl", "-sS", "-o", "/dev/null", "--max-time", "3", &url];
            node.output("nsenter", inside).map(drop)
        };
        order().context("before")?;
        server.kill()?;
        let (start, mut count) = (Instant::now(), 0);
        while start.elapsed() < length {
            order().with_context(|| format!("{:?} after the API server has gone", start.elapsed()))?;
            count += 1;
            thread::sleep(Duration::from_millis(100));
        }
        server.launch()?;
        cluster.wait_ready()?;
        cluster.wait_mesh()?;
        say(format_args!("API server away for {length:?}: {count} requests, none failed"));
        captured(cluster)
    })
}

pub(super) fn api_away_for_a_while(cluster: &Cluster) -> Result<()> {
    api_away(cluster, AWAY)
}

pub(super) fn api_away_for_five_minutes(cluster: &Cluster) -> Result<()> {
    api_away(cluster, LONG)
}

/// The address of a pod of payments.
fn payments(cluster: &Cluster) -> Result<String> {
    let service = cluster.kubectl().json(&["get", "service", "payments", "--namespace", shop::NAMESPACE])?;
    Ok(service["spec"]["clusterIP"].as_str().context("no address")?.to_owned())
}

/// A process of the front end, as its node numbers it.
fn frontend(cluster: &Cluster) -> Result<String> {
    let all = pods(cluster, shop::NAMESPACE)?;
    let pod = all.iter().find(|pod| pod["metadata"]["labels"]["app"] == "frontend").context("no front end")?;
    let uid = pod["metadata"]["uid"].as_str().context("no uid")?;
    let find = format!("grep -l {uid} /proc/[0-9]*/cgroup | head -1 | cut -d/ -f3");
    Ok(cluster.node("n1").output("sh", ["-c", &find])?.trim().to_owned())
}
