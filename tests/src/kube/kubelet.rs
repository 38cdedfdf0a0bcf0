//! What a kubelet would tell the API server of a node and its pods. None runs: the lab's namespaces are the pods.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::kubectl::Kubectl;
use super::objects::{self, Host, Readiness};
use crate::topology::{Membership, Pod, Service};
use crate::world::World;

/// Makes objects for everything in the world that Kubernetes may know of, and for the agents' own pods. Pods run as soon
/// as they are there.
pub(super) fn populate(kubectl: &Kubectl, nodes: &[Host<'_>], world: &World) -> Result<()> {
    // Not applied: to that, two addresses of a kind are one.
    let hosts = objects::list(nodes.iter().map(|host| objects::node(*host)).collect());
    kubectl.pipe(&["create", "--filename=-"], &hosts.to_string())?;
    let mut items = objects::surroundings(world);
    items.extend(nodes.iter().map(|(name, _)| objects::agent(name)));
    items.extend(known(&world.pods).map(objects::pod));
    for service in &world.services {
        ensure!(service.endpoints.is_empty(), "service {}: in Kubernetes endpoints are selected", service.name);
        items.push(objects::service(service));
    }
    kubectl.apply(&objects::list(items).to_string())?;
    let own = nodes.iter().map(|host| objects::agent_status(*host));
    let pods = known(&world.pods).map(|pod| first_status(nodes, pod));
    let statuses = own.map(Ok).chain(pods).collect::<Result<_>>()?;
    kubectl.apply_status(&objects::list(statuses).to_string())
}

/// Adds one pod, its namespace and account, of which nobody says that it runs.
pub(super) fn create_pod(kubectl: &Kubectl, pod: &Pod) -> Result<()> {
    let world = World { pods: vec![pod.clone()], ..World::default() };
    let mut items = objects::surroundings(&world);
    items.push(objects::pod(pod));
    kubectl.apply(&objects::list(items).to_string())
}

/// Adds one pod, and says that it runs.
pub(super) fn add_pod(kubectl: &Kubectl, nodes: &[Host<'_>], pod: &Pod) -> Result<()> {
    create_pod(kubectl, pod)?;
    kubectl.apply_status(&first_status(nodes, pod)?.to_string())
}

/// Adds one service, whose namespace is there.
pub(super) fn add_service(kubectl: &Kubectl, service: &Service) -> Result<()> {
    kubectl.apply(&objects::service(service).to_string())
}

/// Says whether a pod is ready.
pub(super) fn set_readiness(kubectl: &Kubectl, nodes: &[Host<'_>], pod: &Pod, readiness: Readiness) -> Result<()> {
    kubectl.apply_status(&objects::pod_status(host_of(nodes, pod)?, pod, readiness).to_string())
}

fn first_status(nodes: &[Host<'_>], pod: &Pod) -> Result<Value> {
    let ill = pod.more.get("healthy").and_then(Value::as_bool) == Some(false);
    let readiness = if ill { Readiness::NotReady } else { Readiness::Ready };
    Ok(objects::pod_status(host_of(nodes, pod)?, pod, readiness))
}

fn host_of<'a>(nodes: &[Host<'a>], pod: &Pod) -> Result<Host<'a>> {
    let host = nodes.iter().copied().find(|(name, _)| *name == pod.node);
    host.with_context(|| format!("pod {} is on node {}, which the lab does not have", pod.name, pod.node))
}

fn known(pods: &[Pod]) -> impl Iterator<Item = &Pod> {
    pods.iter().filter(|pod| pod.membership != Membership::Unknown)
}
