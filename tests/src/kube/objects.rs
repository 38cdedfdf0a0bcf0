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

/// Of a pod's only container. Nobody ever pulls the image.
const CONTAINER: &str = "main";
const IMAGE: &str = "lab";

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

/// A node's agent's pod, of which only the status counts.
pub(super) fn agent_status(host: Host<'_>) -> Value {
    let mut object = object("Pod", &agent_name(host.0), Some(NAMESPACE));
    object["status"] = status(host, &host.1, Readiness::Ready);
    object
}

/// A pod, of which only the status counts: what a kubelet would write of one that runs on `host`.
pub(super) fn pod_status(host: Host<'_>, pod: &Pod, readiness: Readiness) -> Value {
    let mut object = object("Pod", &pod.name, Some(&pod.namespace));
    object["status"] = status(host, &pod.addresses, readiness);
    object
}

fn status(host: Host<'_>, own: &[IpAddr], readiness: Readiness) -> Value {
    let all = |addresses: &[IpAddr]| addresses.iter().map(|address| json!({"ip": address})).collect::<Vec<_>>();
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
        "containerStatuses": [{
            "name": CONTAINER,
            "image": IMAGE,
            "imageID": IMAGE,
            "ready": readiness == Readiness::Ready,
            "restartCount": 0,
            "state": {"running": {"startedAt": SINCE}},
        }],
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
        "containers": [{"name": CONTAINER, "image": IMAGE}],
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Readiness, pod, pod_status, service, surroundings};
    use crate::topology::{Pod, Service, Topology};
    use crate::world::World;

    fn world() -> World {
        let mut topology = Topology::new()
            .pod(Pod::new("a", "n1").namespace("shop"))
            .pod(Pod::new("b", "n1").plain())
            .pod(Pod::new("c", "n1").namespace("elsewhere").unknown())
            .service(Service::new("s").port(80, 8080).selects("app", "a"))
            .service(Service::new("h").port(80, 8080).headless());
        topology.assign_addresses();
        World { pods: topology.pods, services: topology.services, ..World::default() }
    }

    #[test]
    fn only_pods_of_the_mesh_are_marked() {
        let world = world();
        let annotations = |at: usize| pod(&world.pods[at])["metadata"]["annotations"].clone();
        assert_eq!(annotations(0), json!({"ambient.istio.io/redirection": "enabled"}));
        assert_eq!(annotations(1), json!(null));
    }

    #[test]
    fn what_kubernetes_does_not_know_needs_no_surroundings() {
        let objects = surroundings(&world());
        let names: Vec<_> = objects.iter().map(|object| object["metadata"]["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["default", "shop", "b", "mesh-agent", "a"]);
    }

    #[test]
    fn a_status_has_both_families_and_the_readiness() {
        let host = ("n1", ["172.30.0.1".parse().unwrap(), "fd00:30::1".parse().unwrap()]);
        let status = pod_status(host, &world().pods[0], Readiness::NotReady)["status"].clone();
        assert_eq!(status["podIPs"], json!([{"ip": "10.40.1.10"}, {"ip": "fd00:40:1::10"}]));
        assert_eq!(status["hostIP"], "172.30.0.1");
        let states: Vec<_> = status["conditions"].as_array().unwrap().iter().map(|one| &one["status"]).collect();
        assert_eq!(states, ["True", "True", "False", "False"]);
    }

    #[test]
    fn services_keep_their_addresses() {
        let world = world();
        let spec = |at: usize| service(&world.services[at])["spec"].clone();
        assert_eq!(spec(0)["clusterIPs"], json!(["10.50.0.1", "fd00:50::1"]));
        assert_eq!(spec(1)["clusterIPs"], json!(["None"]));
    }
}
