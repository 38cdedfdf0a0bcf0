//! Connections that carry much go on on the lane beside their shard, and come back; nobody notices but who waits otherwise.

use std::io::Read;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use mesh_e2e::{Lab, socket};

use super::long::Long;
use super::support::{Records, connect, fields, ping_pong};
use super::{APP, JOINED, MESH, PORT};
use crate::runner::{Case, say};

pub(super) const CASES: &[Case] = &[
    Case::shared("bulk_goes_to_the_lane_and_comes_back", &MESH, |lab| bulk(lab, "web", "server")).limit(60),
    Case::shared("joined_bulk_goes_to_the_lane_and_comes_back", &JOINED, |lab| bulk(lab, "close", "near")).limit(60),
];

const MUCH: u64 = 256 << 20;
/// A connection comes back when it has been quiet for a second or two.
const QUIET: Duration = Duration::from_millis(2500);

/// What each node's agent has moved to its lanes.
fn moves(lab: &Lab) -> Result<Vec<f64>> {
    lab.nodes().iter().map(|node| node.agent().metric("mesh_lane_moves_total", &[])).collect()
}

/// Sends so much to an echo and compares what comes back.
fn much(stream: &TcpStream) -> Result<()> {
    thread::scope(|scope| {
        let sending = scope.spawn(|| Long::default().send(stream, MUCH).context("sending"));
        Long::default().receive(stream, MUCH).context("receiving")?;
        sending.join().map_err(|_| anyhow!("the sender panicked"))?
    })
}

/// Little, much, little and much again on one connection, each at its place, all of it in order and counted to the byte.
fn bulk(lab: &Lab, service: &str, server: &str) -> Result<()> {
    let (client, server) = (lab.pod("client"), lab.pod(server));
    let _server = server.echo(APP)?;
    let records = Records::since_now(lab);
    let stream = connect(client, lab.vip4(service, PORT))?;
    let beside = connect(client, lab.vip4(service, PORT))?;
    let start = moves(lab)?;
    ensure!(socket::exchange(&stream, "little")? == "little");
    ensure!(moves(lab)? == start, "a few bytes have moved something");
    let mut before = start;
    for turn in ["the first", "the second"] {
        much(&stream).with_context(|| format!("{turn} time"))?;
        let now = moves(lab)?;
        say(format_args!("    {turn} time: {before:?} -> {now:?}"));
        let involved = now.iter().zip(&before).filter(|(now, before)| now > before).count();
        let expected = if server.node == "n1" { 1 } else { 2 };
        ensure!(involved == expected, "of {expected} agents {involved} have moved the connection {turn} time");
        before = now;
        thread::sleep(QUIET);
        ping_pong(&beside, Duration::from_millis(50)).context("a neighbour")?;
        ensure!(socket::exchange(&stream, "little")? == "little");
    }
    let address = stream.local_addr()?;
    stream.shutdown(std::net::Shutdown::Write)?;
    ensure!((&stream).read(&mut [0])? == 0, "more came back than was sent");
    let bytes = (2 * MUCH + 18).to_string();
    let both = [("bytes_sent", bytes.as_str()), ("bytes_recv", bytes.as_str()), ("error", "")];
    drop(stream);
    if server.node == "n1" {
        let line = records.wait("n1", |line| line.field("src.addr") == address.to_string())?;
        return fields(&line, &both);
    }
    let [outbound, inbound] = records.tunnelled((client, address), (server, server.at4(APP)))?;
    fields(&outbound, &both)?;
    fields(&inbound, &both)
}
