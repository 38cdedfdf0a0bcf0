//! Kubernetes objects for what a topology has: pure functions to JSON.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::istiod::{NAMESPACE, NODE_ACCOUNTS};
use crate::topology::{Membership, Pod, Service};
use crate::world::World;

/// The service account of our agents; their pods are called `ACCOUNT-NODE`.
pub(super) const ACCOUNT: &str = NODE_ACCOUNTS[1];
/// Tells istiod that a pod is captured: its tunnels end in HBONE.
const CAPTURED: &str = "ambient.istio.io/redirection";
const NETWORK: &str = "topology.istio.io/network";
/// When everything became what it is; nobody compares it with a clock.
const SINCE: &str = "2026-01-01T00:00:00Z";

/// A node's name and addresses.
pub(super) type Host<'a> = (&'a str, [IpAddr; 2]);

/// Whether a pod's containers say that they are ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    Ready,
    NotReady,
}

/// A list of objects, in the order in which they are to be made.
pub(super) fn list(items: Vec<Value>) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}

/// istiod's own namespace, there before it starts.
pub(super) fn root_namespace(network: Option<&str>) -> Value {
    let mut object = object("Namespace", NAMESPACE, None);
    if let Some(network) = network {
        object["metadata"]["labels"] = json!({NETWORK: network});
    }
    object
}

/// The namespaces and accounts of pods and services, as far as Kubernetes does not make them itself.
pub(super) fn surroundings(world: &World) -> Vec<Value> {
    let pods = || world.pods.iter().filter(|pod| pod.membership != Membership::Unknown);
    let mut namespaces: BTreeSet<&str> = pods().map(|pod| pod.namespace.as_str()).collect();
    namespaces.extend(world.services.iter().map(|service| service.namespace.as_str()));
    let mut accounts: BTreeSet<(&str, &str)> =
        pods().map(|pod| (pod.namespace.as_str(), pod.service_account.as_str())).collect();
    accounts.insert((NAMESPACE, ACCOUNT));
    let namespaces = namespaces.into_iter().filter(|name| *name != NAMESPACE).map(|name| {
        let mut object = object("Namespace", name, None);
        object["metadata"]["labels"] = json!({"istio.io/dataplane-mode": "ambient"});
        object
    });
    let accounts = accounts.into_iter().map(|(namespace, name)| object("ServiceAccount", name, Some(namespace)));
    namespaces.chain(accounts).collect()
}

/// A node, ready since ever.
pub(super) fn node((name, addresses): Host<'_>) -> Value {
    let addresses = addresses.map(|address| json!({"type": "InternalIP", "address": address}));
    let mut object = object("Node", name, None);
    object["metadata"]["labels"] = json!({"kubernetes.io/hostname": name});
    object["status"] = json!({"addresses": addresses, "conditions": [condition("Ready", Readiness::Ready)]});
    object
}

/// The pod in which a node's agent would run; its token is bound to it.
pub(super) fn agent(node: &str) -> Value {
    let mut pod = object("Pod", &agent_name(node), Some(NAMESPACE));
    pod["metadata"]["labels"] = json!({"app": ACCOUNT});
    pod["spec"] = spec(node, ACCOUNT);
    pod["spec"]["hostNetwork"] = json!(true);
    pod
}

pub(super) fn agent_name(node: &str) -> String {
    format!("{ACCOUNT}-{node}")
}

/// A pod as its creator writes it, but on its node already: there is no scheduler.
pub(super) fn pod(pod: &Pod) -> Value {
    let mut object = object("Pod", &pod.name, Some(&pod.namespace));
    object["metadata"]["labels"] = json!(pod.labels);
    if pod.membership == Membership::Enrolled {
        object["metadata"]["annotations"] = json!({CAPTURED: "enabled"});
    }
    object["spec"] = spec(&pod.node, &pod.service_account);
    object
}

/// What a kubelet would write of a pod that runs on `host`. Empty `addresses` are the host's.
pub(super) fn status(host: Host<'_>, addresses: &[IpAddr], readiness: Readiness) -> Value {
    let all = |addresses: &[IpAddr]| addresses.iter().map(|address| json!({"ip": address})).collect::<Vec<_>>();
    let own = if addresses.is_empty() { &host.1 } else { addresses };
    let conditions = ["PodScheduled", "Initialized", "ContainersReady", "Ready"].map(|kind| {
        let judged = matches!(kind, "ContainersReady" | "Ready");
        condition(kind, if judged { readiness } else { Readiness::Ready })
    });
    json!({
        "phase": "Running",
        "startTime": SINCE,
        "hostIP": host.1[0],
        "hostIPs": all(&host.1),
        "podIP": own.first(),
        "podIPs": all(own),
        "conditions": conditions,
    })
}

/// A service with the virtual addresses that the lab gave it. Its endpoints are those of its selector.
pub(super) fn service(service: &Service) -> Value {
    let ports = service.ports.iter().map(
        |(port, target)| json!({"name": format!("p{port}"), "port": port, "targetPort": target, "protocol": "TCP"}),
    );
    let headless = service.addresses.is_empty();
    let addresses = if headless { json!(["None"]) } else { json!(service.addresses) };
    let mut object = object("Service", &service.name, Some(&service.namespace));
    object["spec"] = json!({
        "clusterIP": addresses[0],
        "clusterIPs": addresses,
        "ipFamilyPolicy": "PreferDualStack",
        "ports": ports.collect::<Vec<_>>(),
        "selector": service.selector,
    });
    object
}

/// Deleting it takes no time: nobody is there who would end its containers.
fn spec(node: &str, account: &str) -> Value {
    json!({
        "nodeName": node,
        "serviceAccountName": account,
        "automountServiceAccountToken": false,
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "main", "image": "lab"}],
    })
}

fn condition(kind: &str, readiness: Readiness) -> Value {
    let status = if readiness == Readiness::Ready { "True" } else { "False" };
    json!({"type": kind, "status": status, "lastTransitionTime": SINCE})
}

fn object(kind: &str, name: &str, namespace: Option<&str>) -> Value {
    let mut metadata = json!({"name": name});
    if let Some(namespace) = namespace {
        metadata["namespace"] = json!(namespace);
    }
    json!({"apiVersion": "v1", "kind": kind, "metadata": metadata})
}
