//! A real Kubernetes API and a real istiod for a lab, on one more host of its fabric.
//!
//! [`crate::Topology::kubernetes`] asks for it. The lab's nodes and pods are then Kubernetes' nodes and pods, with the
//! names, addresses, labels and service accounts that the topology gives them, and istiod is the agents' certificate
//! authority. No kubelet runs: [`Kube`] says in its place that pods are there, run and are ready.
//!
//! ```no_run
//! use mesh_e2e::{Lab, Pod, Service, Topology, kube};
//!
//! # fn main() -> anyhow::Result<()> {
//! let lab = Lab::start(
//!     Topology::new()
//!         .pod(Pod::new("client", "n1"))
//!         .pod(Pod::new("server", "n2").label("app", "server"))
//!         .service(Service::new("web").port(80, 8080).selects("app", "server"))
//!         .kubernetes(kube::Settings::new()),
//! )?;
//! let kube = lab.kube();
//! let policy = kube.kubectl().applied(
//!     "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy,
//!       metadata: {name: nobody, namespace: default}, spec: {action: DENY, rules: [{}]}}",
//! )?;
//! kube.istiod().kill()?;
//! # drop(policy);
//! # Ok(())
//! # }
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`settings`] | how istiod is to be |
//! | [`tools`] | where the programs are; `cargo xtask kube build` makes them |
//! | `ground` | the host, its addresses and files |
//! | `keys` | the API server's certificate, its administrator |
//! | [`daemon`] | one program: folder, log, pid file, start and stop |
//! | [`api`], [`istiod`] | the programs |
//! | [`cacerts`] | roots of an operator's own for istiod's authority |
//! | [`cni`] | Istio's CNI agent on the lab's nodes |
//! | [`kubectl`] | applying, deleting, asking |
//! | `objects`, `kubelet`, [`mod@init`], [`container`], `tokens` | what a kubelet, its node's processes and its tokens would be |
//! | `door` | the way in from the machine's own network namespace |

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::eventually::eventually;
use crate::namespace::Namespace;
use crate::place::Node;
use crate::server::Server;
use crate::topology::{Pod, Service};
use crate::world::World;

pub mod api;
pub mod cacerts;
pub mod cni;
pub mod container;
pub mod daemon;
mod door;
mod ground;
pub mod init;
pub mod istiod;
mod keys;
pub mod kubectl;
mod kubelet;
mod objects;
pub mod settings;
mod tokens;
pub mod tools;

pub use api::Api;
pub(crate) use api::Controllers;
pub use cacerts::Root;
pub use cni::{IstioCni, Rules};
pub use container::Container;
pub use daemon::Daemon;
pub(crate) use ground::Ground;
pub use ground::NAME as HOST;
pub use init::Init;
pub use istiod::Istiod;
pub use kubectl::{Applied, Kubectl};
pub use objects::Readiness;
pub use settings::Settings;
use tokens::Tokens;
pub use tools::Tools;

/// How long a new resource definition may take until objects of its kind are accepted.
const ESTABLISHED: Duration = Duration::from_secs(60);

/// Kubernetes and istiod. They end with the lab.
#[derive(Debug)]
pub struct Kube {
    // Declared first, dropped first.
    tokens: Tokens,
    door: Server,
    istiod: Istiod,
    api: Api,
    ground: Ground,
    nodes: Vec<(String, [IpAddr; 2])>,
    root: Option<Root>,
}

impl Kube {
    /// Starts everything and tells Kubernetes of the lab's nodes and of what the world has.
    pub(crate) fn start(
        ground: Ground,
        (settings, trust_domain): (&Settings, &str),
        nodes: Vec<(String, [IpAddr; 2])>,
        world: &World,
    ) -> Result<Self> {
        let api = Api::start(&ground, &Controllers::Few)?;
        let kubectl = api.kubectl();
        define(kubectl, &ground)?;
        kubectl.apply(&objects::root_namespace(settings.network.as_deref()).to_string())?;
        let istiod = Istiod::new(&ground, settings, trust_domain)?;
        let root = settings.plugged_in.as_deref().map(Root::new).transpose()?;
        if let Some(root) = &root {
            cacerts::apply(kubectl, root, &[root])?;
            cacerts::mount(kubectl, istiod.directory())?;
        }
        istiod.launch()?;
        let hosts: Vec<_> = nodes.iter().map(|(name, addresses)| (name.as_str(), *addresses)).collect();
        kubelet::populate(kubectl, &hosts, world).context("the lab's nodes and pods, in Kubernetes")?;
        let names: Vec<_> = hosts.iter().map(|(name, _)| *name).collect();
        let tokens = Tokens::start(kubectl, ground.file("tokens"), &names).context("the agents' tokens")?;
        istiod.wait_published(kubectl)?;
        let door = door(&ground, Api::address())?;
        Ok(Self { tokens, door, istiod, api, ground, nodes, root })
    }

    /// The API server, its store and its controllers.
    pub fn api(&self) -> &Api {
        &self.api
    }

    pub fn istiod(&self) -> &Istiod {
        &self.istiod
    }

    /// The root with which a plugged-in authority started.
    pub fn first_root(&self) -> Option<&Root> {
        self.root.as_ref()
    }

    /// Changes the secret `cacerts` and istiod's files of it: an authority under `signing`, whose certificate this gives, and
    /// `trusted` as all the roots. istiod takes other roots over when it is started again.
    pub fn plug_in(&self, signing: &Root, trusted: &[&Root]) -> Result<String> {
        let authority = cacerts::apply(self.kubectl(), signing, trusted)?;
        cacerts::mount(self.kubectl(), self.istiod.directory())?;
        Ok(authority)
    }

    /// Waits until istiod has published exactly these roots, and brings the agents' file up to date, as the kubelet does.
    pub fn mount_roots(&self, roots: &[&Root]) -> Result<()> {
        self.istiod.wait_roots(self.kubectl(), &cacerts::bundle(roots))
    }

    /// kubectl, as an administrator.
    pub fn kubectl(&self) -> &Kubectl {
        self.api.kubectl()
    }

    /// The programs that were built for it, Istio's echo client and server among them.
    pub fn tools(&self) -> &Tools {
        &self.ground.tools
    }

    /// The host on which all of it runs.
    pub fn host(&self) -> &Namespace {
        &self.ground.host
    }

    /// What a node's agent is told of its certificate authority, as the fields of `ca` in its file.
    pub fn ca(&self, node: &str, certificate_ttl: &str) -> Value {
        json!({
            "certificate_ttl": certificate_ttl,
            "address": format!("https://{}", Istiod::address()),
            "root": self.istiod.root(),
            "token": self.token(node),
        })
    }

    /// What a node's agent is told of where its mesh comes from, as the fields of `xds` in its file.
    pub fn xds(&self, node: &str) -> Value {
        json!({
            "address": format!("https://{}", Istiod::address()),
            "pod": format!("mesh-agent-{node}"),
            "namespace": "istio-system",
        })
    }

    /// The file of the token of a node's agent: bound to its pod `mesh-agent-NODE`, for the audience `istio-ca`.
    pub fn token(&self, node: &str) -> PathBuf {
        self.tokens.file(node)
    }

    /// Puts another token into the file, as the kubelet does from time to time.
    pub fn renew_token(&self, node: &str) -> Result<()> {
        self.tokens.renew(node)
    }

    /// A token of an account of `istio-system`, bound to one of its pods or to nothing, for one audience.
    pub fn make_token(&self, account: &str, pod: Option<&str>, audience: &str) -> Result<String> {
        tokens::create(self.kubectl(), account, pod, audience)
    }

    /// The uid that the API server has given a pod.
    pub fn uid(&self, pod: &Pod) -> Result<String> {
        let what = ["get", "pod", &pod.name, "--namespace", &pod.namespace, "--output=jsonpath={.metadata.uid}"];
        self.kubectl().run(what)
    }

    /// The first process of a node, for containers to run beside it.
    pub fn boot(&self, node: &Node) -> Result<Init> {
        Init::start(node, &self.ground.file(&format!("init-{}", node.name)))
    }

    /// A container for a pod of the lab, of which Kubernetes knows, on its node.
    pub fn run_container(&self, pod: &Pod, node: &Init) -> Result<Container> {
        let home = Namespace::open(&format!("{}-{}", self.ground.lab(), pod.name))?;
        let log = self.ground.file(&format!("container-{}.log", pod.name));
        Container::start(self.ground.lab(), (&home, node), &self.uid(pod)?, &log)
    }

    /// Starts Istio's CNI agent on a node, without waiting.
    pub fn run_cni(&self, node: &Node, init: &Init, rules: Rules) -> Result<IstioCni> {
        IstioCni::start(&self.ground, &self.api, (node, init), rules)
    }

    /// Adds a pod with its namespace and account, of which nobody says yet that it runs.
    pub fn create_pod(&self, pod: &Pod) -> Result<()> {
        kubelet::create_pod(self.kubectl(), pod)
    }

    /// Adds a pod with its namespace and account, and says that it runs and is ready.
    pub fn add_pod(&self, pod: &Pod) -> Result<()> {
        kubelet::add_pod(self.kubectl(), &self.hosts(), pod)
    }

    /// Says whether a pod, which is there, is ready.
    pub fn set_readiness(&self, pod: &Pod, readiness: Readiness) -> Result<()> {
        kubelet::set_readiness(self.kubectl(), &self.hosts(), pod, readiness)
    }

    /// Deletes a pod, and waits until it is gone.
    pub fn delete_pod(&self, namespace: &str, name: &str) -> Result<()> {
        self.kubectl().run(["delete", "pod", name, "--namespace", namespace]).map(drop)
    }

    /// Adds a service, whose namespace is there; its endpoints are the pods that it selects.
    pub fn add_service(&self, service: &Service) -> Result<()> {
        kubelet::add_service(self.kubectl(), service)
    }

    /// Waits until an object says what it should; `what` names it as kubectl does, such as `pod/a`.
    pub fn wait<T>(
        &self,
        limit: Duration,
        (namespace, what): (&str, &str),
        condition: impl Fn(&Value) -> Result<T>,
    ) -> Result<T> {
        eventually(limit, || condition(&self.kubectl().json(&["get", what, "--namespace", namespace])?))
    }

    /// Writes a kubeconfig for programs in the machine's own network namespace. It is good as long as this is.
    pub fn write_kubeconfig(&self) -> Result<PathBuf> {
        let path = self.ground.file("kubeconfig-of-the-machine");
        self.api.keys().kubeconfig(&path, &format!("https://127.0.0.1:{}", self.door.port()))?;
        Ok(path)
    }

    fn hosts(&self) -> Vec<(&str, [IpAddr; 2])> {
        self.nodes.iter().map(|(name, addresses)| (name.as_str(), *addresses)).collect()
    }
}

/// A port of 127.0.0.1 of the machine's own network namespace that leads to an address of the host's.
pub(crate) fn door(ground: &Ground, to: std::net::SocketAddr) -> Result<Server> {
    door::open(&ground.host, to)
}

/// Istio's and the Gateway API's resources.
pub(crate) fn define(kubectl: &Kubectl, ground: &Ground) -> Result<()> {
    let files = ground.tools.crds();
    let files = files.to_str().context("a path that is text")?;
    kubectl.run(["create", "--validate=false", "--filename", files]).context("resource definitions")?;
    eventually(ESTABLISHED, || {
        let each =
            "jsonpath={range .items[*]}{.metadata.name}{.status.conditions[?(@.type=='Established')].status} {end}";
        let said = kubectl.run(["get", "customresourcedefinitions", "--output", each])?;
        let late = said.split_whitespace().find(|definition| !definition.ends_with("True"));
        ensure!(late.is_none(), "{} is not established", late.unwrap_or_default());
        Ok(())
    })
}
