//! Many pods at once: each is in the mesh before it can say a word.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_e2e::cluster::Cluster;
use mesh_e2e::eventually;
use serde_json::{Value, json};

use super::support::{echo, list, namespace, pod, pods, script, service, wait_ready, with_mesh};
use crate::runner::say;

const NAMESPACE: &str = "burst";
const PODS: usize = 200;
const HTTP: u16 = 8080;
/// Until all of them have run; the kubelets need most of it.
const RUN: Duration = Duration::from_secs(400);
/// Longer than this none waits for the mesh.
const WAIT: f64 = 1.0;

/// A pod whose very first act is a request, and that then says how it went.
fn eager(number: usize) -> Value {
    let node = if number.is_multiple_of(2) { "n1" } else { "n2" };
    let text = format!(
        "curl -sS -o /dev/null --max-time 20 -w '%{{http_code}} %{{time_total}}\\n' \
                        http://$SERVER_SERVICE_HOST:{HTTP}/ 2>&1; sleep 3600 & wait"
    );
    let mut pod = pod((NAMESPACE, &format!("eager-{number}")), node, vec![script("eager", &text)]);
    pod["metadata"]["labels"] = json!({"app": "eager"});
    pod
}

/// None sends or receives a byte outside of the mesh, and none waits for it longer than a second.
pub(super) fn burst(cluster: &Cluster) -> Result<()> {
    with_mesh(cluster)?;
    let mut space = namespace(NAMESPACE);
    space["metadata"]["labels"] = json!({"istio.io/dataplane-mode": "ambient"});
    let servers = ["n1", "n2"].map(|node| {
        let mut server = pod((NAMESPACE, &format!("server-{node}")), node, vec![echo(HTTP)]);
        server["metadata"]["labels"] = json!({"app": "server"});
        server
    });
    let first = [space, service((NAMESPACE, "server"), &[(HTTP, HTTP)])].into_iter().chain(servers).collect();
    let first = cluster.kubectl().applied(&list(first))?;
    wait_ready(cluster, NAMESPACE, 2)?;
    let (before, already) = (waited(cluster)?, around(cluster)?);
    let wires = ["n1", "n2"].map(|node| cluster.node(node).watch_wire());
    let start = Instant::now();
    let burst = cluster.kubectl().applied(&list((0..PODS).map(eager).collect()))?;
    let answers = eventually(RUN, || answers(cluster))?;
    let took = start.elapsed();
    let addresses = addresses(cluster)?;
    for wire in wires {
        let seen = wire?.finish()?;
        let ours = |ip: IpAddr| addresses.contains(&ip);
        let around: Vec<_> = seen
            .plaintext()
            .filter(|packet| packet.protocol == 6 && (ours(packet.source.ip()) || ours(packet.destination.ip())))
            .map(ToString::to_string)
            .collect();
        ensure!(around.is_empty(), "{} packets went around the mesh: {:?}", around.len(), around.first());
    }
    let failed: Vec<_> = answers.iter().filter(|answer| !answer.starts_with("200 ")).collect();
    ensure!(failed.is_empty(), "{} of {PODS} first requests failed: {failed:?}", failed.len());
    let (count, slow) = waited(cluster)?;
    let (count, slow) = (count - before.0, slow - before.1);
    let news = format!(
        "{PODS} pods in {:.0} s, {count} asked the agent, {slow} waited more than {WAIT} s",
        took.as_secs_f64()
    );
    say(&news);
    ensure!(count >= PODS as f64 && slow == 0.0, "{news}");
    let around = around(cluster)? - already;
    ensure!(around == 0.0, "{around} bytes went around, as the agents count");
    burst.delete()?;
    first.delete()
}

/// What the pods' first requests came to, when all have.
fn answers(cluster: &Cluster) -> Result<Vec<String>> {
    let arguments = ["logs", "--namespace", NAMESPACE, "--selector=app=eager", "--tail=1", "--max-log-requests=300"];
    let text = cluster.kubectl().run(arguments)?;
    let lines: Vec<_> = text.lines().map(str::to_owned).collect();
    ensure!(lines.len() == PODS, "{} of {PODS} have answered", lines.len());
    Ok(lines)
}

fn addresses(cluster: &Cluster) -> Result<BTreeSet<IpAddr>> {
    let mut all = BTreeSet::new();
    for pod in pods(cluster, NAMESPACE)? {
        let listed = pod["status"]["podIPs"].as_array().cloned().unwrap_or_default();
        for address in listed {
            all.insert(address["ip"].as_str().context("an address")?.parse()?);
        }
    }
    Ok(all)
}

/// What pods sent and received before they were captured, in bytes.
fn around(cluster: &Cluster) -> Result<f64> {
    ["n1", "n2"].iter().map(|node| cluster.mesh_metric(node, "mesh_cni_missed_bytes_total")).sum()
}

/// How many questions of the plugin the agents have answered, and how many of them took too long.
fn waited(cluster: &Cluster) -> Result<(f64, f64)> {
    let (mut count, mut slow) = (0.0, 0.0);
    for node in ["n1", "n2"] {
        let all = cluster.mesh_metric(node, "mesh_cni_add_duration_seconds_count")?;
        let quick = cluster.mesh_metric_where(node, "mesh_cni_add_duration_seconds_bucket", "le=\"1.0\"")?;
        count += all;
        slow += all - quick;
    }
    Ok((count, slow))
}
