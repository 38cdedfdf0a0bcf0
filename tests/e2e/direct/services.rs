//! Direct connections by the address of a service.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_e2e::{Lab, Server, eventually, socket};

use super::APP;
use super::talk::{PATIENCE, PROMISE, mirrored, open};
use crate::traffic::support::{Records, canonical, connect, fields, greeting};

const SECRET: &str = "a secret of some length";

/// The application sees its client and the client sees the service; the record has both, and the endpoint.
pub(super) fn told(lab: &Lab, to: SocketAddr) -> Result<()> {
    let (alice, server) = (lab.pod("alice"), lab.pod("server"));
    let _mirror = mirrored(lab, to)?;
    let records = Records::since_now(lab);
    let stream = connect(alice, to)?;
    let (client, seen) = (canonical(stream.local_addr()?), stream.peer_addr()?);
    ensure!(seen == to, "the client sees {seen} as its peer");
    let peer = greeting(&stream)?;
    ensure!(peer == client, "the application sees {peer} instead of {client}");
    ensure!(socket::exchange(&stream, SECRET)? == SECRET, "other bytes came back");
    drop(stream);
    let target = if to.is_ipv4() { server.at4(APP) } else { server.at6(APP) }.to_string();
    for line in [records.outbound("n1", client)?, records.inbound("n1", client)?] {
        let service = [("dst.service", "close.default.svc.cluster.local"), ("dst.workload", "server")];
        fields(&line, &service)?;
        fields(&line, &[("mode", "direct"), ("dst.addr", &target), ("error", "")])?;
    }
    Ok(())
}

/// Servers that say their names.
fn named<'a>(lab: &'a Lab, names: &[&'static str]) -> Vec<(&'a str, Server)> {
    names
        .iter()
        .map(|name| (*name, lab.pod(name).greet(APP, name)))
        .filter_map(|(name, server)| Some((name, server.ok()?)))
        .collect()
}

/// Whom so many connections reach.
fn reached(lab: &Lab, to: SocketAddr, count: usize) -> Result<BTreeMap<String, usize>> {
    let mut reached = BTreeMap::new();
    for _ in 0..count {
        let stream = connect(lab.pod("alice"), to)?;
        stream.shutdown(std::net::Shutdown::Write)?;
        *reached.entry(socket::read_text(&stream)?).or_default() += 1;
    }
    Ok(reached)
}

/// By their weights, which are 3 and 1, and the kernel chooses.
pub(super) fn several(lab: &Lab) -> Result<()> {
    const COUNT: usize = 200;
    let to = lab.vip4("pair", 80);
    let _servers = named(lab, &["heavy", "light"]);
    eventually(PATIENCE, || {
        let before = lab.agent("n1").status()?.counter("direct");
        reached(lab, to, 10)?;
        let more = lab.agent("n1").status()?.counter("direct") - before;
        ensure!(more == 10, "{more} of 10 connections are direct");
        Ok(())
    })?;
    let reached = reached(lab, to, COUNT)?;
    let heavy = reached.get("heavy").copied().unwrap_or_default();
    ensure!(reached.values().sum::<usize>() == COUNT && reached.len() == 2, "{reached:?}");
    // 150 are expected, and six standard deviations are 37.
    ensure!((113..=187).contains(&heavy), "{reached:?}");
    Ok(())
}

/// With an endpoint on another node the choice is the agent's.
pub(super) fn mixed(lab: &Lab) -> Result<()> {
    let to = lab.vip4("mixed", 80);
    let _servers = [lab.pod("server").echo(APP)?, lab.pod("far").echo(APP)?];
    for _ in 0..10 {
        let (_stream, security) = open(lab, "alice", to)?;
        ensure!(security == "local" || security == "mutual_tls", "it goes by {security}");
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// An endpoint that is taken out of the service gets nothing new.
pub(super) fn taken_out(lab: &Lab) -> Result<()> {
    let to = lab.vip4("pair", 80);
    let _servers = named(lab, &["heavy", "light"]);
    eventually(PATIENCE, || {
        let reached = reached(lab, to, 20)?;
        ensure!(reached.len() == 2, "{reached:?}");
        Ok(())
    })?;
    let before = lab.world().clone();
    let at = lab.publish(|world| world.service("pair").endpoints.retain(|endpoint| endpoint != "default/heavy"))?;
    eventually(PATIENCE, || {
        let reached = reached(lab, to, 20)?;
        ensure!(reached.keys().all(|name| name == "light"), "{reached:?}");
        Ok(())
    })
    .context("it is still chosen")?;
    ensure!(at.elapsed() < PROMISE + Duration::from_millis(200), "it was chosen for {:?}", at.elapsed());
    lab.publish(|world| *world = before).map(drop)
}
