//! Readers that stop reading: their neighbours on the tunnel do not notice, the agents do not pile up what nobody takes,
//! and nothing is lost.

use std::io;
use std::net::TcpStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use mesh_e2e::{Lab, Server, eventually, server, socket};

use super::long::Long;
use super::support::{Times, connect, ping_pong, quiet, resident_mib, tunnels};
use super::{APP, ONE_SHARD, topology};
use crate::runner::{Case, say};

pub(super) const CASES: &[Case] = &[
    Case::shared("neighbours_of_stopped_readers", &ONE_SHARD, |lab| neighbours(lab, 1, Duration::from_secs(10))),
    Case::shared("neighbours_of_fifty_stopped_readers", &ONE_SHARD, |lab| neighbours(lab, 25, Duration::from_secs(3))),
    Case::shared("neighbours_of_bulk", &ONE_SHARD, bulk),
    Case::fresh("memory_with_stopped_readers", || topology().node_setting("shards", 1), memory),
];

/// More than all queues on the way hold.
const MUCH: u64 = 16 << 20;
/// Port of a server that sends to clients which do not read.
const SOURCE: u16 = APP + 1;
/// Port of a server that does not read.
const SINK: u16 = APP + 2;
/// What 99 of 100 round trips of a neighbour may take. On a quiet machine it is a quarter of a millisecond.
const PATIENCE: Duration = Duration::from_millis(50);
/// What half of the round trips may take beside bulk, which fills both processors and every queue.
const BULK_PATIENCE: Duration = Duration::from_millis(25);
/// What an agent may take while everybody has stopped.
const MEMORY_MIB: u64 = 150;

/// `each` clients stop reading, and `each` servers; meanwhile somebody else talks through the same tunnel.
fn neighbours(lab: &Lab, each: usize, during: Duration) -> Result<()> {
    quiet(lab)?;
    let (client, server) = (lab.pod("client"), lab.pod("server"));
    let _server = server.echo(APP)?;
    let neighbour = connect(client, server.at4(APP))?;
    let before = ping_pong(&neighbour, Duration::from_secs(1))?.percentile(99);
    stalled(lab, each, || {
        let mut times = ping_pong(&neighbour, during)?;
        let (p99, count) = (times.percentile(99), times.count());
        say(format_args!("    p99 of a neighbour: {before:?} before, {p99:?} meanwhile"));
        ensure!(p99 < PATIENCE, "p99 of {count} round trips is {p99:?}; it was {before:?}");
        let start = Instant::now();
        socket::exchange(&connect(client, server.at4(APP))?, "hello")?;
        let took = start.elapsed();
        ensure!(took < Duration::from_secs(1), "a new connection took {took:?}");
        // Whoever comes while a tunnel carries much gets another one; the neighbour was there first, and those that came before
        // much was carried share its tunnel.
        let open = tunnels(client)?;
        ensure!(open <= each.min(4), "there are {open} tunnels for {each} who stopped: the neighbours were none");
        Ok(())
    })
}

/// Somebody who moves as much as the tunnel carries, both ways, leaves room for a word in between.
fn bulk(lab: &Lab) -> Result<()> {
    const LENGTH: u64 = 512 << 20;
    quiet(lab)?;
    let (client, server) = (lab.pod("client"), lab.pod("server"));
    let _servers = (server.echo(APP)?, server.source(SOURCE, LENGTH)?, server.sink(SINK)?);
    let neighbour = connect(client, server.at4(APP))?;
    let (down, up) = (connect(client, server.at4(SOURCE))?, connect(client, server.at4(SINK))?);
    thread::scope(|scope| {
        let mut movers = vec![
            scope.spawn(|| socket::drain(&mut &down).map(drop)),
            scope.spawn(|| socket::pattern(&mut &up, LENGTH).map(drop)),
        ];
        let mut times = Times::default();
        while movers.iter().all(|mover| !mover.is_finished()) {
            times.extend(ping_pong(&neighbour, Duration::from_millis(100))?);
        }
        let (half, most, count) = (times.percentile(50), times.percentile(99), times.count());
        say(format_args!("    round trips beside bulk: half within {half:?}, 99 of 100 within {most:?}"));
        ensure!(count > 100, "only {count} round trips");
        ensure!(half < BULK_PATIENCE, "half of {count} round trips took {half:?} or more");
        movers
            .drain(..)
            .try_for_each(|mover| mover.join().map_err(|_| anyhow!("a mover panicked"))?.map_err(Into::into))
    })
}

fn memory(lab: &mut Lab) -> Result<()> {
    stalled(lab, 20, || {
        for node in lab.nodes() {
            let used = resident_mib(node.agent())?;
            say(format_args!("    the agent of {} uses {used} MiB", node.name));
            ensure!(used < MEMORY_MIB, "the agent of {} uses {used} MiB", node.name);
        }
        Ok(())
    })
}

/// Runs `body` while `each` clients and `each` servers do not read what is sent to them; then they do, and every byte
/// must have been kept.
fn stalled(lab: &Lab, each: usize, body: impl FnOnce() -> Result<()>) -> Result<()> {
    let (client, server) = (lab.pod("client"), lab.pod("server"));
    let gate = Arc::new(Mutex::new(()));
    let closed = gate.lock().unwrap_or_else(PoisonError::into_inner);
    let _source = server.serve(SOURCE, |stream, _| Long::default().send(stream, MUCH))?;
    let _sink = sink(lab, &gate)?;
    let open = |port| (0..each).map(|_| connect(client, server.at4(port))).collect::<Result<Vec<_>>>();
    let (downs, ups) = (open(SOURCE)?, open(SINK)?);
    thread::scope(|scope| {
        let senders: Vec<_> = ups.iter().map(|stream| scope.spawn(|| push(stream))).collect();
        let result = at_rest(lab, 2 * each).and_then(|()| body()).and_then(|()| at_rest(lab, 2 * each));
        drop(closed);
        for stream in &downs {
            // After a failure the ends are only closed, so that nobody waits for them.
            result.is_ok().then(|| Long::default().receive(stream, MUCH)).transpose()?;
        }
        senders.into_iter().try_for_each(|sender| sender.join().map_err(|_| anyhow!("a sender panicked"))?)?;
        result
    })
}

/// A server that reads, compares and says so, once the gate is open.
fn sink(lab: &Lab, gate: &Arc<Mutex<()>>) -> Result<Server> {
    let gate = Arc::clone(gate);
    lab.pod("server").serve(SINK, move |stream, _| {
        drop(gate.lock().unwrap_or_else(PoisonError::into_inner));
        Long::default().receive(stream, MUCH).map_err(io::Error::other)?;
        server::say(stream, "complete")
    })
}

fn push(stream: &TcpStream) -> Result<()> {
    Long::default().send(stream, MUCH)?;
    let answer = socket::read_text(stream)?;
    ensure!(answer == "complete", "the server says {answer:?}");
    Ok(())
}

/// Waits until `count` connections have moved bytes, though not all, and move no more.
fn at_rest(lab: &Lab, count: usize) -> Result<()> {
    let moved = || -> Result<Vec<u64>> {
        let flows = lab.agent("n1").flows()?;
        let stalling =
            flows.iter().filter(|flow| [SOURCE, SINK].iter().any(|port| flow.original.ends_with(&format!(":{port}"))));
        Ok(stalling.map(|flow| flow.to_client + flow.to_server).collect())
    };
    eventually(Duration::from_secs(10), || {
        let before = moved()?;
        thread::sleep(Duration::from_millis(300));
        let after = moved()?;
        ensure!(before == after, "bytes still move");
        ensure!(after.len() == count, "{} of {count} connections are live", after.len());
        ensure!(after.iter().all(|bytes| (1..MUCH).contains(bytes)), "not all are stalled: {after:?}");
        Ok(())
    })
}
