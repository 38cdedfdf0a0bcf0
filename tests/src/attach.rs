//! Agents for nodes and pods that someone else has made: the namespaces stay theirs.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::json;

use crate::agent::Agent;
use crate::authority::{Authority, Place, replace};
use crate::eventually::eventually;
use crate::namespace::Namespace;
use crate::sweep::Claim;
use crate::topology::{LogFormat, Pod};
use crate::world::World;

const TRUST_DOMAIN: &str = "cluster.local";
const START: Duration = Duration::from_secs(20);

/// A node that exists.
#[derive(Clone, Debug, Deserialize)]
pub struct ForeignNode {
    pub name: String,
    /// The name of its network namespace.
    pub netns: String,
    pub ip: IpAddr,
}

/// A pod that exists. Its identity is the service account of its own name in the namespace `default`.
#[derive(Clone, Debug, Deserialize)]
pub struct ForeignPod {
    pub name: String,
    pub netns: String,
    /// The name of its node.
    pub node: String,
    pub ip: IpAddr,
}

/// The running agents and their authority. Dropping it kills them.
#[derive(Debug)]
pub struct Attached {
    agents: Vec<Agent>,
    authority: Authority,
    claim: Claim,
}

impl Attached {
    /// Starts the authority in the first node and an agent in every one, and waits until all pods are captured and
    /// have their certificates.
    pub fn start(binary: &Path, nodes: &[ForeignNode], pods: &[ForeignPod]) -> Result<Self> {
        let first = nodes.first().context("there is no node")?;
        for pod in pods {
            ensure!(
                nodes.iter().any(|node| node.name == pod.node),
                "pod {} is on no known node: {}",
                pod.name,
                pod.node
            );
        }
        let claim = Claim::new(&format!("attach{}", std::process::id()))?;
        let authority = Authority::new(Place {
            binary,
            directory: claim.directory().join("authority"),
            home: Namespace::open(&first.netns)?,
            listen: first.ip,
            trust_domain: TRUST_DOMAIN,
            certificate_ttl: "24h",
        })?;
        let mut attached = Self { agents: Vec::new(), authority, claim };
        attached.run(binary, nodes, pods)?;
        Ok(attached)
    }

    fn run(&mut self, binary: &Path, nodes: &[ForeignNode], pods: &[ForeignPod]) -> Result<()> {
        let world = World { pods: pods.iter().map(known).collect(), ..World::default() };
        let allowed = nodes.iter().map(|node| (node.name.clone(), world.identities(&node.name, TRUST_DOMAIN)));
        self.authority.allow(&allowed.collect::<Vec<_>>())?;
        self.authority.start()?;
        for node in nodes {
            let directory = self.claim.directory().join(&node.name);
            std::fs::create_dir_all(directory.join("bpf"))?;
            let settings = json!({
                "name": node.name,
                "addresses": [node.ip],
                "run_dir": directory.join("run"),
                "rcu_expedited": null,
                "bpf_fs": directory.join("bpf"),
                "on_shutdown": "withdraw",
                "drain": "1s",
                "ca": self.authority.for_node(&node.name)?,
            });
            // One entry per connection is what a log is for, but writing it is not what is measured here.
            let agent =
                Agent::new(Namespace::open(&node.netns)?, binary, directory, "info,access=off", LogFormat::Text);
            let netns = |pod: &Pod| {
                let found = pods.iter().find(|foreign| foreign.name == pod.name);
                found.map(|foreign| format!("/run/netns/{}", foreign.netns)).unwrap_or_default()
            };
            replace(&agent.config_file(), &world.render(&node.name, &settings, netns))?;
            agent.launch()?;
            self.agents.push(agent);
        }
        self.agents.iter().try_for_each(Agent::wait_ready)?;
        eventually(START, || {
            let all: usize = self.agents.iter().map(captured).sum::<Result<usize>>()?;
            ensure!(all == pods.len(), "{all} of {} pods are captured", pods.len());
            Ok(())
        })
    }

    /// The agents' pids.
    pub fn pids(&self) -> Vec<u32> {
        self.agents.iter().filter_map(Agent::pid).collect()
    }

    /// Waits until all agents have ended, however long it takes, and then ends the authority.
    pub fn wait(self) -> Result<()> {
        for agent in &self.agents {
            agent.wait_end()?;
        }
        self.authority.stop()
    }
}

/// How many pods the agent has captured. A pod that failed is an error, and so is a missing certificate.
fn captured(agent: &Agent) -> Result<usize> {
    let status = agent.status()?;
    if let Some(failed) = status.pods.iter().find(|pod| !pod.state.starts_with("captured")) {
        bail!("pod {} is {}: {}", failed.name, failed.state, failed.error.as_deref().unwrap_or("no reason yet"));
    }
    if let Some(missing) = status.certificates.iter().find(|certificate| certificate.state != "valid") {
        bail!("the certificate of {} is {}", missing.identity, missing.state);
    }
    Ok(status.pods.len())
}

fn known(pod: &ForeignPod) -> Pod {
    Pod { addresses: vec![pod.ip], ..Pod::new(&pod.name, &pod.node) }
}
