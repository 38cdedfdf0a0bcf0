//! Many connections at once.

use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use mesh_e2e::{Lab, Line, eventually, socket};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::support::{Records, connect, quiet, tunnels};
use super::{APP, MESH, ONE_SHARD, PORT};
use crate::runner::{Case, say};

pub(super) const CASES: &[Case] = &[
    Case::shared("two_thousand_at_once", &MESH, two_thousand).limit(120),
    Case::shared("more_streams_than_a_tunnel_holds", &ONE_SHARD, second_tunnel),
];

const MANY: usize = 2000;
/// Threads that connect at the same time.
const CLIENTS: usize = 8;

/// All are open at the same time, all work, and all are seen: live at both agents, and in both logs at the end.
fn two_thousand(lab: &Lab) -> Result<()> {
    raise_open_files()?;
    let (client, server) = (lab.pod("client"), lab.pod("server"));
    let _server = server.echo(APP)?;
    let records = Records::since_now(lab);
    let to = lab.vip4("web", PORT);
    let share = |_| client.run(|| (0..MANY / CLIENTS).map(|_| connect_here(to)).collect::<Result<Vec<_>>>());
    let start = Instant::now();
    let streams: Vec<TcpStream> = thread::scope(|scope| {
        let threads: Vec<_> = (0..CLIENTS).map(|at| scope.spawn(move || share(at))).collect();
        let shares: Result<Vec<_>> = threads.into_iter().map(|thread| joined(thread.join())).collect();
        Ok::<_, anyhow::Error>(shares?.into_iter().flatten().collect())
    })?;
    for (at, stream) in streams.iter().enumerate() {
        let text = format!("connection {at:06}");
        let answer = socket::exchange(stream, &text).with_context(|| format!("{text} of {}", streams.len()))?;
        ensure!(answer == text, "{text} got {answer:?}");
    }
    let took = start.elapsed();
    say(format_args!("    {MANY} open and answered in {took:?}"));
    ensure!(took < Duration::from_secs(30), "it took {took:?}");
    for (node, direction) in [("n1", "outbound"), ("n2", "inbound")] {
        let flows = lab.agent(node).flows()?;
        let live = flows.iter().filter(|flow| flow.direction == direction && flow.security == "mutual_tls").count();
        ensure!(live == MANY, "{node} shows {live} live flows of {}", flows.len());
    }
    drop(streams);
    quiet(lab)?;
    for node in ["n1", "n2"] {
        let complete = |line: &Line| line.error().is_empty() && line.field("src.identity") == client.identity;
        eventually(Duration::from_secs(5), || {
            let count = records.all(node).into_iter().filter(complete).count();
            ensure!(count == MANY, "{node} has recorded {count} connections without an error");
            Ok(())
        })?;
    }
    Ok(())
}

fn connect_here(to: std::net::SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, Duration::from_secs(10)).context("connecting")?;
    super::support::timeouts(&stream, Duration::from_secs(30))?;
    Ok(stream)
}

fn joined<T>(result: thread::Result<Result<T>>) -> Result<T> {
    result.map_err(|_| anyhow!("a client panicked"))?
}

/// 100 streams are a tunnel's share; what comes above gets another, and none waits.
fn second_tunnel(lab: &Lab) -> Result<()> {
    const COUNT: usize = 150;
    quiet(lab)?;
    let (client, server) = (lab.pod("client"), lab.pod("server"));
    let _server = server.echo(APP)?;
    let mut streams = Vec::new();
    for at in 0..COUNT {
        let stream = connect(client, server.at4(APP))?;
        socket::exchange(&stream, "hello").with_context(|| format!("connection {at}"))?;
        streams.push(stream);
    }
    let open = tunnels(client)?;
    ensure!(open == 2, "{COUNT} connections are in {open} tunnels");
    for (at, stream) in streams.iter().enumerate() {
        socket::exchange(stream, "again").with_context(|| format!("connection {at}"))?;
    }
    let flows = lab.agent("n1").flows()?;
    ensure!(flows.len() == COUNT, "{} live flows", flows.len());
    ensure!(flows.iter().all(|flow| flow.security == "mutual_tls"), "a flow is not in mutual TLS");
    Ok(())
}

/// Both ends of all connections are in this process.
fn raise_open_files() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let enough = limit.maximum.is_none_or(|most| most >= 4 * MANY as u64);
    ensure!(enough, "the hard limit of open files is {:?}", limit.maximum);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?)
}
