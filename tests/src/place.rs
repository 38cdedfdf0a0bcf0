//! The places of a lab: nodes and pods.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::agent::Agent;
use crate::authority::replace;
use crate::namespace::Namespace;
use crate::sweep::Claim;
use crate::topology::{Membership, Pod, PodSource, Settings, node_addresses};
use crate::wiring;
use crate::world::World;

/// A node. It is its namespace, with a name, addresses and an agent.
#[derive(Debug)]
pub struct Node {
    pub name: String,
    /// IPv4 and IPv6.
    pub addresses: [IpAddr; 2],
    pub(crate) namespace: Namespace,
    pub(crate) agent: Agent,
    directory: PathBuf,
}

/// A pod. It is its namespace, with a name and addresses.
#[derive(Debug)]
pub struct RunningPod {
    pub name: String,
    pub node: String,
    pub v4: IpAddr,
    pub v6: IpAddr,
    /// The SPIFFE id it has or would have in the mesh.
    pub identity: String,
    namespace: Namespace,
}

impl Node {
    pub(crate) fn new(
        claim: &Claim,
        (number, name): (u8, String),
        namespace: Namespace,
        (binary, settings): (&Path, &Settings),
    ) -> Result<Self> {
        let directory = claim.directory().join(&name);
        fs::create_dir_all(directory.join("run"))?;
        fs::create_dir_all(directory.join("bpf"))?;
        let agent = Agent::new(namespace.clone(), binary, directory.clone(), &settings.log, settings.log_format);
        let (v4, v6) = node_addresses(number);
        Ok(Self { name, addresses: [v4.into(), v6.into()], namespace, agent, directory })
    }

    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    /// What the agent's file says now.
    pub fn text(&self) -> String {
        fs::read_to_string(self.agent.config_file()).unwrap_or_default()
    }

    /// Puts any text in the place of the agent's file, until the next [`Lab::publish`].
    pub fn rewrite(&self, text: &str) -> Result<()> {
        replace(&self.agent.config_file(), text)
    }

    /// Where its CNI agent listens, if it has one.
    pub fn zds_socket(&self) -> PathBuf {
        self.directory.join("zds.sock")
    }

    /// The fields of `node` in its file.
    pub(crate) fn settings(&self, settings: &Settings, ca: Value) -> Value {
        let mut fields = json!({
            "name": self.name,
            "addresses": self.addresses,
            "trust_domain": settings.trust_domain,
            "run_dir": self.directory.join("run"),
            // Of the machine: an agent that a case kills at the wrong moment would leave it on.
            "rcu_expedited": null,
            "bpf_fs": self.directory.join("bpf"),
            "ca": ca,
        });
        if settings.pods == PodSource::Cni {
            fields["zds"] = json!({"socket": self.zds_socket()});
        }
        if let Value::Object(fields) = &mut fields {
            fields.extend(settings.node.clone());
        }
        fields
    }

    /// Fails unless exactly the pods that should be captured are.
    pub(crate) fn check_pods(&self, world: &World) -> Result<()> {
        let status = self.agent.quick_status()?;
        let wanted = |pod: &&Pod| pod.node == self.name && pod.membership == Membership::Enrolled;
        for pod in world.pods.iter().filter(wanted) {
            let found = status.pod(&pod.name).with_context(|| format!("pod {} is not enrolled", pod.name))?;
            ensure!(found.state.starts_with("captured"), "pod {} is {} {:?}", pod.name, found.state, found.error);
        }
        // Those that a CNI agent hands over are its business.
        let known = |pod: &&Pod| wanted(pod) || pod.membership == Membership::Handed;
        let surplus =
            status.pods.iter().find(|found| !world.pods.iter().filter(known).any(|pod| pod.name == found.name));
        surplus.map_or(Ok(()), |pod| bail!("pod {} is still {}", pod.name, pod.state))
    }

    pub(crate) fn check_certificates(&self) -> Result<()> {
        let status = self.agent.quick_status()?;
        let missing = status.certificates.iter().find(|certificate| certificate.state != "valid");
        missing.map_or(Ok(()), |found| bail!("{}: {} {:?}", found.identity, found.state, found.error))
    }
}

impl RunningPod {
    /// A port of its IPv4 address.
    pub fn at4(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.v4, port)
    }

    /// A port of its IPv6 address.
    pub fn at6(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.v6, port)
    }
}

impl Deref for Node {
    type Target = Namespace;

    fn deref(&self) -> &Namespace {
        &self.namespace
    }
}

impl Deref for RunningPod {
    type Target = Namespace;

    fn deref(&self) -> &Namespace {
        &self.namespace
    }
}

/// Joins a pod, whose namespace exists, to its node.
pub(crate) fn join(claim: &Claim, pod: &Pod, names: &[String], nodes: &[Node]) -> Result<RunningPod> {
    let node = nodes.iter().find(|node| node.name == pod.node);
    let node =
        node.with_context(|| format!("pod {} is on node {}, which the lab does not have", pod.name, pod.node))?;
    let namespace = open(claim, &pod.name)?;
    wiring::pod(pod, &namespace, names, &node.namespace)?;
    let address = |family: fn(&IpAddr) -> bool| pod.addresses.iter().copied().find(family);
    Ok(RunningPod {
        name: pod.name.clone(),
        node: pod.node.clone(),
        v4: address(IpAddr::is_ipv4).context("a pod has an IPv4 address")?,
        v6: address(IpAddr::is_ipv6).context("a pod has an IPv6 address")?,
        identity: pod.identity(),
        namespace,
    })
}

pub(crate) fn open(claim: &Claim, name: &str) -> Result<Namespace> {
    let namespace = Namespace::open(&format!("{}-{name}", claim.name()))?;
    wiring::prepare(&namespace)?;
    Ok(namespace)
}
