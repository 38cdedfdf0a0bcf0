//! A real istiod: configuration over xDS, and the certificate authority.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};

use super::daemon::Daemon;
use super::ground::Ground;
use super::kubectl::Kubectl;
use super::settings::Settings;
use crate::authority::replace;
use crate::eventually::eventually;
use crate::http;
use crate::log::Log;
use crate::namespace::Namespace;

/// Its namespace, which is the mesh's root namespace as well.
pub const NAMESPACE: &str = "istio-system";
/// Who may ask for certificates in the place of the pods of its node: Istio's node proxy, and our agent.
pub const NODE_ACCOUNTS: [&str; 2] = ["ztunnel", "mesh-agent"];
/// The id of the cluster: what the header `clusterid` says.
pub const CLUSTER: &str = "Kubernetes";

const PORT: u16 = 15012;
/// Its pages, on its own host only.
const PAGES: u16 = 8080;
const START: Duration = Duration::from_secs(60);
const ROOT: Duration = Duration::from_secs(20);

/// istiod. It can be stopped and started at any time through a shared reference.
#[derive(Debug)]
pub struct Istiod {
    daemon: Daemon,
    host: Namespace,
    mesh_file: PathBuf,
    mesh: Map<String, Value>,
    root: PathBuf,
}

impl Istiod {
    /// For an API server that has Istio's resources and the namespace [`NAMESPACE`]. It is not started.
    pub(crate) fn new(ground: &Ground, settings: &Settings, trust_domain: &str) -> Result<Self> {
        let daemon = Daemon::new("istiod", ground, ground.tools.program("pilot-discovery"))?;
        let mesh_file = daemon.directory().join("mesh.yaml");
        let istiod = Self {
            daemon: configured(daemon, settings, &ground.file("kubeconfig"), &mesh_file),
            host: ground.host.clone(),
            mesh: mesh(settings, trust_domain),
            mesh_file,
            root: ground.file("root-cert.pem"),
        };
        istiod.set_mesh(|_| ())?;
        Ok(istiod)
    }

    /// Where it runs.
    pub(super) fn directory(&self) -> &Path {
        self.daemon.directory()
    }

    /// Waits until it has published exactly this bundle of roots, which is then in the file [`Istiod::root`].
    pub(super) fn wait_roots(&self, kubectl: &Kubectl, bundle: &str) -> Result<()> {
        eventually(ROOT, || {
            let published = published_root(kubectl)?;
            ensure!(published.trim() == bundle.trim(), "istiod has published other roots");
            Ok(())
        })?;
        replace(&self.root, bundle)
    }

    /// Waits until it is ready and has published its root certificate, which is then in the file [`Istiod::root`].
    pub(crate) fn wait_published(&self, kubectl: &Kubectl) -> Result<()> {
        self.wait_ready()?;
        fs::write(&self.root, published_root(kubectl)?)?;
        Ok(())
    }

    /// Where xDS and the authority are, as nodes and pods reach them.
    pub fn address() -> SocketAddr {
        Ground::at(PORT)
    }

    /// The trust anchor of its own certificate and of all that it issues, PEM.
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn log(&self) -> Log {
        self.daemon.log()
    }

    pub fn pid(&self) -> Option<u32> {
        self.daemon.pid()
    }

    /// Starts it without waiting.
    pub fn launch(&self) -> Result<()> {
        self.daemon.launch()
    }

    /// Waits until it, started already, is ready.
    pub fn wait_ready(&self) -> Result<()> {
        let deadline = std::time::Instant::now() + START;
        loop {
            self.daemon.check_running()?;
            match self.page("/ready") {
                Ok(_) => return Ok(()),
                Err(error) if std::time::Instant::now() >= deadline => {
                    return Err(error).context(format!("istiod is not ready; it said:\n{}", self.log().tail(15)));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// SIGTERM; it lets its streams drain for some seconds. Waits for its end.
    pub fn stop(&self) -> Result<ExitStatus> {
        self.daemon.stop()
    }

    /// SIGKILL.
    pub fn kill(&self) -> Result<()> {
        self.daemon.kill()
    }

    /// One of its pages, such as `/metrics` or `/debug/config_distribution`.
    pub fn page(&self, path: &str) -> Result<String> {
        let stream = self.host.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, PAGES)))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let (status, body) = http::get_whole(stream, path)?;
        ensure!(status == 200, "istiod: {path}: {status} {}", body.trim());
        Ok(body)
    }

    /// A page in JSON, such as `/debug/ambientz`.
    pub fn document(&self, path: &str) -> Result<Value> {
        serde_json::from_str(&self.page(path)?).with_context(|| path.to_owned())
    }

    /// Changes the mesh's configuration, of which this is given the fields as they were at the start. istiod follows
    /// its file; when it has taken the change over is for the caller to see.
    pub fn set_mesh(&self, change: impl FnOnce(&mut Map<String, Value>)) -> Result<()> {
        let mut mesh = self.mesh.clone();
        change(&mut mesh);
        replace(&self.mesh_file, &serde_json::to_string_pretty(&mesh)?)
    }
}

fn configured(daemon: Daemon, settings: &Settings, kubeconfig: &Path, mesh: &Path) -> Daemon {
    let accounts = NODE_ACCOUNTS.map(|name| format!("{NAMESPACE}/{name}")).join(",");
    let variables = [
        ("PILOT_ENABLE_AMBIENT", "true"),
        ("CA_TRUSTED_NODE_ACCOUNTS", &accounts),
        // Its certificate is valid for its address as well: the lab has no names.
        ("ISTIOD_CUSTOM_HOST", &Ground::address().to_string()),
        ("POD_NAMESPACE", NAMESPACE),
        ("POD_NAME", "istiod-lab"),
        ("SERVICE_ACCOUNT", "istiod"),
        ("CLUSTER_ID", CLUSTER),
        ("REVISION", "default"),
    ];
    let own = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    daemon
        .args(["discovery", "--httpsAddr="])
        .args([format!("--secureGRPCAddr=:{PORT}"), format!("--httpAddr=127.0.0.1:{PAGES}")])
        .file("kubeconfig", kubeconfig)
        .file("meshConfig", mesh)
        .args(&settings.arguments)
        .envs(own)
        .envs(settings.variables.clone())
}

/// What Istio's chart sets for ambient mode, and the lab's own.
fn mesh(settings: &Settings, trust_domain: &str) -> Map<String, Value> {
    let global = json!({"matchExpressions": [{"key": "istio.io/global", "operator": "In", "values": ["true"]}]});
    let own = [
        ("rootNamespace", json!(NAMESPACE)),
        ("trustDomain", json!(trust_domain)),
        ("defaultConfig", json!({"discoveryAddress": Istiod::address()})),
        ("serviceScopeConfigs", json!([{"servicesSelector": global, "scope": "GLOBAL"}])),
    ];
    let own = own.map(|(name, value)| (name.to_owned(), value));
    own.into_iter().chain(settings.mesh.clone()).collect()
}

/// istiod writes its root into every namespace.
fn published_root(kubectl: &Kubectl) -> Result<String> {
    eventually(ROOT, || {
        let map = kubectl.json(&["get", "configmap", "istio-ca-root-cert", "--namespace", NAMESPACE])?;
        match map.pointer("/data/root-cert.pem").and_then(Value::as_str) {
            Some(pem) if pem.contains("BEGIN CERTIFICATE") => Ok(pem.to_owned()),
            _ => bail!("the configmap istio-ca-root-cert has no root"),
        }
    })
}
