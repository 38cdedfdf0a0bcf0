//! Pods that carry load and tell how it fares, and what these cases ask of a cluster.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_e2e::cluster::{Cluster, images, mesh};
use mesh_e2e::{binary, eventually};
use serde_json::{Value, json};

/// Until pods run.
pub(super) const START: Duration = Duration::from_secs(90);
/// Until something that was asked for is seen.
pub(super) const SOON: Duration = Duration::from_secs(20);

/// Installs the mesh unless it is there.
pub(super) fn with_mesh(cluster: &Cluster) -> Result<()> {
    let what = ["get", "daemonset", mesh::NAME, "--namespace", mesh::NAMESPACE, "--ignore-not-found", "--output=name"];
    if cluster.kubectl().run(what)?.trim().is_empty() {
        return cluster.install_mesh(&binary::find()?);
    }
    cluster.wait_mesh()
}

pub(super) fn list(items: Vec<Value>) -> String {
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

pub(super) fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

/// A container of the tools, with a shell's script.
pub(super) fn script(name: &str, text: &str) -> Value {
    json!({"name": name, "image": images::TOOLS, "command": ["/bin/sh", "-c", format!("trap 'exit 0' TERM; {text}")]})
}

/// A container with Istio's echo server.
pub(super) fn echo(port: u16) -> Value {
    json!({
        "name": "echo", "image": images::ECHO, "args": [format!("--port={port}")],
        "readinessProbe": {"httpGet": {"path": "/", "port": port}, "periodSeconds": 1},
    })
}

/// A pod on a node, under the account `default`.
pub(super) fn pod((namespace, name): (&str, &str), node: &str, containers: Vec<Value>) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": {"nodeName": node, "terminationGracePeriodSeconds": 1, "containers": containers},
    })
}

/// A service of the pods with the label `app: NAME`.
pub(super) fn service((namespace, name): (&str, &str), ports: &[(u16, u16)]) -> Value {
    let port = |(port, target): &(u16, u16)| json!({"name": format!("p{port}"), "port": port, "targetPort": target});
    let ports: Vec<_> = ports.iter().map(port).collect();
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"app": name}, "ports": ports},
    })
}

/// Waits until every pod of a namespace is ready; gives them.
pub(super) fn wait_ready(cluster: &Cluster, namespace: &str, count: usize) -> Result<Vec<Value>> {
    let ready = |pod: &Value| {
        let conditions = pod["status"]["conditions"].as_array();
        conditions.is_some_and(|all| all.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"))
    };
    let found = eventually(START, || {
        let pods = pods(cluster, namespace)?;
        let waiting: Vec<_> =
            pods.iter().filter(|pod| !ready(pod)).map(|pod| pod["metadata"]["name"].to_string()).collect();
        ensure!(pods.len() == count && waiting.is_empty(), "{} pods of {count}, not ready: {waiting:?}", pods.len());
        Ok(pods)
    });
    found.with_context(|| cluster.events(namespace))
}

/// The pods of a namespace.
pub(super) fn pods(cluster: &Cluster, namespace: &str) -> Result<Vec<Value>> {
    let list = cluster.kubectl().json(&["get", "pods", "--namespace", namespace])?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

/// The names of a node's pods of a namespace, `namespace/name`.
pub(super) fn names(pods: &[Value], node: &str) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let here = pods.iter().filter(|pod| pod["spec"]["nodeName"] == node);
    here.map(|pod| format!("{}/{}", text(&pod["metadata"]["namespace"]), text(&pod["metadata"]["name"]))).collect()
}

/// What a container has printed.
pub(super) fn said(cluster: &Cluster, (namespace, pod): (&str, &str), container: &str) -> Result<String> {
    cluster.kubectl().run(["logs", "--namespace", namespace, pod, "--container", container])
}

/// Runs a program in a container of a pod.
pub(super) fn exec(
    cluster: &Cluster,
    (namespace, pod): (&str, &str),
    container: &str,
    command: &[&str],
) -> Result<String> {
    let container = format!("--container={container}");
    let start = ["exec", "--namespace", namespace, pod, &container, "--"];
    cluster.kubectl().run(start.iter().chain(command))
}
