//! The CNI agents of a lab: one for each node.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_e2e::agent::READY_PORT;
use mesh_e2e::zds::rules::redirect;
use mesh_e2e::zds::{Cni, Handed, Link};
use mesh_e2e::{Lab, Pod, Topology, eventually};

/// How long an agent may take to connect: its start, or the wait before its next try.
pub(super) const CONNECT: Duration = Duration::from_secs(10);

/// A client and a server, each on its node.
pub(crate) fn pair() -> Topology {
    Topology::new().pod(Pod::new("client", "n1").handed()).pod(Pod::new("server", "n2").handed()).handed_over()
}

/// With so much time to drain that it cannot be missed.
pub(super) fn patient() -> Topology {
    pair().node_setting("drain", "20s")
}

/// With a pod to move to, or to fail in the place of another.
pub(super) fn movable() -> Topology {
    pair().pod(Pod::new("spare", "n2").handed()).node_setting("drain", "3s")
}

/// What the CNI agent of each node has: its socket, and the connection of the node's agent.
pub(crate) struct Hands {
    nodes: BTreeMap<String, (Cni, Link)>,
}

impl Hands {
    /// Puts rules into all pods, starts the agents, and hands over those pods of each node that are named.
    pub(crate) fn start(lab: &Lab, pods: &[&str]) -> Result<Self> {
        lab.pods().iter().try_for_each(|pod| redirect(pod))?;
        let cnis: Vec<_> = lab.nodes().iter().map(|node| Cni::listen(&node.zds_socket())).collect::<Result<_>>()?;
        lab.nodes().iter().try_for_each(|node| node.agent().launch())?;
        let mut nodes = BTreeMap::new();
        for (node, cni) in lab.nodes().iter().zip(cnis) {
            let link = cni.accept(CONNECT).with_context(|| lab.logs(6))?;
            let own = lab.pods().iter().filter(|pod| pod.node == node.name && pods.contains(&pod.name.as_str()));
            link.snapshot(&own.map(Handed::of).collect::<Result<Vec<_>>>()?).with_context(|| lab.logs(6))?;
            nodes.insert(node.name.clone(), (cni, link));
        }
        lab.nodes().iter().try_for_each(|node| node.agent().wait_ready())?;
        Ok(Self { nodes })
    }

    /// The connection of the node's agent.
    pub(super) fn link(&self, node: &str) -> &Link {
        &self.nodes[node].1
    }

    pub(super) fn cni(&self, node: &str) -> &Cni {
        &self.nodes[node].0
    }

    /// Ends the connection and stops listening: the agent is alone until [`Hands::answer`].
    pub(super) fn hang_up(&mut self, node: &str) {
        self.nodes.remove(node);
    }

    /// Listens again if need be, and waits for the next connection of the node's agent.
    pub(super) fn answer(&mut self, lab: &Lab, node: &str) -> Result<&Link> {
        let cni = match self.nodes.remove(node) {
            Some((cni, _)) => cni,
            None => Cni::listen(&lab.node(node).zds_socket())?,
        };
        let link = cni.accept(CONNECT).with_context(|| format!("the agent of {node} does not come back"))?;
        Ok(&self.nodes.entry(node.to_owned()).or_insert((cni, link)).1)
    }
}

/// How many descriptors of a pod's namespace the node's agent holds: as long as there is one, the namespace lives.
pub(super) fn handles(lab: &Lab, node: &str, pod: &str) -> Result<usize> {
    let pid = lab.agent(node).pid().context("the agent runs")?;
    let id = |file: &Path| fs::metadata(file).map(|meta| (meta.dev(), meta.ino())).ok();
    let namespace = id(&lab.pod(pod).path()).context("the pod's namespace")?;
    let open = fs::read_dir(format!("/proc/{pid}/fd"))?.flatten();
    Ok(open.filter(|entry| id(&entry.path()) == Some(namespace)).count())
}

/// What the readiness page of a node's agent says.
pub(super) fn readiness(lab: &Lab, node: &str) -> Result<(u16, String)> {
    lab.agent(node).page(READY_PORT, "/healthz/ready")
}

/// Waits until the readiness page says that something is awaited that is called so.
pub(super) fn not_ready(lab: &Lab, node: &str, awaited: &str) -> Result<()> {
    eventually(Duration::from_secs(5), || {
        let (status, body) = readiness(lab, node)?;
        ensure!(status == 500 && body.contains(awaited), "{node}: {status} {body}");
        Ok(())
    })
}
