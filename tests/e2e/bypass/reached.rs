//! Who gets to a pod that is reached without the mesh, and how; what such a pod opens.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, Result, ensure};
use mesh_e2e::socket::exchange;
use mesh_e2e::{Lab, Namespace, eventually};

use super::APP;
use crate::lifecycle::talk::{open, says};
use crate::traffic::support::{
    Records, SOON, canonical, connect, echoed, fields, greeting, mirror, must_be_reset, only_tunnelled,
};

const SECRET: &str = "a secret of some length";

/// Connects, and checks whom the [`mirror`] sees.
fn visit(from: &Namespace, to: SocketAddr) -> Result<TcpStream> {
    let stream = connect(from, to)?;
    let (client, peer) = (canonical(stream.local_addr()?), greeting(&stream)?);
    ensure!(peer.ip() == client.ip(), "the application sees {peer} as its client {client}");
    ensure!(exchange(&stream, SECRET)? == SECRET, "other bytes came back");
    Ok(stream)
}

/// From anywhere, in plaintext, whatever policy says; no record tells of it, and one counter does.
pub(super) fn from_outside(lab: &Lab) -> Result<()> {
    let (plain, gate, guarded) = (lab.pod("plain"), lab.pod("gate"), lab.pod("guarded"));
    let _servers = [mirror(gate, APP)?, mirror(guarded, APP)?];
    let (records, wire) = (Records::since_now(lab), lab.wire("n1")?);
    let before = lab.agent("n2").status()?.counter("inbound_bypassed");
    for to in [gate.at4(APP), gate.at6(APP)] {
        drop(visit(plain, to)?);
        drop(visit(lab.outside(), to).context("from a host")?);
        drop(visit(lab.node("n2"), to).context("from its node")?);
        drop(visit(lab.node("n1"), to).context("from another node")?);
    }
    must_be_reset(plain, guarded.at4(APP)).context("another pod, which policy guards")?;
    records.wait("n2", |line| line.field("direction") == "inbound").context("the denial")?;
    let told: Vec<_> = records.all("n2").into_iter().filter(|line| line.field("dst.workload") == "gate").collect();
    ensure!(told.is_empty(), "a record tells of it: {told:?}");
    let counted = lab.agent("n2").status()?.counter("inbound_bypassed") - before;
    ensure!(counted == 8, "{counted} connections are counted");
    ensure!(wire.finish()?.showing(SECRET).next().is_some(), "nothing is to be read on the wire");
    Ok(())
}

/// Pods of the mesh come by mutual TLS, and the application's answers stay in the tunnel.
pub(super) fn by_tunnels(lab: &Lab) -> Result<()> {
    let gate = lab.pod("gate");
    let _mirror = mirror(gate, APP)?;
    for to in [gate.at4(APP), gate.at6(APP)] {
        let (records, wire, link) = (Records::since_now(lab), lab.wire("n1")?, lab.wire_in(gate, "eth0")?);
        let client = lab.pod("client");
        let stream = visit(client, to)?;
        let address = canonical(stream.local_addr()?);
        drop(stream);
        records.tunnelled((client, address), (gate, to))?;
        only_tunnelled(&wire.finish()?, SECRET).context("between the nodes")?;
        only_tunnelled(&link.finish()?, SECRET).context("on the pod's link")?;
    }
    let records = Records::since_now(lab);
    drop(visit(lab.pod("near"), gate.at4(APP))?);
    let line = records.wait("n2", |line| line.field("direction") == "inbound")?;
    fields(&line, &[("src.identity", &lab.pod("near").identity), ("dst.workload", "gate")])
}

/// What the pod opens is in the mesh as any pod's.
pub(super) fn opens(lab: &Lab) -> Result<()> {
    let (gate, client) = (lab.pod("gate"), lab.pod("client"));
    let _mirror = mirror(client, APP)?;
    for to in [client.at4(APP), client.at6(APP)] {
        let (records, wire) = (Records::since_now(lab), lab.wire("n2")?);
        let stream = visit(gate, to)?;
        let address = canonical(stream.local_addr()?);
        drop(stream);
        records.tunnelled((gate, address), (client, to))?;
        only_tunnelled(&wire.finish()?, SECRET)?;
    }
    Ok(())
}

/// More than any buffer holds, and a half close.
pub(super) fn bulk(lab: &Lab) -> Result<()> {
    const LENGTH: u64 = 16 << 20;
    let gate = lab.pod("gate");
    let _echo = gate.echo(APP)?;
    for (from, to) in [("plain", gate.at4(APP)), ("plain", gate.at6(APP)), ("client", gate.at4(APP))] {
        let stream = connect(lab.pod(from), to)?;
        echoed(&stream, LENGTH).with_context(|| format!("{from} {to}"))?;
    }
    Ok(())
}

/// The stack's own refusal comes back at once.
pub(super) fn refused(lab: &Lab) -> Result<()> {
    let gate = lab.pod("gate");
    for to in [gate.at4(APP + 1), gate.at6(APP + 1)] {
        let kind = lab.pod("plain").try_connect(to).err().map(|error| error.kind());
        ensure!(kind == Some(ErrorKind::ConnectionRefused), "{to}: {kind:?}");
    }
    Ok(())
}

/// The agent's other listeners are there for what is captured, and for nobody else.
pub(super) fn own_ports(lab: &Lab) -> Result<()> {
    let gate = lab.pod("gate");
    for port in [15001, 15006, 15053] {
        for to in [gate.at4(port), gate.at6(port)] {
            must_be_reset(lab.pod("plain"), to).with_context(|| to.to_string())?;
        }
    }
    Ok(())
}

/// A handshake of which the stack remembers nothing until its last packet.
pub(super) fn cookies(lab: &Lab) -> Result<()> {
    let gate = lab.pod("gate");
    let _echo = gate.echo(APP)?;
    let before = gate.sysctl("net.ipv4.tcp_syncookies")?;
    gate.set_sysctls(&[("net.ipv4.tcp_syncookies", "2")])?;
    let result = [gate.at4(APP), gate.at6(APP)]
        .into_iter()
        .flat_map(|to| [lab.pod("plain"), lab.pod("client")].map(|from| (from, to)))
        .try_for_each(|(from, to)| open(from, to).map(drop).with_context(|| format!("{} to {to}", from.name)));
    gate.set_sysctls(&[("net.ipv4.tcp_syncookies", before.trim())])?;
    result
}

/// Who looks for the reason why a policy has no effect finds it.
pub(super) fn shown(lab: &Lab) -> Result<()> {
    let status = lab.agent("n2").status()?;
    let shown: Vec<_> = status.pods.iter().filter(|pod| pod.bypasses_inbound).map(|pod| &*pod.name).collect();
    ensure!(shown == ["gate"], "{shown:?}");
    let output = lab.agent("n2").ctl().arg("status").output()?;
    let text = String::from_utf8(output.stdout)?;
    let line = text.lines().find(|line| line.starts_with("default/gate ")).context("no line of the pod")?;
    ensure!(line.contains(", outbound only"), "{line}");
    Ok(())
}

/// Connections that the kernel carries for the mesh are none of those that bypass it.
pub(super) fn directly(lab: &Lab) -> Result<()> {
    let (near, gate) = (lab.pod("near"), lab.pod("gate"));
    let _echo = gate.echo(APP)?;
    let count = |name: &str| -> Result<u64> { Ok(lab.agent("n2").status()?.counter(name)) };
    let (direct, bypassed) = (count("direct")?, count("inbound_bypassed")?);
    // The first one of a pair is the agent's.
    let stream = eventually(SOON, || {
        let stream = open(near, gate.at4(APP))?;
        ensure!(count("direct")? > direct, "none is carried directly");
        Ok(stream)
    })?;
    says(&stream, SECRET)?;
    ensure!(count("inbound_bypassed")? == bypassed, "it is counted as one that bypasses the mesh");
    lab.publish(|world| {
        world.authorize("- {name: nobody, namespace: default, action: DENY, rules: [{}]}");
    })?;
    eventually(SOON, || {
        ensure!(says(&stream, SECRET).is_err(), "a connection of the mesh outlives its permission");
        Ok(())
    })
}
