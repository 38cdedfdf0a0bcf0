//! Many pods at once: each is in the mesh before it can say a word.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
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
const PAUSE: Duration = Duration::from_secs(5);
/// Seconds, of the histogram.
const LIMITS: [&str; 7] = ["0.25", "0.5", "1.0", "2.5", "5.0", "10.0", "+Inf"];

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

/// None sends or receives a byte outside of the mesh. How long they wait for it is told: two nodes that start a hundred pods
/// each on two cores have all of them wait for the kernel's one lock of networks, ours and the runtime's plugins alike.
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
    let answers = eventually(RUN, || {
        // Reading two hundred logs is work for the very machine that starts the pods.
        thread::sleep(PAUSE);
        running(cluster)?;
        answers(cluster)
    })?;
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
    let waits = waited(cluster)?;
    let since: Vec<_> = waits.iter().zip(&before).map(|(now, then)| now - then).collect();
    let told: Vec<_> = LIMITS.iter().zip(&since).map(|(limit, count)| format!("{count} within {limit} s")).collect();
    say(format_args!("{PODS} pods in {:.0} s; of their waits for the mesh {}", took.as_secs_f64(), told.join(", ")));
    let failed: Vec<_> = answers.iter().filter(|answer| !answer.starts_with("200 ")).collect();
    ensure!(failed.is_empty(), "{} of {PODS} first requests failed: {failed:?}", failed.len());
    let [.., longest, all] = &since[..] else { bail!("{since:?}") };
    ensure!(*all >= PODS as f64, "only {all} were announced");
    ensure!(longest == all, "{} waited more than 10 s", all - longest);
    let around = around(cluster)? - already;
    ensure!(around == 0.0, "{around} bytes went around, as the agents count");
    burst.delete()?;
    first.delete()
}

/// Whether all have started.
fn running(cluster: &Cluster) -> Result<()> {
    let phases = "--output=jsonpath={.items[*].status.phase}";
    let text = cluster.kubectl().run(["get", "pods", "--namespace", NAMESPACE, "--selector=app=eager", phases])?;
    let count = text.split_whitespace().filter(|phase| *phase == "Running").count();
    ensure!(count == PODS, "{count} of {PODS} run");
    Ok(())
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

/// How many questions of the plugin the agents have answered within each of [`LIMITS`].
fn waited(cluster: &Cluster) -> Result<Vec<f64>> {
    let within = |limit: &str| {
        let label = format!("le=\"{limit}\"");
        let on = |node| cluster.mesh_metric_where(node, "mesh_cni_add_duration_seconds_bucket", &label);
        Ok(on("n1")? + on("n2")?)
    };
    LIMITS.into_iter().map(within).collect()
}
