//! Pods that were handed over are in the mesh as others are.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_e2e::socket::exchange;
use mesh_e2e::zds::Handed;
use mesh_e2e::{Lab, Namespace, Wire};

use super::hands::{Hands, readiness};
use crate::lifecycle::traces;
use crate::traffic::support::{canonical, connect, greeting, mirror, only_tunnelled};

const SECRET: &str = "a secret of some length";
const PORTS: [u16; 4] = [15001, 15006, 15008, 15053];

/// Connects, checks whom the application sees, and exchanges the secret.
pub(super) fn visit(from: &Namespace, to: SocketAddr, seen_as: IpAddr) -> Result<()> {
    let stream = connect(from, to)?;
    let peer = greeting(&stream).with_context(|| format!("from {} to {to}", from.netns()))?;
    ensure!(canonical(peer).ip() == seen_as, "from {} to {to}: it is seen as {peer}", from.netns());
    ensure!(exchange(&stream, SECRET).context("the secret")? == SECRET, "other bytes came back");
    Ok(())
}

/// From the client to the server, by both families.
pub(super) fn visits(lab: &Lab, port: u16) -> Result<()> {
    let (client, server) = (lab.pod("client"), lab.pod("server"));
    visit(client, server.at4(port), client.v4)?;
    visit(client, server.at6(port), client.v6)
}

fn tunnelled(wire: Wire) -> Result<()> {
    only_tunnelled(&wire.finish()?, SECRET)
}

/// The client in the snapshot, the server later: mutual TLS between them, the client's address at the server's
/// application, the same for clients and servers outside of the mesh in plaintext.
pub(super) fn both_ways(lab: &mut Lab) -> Result<()> {
    let hands = Hands::start(lab, &["client"])?;
    let (client, server, outside) = (lab.pod("client"), lab.pod("server"), lab.outside());
    hands.link("n2").add(&Handed::of(server)?)?;
    let (_server, _far) = (mirror(server, 80)?, mirror(outside, 80)?);
    let wire = lab.wire("n1")?;
    visits(lab, 80)?;
    tunnelled(wire)?;
    for (of_outside, of_pod) in lab.outside_addresses().into_iter().zip([client.v4, client.v6]) {
        visit(client, SocketAddr::new(of_outside, 80), of_pod).context("out of the mesh")?;
    }
    let [v4, v6] = lab.outside_addresses();
    visit(outside, server.at4(80), v4).context("into the mesh")?;
    visit(outside, server.at6(80), v6).context("into the mesh")?;
    visit(server, server.at4(80), server.v4).context("a pod to itself")?;
    for (node, pod) in [("n1", client), ("n2", server)] {
        let status = lab.agent(node).status()?;
        let found = status.pod(&pod.name).with_context(|| format!("{node} does not show {}", pod.name))?;
        ensure!(found.state == "captured" && found.capture.as_deref() == Some("rules"), "{found:?}");
        ensure!(status.certificates.iter().any(|one| one.identity == pod.identity), "{:?}", status.certificates);
        ensure!(readiness(lab, node)?.0 == 200, "{node} is not ready");
        hands.link(node).silent()?;
    }
    let log = lab.agent("n2").log();
    let proven = |line: &mesh_e2e::Line| line.scope == "access" && line.field("src.identity") == client.identity;
    log.wait(Duration::from_secs(5), proven).context("the client's identity at the server's node")?;
    Ok(())
}

/// Trap 22: listeners, tunnels, and connections to applications carry the mark that the rules know.
pub(super) fn marked(lab: &mut Lab) -> Result<()> {
    let _hands = Hands::start(lab, &["client", "server"])?;
    let (client, server) = (lab.pod("client"), lab.pod("server"));
    let _server = mirror(server, 80)?;
    let open = connect(client, server.at4(80))?;
    greeting(&open)?;
    let sockets = |pod: &Namespace, filter: &str| -> Result<Vec<String>> {
        let shown = pod.output("ss", ["-Htunae", filter])?;
        Ok(shown.lines().map(str::to_owned).collect())
    };
    for pod in [client, server] {
        let filters = PORTS.map(|port| format!("sport = :{port}")).into_iter().chain(["dport = :15008".to_owned()]);
        let shown: Vec<_> = filters.map(|filter| sockets(pod, &filter)).collect::<Result<Vec<_>>>()?.concat();
        ensure!(shown.len() > PORTS.len(), "{}: there are hardly any sockets: {shown:?}", pod.name);
        let bare: Vec<_> = shown.iter().filter(|line| !line.contains("fwmark:0x539")).collect();
        ensure!(bare.is_empty(), "{}: sockets without the mark: {bare:?}", pod.name);
    }
    let to_application = sockets(server, "dport = :80")?;
    ensure!(to_application.iter().any(|line| line.contains("fwmark:0x539")), "{to_application:?}");
    Ok(())
}

/// Trap 23: capture is the business of the rules. Of ours there are listeners in the pod, which show the application its
/// client's address, and nothing else: no program, rule, route, sysctl, and nothing on the disk.
pub(super) fn nothing_else(lab: &mut Lab) -> Result<()> {
    let mut hands = Hands::start(lab, &[])?;
    let (client, server) = (lab.pod("client"), lab.pod("server"));
    let rules = |pod: &Namespace| pod.output("iptables-save", ["-t", "nat"]);
    let is_rule = |line: &&str| line.starts_with("-A");
    let of = |text: &str| text.lines().filter(is_rule).map(str::to_owned).collect::<Vec<_>>();
    let before = (traces::of(client)?, of(&rules(client)?));
    hands.link("n1").add(&Handed::of(client)?)?;
    hands.link("n2").add(&Handed::of(server)?)?;
    let _server = mirror(server, 80)?;
    visits(lab, 80)?;
    let changes = before.0.changes(&traces::of(client)?);
    let other: Vec<_> = changes.iter().filter(|change| !change.contains(" sockets: ")).collect();
    ensure!(other.is_empty(), "more than listeners: {other:?}");
    ensure!(before.1 == of(&rules(client)?), "the rules were changed");
    let pins: Vec<_> = traces::files(lab.agent("n1")).into_iter().filter(|file| !file.ends_with(".sock")).collect();
    ensure!(pins.is_empty(), "left on the disk: {pins:?}");
    hands.link("n1").del(&Handed::of(client)?.uid)?;
    mesh_e2e::eventually(Duration::from_secs(2), || {
        traces::same("after the pod was taken back", &before.0, &traces::of(client)?)
    })?;
    hands.hang_up("n1");
    Ok(())
}
