//! Istio's own CNI agent as the peer of `node.zds`: it finds the pods of its node, puts its rules into them and hands them
//! over; the agents serve them (protocol note, sections 10 and 11).

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mesh_e2e::kube::{Container, Init, IstioCni, Rules};
use mesh_e2e::socket::exchange;
use mesh_e2e::{Lab, Node, Pod, RunningPod, Topology, eventually, kube};
use rustix::process::Signal;

use crate::runner::say;
use crate::support::{canonical, connect, greeting, mirror, only_tunnelled};

const SECRET: &str = "a secret of some length";
/// How long the CNI agent may take to hand a pod over, on a machine that may be busy. It tries a second time after up to
/// five seconds, and so does the agent.
const HANDED: Duration = Duration::from_secs(30);
const SOON: Duration = Duration::from_secs(10);
/// How long is waited for a connection that must not come about.
const FAILS: Duration = Duration::from_millis(700);

/// A client and a server, each on its node, and one outside of the mesh.
pub(super) fn pair() -> Topology {
    Topology::new()
        .pod(Pod::new("client", "n1").handed())
        .pod(Pod::new("server", "n2").namespace("shop").handed().label("app", "server"))
        .pod(Pod::new("plain", "n1").namespace("outside").plain().label("istio.io/dataplane-mode", "none"))
        .kubernetes(kube::Settings::new().mesh_from_istiod())
        .handed_over()
}

/// The CNI agents of the nodes, and the containers of the pods.
struct Nodes {
    containers: Vec<(String, Container)>,
    cnis: Vec<(String, IstioCni)>,
    inits: BTreeMap<String, Init>,
}

impl Nodes {
    /// Starts the containers, the CNI agents and the agents, and waits until all that is to be handed over is.
    fn start(lab: &Lab, rules: Rules) -> Result<Self> {
        let (kube, pods) = (lab.kube(), lab.world().pods.clone());
        let boot = |node: &Node| Ok((node.name.clone(), kube.boot(node)?));
        let inits: BTreeMap<_, _> = lab.nodes().iter().map(boot).collect::<Result<_>>()?;
        let run = |pod: &Pod| Ok((pod.name.clone(), kube.run_container(pod, &inits[&pod.node])?));
        let containers = pods.iter().map(run).collect::<Result<_>>()?;
        let start = |node: &Node| Ok((node.name.clone(), kube.run_cni(node, &inits[&node.name], rules)?));
        let cnis = lab.nodes().iter().map(start).collect::<Result<_>>()?;
        lab.nodes().iter().try_for_each(|node| node.agent().launch())?;
        let nodes = Self { containers, cnis, inits };
        nodes.cnis.iter().try_for_each(|(_, cni)| cni.wait_ready())?;
        for pod in ["client", "server"] {
            enrolled(lab, pod).with_context(|| nodes.said())?;
        }
        lab.nodes().iter().try_for_each(|node| node.agent().wait_ready()).with_context(|| nodes.said())?;
        Ok(nodes)
    }

    fn cni(&self, node: &str) -> &IstioCni {
        &self.cnis.iter().find(|(name, _)| name == node).expect("each node has one").1
    }

    fn end_container(&mut self, pod: &str) {
        self.containers.retain(|(name, _)| name != pod);
    }

    fn said(&self) -> String {
        self.cnis.iter().map(|(node, cni)| format!("--- CNI agent of {node}\n{}\n", cni.log().tail(20))).collect()
    }
}

fn known(lab: &Lab, pod: &str) -> Pod {
    lab.world().pod(pod).clone()
}

/// Waits until the CNI agent has told the API server that the pod is redirected, which it does once the agent serves it.
fn enrolled(lab: &Lab, name: &str) -> Result<()> {
    let pod = known(lab, name);
    let what = format!("pod/{name}");
    lab.kube().wait(HANDED, (&pod.namespace, &what), |object| {
        let said = &object["metadata"]["annotations"]["ambient.istio.io/redirection"];
        ensure!(said == "enabled", "{name}: {said}");
        Ok(())
    })?;
    let status = lab.agent(&pod.node).status()?;
    let served = status.pod(name).with_context(|| format!("{} does not show {name}", pod.node))?;
    ensure!(served.state == "captured" && served.capture.as_deref() == Some("rules"), "{served:?}");
    Ok(())
}

/// Waits until no agent serves a pod of this name.
fn gone(lab: &Lab, node: &str, pod: &str) -> Result<()> {
    eventually(HANDED, || {
        let status = lab.agent(node).status()?;
        ensure!(status.pod(pod).is_none(), "{:?}", status.pod(pod));
        Ok(())
    })
}

fn visit(from: &RunningPod, to: SocketAddr, seen_as: IpAddr) -> Result<()> {
    let stream = from.try_connect(to)?;
    stream.set_read_timeout(Some(FAILS))?;
    let peer = greeting(&stream)?;
    ensure!(canonical(peer).ip() == seen_as, "{to} sees {peer}");
    let answer = exchange(&stream, SECRET)?;
    ensure!(answer == SECRET, "other bytes came back: {answer:?}");
    Ok(())
}

/// From the client to a pod that [`mirror`]s, by both families; waits until it works at all.
fn visits(lab: &Lab, to: &str) -> Result<()> {
    let (client, server) = (lab.pod("client"), lab.pod(to));
    eventually(SOON, || visit(client, server.at4(80), client.v4))?;
    eventually(SOON, || visit(client, server.at6(80), client.v6))
}

/// In mutual TLS, and nothing else on the wire, with the client's identity at the other end. What istiod says of a pod
/// that has just been enrolled may take a moment: until then plaintext is as it should be.
fn tunnelled(lab: &Lab, to: &str) -> Result<()> {
    visits(lab, to)?;
    let mut last = Ok(());
    let deadline = Instant::now() + SOON;
    while Instant::now() < deadline {
        let wire = lab.wire("n1")?;
        let news = lab.agent("n2").log().from_now();
        visits(lab, to)?;
        last = only_tunnelled(&wire.finish()?, SECRET).and_then(|()| {
            let identity = &lab.pod("client").identity;
            news.wait(SOON, |line| line.scope == "access" && line.field("src.identity") == identity.as_str()).map(drop)
        });
        if last.is_ok() {
            return Ok(());
        }
    }
    last
}

/// The rules that Istio's CNI agent has put into a pod.
fn rules_in(pod: &RunningPod, rules: Rules) -> Result<String> {
    let all = match rules {
        Rules::Iptables => pod.output("iptables-save", ["-t", "nat"])?,
        Rules::Nftables => pod.output("nft", ["list", "ruleset"])?,
    };
    Ok(all.lines().filter(|line| line.contains("15001") || line.contains("15006")).collect::<Vec<_>>().join("\n"))
}

/// How many descriptors of a pod's namespace an agent holds.
fn handles(lab: &Lab, node: &str, namespace: (u64, u64)) -> Result<usize> {
    let pid = lab.agent(node).pid().context("the agent runs")?;
    let open = fs::read_dir(format!("/proc/{pid}/fd"))?.flatten();
    Ok(open.filter(|entry| inode(&entry.path()) == Some(namespace)).count())
}

fn inode(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok()
}

/// With rules of iptables.
pub(super) fn by_iptables(lab: &mut Lab) -> Result<()> {
    handed_over(lab, Rules::Iptables)
}

/// With rules of nftables.
pub(super) fn by_nftables(lab: &mut Lab) -> Result<()> {
    handed_over(lab, Rules::Nftables)
}

/// The pods that are there when the CNI agent starts: found, redirected, handed over, served, in mutual TLS.
fn handed_over(lab: &Lab, rules: Rules) -> Result<()> {
    let nodes = Nodes::start(lab, rules)?;
    let (client, server, plain) = (lab.pod("client"), lab.pod("server"), lab.pod("plain"));
    for pod in [client, server] {
        let found = rules_in(pod, rules)?;
        ensure!(found.contains("15001") && found.contains("15006"), "{}: no redirection: {found}", pod.name);
    }
    ensure!(rules_in(plain, rules)?.is_empty(), "the pod outside of the mesh is redirected");
    let _servers = (mirror(server, 80)?, mirror(plain, 80)?, mirror(lab.outside(), 80)?);
    tunnelled(lab, "server").with_context(|| nodes.said())?;
    eventually(SOON, || visit(client, plain.at4(80), client.v4)).context("out of the mesh")?;
    eventually(SOON, || visit(plain, server.at4(80), plain.v4)).context("into the mesh")?;
    let outside = SocketAddr::new(lab.outside_addresses()[0], 80);
    visit(client, outside, client.v4).context("to a host that nobody knows")?;
    let log = nodes.cni("n2").log().text();
    ensure!(!log.contains("timed out waiting for valid ztunnel response"), "an answer came late:\n{log}");
    Ok(())
}

/// An agent that was stopped or killed connects again when it is back, and gets all pods in a snapshot; until then
/// nothing gets by it.
pub(super) fn agent_restarts(lab: &mut Lab) -> Result<()> {
    let nodes = Nodes::start(lab, Rules::Iptables)?;
    let (client, server) = (lab.pod("client"), lab.pod("server"));
    let _server = mirror(server, 80)?;
    tunnelled(lab, "server")?;
    for signal in [Signal::TERM, Signal::KILL] {
        let (agent, news) = (lab.agent("n2"), nodes.cni("n2").log().from_now());
        agent.signal(signal)?;
        agent.wait_end()?;
        let without = client.run(|| std::net::TcpStream::connect_timeout(&server.at4(80), FAILS));
        if let Ok(stream) = without {
            stream.set_read_timeout(Some(FAILS))?;
            ensure!(greeting(&stream).is_err(), "{signal:?}: it gets in without an agent");
        }
        let start = Instant::now();
        agent.start()?;
        tunnelled(lab, "server").with_context(|| format!("after {signal:?}:\n{}", nodes.said()))?;
        say(format_args!("{signal:?}: serving again after {} ms", start.elapsed().as_millis()));
        let said = news.text();
        ensure!(said.contains("sending pod to ztunnel as part of snapshot"), "{signal:?}: no snapshot:\n{said}");
    }
    Ok(())
}

/// A CNI agent that was stopped or killed: while it is away and when it is back, connections that were open stay, and new
/// ones get through.
pub(super) fn cni_restarts(lab: &mut Lab) -> Result<()> {
    let nodes = Nodes::start(lab, Rules::Iptables)?;
    let (client, server) = (lab.pod("client"), lab.pod("server"));
    let _server = mirror(server, 80)?;
    tunnelled(lab, "server")?;
    let open = connect(client, server.at4(80))?;
    greeting(&open)?;
    for signal in [Signal::TERM, Signal::KILL] {
        let cni = nodes.cni("n2");
        match signal {
            Signal::TERM => drop(cni.stop()?),
            _ => cni.kill()?,
        }
        visits(lab, "server").with_context(|| format!("while it is away ({signal:?})"))?;
        let news = cni.log().from_now();
        cni.launch()?;
        cni.wait_ready()?;
        news.wait(HANDED, |line| line.text.contains("sending pod to ztunnel as part of snapshot"))
            .with_context(|| format!("{signal:?}"))?;
        ensure!(exchange_on(&open)? == SECRET, "{signal:?}: the open connection");
        tunnelled(lab, "server").with_context(|| format!("after {signal:?}"))?;
        enrolled(lab, "server")?;
    }
    Ok(())
}

/// One round on a connection that stays open.
fn exchange_on(mut stream: &std::net::TcpStream) -> Result<String> {
    use std::io::{Read, Write};
    stream.write_all(SECRET.as_bytes())?;
    let mut answer = vec![0; SECRET.len()];
    stream.read_exact(&mut answer)?;
    Ok(String::from_utf8(answer)?)
}

/// A pod that comes while all runs, by the CNI plugin, as a container runtime calls it: it is in the mesh when the plugin
/// returns. Deleted, it is let go of.
pub(super) fn pod_by_plugin(lab: &mut Lab) -> Result<()> {
    let mut nodes = Nodes::start(lab, Rules::Iptables)?;
    let pod = Pod::new("late", "n2").namespace("shop").handed();
    let (name, cni, init) = (lab.name().to_owned(), nodes.cni("n2"), &nodes.inits["n2"]);
    let container = lab.add_pod_by(pod, |kube, pod| {
        let kube = kube.context("the lab has Kubernetes")?;
        kube.create_pod(pod)?;
        let netns = format!("/run/netns/{name}-late");
        let result = cni.add(pod, &kube.uid(pod)?, Path::new(&netns))?;
        ensure!(result["ips"].as_array().is_some_and(|ips| ips.len() == 2), "{result}");
        let container = kube.run_container(pod, init)?;
        kube.set_readiness(pod, kube::Readiness::Ready)?;
        Ok(container)
    });
    nodes.containers.push(("late".to_owned(), container.with_context(|| nodes.said())?));
    let served = lab.agent("n2").status()?;
    ensure!(served.pod("late").is_some(), "not in the mesh when the plugin had returned: {:?}", served.pods);
    enrolled(lab, "late")?;
    let late = lab.pod("late");
    ensure!(rules_in(late, Rules::Iptables)?.contains("15006"), "there are no rules in it");
    let server = mirror(late, 80)?;
    tunnelled(lab, "late").with_context(|| nodes.said())?;
    let namespace = inode(&late.path()).context("its namespace")?;
    drop(server);
    ensure!(handles(lab, "n2", namespace)? > 0, "the agent has no handle of a pod that it serves");
    let pod = known(lab, "late");
    nodes.end_container("late");
    lab.kube().delete_pod(&pod.namespace, "late")?;
    gone(lab, "n2", "late").with_context(|| nodes.said())?;
    lab.delete_pod("late")?;
    lab.world().pods.retain(|pod| pod.name != "late");
    eventually(SOON, || {
        let left = handles(lab, "n2", namespace)?;
        ensure!(left == 0, "the agent still has {left} handles of its namespace");
        Ok(())
    })
}

/// A pod that is in the mesh from its namespace's label on, and out of it when the label goes: the rules go, and the
/// agent lets go of it.
pub(super) fn labels(lab: &mut Lab) -> Result<()> {
    let nodes = Nodes::start(lab, Rules::Iptables)?;
    let (client, server) = (lab.pod("client"), lab.pod("server"));
    let _server = mirror(server, 80)?;
    tunnelled(lab, "server")?;
    let kubectl = lab.kube().kubectl();
    let label = |value: &str| kubectl.run(["label", "namespace", "shop", "--overwrite", value]).map(drop);
    label("istio.io/dataplane-mode-")?;
    gone(lab, "n2", "server").with_context(|| nodes.said())?;
    eventually(SOON, || {
        let left = rules_in(server, Rules::Iptables)?;
        if left.is_empty() { Ok(()) } else { bail!("there are rules left: {left}") }
    })?;
    eventually(SOON, || visit(client, server.at4(80), client.v4)).context("without the mesh")?;
    let wire = lab.wire("n1")?;
    visit(client, server.at4(80), client.v4)?;
    ensure!(wire.finish()?.showing(SECRET).next().is_some(), "it is not in plaintext");
    label("istio.io/dataplane-mode=ambient")?;
    enrolled(lab, "server").with_context(|| nodes.said())?;
    tunnelled(lab, "server").with_context(|| nodes.said())
}
