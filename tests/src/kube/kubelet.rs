//! What a kubelet would tell the API server of a node and its pods. None runs: the lab's namespaces are the pods.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::istiod::NAMESPACE;
use super::kubectl::Kubectl;
use super::objects::{self, Host, Readiness};
use crate::topology::{Membership, Pod, Service};
use crate::world::World;

/// Makes objects for everything in the world that Kubernetes may know of, and for the agents' own pods. Pods run as soon
/// as they are there.
pub(super) fn populate(kubectl: &Kubectl, nodes: &[Host<'_>], world: &World) -> Result<()> {
    let mut items = objects::surroundings(world);
    items.extend(nodes.iter().map(|host| objects::node(*host)));
    items.extend(nodes.iter().map(|(name, _)| objects::agent(name)));
    items.extend(known(&world.pods).map(objects::pod));
    for service in &world.services {
        ensure!(service.endpoints.is_empty(), "service {}: in Kubernetes endpoints are selected", service.name);
        items.push(objects::service(service));
    }
    kubectl.apply(&objects::list(items).to_string())?;
    for host in nodes {
        let status = objects::status(*host, &[], Readiness::Ready);
        patch_status(kubectl, NAMESPACE, &objects::agent_name(host.0), &status)?;
    }
    known(&world.pods).try_for_each(|pod| run(kubectl, nodes, pod))
}

/// Adds one pod, its namespace and account, and says that it runs.
pub(super) fn add_pod(kubectl: &Kubectl, nodes: &[Host<'_>], pod: &Pod) -> Result<()> {
    let world = World { pods: vec![pod.clone()], ..World::default() };
    let mut items = objects::surroundings(&world);
    items.push(objects::pod(pod));
    kubectl.apply(&objects::list(items).to_string())?;
    run(kubectl, nodes, pod)
}

/// Adds one service, whose namespace is there.
pub(super) fn add_service(kubectl: &Kubectl, service: &Service) -> Result<()> {
    kubectl.apply(&objects::service(service).to_string())
}

/// Says whether a pod is ready.
pub(super) fn set_readiness(kubectl: &Kubectl, nodes: &[Host<'_>], pod: &Pod, readiness: Readiness) -> Result<()> {
    let host = *nodes.iter().find(|(name, _)| *name == pod.node).context("the pod's node")?;
    patch_status(kubectl, &pod.namespace, &pod.name, &objects::status(host, &pod.addresses, readiness))
}

fn run(kubectl: &Kubectl, nodes: &[Host<'_>], pod: &Pod) -> Result<()> {
    let ill = pod.more.get("healthy").and_then(Value::as_bool) == Some(false);
    set_readiness(kubectl, nodes, pod, if ill { Readiness::NotReady } else { Readiness::Ready })
}

fn known(pods: &[Pod]) -> impl Iterator<Item = &Pod> {
    pods.iter().filter(|pod| pod.membership != Membership::Unknown)
}

fn patch_status(kubectl: &Kubectl, namespace: &str, name: &str, status: &Value) -> Result<()> {
    let patch = json!({"status": status}).to_string();
    let place = ["patch", "pod", name, "--namespace", namespace, "--subresource=status"];
    kubectl.run(place.iter().copied().chain(["--type=merge", "--patch", patch.as_str()])).map(drop)
}
