//! A namespace's life in the mesh, as its users see it.

use anyhow::{Context, Result, ensure};
use mesh_e2e::cluster::{Cluster, mesh, shop};
use mesh_e2e::{binary, eventually};
use serde_json::json;

use super::support::{SOON, names, pods, with_mesh};

/// One request from the shop's front end; gives the status.
fn order(cluster: &Cluster, service: &str) -> Result<String> {
    let url = format!("http://{service}/");
    let client = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "3", &url];
    cluster.in_shop("frontend", &client)
}

fn sees(cluster: &Cluster, service: &str, wanted: &str) -> Result<()> {
    eventually(SOON, || {
        let status = order(cluster, service).unwrap_or_else(|error| error.to_string());
        ensure!(status == wanted, "{service}: {status}");
        Ok(())
    })
}

/// Bytes of requests that can be read on the wire between the nodes while one is made.
fn readable(cluster: &Cluster) -> Result<(usize, usize)> {
    let wire = cluster.node("n2").watch_wire()?;
    ensure!(order(cluster, "payments")? == "200", "no order");
    let seen = wire.finish()?;
    Ok((seen.showing("GET / HTTP").count(), seen.tunnelled().count()))
}

/// Label, mutual TLS, a denial, un-label: what the README tells.
pub(super) fn shop(cluster: &Cluster) -> Result<()> {
    with_mesh(cluster)?;
    cluster.open_shop()?;
    sees(cluster, "payments", "200")?;
    ensure!(readable(cluster)?.0 > 0, "before the label, requests can be read on the wire");
    cluster.label_namespace(shop::NAMESPACE, Some("ambient"))?;
    let all = pods(cluster, shop::NAMESPACE)?;
    for node in ["n1", "n2"] {
        cluster.wait_captured(SOON, node, &names(&all, node))?;
    }
    eventually(SOON, || {
        let (read, tunnelled) = readable(cluster)?;
        ensure!(read == 0 && tunnelled > 0, "{read} requests could be read, {tunnelled} packets of tunnels");
        Ok(())
    })?;
    marked(cluster)?;
    let policy = json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": "payments", "namespace": shop::NAMESPACE},
        "spec": {
            "selector": {"matchLabels": {"app": "payments"}}, "action": "ALLOW",
            "rules": [{"from": [{"source": {"principals": ["cluster.local/ns/shop/sa/cart"]}}]}],
        },
    });
    let applied = cluster.kubectl().applied(&policy.to_string())?;
    eventually(SOON, || {
        let refused = order(cluster, "payments").is_err();
        ensure!(refused, "the front end still reaches payments");
        Ok(())
    })?;
    ensure!(order(cluster, "cart")? == "200", "cart has no policy");
    let url = "http://payments/";
    let allowed = cluster.in_shop("cart", &["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", url])?;
    ensure!(allowed == "200", "cart may call payments: {allowed}");
    applied.delete()?;
    sees(cluster, "payments", "200")?;
    leave(cluster)?;
    cluster.kubectl().delete(&shop::objects().to_string())
}

/// The annotation that tells istiod.
fn marked(cluster: &Cluster) -> Result<()> {
    for pod in pods(cluster, shop::NAMESPACE)? {
        let mark = &pod["metadata"]["annotations"]["ambient.istio.io/redirection"];
        ensure!(mark == "enabled", "{}: {mark}", pod["metadata"]["name"]);
    }
    Ok(())
}

/// Un-labelled, requests can be read again, and nothing is left in the pods' namespaces.
fn leave(cluster: &Cluster) -> Result<()> {
    cluster.label_namespace(shop::NAMESPACE, None)?;
    for node in ["n1", "n2"] {
        cluster.wait_captured(SOON, node, &[])?;
    }
    eventually(SOON, || {
        let (read, tunnelled) = readable(cluster)?;
        ensure!(read > 0 && tunnelled == 0, "{read} requests could be read, {tunnelled} packets of tunnels");
        Ok(())
    })?;
    for pod in pods(cluster, shop::NAMESPACE)? {
        let name = pod["metadata"]["name"].as_str().context("a name")?;
        eventually(SOON, || traceless(cluster, name))?;
        let mark = &pod["metadata"]["annotations"]["ambient.istio.io/redirection"];
        ensure!(mark.is_null(), "{name}: {mark}");
    }
    Ok(())
}

/// No rule, no route, no listener of the agent's.
fn traceless(cluster: &Cluster, pod: &str) -> Result<()> {
    let script = "ip rule; ip -6 rule; ip route show table 100; netstat -ltn";
    let place = ["exec", "--namespace", shop::NAMESPACE, pod, "--container=tools", "--", "sh", "-c", script];
    let seen = cluster.kubectl().run(place)?;
    let ours = ["0x111", "local default", "local 0.0.0.0/0", ":15001", ":15006", ":15008"];
    let left: Vec<_> = ours.iter().filter(|ours| seen.contains(**ours)).collect();
    ensure!(left.is_empty(), "{pod} still has {left:?}:\n{seen}");
    Ok(())
}

/// Everything is as it was before the mesh was installed: the network's files, the pins, the run directory.
pub(super) fn uninstalled(cluster: &Cluster) -> Result<()> {
    let state = |node: &str| {
        let script = "cd /etc/cni/net.d && head -c 100000 *; ls /opt/cni/bin; ls -A /sys/fs/bpf; ls -A /run/mesh-agent 2>/dev/null; true";
        cluster.node(node).output("sh", ["-c", script])
    };
    let nodes = ["n1", "n2"];
    if cluster.kubectl().run(["get", "daemonset", mesh::NAME, "--namespace", mesh::NAMESPACE]).is_ok() {
        cluster.uninstall_mesh()?;
    }
    let before: Vec<_> = nodes.iter().map(|node| state(node)).collect::<Result<_>>()?;
    cluster.install_mesh(&binary::find()?)?;
    cluster.open_shop()?;
    cluster.label_namespace(shop::NAMESPACE, Some("ambient"))?;
    let all = pods(cluster, shop::NAMESPACE)?;
    for node in nodes {
        cluster.wait_captured(SOON, node, &names(&all, node))?;
        ensure!(state(node)? != before[usize::from(node == "n2")], "the mesh leaves no trace while it is there");
    }
    // Without un-labelling: the hard way.
    cluster.uninstall_mesh()?;
    for pod in pods(cluster, shop::NAMESPACE)? {
        let name = pod["metadata"]["name"].as_str().context("a name")?;
        traceless(cluster, name)?;
        let mark = &pod["metadata"]["annotations"]["ambient.istio.io/redirection"];
        ensure!(mark.is_null(), "{name}: {mark}");
    }
    sees(cluster, "payments", "200")?;
    for (node, before) in nodes.iter().zip(before) {
        let now = state(node)?;
        ensure!(now == before, "{node} was\n{before}\nand is\n{now}");
    }
    cluster.kubectl().delete(&shop::objects().to_string())
}
