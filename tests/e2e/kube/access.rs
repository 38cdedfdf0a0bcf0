//! What the agent may do with the API server: each permission is taken away, and what is missing then is what
//! docs/kubernetes.md says.

use anyhow::{Context, Result, ensure};
use mesh_e2e::cluster::{Cluster, mesh, shop};
use mesh_e2e::eventually;
use serde_json::{Value, json};

use super::support::{SOON, pods, wait_ready, with_mesh};
use crate::runner::say;

/// The role as it is applied.
fn role(cluster: &Cluster) -> Result<Value> {
    let mut role = cluster.kubectl().json(&["get", "clusterrole", mesh::NAME])?;
    let meta = json!({"name": mesh::NAME});
    role["metadata"] = meta;
    Ok(role)
}

/// Each permission, as resource and verb.
fn permissions(role: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let rules = list(&role["rules"]);
    let pairs = rules.iter().flat_map(|rule| {
        let verbs = list(&rule["verbs"]);
        list(&rule["resources"])
            .into_iter()
            .flat_map(move |resource| verbs.clone().into_iter().map(move |verb| (text(&resource), text(&verb))))
    });
    pairs.collect()
}

/// The role without one permission.
fn without(role: &Value, (resource, verb): &(String, String)) -> Value {
    let rules = permissions(role)
        .into_iter()
        .filter(|one| one != &(resource.clone(), verb.clone()))
        .map(|(resource, verb)| json!({"apiGroups": [""], "resources": [resource], "verbs": [verb]}));
    let mut less = role.clone();
    less["rules"] = rules.collect();
    less
}

/// With each permission taken away something stops working, and it is told; given back, all is well again.
pub(super) fn each_is_needed(cluster: &Cluster) -> Result<()> {
    with_mesh(cluster)?;
    let role = role(cluster)?;
    let all = permissions(&role);
    ensure!(all.len() == 5, "{all:?}");
    for permission in &all {
        let name = format!("{} {}", permission.1, permission.0);
        cluster.kubectl().run(["delete", "clusterrole", mesh::NAME])?;
        cluster.kubectl().apply(&without(&role, permission).to_string())?;
        let missed = missed(cluster, &permission.0, &permission.1).with_context(|| format!("without {name}"));
        cluster.kubectl().apply(&role.to_string())?;
        cluster.kubectl().delete(&shop::objects().to_string())?;
        say(format_args!("without {name}: {}", missed?));
    }
    restart(cluster)?;
    cluster.wait_mesh()
}

/// Has all agents start anew. A rollout would wait for the first to be ready, and the others would go on with what they
/// were told when they might ask.
fn restart(cluster: &Cluster) -> Result<()> {
    let selected = format!("--selector=app={}", mesh::NAME);
    cluster.kubectl().run(["delete", "pods", &selected, "--namespace", mesh::NAMESPACE]).map(drop)
}

/// What is not done, as the agent tells it.
fn missed(cluster: &Cluster, resource: &str, verb: &str) -> Result<String> {
    restart(cluster)?;
    cluster.kubectl().apply(&shop::objects().to_string())?;
    if verb == "watch" {
        // A pod that is labelled before it is announced need not be watched.
        wait_ready(cluster, shop::NAMESPACE, shop::SERVICES.len())?;
    }
    cluster.label_namespace(shop::NAMESPACE, Some("ambient"))?;
    let told = format!("may not {verb} {resource}");
    eventually(SOON * 3, || {
        let status = cluster.mesh_document("n1", "/status")?;
        let error = status["kubernetes"]["error"].as_str().unwrap_or_default().to_owned();
        let log = cluster.mesh_log();
        ensure!(error.contains(&told) || log.contains(&told), "nothing says {told:?}: {error:?}");
        Ok(())
    })?;
    let unmarked = pods(cluster, shop::NAMESPACE)?
        .iter()
        .all(|pod| pod["metadata"]["annotations"]["ambient.istio.io/redirection"] != "enabled");
    ensure!(unmarked, "the pods are in the mesh all the same");
    Ok(told)
}
