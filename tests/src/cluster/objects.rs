//! What of Kubernetes' objects is there from the start, and the scheduler that makes use of them.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use serde_json::{Value, json};

use crate::kube::istiod::NAMESPACE;
use crate::kube::{Daemon, Ground};

/// istiod's virtual address.
const ISTIOD: &str = "10.48.0.15";
const ISTIOD_PORTS: [(&str, u16); 2] = [("grpc-xds", 15010), ("https-dns", 15012)];

/// Before any node is there: the namespace of Istio, and what a kube-proxy may do.
pub(super) fn first() -> Value {
    list(json!([
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        binding("lab:kube-proxy", "system:node-proxier", "system:kube-proxy"),
        // The kubelets authorise who comes to them by asking the API server.
        binding("lab:kubelet-api", "system:kubelet-api-admin", "kube-apiserver-kubelet-client"),
    ]))
}

/// istiod's Service: the process is on the API server's host.
pub(super) fn istiod((address, _): (Ipv4Addr, Ipv6Addr)) -> Value {
    let ports = |target: &str| -> Vec<Value> {
        ISTIOD_PORTS.iter().map(|(name, port)| json!({"name": name, target: port, "protocol": "TCP"})).collect()
    };
    list(json!([
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "istiod", "namespace": NAMESPACE},
         "spec": {"clusterIP": ISTIOD, "ports": ports("port")}},
        {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
         "metadata": {"name": "istiod-host", "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": "istiod"}},
         "endpoints": [{"addresses": [address]}], "ports": ports("port")},
    ]))
}

/// The scheduler, not started.
pub(super) fn scheduler(ground: &Ground) -> Result<Daemon> {
    let name = "kube-scheduler";
    let scheduler = Daemon::new(name, ground, ground.program(name))?;
    let config = ground.file("kubeconfig");
    let options = ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"];
    let scheduler = options.iter().fold(scheduler, |scheduler, option| scheduler.file(option, &config));
    Ok(scheduler.args(["--leader-elect=false", "--profiling=false", "--bind-address=127.0.0.1"]))
}

fn binding(name: &str, role: &str, user: &str) -> Value {
    let group = "rbac.authorization.k8s.io";
    json!({
        "apiVersion": format!("{group}/v1"),
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": group, "kind": "User", "name": user}],
    })
}

fn list(items: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}
