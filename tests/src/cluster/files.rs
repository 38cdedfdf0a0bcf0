//! The configurations of a node's programs: pure functions to text.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::images::PAUSE;

pub(super) const SOCKET: &str = "/run/containerd/containerd.sock";
pub(super) const ROOT: &str = "/etc/kubernetes/root.pem";
pub(super) const KUBELET: &str = "/etc/kubernetes/kubelet.json";
pub(super) const KUBELET_ACCESS: &str = "/etc/kubernetes/kubelet.kubeconfig";
pub(super) const PROXY: &str = "/etc/kubernetes/kube-proxy.json";
pub(super) const PROXY_ACCESS: &str = "/etc/kubernetes/kube-proxy.kubeconfig";
/// All pods of all nodes.
const PODS: &str = "10.40.0.0/16,fd00:40::/32";
/// Of the cluster's name server.
pub(super) const NAME_SERVER: &str = "10.48.0.10";

/// containerd's.
pub(super) fn containerd() -> String {
    let lines = [
        "version = 2",
        "[grpc]",
        &format!("address = \"{SOCKET}\""),
        "[plugins.\"io.containerd.grpc.v1.cri\"]",
        &format!("sandbox_image = \"{PAUSE}\""),
        // Lower scores than its own may be forbidden.
        "restrict_oom_score_adj = true",
        "disable_hugetlb_controller = true",
        "[plugins.\"io.containerd.grpc.v1.cri\".cni]",
        "bin_dir = \"/opt/cni/bin\"",
        "conf_dir = \"/etc/cni/net.d\"",
        "[plugins.\"io.containerd.grpc.v1.cri\".containerd]",
        "snapshotter = \"overlayfs\"",
    ];
    lines.join("\n") + "\n"
}

/// The network of the pods of node `number`: a bridge, addresses of both families, host ports.
pub(super) fn network(number: u8) -> Value {
    let ranges = json!([[{"subnet": format!("10.40.{number}.0/24")}], [{"subnet": format!("fd00:40:{number}::/64")}]]);
    json!({
        "cniVersion": "1.0.0",
        "name": "lab",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isDefaultGateway": true,
                "hairpinMode": true,
                "ipam": {"type": "host-local", "ranges": ranges},
            },
            {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true},
        ],
    })
}

/// The kubelet's. `group` is the node's control group in every hierarchy.
pub(super) fn kubelet(group: &str) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": ROOT},
        },
        "authorization": {"mode": "Webhook"},
        "containerRuntimeEndpoint": format!("unix://{SOCKET}"),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": group,
        "cgroupsPerQOS": true,
        "enforceNodeAllocatable": [],
        "failCgroupV1": false,
        "failSwapOn": false,
        "localStorageCapacityIsolation": false,
        "clusterDomain": "cluster.local",
        "clusterDNS": [NAME_SERVER],
        "evictionHard": {"memory.available": "1Mi"},
        "imageGCHighThresholdPercent": 100,
        "maxPods": 250,
        "serializeImagePulls": false,
        "registerNode": true,
        "syncFrequency": "10s",
        "nodeStatusUpdateFrequency": "5s",
        "shutdownGracePeriod": "0s",
        "makeIPTablesUtilChains": true,
    })
}

/// kube-proxy's. Connection tracking has limits of the machine, which are left as they are.
pub(super) fn proxy(node: &str, mode: &str) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": PROXY_ACCESS},
        "mode": mode,
        "hostnameOverride": node,
        "clusterCIDR": PODS,
        "bindAddress": "0.0.0.0",
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    })
}

/// What the kubelet is started with.
pub(super) fn kubelet_arguments(node: &str, addresses: [IpAddr; 2]) -> [String; 5] {
    [
        format!("--config={KUBELET}"),
        format!("--kubeconfig={KUBELET_ACCESS}"),
        format!("--hostname-override={node}"),
        format!("--node-ip={}", addresses.map(|address| address.to_string()).join(",")),
        "--cert-dir=/var/lib/kubelet/pki".to_owned(),
    ]
}
