//! Many connections at once.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use mesh_e2e::{Lab, Line, Namespace, eventually, server, socket};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::support::{
    Records, SOON, connect, open_files, ping_pong, quiet, resident_mib, timeouts, tunnel_ports, tunnels,
};
use super::{APP, MESH, ONE_SHARD, PORT};
use crate::runner::{Case, say};

pub(super) const CASES: &[Case] = &[
    Case::shared("two_thousand_at_once", &MESH, two_thousand).limit(120),
    Case::shared("short_connections_in_parallel", &ONE_SHARD, short),
    Case::shared("resets_in_great_number", &ONE_SHARD, resets),
    Case::shared("more_streams_than_a_tunnel_holds", &ONE_SHARD, second_tunnel),
];

const MANY: usize = 2000;
/// What an agent may take with all of them open.
const MEMORY_MIB: u64 = 100;
/// Threads that connect at the same time.
const CLIENTS: usize = 8;

/// All are open at the same time, all work, and all are seen: live at both agents, and in both logs at the end.
fn two_thousand(lab: &Lab) -> Result<()> {
    raise_open_files()?;
    let (client, server) = (lab.pod("client"), lab.pod("server"));
    let _server = server.echo(APP)?;
    let records = Records::since_now(lab);
    let to = lab.vip4("web", PORT);
    let start = Instant::now();
    let shares = at_once(client, || (0..MANY / CLIENTS).map(|_| connect_here(to)).collect::<Result<Vec<_>>>())?;
    let streams: Vec<TcpStream> = shares.into_iter().flatten().collect();
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
        let used = resident_mib(lab.agent(node))?;
        say(format_args!("    the agent of {node} uses {used} MiB"));
        ensure!(used < MEMORY_MIB, "the agent of {node} uses {used} MiB");
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

/// Does the same on several threads in the pod.
fn at_once<T: Send>(pod: &Namespace, work: impl Fn() -> Result<T> + Sync) -> Result<Vec<T>> {
    thread::scope(|scope| {
        let threads: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| pod.run(&work))).collect();
        threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a client panicked"))?).collect()
    })
}

fn connect_here(to: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, SOON).context("connecting")?;
    timeouts(&stream, Duration::from_secs(30))?;
    Ok(stream)
}

/// 100 streams are a tunnel's share; what comes above gets another, and none waits.
fn second_tunnel(lab: &Lab) -> Result<()> {
    const COUNT: usize = 150;
    quiet(lab)?;
    let (client, server) = (lab.pod("client"), lab.pod("server"));
    let _server = server.echo(APP)?;
    // Cases before this one may have left some, when many came at once.
    let before = tunnels(client)?;
    let mut streams = Vec::new();
    for at in 0..COUNT {
        let stream = connect(client, server.at4(APP))?;
        socket::exchange(&stream, "hello").with_context(|| format!("connection {at}"))?;
        streams.push(stream);
    }
    let open = tunnels(client)?;
    ensure!(open == before.max(2), "{COUNT} connections are in {open} tunnels, and there were {before}");
    for (at, stream) in streams.iter().enumerate() {
        socket::exchange(stream, "again").with_context(|| format!("connection {at}"))?;
    }
    let flows = lab.agent("n1").flows()?;
    ensure!(flows.len() == COUNT, "{} live flows", flows.len());
    ensure!(flows.iter().all(|flow| flow.security == "mutual_tls"), "a flow is not in mutual TLS");
    Ok(())
}

/// As an HTTP client without keep-alive: every connection gets its answer, and nothing is left of any.
fn short(lab: &Lab) -> Result<()> {
    const EACH: usize = 300;
    quiet(lab)?;
    let (client, server) = (lab.pod("client"), lab.pod("server"));
    let _server = server.serve(APP, |mut stream, _| {
        stream.read_exact(&mut [0; 7])?;
        server::say(stream, "answer")
    })?;
    let (to, before) = (server.at4(APP), open_files(lab)?);
    let start = Instant::now();
    at_once(client, || {
        (0..EACH).try_for_each(|at| {
            let stream = connect_here(to)?;
            (&stream).write_all(b"request")?;
            let answer = socket::read_text(&stream).with_context(|| format!("connection {at}"))?;
            ensure!(answer == "answer", "connection {at} got {answer:?}");
            Ok(())
        })
    })?;
    let seconds = start.elapsed().as_secs_f64();
    say(format_args!("    {:.0} connections a second", (CLIENTS * EACH) as f64 / seconds));
    nothing_left(lab, before)
}

/// Clients and servers that reset in every state, again and again: the tunnel bears it, and its other streams do not
/// notice. (HTTP/2 libraries count resets and close the connection of a peer that seems to flood them.)
fn resets(lab: &Lab) -> Result<()> {
    const EACH: usize = 250;
    quiet(lab)?;
    let (client, server) = (lab.pod("client"), lab.pod("server"));
    let (_echo, _resetting) = (server.echo(APP)?, server.serve(APP + 1, reset_as_told)?);
    let neighbour = connect(client, server.at4(APP))?;
    ping_pong(&neighbour, Duration::from_millis(50))?;
    let (to, before, tunnel) = (server.at4(APP + 1), open_files(lab)?, tunnel_ports(client)?);
    thread::scope(|scope| {
        let storm = scope.spawn(|| at_once(client, || (0..EACH).try_for_each(|at| reset_once(to, at))));
        while !storm.is_finished() {
            ping_pong(&neighbour, Duration::from_millis(50)).context("the neighbour, meanwhile")?;
        }
        storm.join().map_err(|_| anyhow!("the storm panicked"))?
    })?;
    ping_pong(&neighbour, Duration::from_millis(50)).context("the neighbour, afterwards")?;
    let after = tunnel_ports(client)?;
    ensure!(tunnel.iter().all(|port| after.contains(port)), "the tunnel {tunnel:?} has died; now there are {after:?}");
    drop(neighbour);
    nothing_left(lab, before)
}

/// Resets a connection in one of several states.
fn reset_once(to: SocketAddr, at: usize) -> Result<()> {
    let mut stream = connect_here(to)?;
    match at % 4 {
        // Before the tunnel can have a stream for it.
        0 => {}
        // With a stream that may not have been accepted yet.
        1 => stream.write_all(b"s")?,
        // In the middle of what the server sends.
        2 => {
            stream.write_all(b"s")?;
            stream.read_exact(&mut [0; 1000])?;
        }
        // By the server.
        _ => {
            stream.write_all(b"r")?;
            let error = stream.read(&mut [0; 1]).map_err(|error| error.kind());
            ensure!(error == Err(ErrorKind::ConnectionReset), "a reset server gives {error:?}");
            return Ok(());
        }
    }
    Ok(socket::reset(stream)?)
}

/// A server that sends (`s`), or resets (`r`).
fn reset_as_told(mut stream: &TcpStream, _: SocketAddr) -> std::io::Result<()> {
    let mut word = [0];
    stream.read_exact(&mut word)?;
    match &word {
        b"s" => socket::pattern(&mut stream, 1 << 20).map(drop),
        _ => Ok(rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO))?),
    }
}

/// No connection is open any more, and about as many files as before.
fn nothing_left(lab: &Lab, before: [usize; 2]) -> Result<()> {
    quiet(lab)?;
    eventually(SOON, || {
        let after = open_files(lab)?;
        // Tunnels stay for a while.
        let more = after.iter().zip(before).any(|(after, before)| *after > before + 10);
        ensure!(!more, "the agents had {before:?} open files, and now {after:?}");
        Ok(())
    })
}

/// Both ends of all connections are in this process.
fn raise_open_files() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let enough = limit.maximum.is_none_or(|most| most >= 4 * MANY as u64);
    ensure!(enough, "the hard limit of open files is {:?}", limit.maximum);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?)
}
