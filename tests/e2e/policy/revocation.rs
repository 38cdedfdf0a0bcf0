//! Policies that change under open connections: closed within a second, and told why.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use mesh_e2e::socket::{self, Ending, ending, exchange};
use mesh_e2e::{Lab, World};

use super::matrix::{echoes, servers_agent};
use crate::runner::say;

/// What the mesh promises.
const PROMISE: Duration = Duration::from_secs(1);
/// How long is waited before a promise counts as broken for good.
const PATIENCE: Duration = Duration::from_secs(5);

const DENY_ALL: &str = "- {name: closed, action: DENY, rules: [{}]}";

/// Publishes `change`, and gives when each of the streams was ended by the other side, counted from the moment the
/// files were in place. All of them must be reset within the promised time.
fn closed_by(lab: &Lab, streams: &[&TcpStream], change: impl FnOnce(&mut World)) -> Result<()> {
    let times = thread::scope(|scope| -> Result<Vec<Duration>> {
        let watch = |stream| scope.spawn(move || (ending(stream, PATIENCE), Instant::now()));
        let watches: Vec<_> = streams.iter().copied().map(watch).collect();
        let at = lab.publish(change)?;
        let ended = |watch: thread::ScopedJoinHandle<'_, (io::Result<Ending>, Instant)>| {
            let (end, when) = watch.join().map_err(|_| anyhow!("a watching thread panicked"))?;
            ensure!(end.context("the connection")? == Ending::Reset, "it was closed as if it were complete");
            Ok(when.saturating_duration_since(at))
        };
        watches.into_iter().map(ended).collect()
    })?;
    say(format_args!("    closed after {times:?}"));
    ensure!(times.iter().all(|time| *time < PROMISE), "closed too late: {times:?}");
    Ok(())
}

/// Publishes `change`; a new connection of alice's must work within the promised time.
fn works_after(lab: &Lab, change: impl FnOnce(&mut World)) -> Result<()> {
    let (alice, to) = (lab.pod("alice"), lab.pod("server").at4(80));
    let time = thread::scope(|scope| -> Result<Duration> {
        let trying = scope.spawn(move || {
            let works = || if echoes(alice, to)? { Ok(()) } else { Err(anyhow!("still denied")) };
            mesh_e2e::eventually(PATIENCE, works).map(|()| Instant::now())
        });
        let at = lab.publish(change)?;
        Ok(trying.join().map_err(|_| anyhow!("the trying thread panicked"))??.saturating_duration_since(at))
    })?;
    say(format_args!("    allowed again after {time:?}"));
    ensure!(time < PROMISE, "allowed again after {time:?}");
    Ok(())
}

/// A connection that works.
fn open(lab: &Lab, client: &str) -> Result<TcpStream> {
    let stream = lab.pod(client).connect(lab.pod("server").at4(80))?;
    still_open(&stream)?;
    Ok(stream)
}

fn still_open(stream: &TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    ensure!(exchange(stream, "still there?").context("the open connection")? == "still there?", "other bytes came");
    Ok(())
}

/// Waits for the lines that tell of the streams' ends on the server's side.
fn told(lab: &Lab, since: &mesh_e2e::Log, reason: &str, clients: &[&str]) -> Result<()> {
    for client in clients {
        let address = lab.pod(client).v4.to_string();
        let line = since.wait(PROMISE, |line| {
            line.scope == "access"
                && !line.message.ends_with("opened")
                && line.field("src.addr").starts_with(&address)
                && line.error().starts_with("closed by a policy change")
        })?;
        ensure!(line.error() == format!("closed by a policy change: {reason}"), "the log says {:?}", line.error());
    }
    Ok(())
}

pub(super) fn closes(lab: &Lab) -> Result<()> {
    let (door, kinds) = mpsc::channel();
    let _application = lab.pod("server").serve(80, move |stream, _| {
        let result = socket_end(stream);
        door.send(result.as_ref().err().map(io::Error::kind)).ok();
        result
    })?;
    let flag = ["response_flags=\"DENY\"", "reporter=\"destination\""];
    let count = || servers_agent(lab).metric("istio_tcp_connections_closed_total", &flag);
    let before = count()?;
    let (tunnelled, plain) = (open(lab, "alice")?, open(lab, "plain")?);
    let news = servers_agent(lab).log().from_now();
    closed_by(lab, &[&tunnelled, &plain], |world| world.authorize(DENY_ALL))?;
    told(lab, &news, "policy default/closed denies it", &["alice", "plain"])?;
    for _ in 0..2 {
        let seen = kinds.recv_timeout(PROMISE).context("the application's end stays open")?;
        ensure!(seen == Some(io::ErrorKind::ConnectionReset), "the application sees {seen:?} instead of a reset");
    }
    let more = count()? - before;
    ensure!((more - 2.0).abs() < 0.5, "two revoked connections count as {more}");
    let news = lab.agent("n1").log().from_now();
    ensure!(!echoes(lab.pod("alice"), lab.pod("server").at4(80))?, "a new connection is allowed");
    // Joined on one node, the source is told the reason itself.
    news.wait(PROMISE, |line| {
        line.error() == "http status: 401"
            || line.error() == "the destination refused it: policy default/closed denies it"
    })?;
    works_after(lab, World::clear_policies)
}

/// Echoes until the client or the agent ends it.
fn socket_end(stream: &TcpStream) -> io::Result<()> {
    mesh_e2e::server::echo(stream)
}

/// An ALLOW policy that no longer covers a connection closes it like a DENY.
pub(super) fn lost(lab: &Lab) -> Result<()> {
    let only = |who: &str| format!("- {{name: only, rules: [{{from: [{{source: {{principals: ['*/{who}']}}}}]}}]}}");
    let _application = lab.pod("server").echo(80)?;
    lab.publish(|world| world.authorize(&only("alice")))?;
    let stream = open(lab, "alice")?;
    let news = servers_agent(lab).log().from_now();
    closed_by(lab, &[&stream], |world| {
        world.clear_policies();
        world.authorize(&only("bob"));
    })?;
    told(lab, &news, "ALLOW policies apply to the workload and none of them allows it", &["alice"])?;
    works_after(lab, World::clear_policies)
}

/// Bytes that are on their way do not hold the end up, in either direction.
pub(super) fn under_load(lab: &Lab) -> Result<()> {
    let server = lab.pod("server");
    let _sink = server.sink(80)?;
    let _source = server.source(81, 1 << 40)?;
    let (up, down) = (lab.pod("alice").connect(server.at4(80))?, lab.pod("alice").connect(server.at4(81))?);
    let times = thread::scope(|scope| -> Result<[Duration; 2]> {
        let push = scope.spawn(|| until_error(|buffer| (&up).write(buffer)));
        let pull = scope.spawn(|| until_error(|buffer| (&down).read(buffer)));
        thread::sleep(Duration::from_millis(300));
        let at = lab.publish(|world| world.authorize(DENY_ALL))?;
        let end = |ended: thread::Result<(u64, Instant)>| -> Result<Duration> {
            let (bytes, when) = ended.map_err(|_| anyhow!("a loading thread panicked"))?;
            ensure!(bytes > 1 << 20, "only {bytes} bytes were moved: this is no load");
            Ok(when.saturating_duration_since(at))
        };
        Ok([end(push.join())?, end(pull.join())?])
    })?;
    say(format_args!("    closed after {times:?}"));
    ensure!(times.iter().all(|time| *time < PROMISE), "closed too late: {times:?}");
    Ok(())
}

/// Moves bytes until that fails; gives their number and when it failed.
fn until_error(mut step: impl FnMut(&mut [u8]) -> io::Result<usize>) -> (u64, Instant) {
    let (mut buffer, mut total, start) = (vec![7; socket::CHUNK], 0, Instant::now());
    while start.elapsed() < 2 * PATIENCE {
        match step(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(bytes) => total += bytes as u64,
        }
    }
    (total, Instant::now())
}

pub(super) fn strict(lab: &Lab) -> Result<()> {
    let _application = lab.pod("server").echo(80)?;
    let (tunnelled, plain) = (open(lab, "alice")?, open(lab, "plain")?);
    let news = servers_agent(lab).log().from_now();
    closed_by(lab, &[&plain], |world| world.peer_authentication("- {name: s, mode: STRICT}"))?;
    told(lab, &news, "policy istio-system/istio_converted_static_strict denies it", &["plain"])?;
    still_open(&tunnelled)
}

/// What counts is the workload as it is now, not as it was when the connection was opened.
pub(super) fn relabelled(lab: &Lab) -> Result<()> {
    let _application = lab.pod("server").echo(80)?;
    lab.publish(|world| world.authorize("- {name: locked, selector: {app: locked}, action: DENY, rules: [{}]}"))?;
    let (tunnelled, plain) = (open(lab, "alice")?, open(lab, "plain")?);
    closed_by(lab, &[&tunnelled, &plain], |world| {
        world.pod("server").labels.insert("app".to_owned(), "locked".to_owned());
    })
}

pub(super) fn harmless(lab: &Lab) -> Result<()> {
    let _application = lab.pod("server").echo(80)?;
    let (tunnelled, plain) = (open(lab, "alice")?, open(lab, "plain")?);
    let news = servers_agent(lab).log().from_now();
    let changes = [
        "- {name: everybody, rules: [{}]}",
        "- {name: other-name, rules: [{}]}",
        "- {name: by-port, rules: [{to: [{operation: {ports: ['80']}}]}]}",
        "- {name: no-bob, action: DENY, rules: [{from: [{source: {principals: ['*/bob']}}]}]}",
        "- {name: other-port, action: DENY, rules: [{to: [{operation: {ports: ['81']}}]}]}",
        "- {name: elsewhere, namespace: shop, action: DENY, rules: [{}]}",
        "- {name: tried, dry_run: true, action: DENY, rules: [{}]}",
        "",
    ];
    for policies in changes {
        lab.publish(|world| {
            world.clear_policies();
            world.authorize(policies);
        })?;
        still_open(&tunnelled).and_then(|()| still_open(&plain)).with_context(|| format!("after {policies:?}"))?;
    }
    ensure!(news.access().is_empty(), "a connection was closed: {}", news.text());
    Ok(())
}
