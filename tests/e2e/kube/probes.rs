//! The kubelet's probes, of all kinds, through what happens to a pod in the mesh.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_e2e::cluster::{Cluster, images, mesh};
use mesh_e2e::eventually;
use serde_json::{Value, json};

use super::support::{SOON, exec, list, names, namespace, pod, pods, script, wait_ready, with_mesh};

const NAMESPACE: &str = "probes";
const KINDS: [&str; 5] = ["http", "tcp", "grpc", "exec", "named"];
/// Time for several failures of a probe that is made each second, and for the restarts that they bring.
const WHILE: Duration = Duration::from_secs(8);

/// A pod whose start, readiness and life are probed in one way, by a kubelet that gives up at once.
fn probed(kind: &str, node: &str) -> Value {
    let action = match kind {
        "http" => json!({"httpGet": {"path": "/", "port": 8080}}),
        "named" => json!({"httpGet": {"path": "/", "port": "web"}}),
        "tcp" => json!({"tcpSocket": {"port": 8080}}),
        "grpc" => json!({"grpc": {"port": 7070}}),
        _ => json!({"exec": {"command": ["/bin/sh", "-c", "wget -q -O /dev/null http://127.0.0.1:8080/"]}}),
    };
    let probe = |failures: u32| {
        let mut probe = action.clone();
        probe["periodSeconds"] = json!(1);
        probe["timeoutSeconds"] = json!(2);
        probe["failureThreshold"] = json!(failures);
        probe
    };
    let container = json!({
        "name": "echo", "image": images::ECHO, "args": ["--port=8080", "--grpc=7070"],
        "ports": [{"name": "web", "containerPort": 8080}],
        "startupProbe": probe(30), "readinessProbe": probe(1), "livenessProbe": probe(2),
    });
    pod((NAMESPACE, kind), node, vec![container, script("tools", "sleep 3600 & wait")])
}

/// All pods are ready, and none was ever restarted or unready since `marks` were taken.
fn green(cluster: &Cluster, before: &[String]) -> Result<Vec<String>> {
    let all = wait_ready(cluster, NAMESPACE, KINDS.len())?;
    let mark = |pod: &Value| {
        let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let ready = conditions.iter().find(|one| one["type"] == "Ready").cloned().unwrap_or_default();
        let containers = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
        let restarts: Vec<_> = containers.iter().map(|one| one["restartCount"].to_string()).collect();
        format!("{} ready since {}, restarts {restarts:?}", pod["metadata"]["name"], ready["lastTransitionTime"])
    };
    let now: Vec<_> = all.iter().map(mark).collect();
    ensure!(before.is_empty() || before == now, "probes have failed: {before:?} became {now:?}");
    Ok(now)
}

/// Through labelling, strict mutual TLS, and a restart of the agents.
pub(super) fn stay_green(cluster: &Cluster) -> Result<()> {
    with_mesh(cluster)?;
    let node = |number: usize| if number.is_multiple_of(2) { "n1" } else { "n2" };
    let own = KINDS.iter().enumerate().map(|(number, kind)| probed(kind, node(number)));
    let items = [namespace(NAMESPACE)].into_iter().chain(own).collect();
    let applied = cluster.kubectl().applied(&list(items))?;
    let start = green(cluster, &[])?;
    cluster.label_namespace(NAMESPACE, Some("ambient"))?;
    let all = pods(cluster, NAMESPACE)?;
    for node in ["n1", "n2"] {
        cluster.wait_captured(SOON, node, &names(&all, node))?;
    }
    thread::sleep(WHILE);
    green(cluster, &start).context("labelled")?;
    let strict = json!({
        "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
        "metadata": {"name": "default", "namespace": NAMESPACE}, "spec": {"mtls": {"mode": "STRICT"}},
    });
    let policy = cluster.kubectl().applied(&strict.to_string())?;
    thread::sleep(WHILE);
    green(cluster, &start).context("strict")?;
    only_probes(cluster, &all).context("what the node may reach")?;
    cluster.kubectl().run(["rollout", "restart", "daemonset/mesh-agent", "--namespace", mesh::NAMESPACE])?;
    cluster.wait_mesh()?;
    thread::sleep(WHILE);
    green(cluster, &start).context("after a restart of the agents")?;
    policy.delete()?;
    applied.delete()
}

/// From the node's own address: the port that is probed answers, another port of the same pod does not.
fn only_probes(cluster: &Cluster, all: &[Value]) -> Result<()> {
    let pod = all.iter().find(|pod| pod["metadata"]["name"] == "http").context("no pod")?;
    let address = pod["status"]["podIP"].as_str().context("no address")?;
    let node = cluster.node(pod["spec"]["nodeName"].as_str().context("no node")?);
    let get = |port: u16| {
        let url = format!("http://{address}:{port}/");
        node.output("curl", ["-sS", "-o", "/dev/null", "--max-time", "2", &url])
    };
    get(8080).context("the port that is probed")?;
    eventually(SOON, || {
        ensure!(get(7070).is_err_and(|error| !error.to_string().contains("(28)")), "port 7070 is not refused");
        Ok(())
    })?;
    // From within the pod's neighbourhood nobody is the node.
    let from = exec(
        cluster,
        (NAMESPACE, "tcp"),
        "tools",
        &["curl", "-sS", "-o", "/dev/null", "--max-time", "3", &format!("http://{address}:8080/")],
    );
    from.map(drop).context("another pod of the mesh reaches it in mutual TLS")
}
