//! Kubernetes' own ways to a pod: each answers in the mesh as it did before.

use anyhow::{Context, Result, ensure};
use mesh_e2e::cluster::{Cluster, Proxy, Settings, mesh};
use mesh_e2e::{binary, eventually};
use serde_json::{Value, json};

use super::support::{SOON, echo, exec, list, names, namespace, pod, pods, script, service, wait_ready, with_mesh};

const NAMESPACE: &str = "ways";
const HTTP: u16 = 8080;
const NODE_PORT: u16 = 30080;
const HOST_PORT: u16 = 18080;
const HEADLESS: u16 = 8080;

fn objects() -> String {
    let mut server = pod((NAMESPACE, "server"), "n2", vec![echo(HTTP), script("tools", "sleep 3600 & wait")]);
    server["spec"]["containers"][0]["ports"] = json!([{"containerPort": HTTP, "hostPort": HOST_PORT}]);
    let client = pod((NAMESPACE, "client"), "n1", vec![script("tools", "sleep 3600 & wait")]);
    let mut node_port = service((NAMESPACE, "server"), &[(80, HTTP)]);
    node_port["spec"]["type"] = json!("NodePort");
    node_port["spec"]["ports"][0]["nodePort"] = json!(NODE_PORT);
    let mut headless = service((NAMESPACE, "server"), &[(HEADLESS, HTTP)]);
    headless["metadata"]["name"] = json!("headless");
    headless["spec"]["clusterIP"] = json!("None");
    let external = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "external", "namespace": NAMESPACE},
        "spec": {"type": "ExternalName", "externalName": format!("server.{NAMESPACE}.svc.cluster.local")},
    });
    list(vec![namespace(NAMESPACE), server, client, node_port, headless, external])
}

/// Each way: who asks, and what.
fn ways(cluster: &Cluster) -> Result<Vec<(&'static str, &'static str, String)>> {
    let all = pods(cluster, NAMESPACE)?;
    let server = all.iter().find(|pod| pod["metadata"]["name"] == "server").context("no server")?;
    let address = server["status"]["podIP"].as_str().context("no address")?.to_owned();
    let node = cluster.node("n2").addresses()[0];
    Ok(vec![
        ("a service", "client", "http://server/".into()),
        ("a service by its whole name", "client", format!("http://server.{NAMESPACE}.svc.cluster.local/")),
        ("a headless service", "client", format!("http://headless:{HEADLESS}/")),
        ("a name of another", "client", "http://external/".into()),
        ("the pod itself", "client", format!("http://{address}:{HTTP}/")),
        ("a node's port", "client", format!("http://{node}:{NODE_PORT}/")),
        ("a port of the host", "client", format!("http://{node}:{HOST_PORT}/")),
        // Its own short name is in its /etc/hosts.
        ("itself through its service", "server", format!("http://server.{NAMESPACE}/")),
        ("itself by its address", "server", format!("http://{address}:{HTTP}/")),
        ("itself on loopback", "server", format!("http://127.0.0.1:{HTTP}/")),
    ])
}

fn get(cluster: &Cluster, from: &str, url: &str) -> Result<()> {
    let client = ["curl", "-sS", "--max-time", "3", url];
    let answer = exec(cluster, (NAMESPACE, from), "tools", &client)?;
    ensure!(answer.contains("Hostname=server"), "{answer}");
    Ok(())
}

/// Which of the ways work.
fn working(cluster: &Cluster) -> Result<Vec<&'static str>> {
    let all = ways(cluster)?;
    Ok(all.iter().filter(|(_, from, url)| get(cluster, from, url).is_ok()).map(|(way, ..)| *way).collect())
}

fn enrol(cluster: &Cluster) -> Result<Vec<Value>> {
    cluster.label_namespace(NAMESPACE, Some("ambient"))?;
    let all = pods(cluster, NAMESPACE)?;
    for node in ["n1", "n2"] {
        cluster.wait_captured(SOON, node, &names(&all, node))?;
    }
    Ok(all)
}

/// With kube-proxy: what worked before works in the mesh.
pub(super) fn as_before(cluster: &Cluster) -> Result<()> {
    with_mesh(cluster)?;
    let applied = cluster.kubectl().applied(&objects())?;
    wait_ready(cluster, NAMESPACE, 2)?;
    let before = eventually(SOON, || {
        let before = working(cluster)?;
        ensure!(before.len() == ways(cluster)?.len(), "before the label only these work: {before:?}");
        Ok(before)
    })?;
    enrol(cluster)?;
    eventually(SOON, || {
        for (way, from, url) in ways(cluster)? {
            get(cluster, from, &url).with_context(|| format!("{way}, from {from}"))?;
        }
        Ok(())
    })
    .with_context(|| format!("these worked before: {before:?}"))?;
    applied.delete()
}

/// Without kube-proxy nothing but the mesh leads from a service's address to a pod.
pub(super) fn without_kube_proxy() -> Result<()> {
    let cluster = Cluster::start(&Settings::new().proxy(Proxy::None))?;
    cluster.import(&mesh::image(&binary::find()?)?)?;
    cluster.install_mesh_without_services()?;
    let applied = cluster.kubectl().applied(&objects())?;
    wait_ready(&cluster, NAMESPACE, 2)?;
    let service = cluster.kubectl().json(&["get", "service", "server", "--namespace", NAMESPACE])?;
    let address = service["spec"]["clusterIP"].as_str().context("no address")?;
    let url = format!("http://{address}/");
    ensure!(get(&cluster, "client", &url).is_err(), "a service's address leads somewhere without kube-proxy");
    enrol(&cluster)?;
    eventually(SOON, || get(&cluster, "client", &url))?;
    eventually(SOON, || get(&cluster, "server", &url)).context("itself through its service")?;
    applied.delete()
}
