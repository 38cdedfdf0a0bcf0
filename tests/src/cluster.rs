//! A real Kubernetes cluster on this machine: an API server with all its controllers, a scheduler, istiod, and nodes that
//! each have a containerd, a kubelet and a kube-proxy of their own.
//!
//! A node is a set of namespaces (network, mounts, processes, host name) with a disk of its own over the machine's: what
//! its programs write is theirs, pods may mount its folders by their usual names, and nothing of the machine is changed.
//! Its pods are real ones, started by its kubelet from images in its containerd; there is no registry, so images are
//! made from files ([`Image`]) and imported.
//!
//! ```no_run
//! use mesh_e2e::cluster::{Cluster, Image, Settings};
//!
//! # fn main() -> anyhow::Result<()> {
//! let cluster = Cluster::start(&Settings::new())?;
//! cluster.import(&Image::new("lab/hello:1").file("/bin/hello", "target/hello".as_ref()).entrypoint(["/bin/hello"]))?;
//! cluster.kubectl().apply("{apiVersion: v1, kind: Namespace, metadata: {name: shop}}")?;
//! cluster.node("n1").output("ls", ["/etc/cni/net.d"])?;
//! cluster.node("n1").kill()?;
//! cluster.node("n1").boot()?;
//! cluster.node("n1").start()?;
//! # Ok(())
//! # }
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`settings`] | what differs between clusters |
//! | [`machine`] | a node's namespaces and disk |
//! | [`program`] | a program inside of them |
//! | [`node`] | a node, from its first process to its kubelet |
//! | `files` | the configurations of its programs |
//! | [`image`], [`images`] | images from files; those that every cluster has |
//! | [`mesh`], [`shop`] | our agent on every node, from `deploy/`; a shop to try it with |
//! | `names` | its name server |
//! | `objects` | what of Kubernetes' objects is there from the start |

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::eventually::eventually;
use crate::kube::{self, Api, Controllers, Daemon, Ground, Istiod, Kubectl};
use crate::place::open;
use crate::sweep::Claim;
use crate::topology::node_addresses;
use crate::wiring;
use periods::GracePeriods;

mod files;
pub mod image;
pub mod images;
pub mod machine;
pub mod mesh;
mod names;
pub mod node;
mod objects;
mod periods;
pub mod program;
pub mod settings;
pub mod shop;

pub use image::Image;
pub use machine::{Inside, Machine};
pub use node::Node;
pub use program::Program;
pub use settings::{Proxy, Settings};

/// How long a node may take from its kubelet's start until it is ready.
const READY: Duration = Duration::from_secs(60);
const TRUST_DOMAIN: &str = "cluster.local";

/// A cluster. Dropping it kills and removes all of it.
#[derive(Debug)]
pub struct Cluster {
    // Declared first, dropped first.
    nodes: Vec<Node>,
    door: crate::server::Server,
    istiod: Option<Istiod>,
    scheduler: Daemon,
    api: Api,
    ground: Ground,
    claim: Claim,
    _periods: GracePeriods,
}

impl Cluster {
    /// Starts everything and waits until the nodes are ready. Images that every cluster has are imported.
    pub fn start(settings: &Settings) -> Result<Self> {
        crate::require_root()?;
        let claim = Claim::new(&settings.name)?;
        let names = settings.nodes.iter().map(String::as_str);
        claim.add_namespaces(["fabric"].into_iter().chain(names))?;
        let fabric = open(&claim, "fabric")?;
        let homes = settings.nodes.iter().map(|name| Ok((name.clone(), open(&claim, name)?)));
        let homes = homes.collect::<Result<Vec<_>>>()?;
        wiring::fabric(&fabric, &homes)?;
        let count = u8::try_from(homes.len())?;
        let ground = Ground::new(&claim, &fabric, homes.len(), settings.find_tools()?)?;
        let nodes = (1..).zip(homes).map(|(number, (name, home))| {
            wiring::node(&home, number, count)?;
            Node::new(&claim, &ground, (&name, number), home, settings.proxy)
        });
        let nodes = nodes.collect::<Result<Vec<_>>>()?;
        Self::run(claim, ground, nodes, settings)
    }

    fn run(claim: Claim, ground: Ground, nodes: Vec<Node>, settings: &Settings) -> Result<Self> {
        let made = images::all(&ground, &claim.directory())?;
        let made = &made;
        let (api, booted) = thread::scope(|scope| {
            // Both take some seconds, and neither needs the other.
            let boot = |node: &Node| {
                node.boot()?;
                made.iter().try_for_each(|archive| node.import(archive))
            };
            let booting: Vec<_> = nodes.iter().map(|node| scope.spawn(move || boot(node))).collect();
            let api = Api::start(&ground, &Controllers::All(settings.nodes.clone()));
            let booted = booting.into_iter().map(|one| one.join().unwrap_or_else(|_| bail!("it panicked")));
            (api, booted.collect::<Result<Vec<()>>>())
        });
        let (api, _) = (api?, booted.context("a node's container runtime")?);
        let kubectl = api.kubectl();
        kubectl.apply(&objects::first().to_string())?;
        for node in &nodes {
            node.join(&api)?;
        }
        let scheduler = objects::scheduler(&ground)?;
        scheduler.launch()?;
        kubectl.apply(&names::objects().to_string()).context("the name server")?;
        let istiod = settings.istiod.as_ref().map(|settings| istiod(&ground, &api, settings)).transpose()?;
        let door = kube::door(&ground, Api::address())?;
        let cluster = Self { nodes, door, istiod, scheduler, api, ground, claim, _periods: GracePeriods::noted() };
        cluster.wait_ready()?;
        let rollout = ["rollout", "status", names::DEPLOYMENT, "--namespace", names::NAMESPACE, "--timeout=60s"];
        let said = cluster.kubectl().run(rollout);
        said.with_context(|| format!("the name server\n{}", cluster.events(names::NAMESPACE)))?;
        Ok(cluster)
    }

    /// Waits until all nodes are ready.
    pub fn wait_ready(&self) -> Result<()> {
        self.nodes.iter().try_for_each(|node| self.wait_node(&node.name))
    }

    /// Waits until a node says that it is ready.
    pub fn wait_node(&self, name: &str) -> Result<()> {
        let ready = || {
            let node = self.kubectl().json(&["get", "node", name])?;
            let conditions = node["status"]["conditions"].as_array().context("no conditions")?;
            let ready = conditions.iter().find(|one| one["type"] == "Ready").context("no condition Ready")?;
            ensure!(ready["status"] == "True", "{name}: {ready}");
            Ok(())
        };
        let said = || self.node(name).said();
        eventually(READY, ready).with_context(|| format!("node {name} is not ready\n{}", said()))
    }

    pub fn name(&self) -> &str {
        self.claim.name()
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// # Panics
    ///
    /// When there is no such node.
    pub fn node(&self, name: &str) -> &Node {
        self.nodes.iter().find(|node| node.name == name).unwrap_or_else(|| panic!("the cluster has no node {name}"))
    }

    /// The API server, its store and its controllers, each to be stopped and started.
    pub fn api(&self) -> &Api {
        &self.api
    }

    pub fn scheduler(&self) -> &Daemon {
        &self.scheduler
    }

    /// # Panics
    ///
    /// When the settings did not ask for it.
    pub fn istiod(&self) -> &Istiod {
        self.istiod.as_ref().expect("the settings ask for istiod")
    }

    /// kubectl, as an administrator.
    pub fn kubectl(&self) -> &Kubectl {
        self.api.kubectl()
    }

    /// Makes an image known to all nodes, by its name.
    pub fn import(&self, image: &Image) -> Result<()> {
        let file = image.write(&self.claim.directory())?;
        self.each(|node| node.import(&file))
    }

    /// The same with an archive as `docker save` writes it.
    pub fn import_archive(&self, archive: &Path) -> Result<()> {
        self.each(|node| node.import(archive))
    }

    /// Waits until a pod is ready; gives its object.
    pub fn wait_pod(&self, limit: Duration, (namespace, name): (&str, &str)) -> Result<Value> {
        let what = ["get", "pod", name, "--namespace", namespace];
        let found = eventually(limit, || {
            let pod = self.kubectl().json(&what)?;
            let conditions = pod["status"]["conditions"].as_array();
            let ready = conditions.and_then(|all| all.iter().find(|one| one["type"] == "Ready"));
            ensure!(ready.is_some_and(|one| one["status"] == "True"), "{name}: {}", pod["status"]);
            Ok(pod)
        });
        found.with_context(|| format!("pod {namespace}/{name} is not ready\n{}", self.events(namespace)))
    }

    /// Runs a program in a pod's first container; gives what it printed.
    pub fn exec(&self, namespace: &str, pod: &str, command: &[&str]) -> Result<String> {
        self.kubectl().run(["exec", "--namespace", namespace, pod, "--"].iter().chain(command))
    }

    /// What has happened in a namespace, as Kubernetes tells it.
    pub fn events(&self, namespace: &str) -> String {
        let what = ["get", "events", "--namespace", namespace, "--sort-by=.lastTimestamp"];
        self.kubectl().run(what).unwrap_or_default()
    }

    /// Writes a kubeconfig for programs in the machine's own network namespace. It is good as long as this is.
    pub fn write_kubeconfig(&self) -> Result<PathBuf> {
        let path = self.ground.file("kubeconfig-of-the-machine");
        self.api.keys().kubeconfig(&path, &format!("https://127.0.0.1:{}", self.door.port()))?;
        Ok(path)
    }

    fn each(&self, work: impl Fn(&Node) -> Result<()> + Sync) -> Result<()> {
        let work = &work;
        thread::scope(|scope| {
            let all: Vec<_> = self.nodes.iter().map(|node| scope.spawn(move || work(node))).collect();
            all.into_iter().try_for_each(|one| one.join().unwrap_or_else(|_| bail!("it panicked")))
        })
    }
}

/// istiod on the host of the API server, with its resource definitions; its Service leads there.
fn istiod(ground: &Ground, api: &Api, settings: &kube::Settings) -> Result<Istiod> {
    kube::define(api.kubectl(), ground)?;
    let istiod = Istiod::new(ground, settings, TRUST_DOMAIN)?;
    istiod.launch()?;
    istiod.wait_published(api.kubectl())?;
    api.kubectl().apply(&objects::istiod(node_addresses(wiring::KUBE)).to_string())?;
    Ok(istiod)
}
