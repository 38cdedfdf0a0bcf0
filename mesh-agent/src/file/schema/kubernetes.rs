//! How the node's pods are taken from Kubernetes: the API server that names them, the plugin that announces them.

use std::path::PathBuf;

use serde::Deserialize;

/// The API server. It says which pods this node has, and which of them are in the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kubernetes {
    #[serde(deserialize_with = "super::peers::https", default = "address")]
    pub address: String,
    /// PEM file with the trust anchors of its certificate.
    #[serde(default = "root")]
    pub root: PathBuf,
    /// File with the bearer token; Kubernetes renews it.
    #[serde(default = "token")]
    pub token: PathBuf,
    /// Namespaces whose pods are never in the mesh, whatever their labels say.
    #[serde(default = "excluded_namespaces")]
    pub excluded_namespaces: Vec<String>,
    /// The node's processes. Namespaces of pods that run already are found by them.
    #[serde(default = "proc")]
    pub proc: PathBuf,
    /// Where the container runtime keeps handles of the pods' network namespaces.
    #[serde(default = "netns")]
    pub netns: PathBuf,
}

/// The CNI plugin on this node: by it a new pod is in the mesh before its first container starts.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cni {
    /// Where the container runtime looks for plugins.
    #[serde(default = "programs")]
    pub programs: PathBuf,
    /// Where the container runtime looks for the network's configuration.
    #[serde(default = "networks")]
    pub networks: PathBuf,
    /// The file in it that the plugin is added to; default the one that the runtime takes, the first by name.
    pub network: Option<String>,
    /// The agent's `run_dir` as the node's own programs see it, if that is another path.
    pub run_dir: Option<PathBuf>,
}

fn address() -> String {
    "https://kubernetes.default.svc".to_owned()
}

fn root() -> PathBuf {
    PathBuf::from("/var/run/secrets/kubernetes.io/serviceaccount/ca.crt")
}

fn token() -> PathBuf {
    PathBuf::from("/var/run/secrets/kubernetes.io/serviceaccount/token")
}

fn excluded_namespaces() -> Vec<String> {
    vec!["kube-system".to_owned()]
}

fn proc() -> PathBuf {
    PathBuf::from("/proc")
}

fn netns() -> PathBuf {
    PathBuf::from("/var/run/netns")
}

fn programs() -> PathBuf {
    PathBuf::from("/opt/cni/bin")
}

fn networks() -> PathBuf {
    PathBuf::from("/etc/cni/net.d")
}
