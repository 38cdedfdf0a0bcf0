//! What applications, records and links see.

use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, Result, bail, ensure};
use mesh_e2e::{Lab, eventually, socket};

use super::APP;
use super::talk::{PATIENCE, direct, mirrored, open, works};
use crate::traffic::support::{Records, canonical, connect, echoed, fields, greeting};

const SECRET: &str = "a secret of some length";

/// From pod to pod: as any connection in the records, with every byte, and as it is on the client's link; nothing leaves the
/// node.
pub(super) fn told(lab: &Lab, to: SocketAddr) -> Result<()> {
    let (alice, server) = (lab.pod("alice"), lab.pod("server"));
    let _mirror = mirrored(lab, to)?;
    let (records, link, wire) = (Records::since_now(lab), lab.wire_in(alice, "eth0")?, lab.wire("n1")?);
    let stream = connect(alice, to)?;
    let client = canonical(stream.local_addr()?);
    let peer = greeting(&stream)?;
    ensure!(peer == client, "the application sees {peer} instead of {client}");
    ensure!(socket::exchange(&stream, SECRET)? == SECRET, "other bytes came back");
    let greeted = peer.to_string().len() + 1;
    drop(stream);
    let (outbound, inbound) = (records.outbound("n1", client)?, records.inbound("n1", client)?);
    let (sent, received) = (SECRET.len().to_string(), (greeted + SECRET.len()).to_string());
    for (line, sent, received) in [(&outbound, &sent, &received), (&inbound, &received, &sent)] {
        let target = to.to_string();
        let ends = [("src.identity", &alice.identity), ("dst.identity", &server.identity), ("dst.addr", &target)];
        fields(line, &ends.map(|(field, value)| (field, &**value)))?;
        let rest = [("mode", "direct"), ("dst.hbone_addr", ""), ("bytes_sent", sent), ("bytes_recv", received)];
        fields(line, &rest)?;
        fields(line, &[("src.workload", "alice"), ("dst.workload", "server"), ("error", "")])?;
        ensure!(!line.field("rtt").is_empty(), "the kernel's facts are missing: {}", line.text);
    }
    ensure!(link.finish()?.showing(SECRET).next().is_some(), "it did not go by the pod's own link");
    if let Some(stray) = wire.finish()?.plaintext().next() {
        bail!("what should stay on the node was seen outside of it: {stray}");
    }
    Ok(())
}

/// Much goes one way, then the other way after a half close, and all of it is counted.
pub(super) fn bulk(lab: &Lab) -> Result<()> {
    const LENGTH: u64 = 64 << 20;
    let to = lab.pod("server").at4(APP);
    let _echo = lab.pod("server").echo(APP)?;
    drop(direct(lab, "bob", to)?);
    let records = Records::since_now(lab);
    let stream = connect(lab.pod("bob"), to)?;
    let client = stream.local_addr()?;
    echoed(&stream, LENGTH)?;
    drop(stream);
    let line = records.outbound("n1", client)?;
    let length = LENGTH.to_string();
    fields(&line, &[("mode", "direct"), ("bytes_sent", &length), ("bytes_recv", &length), ("error", "")])
}

/// Where a connection is refused, the client is told so by the server's own stack.
pub(super) fn nobody(lab: &Lab) -> Result<()> {
    let to = lab.pod("server").at4(APP + 1);
    let echo = lab.pod("server").echo(APP + 1)?;
    drop(direct(lab, "alice", to)?);
    drop(echo);
    let records = Records::since_now(lab);
    let refused = lab.pod("alice").try_connect(to);
    let kind = refused.as_ref().err().map(std::io::Error::kind);
    ensure!(kind == Some(ErrorKind::ConnectionRefused), "{refused:?}");
    for direction in ["outbound", "inbound"] {
        let line = records.wait("n1", |line| line.field("direction") == direction && !line.error().is_empty())?;
        ensure!(line.error().to_lowercase().contains("connection refused"), "{direction}: {}", line.text);
        fields(&line, &[("mode", "direct")])?;
    }
    Ok(())
}

/// Whoever resets a connection, the other end sees a reset, and the record tells of it.
pub(super) fn reset(lab: &Lab) -> Result<()> {
    let to = lab.pod("server").at4(APP);
    let _echo = lab.pod("server").echo(APP)?;
    drop(direct(lab, "alice", to)?);
    let records = Records::since_now(lab);
    let stream = connect(lab.pod("alice"), to)?;
    works(&stream)?;
    let client = stream.local_addr()?;
    socket::reset(stream)?;
    let line = records.outbound("n1", client)?;
    ensure!(line.error().contains("the application's connection failed"), "{}", line.text);
    Ok(())
}

/// What finds no room is the agent's, and works.
pub(super) fn full(lab: &mut Lab) -> Result<()> {
    let to = lab.pod("server").at4(APP);
    let _echo = lab.pod("server").echo(APP)?;
    let held = [direct(lab, "alice", to)?, direct(lab, "alice", to)?];
    // Of the time until it was granted, nothing is left to take room.
    let fuller = || lab.agent("n1").metric("mesh_capture_events_total", &["event=\"direct_full\""]);
    let before = fuller().unwrap_or_default();
    let (mut more, mut modes) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let (mut stream, security) = open(lab, "alice", to)?;
        stream.write_all(b"x").context("the connection")?;
        modes.push(security);
        more.push(stream);
    }
    ensure!(modes.iter().any(|mode| mode == "local"), "there is room for two, and more were carried: {modes:?}");
    ensure!(fuller()? > before, "that there was no room was not counted");
    held.iter().try_for_each(works)?;
    drop((held, more));
    eventually(PATIENCE, || -> Result<TcpStream> {
        let (stream, security) = open(lab, "alice", to)?;
        ensure!(security == "direct", "there is room again, and it is not used");
        Ok(stream)
    })
    .map(drop)
}
