//! The API server with its store, and the few controllers without which it would be no Kubernetes.

use std::net::{Ipv4Addr, SocketAddr};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::daemon::Daemon;
use super::ground::Ground;
use super::keys::Keys;
use super::kubectl::Kubectl;

const PORT: u16 = 6443;
const STORE: u16 = 2379;
const PEERS: u16 = 2380;
/// How long the API server may take until it is ready: it writes its own roles and priorities first, and this machine
/// may be busy.
const START: Duration = Duration::from_secs(90);
/// Between two looks: each is a start of kubectl.
const PAUSE: Duration = Duration::from_millis(200);
/// The virtual addresses of services. The first of them is Kubernetes' own: it must be none that a topology gives.
const SERVICES: &str = "10.48.0.0/14,fd00:50::/112";
/// What there is of the controller manager: endpoints of services, accounts of namespaces, and the end of what is
/// deleted. Those that judge nodes and pods by their kubelets are not wanted, since there is none.
const CONTROLLERS: &str = "endpointslice-controller,serviceaccount-controller,namespace-controller,\
                           garbage-collector-controller";

/// Which controllers run, and who else than the administrator comes in.
#[derive(Clone, Debug)]
pub(crate) enum Controllers {
    /// Those without which it would be no Kubernetes: nobody runs pods.
    Few,
    /// All of them, for kubelets and kube-proxies of nodes of these names.
    All(Vec<String>),
}

/// The three programs.
#[derive(Debug)]
pub struct Api {
    // Dropped in this order.
    pub controllers: Daemon,
    pub server: Daemon,
    pub etcd: Daemon,
    kubectl: Kubectl,
    keys: Keys,
}

impl Api {
    /// Starts the store and the API server and waits until it is ready; then the controllers, which are not waited for.
    pub(crate) fn start(ground: &Ground, who: &Controllers) -> Result<Self> {
        let nodes = if let Controllers::All(nodes) = who { nodes.as_slice() } else { &[] };
        let keys = Keys::new(ground, nodes)?;
        let config = ground.file("kubeconfig");
        keys.kubeconfig(&config, &format!("https://{}", Self::address()))?;
        let api = Self {
            controllers: controllers(ground, &keys, who)?,
            server: server(ground, &keys, who)?,
            etcd: etcd(ground)?,
            kubectl: Kubectl::new(ground.tools.program("kubectl"), config, &ground.host),
            keys,
        };
        api.etcd.launch()?;
        api.server.launch()?;
        api.wait_ready()?;
        api.controllers.launch()?;
        Ok(api)
    }

    /// Where it listens, on the host and for all nodes and pods.
    pub fn address() -> SocketAddr {
        Ground::at(PORT)
    }

    pub fn kubectl(&self) -> &Kubectl {
        &self.kubectl
    }

    pub(crate) fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Waits until the API server, started already, says that it is ready.
    pub fn wait_ready(&self) -> Result<()> {
        let deadline = Instant::now() + START;
        loop {
            self.etcd.check_running()?;
            self.server.check_running()?;
            match self.kubectl.run(["get", "--raw=/readyz"]) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() >= deadline => {
                    return Err(error).with_context(|| format!("the API server is not ready after {START:?}"));
                }
                Err(_) => sleep(PAUSE),
            }
        }
    }
}

/// The store, for the API server alone. What it keeps need not outlive it: nothing is synced to the disk.
fn etcd(ground: &Ground) -> Result<Daemon> {
    let Some(program) = found("etcd") else { bail!("there is no etcd (Debian package etcd-server)") };
    let (clients, peers) = (local(STORE), local(PEERS));
    let etcd = Daemon::new("etcd", ground, program)?;
    let data = etcd.directory().join("data");
    Ok(etcd
        .file("data-dir", &data)
        .args([format!("--listen-client-urls={clients}"), format!("--advertise-client-urls={clients}")])
        .args([format!("--listen-peer-urls={peers}"), format!("--initial-advertise-peer-urls={peers}")])
        .args([format!("--initial-cluster=default={peers}")])
        .args(["--logger=zap", "--log-level=warn", "--unsafe-no-fsync"]))
}

fn server(ground: &Ground, keys: &Keys, who: &Controllers) -> Result<Daemon> {
    let server = Daemon::new("kube-apiserver", ground, ground.tools.program("kube-apiserver"))?;
    let directory = server.directory().to_owned();
    let server = server
        .args([format!("--etcd-servers={}", local(STORE)), format!("--service-cluster-ip-range={SERVICES}")])
        // Not a loopback address: it is what the service `kubernetes` leads to.
        .args([format!("--advertise-address={}", Ground::address()), format!("--secure-port={PORT}")])
        .file("tls-cert-file", &keys.certificate)
        .file("tls-private-key-file", &keys.key)
        .file("cert-dir", &directory)
        .file("token-auth-file", &keys.tokens)
        .file("service-account-key-file", &keys.accounts_public)
        .file("service-account-signing-key-file", &keys.accounts)
        .args(["--service-account-issuer=https://kubernetes.default.svc"])
        .args(["--authorization-mode=Node,RBAC", "--allow-privileged=true", "--profiling=false"]);
    Ok(match who {
        Controllers::Few => server,
        Controllers::All(_) => server
            .file("kubelet-client-certificate", &keys.client)
            .file("kubelet-client-key", &keys.client_key)
            .args(["--kubelet-preferred-address-types=InternalIP", "--enable-admission-plugins=NodeRestriction"]),
    })
}

fn controllers(ground: &Ground, keys: &Keys, who: &Controllers) -> Result<Daemon> {
    let name = "kube-controller-manager";
    let controllers = Daemon::new(name, ground, ground.tools.program(name))?;
    let directory = controllers.directory().to_owned();
    let controllers = controllers.file("kubeconfig", &ground.file("kubeconfig")).file("cert-dir", &directory).args([
        "--leader-elect=false",
        "--profiling=false",
        "--bind-address=127.0.0.1",
    ]);
    Ok(match who {
        Controllers::Few => controllers.args([format!("--controllers={CONTROLLERS}")]),
        Controllers::All(_) => controllers
            .file("root-ca-file", &keys.root)
            .file("service-account-private-key-file", &keys.accounts)
            .args(["--controllers=*", "--concurrent-serviceaccount-token-syncs=2"]),
    })
}

fn local(port: u16) -> String {
    format!("http://{}", SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
}

/// A program on the path.
fn found(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}
