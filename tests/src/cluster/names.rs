//! The cluster's name server: its objects, as pure functions.

use serde_json::{Value, json};

use super::files::NAME_SERVER;
use super::images::NAMES;
use crate::kube::Api;

pub(super) const NAMESPACE: &str = "kube-system";
pub(super) const DEPLOYMENT: &str = "deployment/coredns";
/// Names outside of the cluster are nobody's here.
const COREFILE: &str = ".:53 {
    errors
    health
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        pods insecure
    }
    cache 5
    loadbalance
}
";

/// All that it needs, in the order in which it is to be made.
pub(super) fn objects() -> Value {
    let group = "rbac.authorization.k8s.io";
    let meta = json!({"name": "coredns", "namespace": NAMESPACE});
    let watch =
        |group: &str, what: &[&str]| json!({"apiGroups": [group], "resources": what, "verbs": ["list", "watch"]});
    let rules = [watch("", &["services", "pods", "namespaces"]), watch("discovery.k8s.io", &["endpointslices"])];
    let ports =
        ["UDP", "TCP"].map(|protocol| json!({"name": protocol.to_lowercase(), "port": 53, "protocol": protocol}));
    let service = json!({"clusterIP": NAME_SERVER, "selector": {"k8s-app": "kube-dns"}, "ports": ports});
    let items = json!([
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta},
        {"apiVersion": format!("{group}/v1"), "kind": "ClusterRole", "metadata": {"name": "lab:coredns"}, "rules": rules},
        {"apiVersion": format!("{group}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": "lab:coredns"},
         "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "lab:coredns"},
         "subjects": [{"kind": "ServiceAccount", "name": "coredns", "namespace": NAMESPACE}]},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"Corefile": COREFILE}},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "kube-dns", "namespace": NAMESPACE}, "spec": service},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": deployment()},
    ]);
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}

fn deployment() -> Value {
    let labels = json!({"k8s-app": "kube-dns"});
    let api = Api::address();
    let container = json!({
        "name": "coredns",
        "image": NAMES,
        "imagePullPolicy": "Never",
        "args": ["-conf", "/etc/coredns/Corefile"],
        // By its own address: there may be no kube-proxy.
        "env": [
            {"name": "KUBERNETES_SERVICE_HOST", "value": api.ip()},
            {"name": "KUBERNETES_SERVICE_PORT", "value": api.port().to_string()},
        ],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns"}],
    });
    json!({
        "replicas": 1,
        "selector": {"matchLabels": labels},
        "template": {
            "metadata": {"labels": labels},
            "spec": {
                "serviceAccountName": "coredns",
                "dnsPolicy": "Default",
                "priorityClassName": "system-cluster-critical",
                "terminationGracePeriodSeconds": 1,
                "tolerations": [{"operator": "Exists"}],
                "containers": [container],
                "volumes": [{"name": "config", "configMap": {"name": "coredns"}}],
            },
        },
    })
}
