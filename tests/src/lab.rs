//! A running lab.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::agent::Agent;
use crate::authority::{Authority, Place, replace};
use crate::binary;
use crate::envoy::{self, Envoy};
use crate::eventually::eventually;
use crate::kube::{Ground, Kube};
use crate::namespace::Namespace;
use crate::nginx::Nginx;
use crate::place::{Node, RunningPod, join, open};
use crate::process::Process;
use crate::sweep::Claim;
use crate::topology::{Pod, Settings, Start, Topology, node_addresses, node_number, pod_addresses};
use crate::wire::Wire;
use crate::wiring;
use crate::world::World;

/// How long a changed world may take until it is in force everywhere.
const PUBLISH: Duration = Duration::from_secs(10);

/// Fails, with the reason in words, unless we are root.
pub fn require_root() -> Result<()> {
    let root = rustix::process::geteuid().is_root();
    ensure!(root, "root is needed: the lab makes network namespaces, and the agent loads eBPF programs");
    Ok(())
}

/// Nodes, pods, the authority and the agents. Dropping it kills and removes all of it.
#[derive(Debug)]
pub struct Lab {
    // Declared first, dropped first: processes end before their namespaces do.
    nodes: Vec<Node>,
    kube: Option<Kube>,
    authority: Authority,
    pods: Vec<RunningPod>,
    fabric: Namespace,
    world: Mutex<World>,
    settings: Settings,
    claim: Claim,
}

impl Lab {
    /// Builds everything, starts the authority and (unless the topology says otherwise) the agents, and waits until
    /// the agents are ready, every enrolled pod is captured and has its certificate.
    pub fn start(mut topology: Topology) -> Result<Self> {
        require_root()?;
        topology.assign_addresses();
        let binary = topology.settings.binary.clone().map_or_else(binary::find, Ok)?;
        let claim = Claim::new(&topology.settings.name.clone().unwrap_or_else(fresh_name))?;
        let mut lab = Self::build(topology, claim, &binary)?;
        lab.kube = lab.start_kube()?;
        lab.write_files()?;
        if lab.kube.is_none() {
            lab.authority.start()?;
        }
        if lab.settings.agents == Start::AtOnce {
            lab.start_agents().with_context(|| lab.logs(6))?;
        }
        Ok(lab)
    }

    /// Starts the agents that do not run, all at once, and waits for all of them.
    pub fn start_agents(&self) -> Result<()> {
        let idle: Vec<&Agent> = self.nodes.iter().map(|node| &node.agent).filter(|agent| !agent.is_running()).collect();
        idle.iter().try_for_each(|agent| agent.launch())?;
        idle.iter().try_for_each(|agent| agent.wait_ready())?;
        self.settle()?;
        eventually(PUBLISH, || self.nodes.iter().try_for_each(Node::check_certificates))
    }

    /// The lab's name; its namespaces are called `NAME-...`.
    pub fn name(&self) -> &str {
        self.claim.name()
    }

    /// Where the lab's files are: a directory per node, and `authority`.
    pub fn directory(&self) -> PathBuf {
        self.claim.directory()
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub fn pods(&self) -> &[RunningPod] {
        &self.pods
    }

    /// # Panics
    ///
    /// When there is no such node.
    pub fn node(&self, name: &str) -> &Node {
        self.nodes.iter().find(|node| node.name == name).unwrap_or_else(|| panic!("the lab has no node {name}"))
    }

    /// # Panics
    ///
    /// When there is no such pod.
    pub fn pod(&self, name: &str) -> &RunningPod {
        self.pods.iter().find(|pod| pod.name == name).unwrap_or_else(|| panic!("the lab has no pod {name}"))
    }

    /// The agent of the node `name`.
    ///
    /// # Panics
    ///
    /// When there is no such node.
    pub fn agent(&self, name: &str) -> &Agent {
        &self.node(name).agent
    }

    /// The authority. It is not started where there is an istiod.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Kubernetes and istiod.
    ///
    /// # Panics
    ///
    /// When the topology did not ask for them.
    pub fn kube(&self) -> &Kube {
        self.kube.as_ref().expect("the topology asks for Kubernetes")
    }

    /// The host beyond the nodes: pods reach it, and the mesh knows nothing of it. The authority runs there.
    pub fn outside(&self) -> &Namespace {
        &self.fabric
    }

    /// The outside host's addresses.
    pub fn outside_addresses(&self) -> [IpAddr; 2] {
        let (v4, v6) = node_addresses(wiring::FABRIC);
        [v4.into(), v6.into()]
    }

    /// The IPv4 virtual address of a service.
    ///
    /// # Panics
    ///
    /// When there is no such service or it has none.
    pub fn vip4(&self, service: &str, port: u16) -> SocketAddr {
        self.vip(service, port, IpAddr::is_ipv4)
    }

    /// The IPv6 virtual address of a service.
    ///
    /// # Panics
    ///
    /// When there is no such service or it has none.
    pub fn vip6(&self, service: &str, port: u16) -> SocketAddr {
        self.vip(service, port, IpAddr::is_ipv6)
    }

    fn vip(&self, service: &str, port: u16, family: impl Fn(&IpAddr) -> bool) -> SocketAddr {
        let mut world = self.world();
        let address = world.service(service).addresses.iter().copied().find(family);
        SocketAddr::new(address.unwrap_or_else(|| panic!("service {service} has no such address")), port)
    }

    /// Watches what goes in and out of a node on the fabric.
    ///
    /// # Panics
    ///
    /// When there is no such node.
    pub fn wire(&self, node: &str) -> Result<Wire> {
        self.wire_in(&self.node(node).namespace, "eth0")
    }

    /// nginx in the pod `name`, which answers on `port` with `body`; at `/whoami` with its client's address.
    ///
    /// # Panics
    ///
    /// When there is no such pod.
    pub fn nginx(&self, name: &str, port: u16, body: &str) -> Result<Nginx> {
        Nginx::start(self.pod(name), port, body, &self.directory().join(format!("nginx-{name}-{port}")))
    }

    /// Envoy in the pod `name`, with the certificate of the pod's identity.
    ///
    /// # Panics
    ///
    /// When there is no such pod.
    pub fn envoy(&self, name: &str, listeners: &[envoy::Listener]) -> Result<Envoy> {
        let pod = self.pod(name);
        let credentials = self.authority.issue(&format!("envoy-{name}"), &pod.identity, "24h")?;
        Envoy::start(pod, name, &credentials, listeners, &self.directory().join(format!("envoy-{name}")))
    }

    /// Starts a program in a pod or node, to be killed when what this gives is dropped. Its log is `NAME.log`.
    pub fn spawn(&self, name: &str, command: &mut Command) -> Result<Process> {
        Process::spawn(name, command, &self.directory().join(format!("{name}.log")))
    }

    /// Watches any link, in a pod or node, through which the outside host is reached.
    pub fn wire_in(&self, place: &Namespace, interface: &str) -> Result<Wire> {
        let (outside, _) = node_addresses(wiring::FABRIC);
        Wire::watch(place, interface, outside.into())
    }

    /// What the mesh is told now.
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the world, and waits until all running agents have taken it over and enrolled what is to be enrolled.
    /// Gives the moment at which the first file was in place.
    pub fn publish(&self, change: impl FnOnce(&mut World)) -> Result<Instant> {
        let running: Vec<&Node> = self.nodes.iter().filter(|node| node.agent.is_running()).collect();
        let before: Vec<_> = running.iter().map(|node| (node.text(), node.agent.log().from_now())).collect();
        let at = self.write(change)?;
        for (node, (text, news)) in running.iter().zip(before) {
            if node.text() == text {
                continue;
            }
            let line = news.wait(PUBLISH, |line| line.message.starts_with("configuration "))?;
            ensure!(line.message == "configuration loaded", "{}: {}", node.name, line.text);
        }
        self.settle()?;
        Ok(at)
    }

    /// Changes the world and writes it, without waiting for anything.
    pub fn write(&self, change: impl FnOnce(&mut World)) -> Result<Instant> {
        change(&mut self.world());
        let at = Instant::now();
        self.write_files()?;
        Ok(at)
    }

    /// Waits until exactly the pods that should be captured are.
    pub fn settle(&self) -> Result<()> {
        let running = || self.nodes.iter().filter(|node| node.agent.is_running());
        eventually(PUBLISH, || running().try_for_each(|node| node.check_pods(&self.world())))
    }

    /// Adds a pod while the lab runs, and publishes it.
    pub fn add_pod(&mut self, pod: Pod) -> Result<()> {
        self.add_pod_by(pod, |kube, pod| kube.map_or(Ok(()), |kube| kube.add_pod(pod)))
    }

    /// The same, but what is to be told to Kubernetes, if it is there, is the caller's part: `start` gets the pod with its
    /// addresses, and its namespace and links are there. Gives what `start` gave.
    pub fn add_pod_by<T>(&mut self, mut pod: Pod, start: impl FnOnce(Option<&Kube>, &Pod) -> Result<T>) -> Result<T> {
        let names: Vec<String> = self.nodes.iter().map(|node| node.name.clone()).collect();
        let number = node_number(&names, &pod.node);
        let taken: Vec<_> = self.world().pods.iter().flat_map(|pod| pod.addresses.clone()).collect();
        let free =
            (10..=250).map(|at| pod_addresses(number, at)).find(|all| !all.iter().any(|one| taken.contains(one)));
        pod.addresses = free.context("all addresses of the node are taken")?;
        self.claim.add_namespaces([pod.name.as_str()].into_iter())?;
        let running = join(&self.claim, &pod, &names, &self.nodes)?;
        self.pods.push(running);
        let started = start(self.kube.as_ref(), &pod)?;
        self.publish(|world| world.pods.push(pod))?;
        Ok(started)
    }

    /// Deletes a pod as a node does when the pod ends, without telling the mesh: for that, publish a world without it.
    ///
    /// # Panics
    ///
    /// When there is no such pod.
    pub fn delete_pod(&mut self, name: &str) -> Result<()> {
        let at = self.pods.iter().position(|pod| pod.name == name);
        let pod = self.pods.remove(at.unwrap_or_else(|| panic!("the lab has no pod {name}")));
        // The namespace goes when the kernel has time for it; until then its link and routes would be in the way of the next pod.
        // A pod that has lost its link already has none to lose.
        wiring::batch(Some(self.node(&pod.node)), &format!("link del v{name}\n")).ok();
        wiring::batch(None, &format!("netns del {}\n", pod.netns()))
    }

    /// The ends of all logs, under headings: for whoever reports a failure.
    pub fn logs(&self, lines: usize) -> String {
        let agents = self.nodes.iter().map(|node| (format!("agent of {}", node.name), node.agent.log()));
        let all = agents.chain([("authority".to_owned(), self.authority.log())]);
        all.map(|(who, log)| format!("--- {who}\n{}\n", log.tail(lines))).collect()
    }

    fn build(topology: Topology, claim: Claim, binary: &Path) -> Result<Self> {
        let Topology { nodes: names, pods, services, authorization, peer_authentication, networks, settings } =
            topology;
        let all = names.iter().map(String::as_str).chain(pods.iter().map(|pod| pod.name.as_str()));
        claim.add_namespaces(["fabric"].into_iter().chain(all))?;
        let fabric = open(&claim, "fabric")?;
        let spaces: Vec<_> = names.iter().map(|name| Ok((name.clone(), open(&claim, name)?))).collect::<Result<_>>()?;
        wiring::fabric(&fabric, &spaces)?;
        let nodes: Vec<Node> = (1..)
            .zip(spaces)
            .map(|(number, (name, namespace))| {
                wiring::node(&namespace, number, u8::try_from(names.len())?)?;
                Node::new(&claim, (number, name), namespace, (binary, &settings))
            })
            .collect::<Result<_>>()?;
        let running = pods.iter().map(|pod| join(&claim, pod, &names, &nodes)).collect::<Result<_>>()?;
        let authority = Authority::new(Place {
            binary,
            directory: claim.directory().join("authority"),
            home: fabric.clone(),
            listen: node_addresses(wiring::FABRIC).0.into(),
            trust_domain: &settings.trust_domain,
            certificate_ttl: &settings.certificate_ttl,
        })?;
        let world = World {
            pods,
            services,
            authorization_policies: authorization,
            peer_authentications: peer_authentication,
            networks,
            ..World::default()
        };
        Ok(Self { nodes, kube: None, authority, pods: running, fabric, world: Mutex::new(world), settings, claim })
    }

    fn start_kube(&self) -> Result<Option<Kube>> {
        let Some(settings) = &self.settings.kubernetes else { return Ok(None) };
        let ground = Ground::new(&self.claim, &self.fabric, self.nodes.len(), settings.find_tools()?)?;
        let nodes = self.nodes.iter().map(|node| (node.name.clone(), node.addresses)).collect();
        Kube::start(ground, (settings, &self.settings.trust_domain), nodes, &self.world()).map(Some)
    }

    fn mesh_is_istiods(&self, node: &Node) -> bool {
        self.settings.kubernetes.as_ref().is_some_and(|kubernetes| kubernetes.mesh_is_istiods(&node.name))
    }

    /// Writes the authority's file and every node's.
    fn write_files(&self) -> Result<()> {
        let world = self.world().clone();
        let domain = &self.settings.trust_domain;
        let allowed = self.nodes.iter().map(|node| (node.name.clone(), world.identities(&node.name, domain)));
        self.authority.allow(&allowed.collect::<Vec<_>>())?;
        for node in &self.nodes {
            let ca = match &self.kube {
                Some(kube) => kube.ca(&node.name, &self.settings.certificate_ttl),
                None => self.authority.for_node(&node.name)?,
            };
            let mut settings = node.settings(&self.settings, ca);
            if let (Some(kube), true) = (&self.kube, self.mesh_is_istiods(node)) {
                let more = settings["xds"].take();
                settings["xds"] = kube.xds(&node.name);
                if let (Some(fields), Value::Object(more)) = (settings["xds"].as_object_mut(), more) {
                    fields.extend(more);
                }
            }
            settings["network"] = world.network(&node.name).into();
            let netns = |pod: &Pod| format!("/run/netns/{}-{}", self.claim.name(), pod.name);
            replace(&node.agent.config_file(), &world.render(&node.name, &settings, netns))?;
        }
        Ok(())
    }
}

fn fresh_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("ml{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}
