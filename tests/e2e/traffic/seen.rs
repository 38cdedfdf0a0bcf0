//! What is to be seen of traffic: live flows, metrics, the access log, capture counters; and what passes uncaptured but
//! not uncounted.

use std::io::Read;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use anyhow::{Context, Result, bail, ensure};
use mesh_e2e::documents::Flow;
use mesh_e2e::{Lab, Line, Namespace, Server, eventually, socket};
use rustix::net::{AddressFamily, SocketType, ipproto};

use super::support::{Records, SOON, connect, fields, greeting, mirror};
use super::{APP, MESH, PORT, PROBE};
use crate::runner::Case;

pub(super) const CASES: &[Case] = &[
    Case::shared("live_flows", &MESH, live_flows),
    Case::shared("metrics_of_a_tunnel", &MESH, metrics_of_a_tunnel),
    Case::shared("metrics_of_plaintext", &MESH, metrics_of_plaintext),
    Case::shared("access_log", &MESH, access_log),
    Case::shared("kubelet_probe", &MESH, probe),
    Case::shared("from_node_to_other_port", &MESH, from_node),
    Case::shared("udp_passes", &MESH, udp),
    Case::shared("icmp_passes", &MESH, icmp),
    Case::shared("tcp_fragments_do_not_pass", &MESH, fragments),
];

/// Bytes of the transfer that is measured.
const UP: u64 = 123_457;
const DOWN: u64 = 76_543;

/// A server that takes [`UP`] bytes and then gives [`DOWN`].
fn measured_server(pod: &Namespace) -> Result<Server> {
    pod.serve(APP, |mut stream, _| {
        std::io::copy(&mut (&mut stream).take(UP), &mut std::io::sink())?;
        socket::pattern(&mut stream, DOWN).map(drop)
    })
}

/// Transfers that much, and gives the client's address once both sides have closed.
fn transfer(from: &Namespace, to: SocketAddr) -> Result<SocketAddr> {
    let mut stream = connect(from, to)?;
    socket::pattern(&mut stream, UP)?;
    let received = socket::drain(&mut stream)?;
    ensure!(received.bytes == DOWN, "{} bytes came", received.bytes);
    Ok(stream.local_addr()?)
}

fn live_flows(lab: &Lab) -> Result<()> {
    let (client, server) = (lab.pod("client"), lab.pod("server"));
    let _server = server.echo(APP)?;
    let stream = connect(client, lab.vip4("web", PORT))?;
    socket::exchange(&stream, "twelve bytes")?;
    let address = stream.local_addr()?.to_string();
    let hbone = Some(server.at4(APP).to_string());
    let [outbound, inbound] = [("n1", "outbound"), ("n2", "inbound")].map(|(node, direction)| {
        eventually(SOON, || {
            let flows = lab.agent(node).flows()?;
            let found = flows.iter().find(|flow| flow.direction == direction && flow.hbone == hbone);
            found.cloned().with_context(|| format!("not among the flows of {node}: {flows:?}"))
        })
    });
    let (outbound, inbound) = (outbound?, inbound?);
    ensure!(outbound.source.address == address, "{outbound:?}");
    ensure!(outbound.original == lab.vip4("web", PORT).to_string(), "{outbound:?}");
    ensure!(inbound.original == server.at4(APP).to_string(), "{inbound:?}");
    for flow in [&outbound, &inbound] {
        ensure!(flow.security == "mutual_tls" && flow.to_server == 12 && flow.to_client == 12, "{flow:?}");
        ensure!(flow.service.as_deref().is_some_and(|name| name.starts_with("web.")), "{flow:?}");
        for (end, pod) in [(&flow.source, client), (&flow.destination, server)] {
            ensure!(end.identity.as_deref() == Some(&*pod.identity), "{end:?} is not {}", pod.identity);
            ensure!(end.workload.as_deref() == Some(&*pod.name), "{end:?}");
        }
    }
    drop(stream);
    let gone = |flows: Vec<Flow>| flows.iter().all(|flow| flow.source.address != address);
    eventually(SOON, || {
        ensure!(gone(lab.agent("n1").flows()?), "a closed connection is still shown");
        Ok(())
    })
}

/// Series of the transfer's connections at one agent: opened, closed, received, sent.
fn counts(lab: &Lab, node: &str, labels: &[&str]) -> Result<[f64; 4]> {
    let names = ["connections_opened", "connections_closed", "received_bytes", "sent_bytes"];
    let agent = lab.agent(node);
    let mut counts = [0.0; 4];
    for (count, name) in counts.iter_mut().zip(names) {
        *count = agent.metric(&format!("istio_tcp_{name}_total"), labels)?;
    }
    Ok(counts)
}

/// Both agents count each byte once, under Istio's names.
fn metrics_of_a_tunnel(lab: &Lab) -> Result<()> {
    let (client, server) = (lab.pod("client"), lab.pod("server"));
    let _server = measured_server(server)?;
    let (source, destination) =
        (format!("source_principal=\"{}\"", client.identity), format!("destination_principal=\"{}\"", server.identity));
    for (node, reporter) in [("n1", "reporter=\"source\""), ("n2", "reporter=\"destination\"")] {
        let labels = [
            reporter,
            "source_workload=\"client\"",
            "source_workload_namespace=\"default\"",
            &source,
            "destination_workload=\"server\"",
            "destination_service=\"web.default.svc.cluster.local\"",
            "destination_service_name=\"web\"",
            "destination_service_namespace=\"default\"",
            &destination,
            "request_protocol=\"tcp\"",
            "response_flags=\"-\"",
            "connection_security_policy=\"mutual_tls\"",
        ];
        counted_once(lab, node, &labels, || transfer(client, lab.vip4("web", PORT)).map(drop))?;
    }
    Ok(())
}

fn metrics_of_plaintext(lab: &Lab) -> Result<()> {
    let (client, plain, near) = (lab.pod("client"), lab.pod("plain"), lab.pod("near"));
    let _servers = [measured_server(plain)?, measured_server(near)?];
    let principals = ["source_principal=\"unknown\"", "destination_principal=\"unknown\""];
    let plainly = ["connection_security_policy=\"unknown\"", "response_flags=\"-\""];
    let outward = ["reporter=\"source\"", "source_workload=\"client\"", "destination_workload=\"plain\""];
    let labels: Vec<_> = outward.into_iter().chain(principals).chain(plainly).collect();
    counted_once(lab, "n1", &labels, || transfer(client, plain.at4(APP)).map(drop))?;
    let inward = ["reporter=\"destination\"", "source_workload=\"plain\"", "destination_workload=\"near\""];
    let labels: Vec<_> = inward.into_iter().chain(principals).chain(plainly).collect();
    counted_once(lab, "n1", &labels, || transfer(plain, near.at4(APP)).map(drop))
}

/// One transfer raises these series by exactly its bytes, and by one connection.
fn counted_once(lab: &Lab, node: &str, labels: &[&str], transfer: impl FnOnce() -> Result<()>) -> Result<()> {
    let before = counts(lab, node, labels)?;
    transfer()?;
    let expected = [1.0, 1.0, UP as f64, DOWN as f64];
    eventually(SOON, || {
        let after = counts(lab, node, labels)?;
        let rise: Vec<f64> = after.iter().zip(before).map(|(after, before)| after - before).collect();
        ensure!(rise == expected, "{node} has counted {rise:?}, not {expected:?}, for {labels:?}");
        Ok(())
    })
}

fn access_log(lab: &Lab) -> Result<()> {
    let (client, server) = (lab.pod("client"), lab.pod("server"));
    let _server = measured_server(server)?;
    let records = Records::since_now(lab);
    let address = transfer(client, lab.vip6("web", PORT))?;
    let [outbound, inbound] = records.tunnelled((client, address), (server, server.at6(APP)))?;
    let (up, down) = (UP.to_string(), DOWN.to_string());
    fields(&outbound, &[("bytes_sent", &up), ("bytes_recv", &down)])?;
    fields(&inbound, &[("bytes_sent", &down), ("bytes_recv", &up)])?;
    for line in [&outbound, &inbound] {
        fields(
            line,
            &[
                ("dst.service", "web.default.svc.cluster.local"),
                ("src.namespace", "default"),
                ("dst.namespace", "default"),
                ("retrans", "0"),
                ("error", ""),
            ],
        )?;
        ensure!(line.level == "info" && line.message == "connection complete", "{}", line.text);
        ensure!(number(line, "duration", "ms")? < 5000, "{}", line.text);
        let rtt = number(line, "rtt", "us")?;
        ensure!(rtt > 0 && rtt < 1_000_000, "{}", line.text);
        ensure!(!line.field("close").is_empty(), "{}", line.text);
    }
    Ok(())
}

fn number(line: &Line, field: &str, unit: &str) -> Result<u64> {
    let number = line.field(field).strip_suffix(unit).and_then(|number| number.parse().ok());
    number.with_context(|| format!("{field} is no number of {unit} in {}", line.text))
}

/// From the node to the declared port: not the agent's business, but counted, and the application sees the node.
fn probe(lab: &Lab) -> Result<()> {
    let (node, server, records) = (lab.node("n2"), lab.pod("server"), Records::since_now(lab));
    let _server = mirror(server, PROBE)?;
    let before = node.agent().status()?;
    for (address, seen_as) in [server.at4(PROBE), server.at6(PROBE)].into_iter().zip(node.addresses) {
        let stream = connect(node, address)?;
        let peer = greeting(&stream)?;
        ensure!(peer == stream.local_addr()?, "the application sees {peer}, a socket of somebody else");
        ensure!(peer.ip() == seen_as, "the node's address is {seen_as}, not {peer}");
        ensure!(socket::exchange(&stream, "healthy?")? == "healthy?");
    }
    let after = node.agent().status()?;
    let rise = |name: &str| after.counter(name) - before.counter(name);
    ensure!(rise("probe") == 2, "{} probes were counted", rise("probe"));
    ensure!(rise("captured_inbound") == 0, "a probe was captured");
    ensure!(records.all("n2").is_empty(), "a probe was recorded");
    Ok(())
}

/// The same from the node to any other port is traffic like any other.
fn from_node(lab: &Lab) -> Result<()> {
    let (node, server) = (lab.node("n2"), lab.pod("server"));
    let _server = mirror(server, APP)?;
    for (address, seen_as) in [server.at4(APP), server.at6(APP)].into_iter().zip(node.addresses) {
        let (records, before) = (Records::since_now(lab), node.agent().status()?);
        let stream = connect(node, address)?;
        let (peer, client) = (greeting(&stream)?, stream.local_addr()?);
        ensure!(peer.ip() == seen_as, "the application sees {peer}");
        drop(stream);
        let line = records.inbound("n2", client)?;
        fields(&line, &[("dst.addr", &address.to_string()), ("src.identity", ""), ("error", "")])?;
        let after = node.agent().status()?;
        let rise = |name: &str| after.counter(name) - before.counter(name);
        ensure!(rise("captured_inbound") == 1 && rise("probe") == 0, "{:?}", after.capture);
    }
    Ok(())
}

/// Also in datagrams that need fragments.
fn udp(lab: &Lab) -> Result<()> {
    let (client, server) = (lab.pod("client"), lab.pod("server"));
    let bind = |address: SocketAddr| -> Result<UdpSocket> {
        let socket = UdpSocket::bind(address)?;
        socket.set_read_timeout(Some(SOON))?;
        Ok(socket)
    };
    for (own, to) in [(client.at4(0), server.at4(APP)), (client.at6(0), server.at6(APP))] {
        let (asking, serving) = (client.run(|| bind(own))?, server.run(|| bind(to))?);
        for length in [100, 4000] {
            let (question, mut buffer) = (vec![b'?'; length], vec![0; 5000]);
            let before = not_tcp(lab)?;
            asking.send_to(&question, to)?;
            let (received, peer) = serving.recv_from(&mut buffer).context("at the server")?;
            ensure!(peer.ip() == own.ip(), "the server sees {peer}");
            serving.send_to(buffer.get(..received).unwrap_or_default(), peer)?;
            let (received, _) = asking.recv_from(&mut buffer).context("at the client")?;
            ensure!(buffer.get(..received) == Some(&question), "{received} other bytes came back");
            counted(before, not_tcp(lab)?)?;
        }
    }
    Ok(())
}

/// An echo request of each family.
fn icmp(lab: &Lab) -> Result<()> {
    const V4: (u8, u8) = (8, 0);
    const V6: (u8, u8) = (128, 129);
    let (client, server) = (lab.pod("client"), lab.pod("server"));
    client.set_sysctls(&[("net.ipv4.ping_group_range", "0 0")])?;
    for (to, family, protocol, (request, reply)) in [
        (server.at4(0), AddressFamily::INET, ipproto::ICMP, V4),
        (server.at6(0), AddressFamily::INET6, ipproto::ICMPV6, V6),
    ] {
        // A ping socket behaves as a UDP socket does; identifier and checksum are the kernel's.
        let socket = UdpSocket::from(client.run(|| rustix::net::socket(family, SocketType::DGRAM, Some(protocol)))?);
        socket.set_read_timeout(Some(SOON))?;
        socket.connect(to)?;
        let before = not_tcp(lab)?;
        socket.send(&[request, 0, 0, 0, 0, 0, 0, 1, b'!'])?;
        let mut answer = [0; 16];
        let length = socket.recv(&mut answer).with_context(|| format!("the answer of {to}"))?;
        ensure!(length == 9 && answer[0] == reply && answer[8] == b'!', "{to} answers {answer:?}");
        counted(before, not_tcp(lab)?)?;
    }
    Ok(())
}

/// Packets that are not TCP, counted at either agent.
fn not_tcp(lab: &Lab) -> Result<[u64; 2]> {
    Ok([lab.agent("n1").status()?.counter("not_tcp"), lab.agent("n2").status()?.counter("not_tcp")])
}

/// There and back: both agents have seen at least two packets.
fn counted(before: [u64; 2], after: [u64; 2]) -> Result<()> {
    let enough = before.iter().zip(after).all(|(before, after)| after - before >= 2);
    ensure!(enough, "the counters went from {before:?} to {after:?}");
    Ok(())
}

/// A fragment of TCP cannot be attributed to a connection, so it would be a way around the mesh, out of a pod or in.
fn fragments(lab: &Lab) -> Result<()> {
    let wire = lab.wire("n1")?;
    send_fragment(lab, "client", "server")?;
    let passed = wire.finish()?.plaintext().next().map(ToString::to_string);
    ensure!(passed.is_none(), "it has left the node: {passed:?}");
    send_fragment(lab, "plain", "near")
}

/// One of the pods is on `n1`, whose agent must count that it dropped it.
fn send_fragment(lab: &Lab, from: &str, to: &str) -> Result<()> {
    let (from, to) = (lab.pod(from), lab.pod(to));
    let dropped = || -> Result<u64> { Ok(lab.agent("n1").status()?.counter("fragment")) };
    let before = dropped()?;
    let raw = from.run(|| rustix::net::socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::RAW)))?;
    UdpSocket::from(raw).send_to(&first_fragment(from.v4, to.v4)?, to.at4(0))?;
    eventually(SOON, || {
        let count = dropped()? - before;
        ensure!(count == 1, "{count} fragments from {} to {} were dropped", from.name, to.name);
        Ok(())
    })
}

/// The beginning of a SYN, with more fragments to come. The kernel fills in length and checksum.
fn first_fragment(from: IpAddr, to: IpAddr) -> Result<Vec<u8>> {
    let (IpAddr::V4(from), IpAddr::V4(to)) = (from, to) else { bail!("no IPv4 addresses") };
    let mut packet = vec![0x45, 0, 0, 0, 0, 7, 0x20, 0, 64, 6, 0, 0];
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(40_000_u16.to_be_bytes());
    packet.extend(APP.to_be_bytes());
    // Sequence and acknowledgement; a header of 24 bytes; SYN; window, checksum, urgent pointer; options.
    packet.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x60, 0x02, 0x10, 0, 0, 0, 0, 0, 1, 1, 1, 1]);
    Ok(packet)
}
