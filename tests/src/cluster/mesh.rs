//! The mesh in a cluster: our agent in an image, and `deploy/` applied, as its users do it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Cluster, Image};
use crate::eventually::eventually;
use crate::kube::{Api, Istiod};

/// Its namespace, which is istiod's.
pub const NAMESPACE: &str = "istio-system";
/// The DaemonSet's name, and its account's, its role's and its configuration's.
pub const NAME: &str = "mesh-agent";
/// As `deploy/kubernetes/base` names it.
pub const IMAGE: &str = "localhost/mesh-agent:dev";
/// The label of namespaces and pods.
pub const LABEL: &str = "istio.io/dataplane-mode";

const ROLLOUT: &str = "--timeout=90s";
const GONE: Duration = Duration::from_secs(40);
const ADMIN: &str = "/run/mesh-agent/admin.sock";

/// A folder of `deploy/`.
pub fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("")).join("deploy").join(name)
}

/// The agent's image: the program that is tested, with the libraries that it is linked with.
pub fn image(agent: &Path) -> Result<Image> {
    Ok(Image::new(IMAGE).libraries(agent)?.layer().file("/mesh-agent", agent).empty("/tmp").entrypoint(["/mesh-agent"]))
}

impl Cluster {
    /// Has the agent run on every node: `kubectl apply -k deploy/`, and waits until all are ready.
    pub fn install_mesh(&self, agent: &Path) -> Result<()> {
        self.import(&image(agent)?)?;
        self.apply_folder("")?;
        self.wait_mesh()
    }

    /// The same where no Service leads anywhere, since there is no kube-proxy: the agents are told the hosts themselves.
    pub fn install_mesh_without_services(&self) -> Result<()> {
        let folder = folder("").display().to_string();
        let objects = self.kubectl().run(["kustomize", &folder])?;
        let istiod = "address: https://istiod.istio-system.svc:15012";
        let line = |line: &str| match line.split_once(istiod) {
            Some((indent, _)) => format!(
                "{indent}address: https://{}\n{indent}server_name: istiod.istio-system.svc\n",
                Istiod::address()
            ),
            None => format!("{}\n", line.replace("${API_SERVER}", &format!("https://{}", Api::address()))),
        };
        self.kubectl().apply(&objects.lines().map(line).collect::<String>())?;
        self.wait_mesh()
    }

    /// Applies a folder of `deploy/`.
    pub fn apply_folder(&self, name: &str) -> Result<()> {
        let folder = folder(name);
        let arguments = ["apply", "--server-side", "--force-conflicts", "--kustomize"].map(str::to_owned);
        self.kubectl().run(arguments.into_iter().chain([folder.display().to_string()])).map(drop)
    }

    /// Deletes what a folder of `deploy/` has made, and waits until it is gone.
    pub fn delete_folder(&self, name: &str) -> Result<()> {
        let folder = folder(name);
        let arguments = ["delete", "--ignore-not-found", "--timeout=60s", "--kustomize"].map(str::to_owned);
        self.kubectl().run(arguments.into_iter().chain([folder.display().to_string()])).map(drop)
    }

    /// Waits until all nodes' agents are ready, and are as the DaemonSet says.
    pub fn wait_mesh(&self) -> Result<()> {
        let arguments = ["rollout", "status", "daemonset/mesh-agent", "--namespace", NAMESPACE, ROLLOUT];
        let said = self.kubectl().run(arguments).map(drop);
        said.with_context(|| format!("the agents are not ready\n{}\n{}", self.events(NAMESPACE), self.mesh_log()))
    }

    /// The ends of the agents' logs.
    pub fn mesh_log(&self) -> String {
        let arguments = ["logs", "--namespace", NAMESPACE, "--selector=app=mesh-agent", "--prefix", "--tail=40"];
        self.kubectl().run(arguments).unwrap_or_else(|error| error.to_string())
    }

    /// The name of a node's agent's pod.
    pub fn agent_pod(&self, node: &str) -> Result<String> {
        let field = format!("--field-selector=spec.nodeName={node}");
        let what = ["get", "pods", "--namespace", NAMESPACE, "--selector=app=mesh-agent", &field];
        let pods = self.kubectl().json(&what)?;
        let living = |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_null();
        let pod = pods["items"].as_array().and_then(|all| all.iter().find(living));
        let name = pod.and_then(|pod| pod["metadata"]["name"].as_str());
        Ok(name.with_context(|| format!("no agent runs on {node}"))?.to_owned())
    }

    /// A document of a node's agent, such as `/status`.
    pub fn mesh_document(&self, node: &str, path: &str) -> Result<Value> {
        let url = format!("http://agent{path}");
        let text = self.node(node).output("curl", ["-sS", "--max-time", "5", "--unix-socket", ADMIN, &url])?;
        serde_json::from_str(&text).with_context(|| format!("{path} of {node}: {text}"))
    }

    /// The value of a metric of a node's agent, summed over its labels.
    pub fn mesh_metric(&self, node: &str, name: &str) -> Result<f64> {
        self.mesh_metric_where(node, name, "")
    }

    /// The same over those series whose labels have this text.
    pub fn mesh_metric_where(&self, node: &str, name: &str, label: &str) -> Result<f64> {
        let url = "http://agent/metrics";
        let text = self.node(node).output("curl", ["-sS", "--max-time", "5", "--unix-socket", ADMIN, url])?;
        let of = |line: &str| {
            let rest = line.strip_prefix(name)?;
            let value =
                rest.strip_prefix('{').map_or(Some(rest), |labels| labels.rsplit_once('}').map(|(_, value)| value))?;
            value.strip_prefix(' ')?.split(' ').next()?.parse::<f64>().ok()
        };
        Ok(text.lines().filter(|line| line.contains(label)).filter_map(of).sum())
    }

    /// Waits until a node's agent has exactly these pods captured, each `namespace/name`.
    pub fn wait_captured(&self, limit: Duration, node: &str, pods: &[String]) -> Result<()> {
        let mut wanted = pods.to_vec();
        wanted.sort();
        eventually(limit, || {
            let captured = self.captured(node)?;
            ensure!(captured == wanted, "{node} has captured {captured:?}, not {wanted:?}");
            Ok(())
        })
    }

    /// The pods that a node's agent has captured, each `namespace/name`, sorted.
    pub fn captured(&self, node: &str) -> Result<Vec<String>> {
        let status = self.mesh_document(node, "/status")?;
        let pods = status["pods"].as_array().context("no pods")?;
        let captured =
            pods.iter().filter(|pod| pod["state"].as_str().is_some_and(|state| state.starts_with("captured")));
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut names: Vec<_> =
            captured.map(|pod| format!("{}/{}", text(&pod["namespace"]), text(&pod["name"]))).collect();
        names.sort();
        Ok(names)
    }

    /// Puts a namespace into the mesh, or takes it out.
    pub fn label_namespace(&self, namespace: &str, mode: Option<&str>) -> Result<()> {
        let label = mode.map_or_else(|| format!("{LABEL}-"), |mode| format!("{LABEL}={mode}"));
        self.kubectl().run(["label", "namespace", namespace, "--overwrite", &label]).map(drop)
    }

    /// Takes the mesh away as docs/kubernetes.md says, so that the nodes are as they were.
    pub fn uninstall_mesh(&self) -> Result<()> {
        self.delete_folder("")?;
        eventually(GONE, || {
            let pods = self.kubectl().run(["get", "pods", "--namespace", NAMESPACE, "--selector=app=mesh-agent"])?;
            ensure!(pods.trim().is_empty(), "agents are still there: {pods}");
            Ok(())
        })?;
        self.apply_folder("kubernetes/uninstall")?;
        let arguments = ["rollout", "status", "daemonset/mesh-agent-uninstall", "--namespace", NAMESPACE, ROLLOUT];
        self.kubectl().run(arguments).with_context(|| self.events(NAMESPACE))?;
        self.delete_folder("kubernetes/uninstall")
    }
}
