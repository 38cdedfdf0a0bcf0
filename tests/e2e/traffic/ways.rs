//! Every way from a pod to a destination: families, service and pod addresses, on this node and on another, inside the
//! mesh and outside of it. On each the application sees the client's own address.

use std::net::{IpAddr, SocketAddr, TcpListener};

use anyhow::{Context, Result, bail, ensure};
use mesh_e2e::socket::{self, mapped};
use mesh_e2e::{Lab, Line, Namespace, RunningPod, Server, eventually, server};

use super::support::{
    Records, SOON, canonical, connect, fields, greeting, mirror, must_be_reset, only_tunnelled, same_family,
};
use super::{APP, JOINED, MESH, PORT, STRICTER, TUNNELS};
use crate::runner::Case;

pub(super) const CASES: &[Case] = &[
    Case::shared("ipv4", &MESH, |lab| tunnelled(lab, "client", "server", lab.pod("server").at4(APP))),
    Case::shared("ipv6", &MESH, |lab| tunnelled(lab, "client", "server", lab.pod("server").at6(APP))),
    Case::shared("ipv4_mapped", &MESH, |lab| tunnelled(lab, "client", "server", mapped(lab.pod("server").at4(APP)))),
    Case::shared("service_ipv4", &MESH, |lab| tunnelled(lab, "client", "server", lab.vip4("web", PORT))),
    Case::shared("service_ipv6", &MESH, |lab| tunnelled(lab, "client", "server", lab.vip6("web", PORT))),
    Case::shared("service_ipv4_mapped", &MESH, |lab| tunnelled(lab, "client", "server", mapped(lab.vip4("web", PORT)))),
    Case::shared("service_headless", &MESH, |lab| tunnelled(lab, "client", "twin", lab.pod("twin").at4(APP))),
    Case::shared("service_several_endpoints", &MESH, several_endpoints),
    Case::shared("service_without_healthy_endpoint", &MESH, no_healthy_endpoint),
    Case::shared("service_without_such_port", &MESH, no_such_port),
    Case::shared("service_of_the_pod_itself", &JOINED, |lab| joined(lab, "near", "near", lab.vip4("close", PORT))),
    Case::shared("same_node_ipv4", &JOINED, |lab| joined(lab, "client", "near", lab.pod("near").at4(APP))),
    Case::shared("same_node_ipv6", &JOINED, |lab| joined(lab, "client", "near", lab.pod("near").at6(APP))),
    Case::shared("same_node_service", &JOINED, |lab| joined(lab, "client", "near", lab.vip6("close", PORT))),
    Case::shared("same_node_service_ipv4", &JOINED, |lab| joined(lab, "client", "near", lab.vip4("close", PORT))),
    Case::shared("same_node_nobody_listens", &JOINED, nobody_listens),
    Case::shared("mtls_of_the_pod_itself", &TUNNELS, |lab| tunnelled(lab, "near", "near", lab.vip4("close", PORT))),
    Case::shared("mtls_same_node_ipv4", &TUNNELS, |lab| tunnelled(lab, "client", "near", lab.pod("near").at4(APP))),
    Case::shared("mtls_same_node_ipv6", &TUNNELS, |lab| tunnelled(lab, "client", "near", lab.pod("near").at6(APP))),
    Case::shared("mtls_same_node_service", &TUNNELS, |lab| tunnelled(lab, "client", "near", lab.vip6("close", PORT))),
    Case::shared("mtls_by_namespace", &STRICTER, |lab| tunnelled(lab, "client", "near", lab.pod("near").at4(APP))),
    Case::shared("to_workload_outside_the_mesh", &MESH, |lab| to_outside(lab, lab.pod("plain"), "plain")),
    Case::shared("to_unknown_pod", &MESH, |lab| to_outside(lab, lab.pod("alien"), "")),
    Case::shared("to_unknown_host", &MESH, to_host),
    Case::shared("from_outside_the_mesh", &MESH, from_outside),
    Case::shared("listeners_of_every_kind", &MESH, listeners),
    Case::shared("pod_to_itself", &MESH, itself),
];

const SECRET: &str = "a secret of some length";

/// From pod to pod by any address: mutual TLS on the client's link, wherever that leads; both identities at both agents;
/// every byte counted.
fn tunnelled(lab: &Lab, from: &str, to: &str, address: SocketAddr) -> Result<()> {
    let (from, to) = (lab.pod(from), lab.pod(to));
    let _server = mirror(to, APP)?;
    let (records, link, wire) = (Records::since_now(lab), lab.wire_in(from, "eth0")?, lab.wire(&from.node)?);
    let (client, greeted) = visit(from, address, same_family(from, address, 0).ip())?;
    let target = same_family(to, address, APP);
    let [outbound, inbound] = records.tunnelled((from, client), (to, target))?;
    let (sent, received) = (SECRET.len().to_string(), (greeted + SECRET.len()).to_string());
    fields(&outbound, &[("bytes_sent", &sent), ("bytes_recv", &received), ("error", "")])?;
    fields(&inbound, &[("bytes_sent", &received), ("bytes_recv", &sent), ("error", "")])?;
    let (link, wire) = (link.finish()?, wire.finish()?);
    if from.node != to.node {
        only_tunnelled(&wire, SECRET).context("between the nodes")?;
    } else if let Some(stray) = wire.plaintext().chain(wire.tunnelled()).next() {
        bail!("what should stay on the node was seen outside of it: {stray}");
    }
    if from.name != to.name {
        only_tunnelled(&link, SECRET).context("between the pod and its node")?;
    }
    Ok(())
}

/// From pod to pod of one node: both identities at both ends, every byte counted, and none on any link.
fn joined(lab: &Lab, from: &str, to: &str, address: SocketAddr) -> Result<()> {
    let (from, to) = (lab.pod(from), lab.pod(to));
    let _server = mirror(to, APP)?;
    let (records, link, wire) = (Records::since_now(lab), lab.wire_in(from, "eth0")?, lab.wire(&from.node)?);
    let (client, greeted) = visit(from, address, same_family(from, address, 0).ip())?;
    let target = same_family(to, address, APP).to_string();
    let outbound = records.outbound(&from.node, client)?;
    let inbound =
        records.wait(&to.node, |line| line.field("direction") == "inbound" && line.field("dst.addr") == target)?;
    let (sent, received) = (SECRET.len().to_string(), (greeted + SECRET.len()).to_string());
    for (line, sent, received) in [(&outbound, &sent, &received), (&inbound, &received, &sent)] {
        let ends = [("src.identity", &from.identity), ("dst.identity", &to.identity), ("dst.addr", &target)];
        fields(line, &ends.map(|(field, value)| (field, &**value)))?;
        let rest = [("mode", "local"), ("dst.hbone_addr", ""), ("bytes_sent", sent), ("bytes_recv", received)];
        fields(line, &rest)?;
        fields(line, &[("src.workload", &from.name), ("dst.workload", &to.name), ("error", "")])?;
    }
    for (place, capture) in [("the link of the client's pod", link.finish()?), ("the node's link", wire.finish()?)] {
        if let Some(stray) = capture.plaintext().chain(capture.tunnelled()).next() {
            bail!("what should stay in the node was seen on {place}: {stray}");
        }
    }
    Ok(())
}

/// Refused by the application's own stack.
fn nobody_listens(lab: &Lab) -> Result<()> {
    let (client, to) = (lab.pod("client"), lab.pod("near").at4(APP));
    let records = Records::since_now(lab);
    must_be_reset(client, to)?;
    for direction in ["outbound", "inbound"] {
        let line = records.wait("n1", |line| line.field("direction") == direction && !line.error().is_empty())?;
        ensure!(line.error().contains("Connection refused"), "{direction}: {}", line.text);
    }
    Ok(())
}

/// Connects, hears whom the [`mirror`] sees, exchanges the secret, and closes. Gives the client's address and the length
/// of what the mirror said first.
fn visit(from: &Namespace, to: SocketAddr, seen_as: IpAddr) -> Result<(SocketAddr, usize)> {
    let stream = connect(from, to)?;
    let client = canonical(stream.local_addr()?);
    let peer = greeting(&stream)?;
    ensure!(peer.ip() == seen_as, "the application sees {peer} as its client, not {seen_as}");
    ensure!(socket::exchange(&stream, SECRET).context("the secret")? == SECRET, "other bytes came back");
    Ok((client, peer.to_string().len() + 1))
}

/// Of two endpoints with weights 3 and 1.
fn several_endpoints(lab: &Lab) -> Result<()> {
    const COUNT: usize = 200;
    let records = Records::since_now(lab);
    let servers = ["server", "twin"].map(|name| (name, lab.pod(name).greet(APP, name)));
    let mut heavy = 0;
    for at in 0..COUNT {
        let address = if at % 2 == 0 { lab.vip4("pair", PORT) } else { lab.vip6("pair", PORT) };
        let stream = connect(lab.pod("client"), address)?;
        stream.shutdown(std::net::Shutdown::Write)?;
        match socket::read_text(&stream)?.as_str() {
            "server" => heavy += 1,
            "twin" => {}
            other => bail!("neither of the servers says {other:?}"),
        }
    }
    for (name, server) in servers {
        drop(server.with_context(|| name)?);
    }
    // 150 are expected, and six standard deviations are 37.
    ensure!((113..=187).contains(&heavy), "{heavy} of {COUNT} went to the endpoint with three quarters of the weight");
    let through = |line: &Line| {
        line.field("dst.service") == "pair.default.svc.cluster.local" && line.field("dst.addr").ends_with(":15008")
    };
    eventually(SOON, || {
        let lines = records.all("n1");
        let tunnelled = lines.iter().filter(|line| through(line)).count();
        ensure!(tunnelled == COUNT, "{tunnelled} of {COUNT} were tunnelled for the service: {} records", lines.len());
        Ok(())
    })
}

fn no_healthy_endpoint(lab: &Lab) -> Result<()> {
    let _server = mirror(lab.pod("twin"), APP)?;
    lab.publish(|world| drop(world.pod("twin").more.insert("healthy".to_owned(), false.into())))?;
    refused(lab, lab.vip4("lone", PORT), "no healthy endpoint")?;
    refused(lab, lab.vip6("lone", PORT), "no healthy endpoint")?;
    lab.publish(|world| drop(world.pod("twin").more.insert("healthy".to_owned(), true.into())))?;
    tunnelled_again(lab, lab.vip4("lone", PORT))
}

fn tunnelled_again(lab: &Lab, address: SocketAddr) -> Result<()> {
    let client = lab.pod("client");
    visit(client, address, same_family(client, address, 0).ip()).map(drop).context("with a healthy endpoint again")
}

fn no_such_port(lab: &Lab) -> Result<()> {
    refused(lab, lab.vip4("web", PORT + 1), "has no port 81")
}

/// The connection is reset, and the log says why.
fn refused(lab: &Lab, address: SocketAddr, reason: &str) -> Result<()> {
    let records = Records::since_now(lab);
    must_be_reset(lab.pod("client"), address).with_context(|| address.to_string())?;
    let address = address.to_string();
    let line = records.wait("n1", |line| line.field("dst.addr") == address)?;
    ensure!(line.error().contains(reason), "{reason:?} is not the reason in {}", line.text);
    Ok(())
}

/// To a pod outside the mesh: plain, and recorded as such. `workload` is what the mesh knows it as.
fn to_outside(lab: &Lab, to: &RunningPod, workload: &str) -> Result<()> {
    let _server = mirror(to, APP)?;
    for address in [to.at4(APP), to.at6(APP), mapped(to.at4(APP))] {
        outward(lab, address, workload).with_context(|| format!("to {address}"))?;
    }
    Ok(())
}

/// Beyond the nodes, and the other node itself.
fn to_host(lab: &Lab) -> Result<()> {
    let node = lab.node("n2");
    for (host, addresses) in [(lab.outside(), lab.outside_addresses()), (node, node.addresses)] {
        let _server = mirror(host, APP)?;
        for address in addresses {
            outward(lab, SocketAddr::new(address, APP), "").with_context(|| format!("to {address}"))?;
        }
    }
    Ok(())
}

fn outward(lab: &Lab, address: SocketAddr, workload: &str) -> Result<()> {
    let from = lab.pod("client");
    let (records, wire) = (Records::since_now(lab), lab.wire("n1")?);
    let (client, _) = visit(from, address, same_family(from, address, 0).ip())?;
    let line = records.outbound("n1", client)?;
    fields(
        &line,
        &[
            ("src.workload", "client"),
            ("src.identity", ""),
            ("dst.addr", &canonical(address).to_string()),
            ("dst.hbone_addr", ""),
            ("dst.workload", workload),
            ("dst.identity", ""),
            ("bytes_sent", &SECRET.len().to_string()),
            ("error", ""),
        ],
    )?;
    let capture = wire.finish()?;
    ensure!(capture.showing(SECRET).count() >= 2, "the secret did not go plainly, there and back");
    ensure!(capture.tunnelled().next().is_none(), "a tunnel to a host outside the mesh");
    Ok(())
}

/// Plaintext from a pod outside the mesh, which PERMISSIVE allows: captured all the same, and without any identity.
fn from_outside(lab: &Lab) -> Result<()> {
    let near = lab.pod("near");
    let _server = mirror(near, APP)?;
    for (name, workload) in [("plain", "plain"), ("alien", "")] {
        let from = lab.pod(name);
        for address in [near.at4(APP), near.at6(APP)] {
            let records = Records::since_now(lab);
            let before = lab.agent("n1").status()?.counter("captured_inbound");
            let (client, _) = visit(from, address, same_family(from, address, 0).ip())?;
            let line = records.inbound("n1", client)?;
            let own = [("dst.workload", "near"), ("dst.addr", &address.to_string()), ("dst.hbone_addr", "")];
            fields(&line, &own)?;
            fields(&line, &[("src.workload", workload), ("src.identity", ""), ("dst.identity", ""), ("error", "")])?;
            let captured = lab.agent("n1").status()?.counter("captured_inbound") - before;
            ensure!(captured == 1, "{captured} connections were captured");
        }
    }
    Ok(())
}

/// A pod that talks to itself is no business of the mesh.
fn itself(lab: &Lab) -> Result<()> {
    let (pod, agent, records) = (lab.pod("server"), lab.agent("n2"), Records::since_now(lab));
    let _server = mirror(pod, APP)?;
    let captured = || -> Result<u64> {
        let status = agent.status()?;
        Ok(["captured_outbound", "captured_inbound", "hbone"].iter().map(|name| status.counter(name)).sum())
    };
    let before = captured()?;
    let loopback = ["127.0.0.1:8080".parse()?, "[::1]:8080".parse()?];
    for address in [pod.at4(APP), pod.at6(APP), mapped(pod.at4(APP))].into_iter().chain(loopback) {
        visit(pod, address, canonical(address).ip()).with_context(|| address.to_string())?;
    }
    let captured = captured()? - before;
    ensure!(captured == 0, "{captured} connections were captured");
    ensure!(records.all("n2").is_empty(), "it was recorded: {}", records.all("n2")[0].text);
    Ok(())
}

/// An application is reached where it listens, and only there.
fn listeners(lab: &Lab) -> Result<()> {
    let (client, server) = (lab.pod("client"), lab.pod("server"));
    for (local, reached) in [
        ("0.0.0.0".parse()?, [true, false]),
        (server.v4, [true, false]),
        (server.v6, [false, true]),
        ("127.0.0.1".parse()?, [false, false]),
        ("::1".parse()?, [false, false]),
    ] {
        let listener = server.run(|| TcpListener::bind((local, APP)))?;
        let _server = Server::start(listener, |stream, peer| server::say(stream, &format!("{peer}\n")))?;
        for (address, reached) in [server.at4(APP), server.at6(APP)].into_iter().zip(reached) {
            let context = || format!("a listener on {local}, from the client to {address}");
            if reached {
                let (records, stream) = (Records::since_now(lab), connect(client, address)?);
                greeting(&stream).with_context(context)?;
                let own = stream.local_addr()?;
                drop(stream);
                records.tunnelled((client, own), (server, address)).with_context(context)?;
            } else {
                must_be_reset(client, address).with_context(context)?;
            }
        }
    }
    Ok(())
}
