//! A ztunnel-compatible proxy on each node: its pods redirected by iptables inside them, its configuration in a local
//! file, certificates of its own making.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, anyhow, bail, ensure};
use mesh_e2e::{Lab, Node, Process, RunningPod, eventually};
use serde_json::json;

use super::zds::{Announced, Announcer};

/// Where it listens in each pod.
const OUTBOUND: u16 = 15001;
const INBOUND: u16 = 15006;
const HBONE: u16 = 15008;
/// The mark of its own packets, and the one by which answers to them are known.
const OWN: &str = "0x539/0xfff";
const ANSWER: &str = "0x111/0xfff";
const TABLE: &str = "100";
const START: Duration = Duration::from_secs(20);
const LOG: usize = 15;

/// The proxies of all nodes. Dropping it ends them.
#[derive(Debug, Default)]
pub(super) struct Proxies(Vec<Proxy>);

#[derive(Debug)]
struct Proxy {
    process: Process,
    _announced: Announced,
}

/// Sends the pods' traffic to where the proxy will listen. Once for the life of a lab.
pub(super) fn redirect(lab: &Lab) -> Result<()> {
    let file = lab.directory().join("redirect.rules");
    fs::write(&file, rules())?;
    for pod in lab.pods() {
        pod.output("iptables-restore", [file.as_os_str()])?;
        pod.output("ip", ["rule", "add", "fwmark", ANSWER, "lookup", TABLE])?;
        pod.output("ip", ["route", "add", "local", "0.0.0.0/0", "dev", "lo", "table", TABLE])?;
    }
    Ok(())
}

/// What the pod's applications send goes to the outbound listener, what comes for them to the inbound one, tunnels are
/// left alone, and so is all that the proxy itself sends. It connects to applications from their clients' addresses:
/// what they answer must come back to it.
fn rules() -> String {
    let foreign = format!("! -d 127.0.0.1/32 -p tcp -m mark ! --mark {OWN}");
    format!(
        "*mangle
-A PREROUTING -m mark --mark {OWN} -j CONNMARK --set-xmark {ANSWER}
-A OUTPUT -m connmark --mark {ANSWER} -j CONNMARK --restore-mark
COMMIT
*nat
-A OUTPUT -p tcp -m mark --mark {ANSWER} -j ACCEPT
-A OUTPUT ! -d 127.0.0.1/32 -o lo -j ACCEPT
-A OUTPUT {foreign} -j REDIRECT --to-ports {OUTBOUND}
-A PREROUTING {foreign} ! --dport {HBONE} -j REDIRECT --to-ports {INBOUND}
COMMIT
"
    )
}

impl Proxies {
    /// Starts them and waits until they listen in every pod.
    pub(super) fn start(binary: &Path, lab: &Lab) -> Result<Self> {
        let configuration = lab.directory().join("ztunnel.yaml");
        // JSON is YAML.
        fs::write(&configuration, configured(lab).to_string())?;
        let start = |node| Proxy::start(binary, lab, node, &configuration);
        let proxies = Self(lab.nodes().iter().map(start).collect::<Result<_>>()?);
        if let Err(error) = eventually(START, || lab.pods().iter().try_for_each(listening)) {
            bail!("{error:#}\n{}", proxies.logs());
        }
        Ok(proxies)
    }

    pub(super) fn pids(&self) -> Vec<u32> {
        self.0.iter().map(|proxy| proxy.process.pid()).collect()
    }

    /// The ends of their logs.
    pub(super) fn logs(&self) -> String {
        self.0.iter().map(|proxy| proxy.process.log().tail(LOG) + "\n").collect()
    }
}

impl Proxy {
    /// Starts one and tells it of its node's pods.
    fn start(binary: &Path, lab: &Lab, node: &Node, configuration: &Path) -> Result<Self> {
        let socket = lab.directory().join(format!("{}.zds", node.name));
        // Of the start before this one.
        fs::remove_file(&socket).ok();
        let announcer = Announcer::listen(&socket)?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut command = node.command(binary);
        command.arg("proxy");
        command.env("PROXY_MODE", "shared").env("NODE_NAME", &node.name).env("CLUSTER_ID", "cluster1");
        command.env("INPOD_UDS", &socket).env("LOCAL_XDS_PATH", configuration).env("FAKE_CA", "true");
        command.env("XDS_ADDRESS", "").env("CA_ADDRESS", "");
        command.env("ZTUNNEL_WORKER_THREADS", cores.to_string()).env("RUST_LOG", "warn");
        let mut process = lab.spawn(&format!("ztunnel-{}", node.name), &mut command)?;
        let own = lab.pods().iter().filter(|pod| pod.node == node.name);
        let alive = || process.check_running().map_err(|_| anyhow!("the proxy has ended"));
        match announcer.announce(own, alive) {
            Ok(announced) => Ok(Self { process, _announced: announced }),
            Err(error) => bail!("{}: {error:#}; it said:\n{}", node.name, process.log().tail(LOG)),
        }
    }
}

/// What there is in the mesh: the lab's pods, and no policy.
fn configured(lab: &Lab) -> serde_json::Value {
    let workloads = lab.pods().iter().map(|pod| {
        json!({
            "uid": format!("cluster1//Pod/default/{}", pod.name),
            "name": pod.name,
            "namespace": "default",
            "serviceAccount": pod.name,
            "trustDomain": "cluster.local",
            "workloadIps": [pod.v4],
            "protocol": "HBONE",
            "node": pod.node,
            "network": "",
            "services": {},
        })
    });
    json!({"workloads": workloads.collect::<Vec<_>>(), "policies": [], "services": []})
}

fn listening(pod: &RunningPod) -> Result<()> {
    for port in [OUTBOUND, INBOUND, HBONE] {
        let sockets = pod.output("ss", ["-Hltn", &format!("sport = :{port}")])?;
        ensure!(!sockets.trim().is_empty(), "the proxy does not listen on port {port} of pod {}", pod.name);
    }
    Ok(())
}
