//! Where a machine's connections go: as its pod's do.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use mesh_e2e::socket::{self, exchange};
use mesh_e2e::{Lab, eventually};

use super::machine::{Hidden, Machine};
use super::{APP, BRIDGE};
use crate::lifecycle::talk::open;
use crate::traffic::support::{
    Records, SOON, canonical, connect, echoed, fields, greeting, mirror, must_be_reset, only_tunnelled,
};

const SECRET: &str = "a secret of some length";

/// Waits until what the machine opens is captured.
pub(super) fn attached(lab: &Lab) -> Result<()> {
    eventually(SOON, || {
        let status = lab.agent("n1").status()?;
        let host = status.pod("host").context("no such pod")?;
        ensure!(host.missing_interfaces.is_empty(), "still missing: {host:?}");
        Ok(())
    })
}

pub(super) fn masqueraded(lab: &mut Lab) -> Result<()> {
    everywhere(lab, Hidden::Masqueraded)
}

pub(super) fn routed(lab: &mut Lab) -> Result<()> {
    everywhere(lab, Hidden::Routed)
}

fn everywhere(lab: &Lab, hidden: Hidden) -> Result<()> {
    let missing = lab.agent("n1").status()?.pod("host").context("no such pod")?.missing_interfaces.clone();
    ensure!(missing == [BRIDGE], "{missing:?}");
    let machine = Machine::start(lab, lab.pod("host"), hidden)?;
    attached(lab)?;
    tunnelled(lab, &machine).context("another node")?;
    next_door(lab, &machine).context("the same node")?;
    out_of_the_mesh(lab, &machine).context("out of the mesh")?;
    much(lab, &machine).context("much")?;
    again(lab, &machine).context("from the same port")?;
    lab.publish(|world| world.authorize("- {name: closed, namespace: default, action: DENY, rules: [{}]}"))?;
    let _server = mirror(lab.pod("server"), APP)?;
    eventually(SOON, || must_be_reset(&machine, lab.pod("server").at4(APP))).context("policy")
}

/// To another node: in mutual TLS, as the pod, from the pod's own address.
pub(super) fn tunnelled(lab: &Lab, machine: &Machine) -> Result<()> {
    let (host, server) = (lab.pod("host"), lab.pod("server"));
    let _server = mirror(server, APP)?;
    for (to, own) in [(server.at4(APP), host.at4(0)), (server.at6(APP), host.at6(0))] {
        let (records, wire) = (Records::since_now(lab), lab.wire("n1")?);
        let stream = connect(machine, to)?;
        let (client, peer) = (canonical(stream.local_addr()?), greeting(&stream)?);
        ensure!(peer.ip() == own.ip(), "{to} sees {peer}");
        ensure!(exchange(&stream, SECRET)? == SECRET, "other bytes came back");
        drop(stream);
        records.tunnelled((host, client), (server, to))?;
        only_tunnelled(&wire.finish()?, SECRET)?;
    }
    Ok(())
}

fn next_door(lab: &Lab, machine: &Machine) -> Result<()> {
    let (host, near) = (lab.pod("host"), lab.pod("near"));
    let _server = mirror(near, APP)?;
    let records = Records::since_now(lab);
    let stream = connect(machine, near.at4(APP))?;
    let peer = greeting(&stream)?;
    ensure!(peer.ip() == host.at4(0).ip(), "it sees {peer}");
    drop(stream);
    let line = records.wait("n1", |line| line.field("direction") == "inbound")?;
    fields(&line, &[("src.identity", &host.identity), ("dst.workload", "near")])
}

fn out_of_the_mesh(lab: &Lab, machine: &Machine) -> Result<()> {
    let (host, outside) = (lab.pod("host"), lab.outside());
    let _servers = [mirror(outside, APP)?, mirror(lab.pod("plain"), APP)?];
    let to = lab.outside_addresses().map(|ip| SocketAddr::new(ip, APP));
    for to in to.into_iter().chain([lab.pod("plain").at4(APP)]) {
        let stream = connect(machine, to)?;
        let peer = greeting(&stream)?;
        ensure!([host.at4(0).ip(), host.at6(0).ip()].contains(&peer.ip()), "{to} sees {peer}");
    }
    Ok(())
}

fn much(lab: &Lab, machine: &Machine) -> Result<()> {
    const LENGTH: u64 = 16 << 20;
    let server = lab.pod("server");
    let _echo = server.echo(APP)?;
    let stream = connect(machine, server.at4(APP))?;
    echoed(&stream, LENGTH)
}

/// From a port whose last connection the agent's side still remembers, as it was the first to close it.
fn again(lab: &Lab, machine: &Machine) -> Result<()> {
    let server = lab.pod("server");
    let _server = server.report_peer(APP)?;
    let before = machine.sysctl("net.ipv4.ip_local_port_range")?;
    machine.set_sysctls(&[("net.ipv4.ip_local_port_range", "40000 40001")])?;
    let result = (0..6).try_for_each(|_| {
        let stream = connect(machine, server.at4(APP))?;
        ensure!(!socket::read_text(&stream)?.is_empty(), "it says nothing");
        Ok(())
    });
    machine.set_sysctls(&[("net.ipv4.ip_local_port_range", before.trim())])?;
    result
}

/// A connection to another node that works.
pub(super) fn opened(lab: &Lab, machine: &Machine) -> Result<std::net::TcpStream> {
    open(machine, lab.pod("server").at4(APP))
}
