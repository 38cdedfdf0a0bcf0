//! Bytes and ends of connections through both layers, an Envoy between them.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use mesh_e2e::socket::{self, Ending};
use mesh_e2e::{Lab, server};

use super::networks::{gateway, tell};
use super::{APP, NETWORKS, PORT};
use crate::runner::{Case, say};
use crate::traffic::support::{SOON, connect, ping_pong, quiet, timeouts};

pub(super) const CASES: &[Case] = &[
    Case::shared("other_network_bytes_each_way", &NETWORKS, bytes),
    Case::shared("other_network_half_close", &NETWORKS, half_close),
    Case::shared("other_network_reset_by_client", &NETWORKS, reset_by_client),
    Case::shared("other_network_reset_by_server", &NETWORKS, reset_by_server),
    Case::shared("other_network_neighbours_of_stopped_readers", &NETWORKS, stopped_readers),
];

/// Bytes that must arrive as they were, each way.
const LENGTH: u64 = 100 << 20;
/// Enough to fill no queue on the way.
const SOME: u64 = 300_000;
/// More than all queues on the way hold.
const MUCH: u64 = 24 << 20;
/// Clients that stop reading, and servers.
const STOPPED: usize = 3;
/// What 99 of 100 round trips of a neighbour may take.
const PATIENCE: Duration = Duration::from_millis(50);

fn open(lab: &Lab) -> Result<TcpStream> {
    connect(lab.pod("client"), lab.vip4("web", PORT))
}

/// Both ways at once.
fn bytes(lab: &Lab) -> Result<()> {
    tell(lab)?;
    let _envoy = gateway(lab)?;
    let (done, seen) = channel();
    let _server = lab.pod("server").serve(APP, move |stream, _| {
        let digest = thread::scope(|scope| {
            let reading = scope.spawn(|| socket::drain(&mut &*stream));
            socket::pattern(&mut &*stream, LENGTH)?;
            stream.shutdown(Shutdown::Write)?;
            reading.join().map_err(|_| ErrorKind::Other)?
        });
        // The test may have failed already.
        done.send(digest).ok();
        Ok(())
    })?;
    let stream = open(lab)?;
    let (sent, received) = thread::scope(|scope| {
        let writing = scope.spawn(|| {
            let sent = socket::pattern(&mut &stream, LENGTH)?;
            stream.shutdown(Shutdown::Write)?;
            anyhow::Ok(sent)
        });
        let received = socket::drain(&mut &stream).context("what the server sends");
        anyhow::Ok((writing.join().map_err(|_| anyhow!("the writer panicked"))??, received?))
    })?;
    let seen = seen.recv_timeout(SOON).context("the server is not done")??;
    ensure!(seen == sent, "the server got {seen} instead of {sent}");
    ensure!(received == socket::pattern_digest(LENGTH), "the client got {received}");
    Ok(())
}

/// Either end may be done first, and the other goes on.
fn half_close(lab: &Lab) -> Result<()> {
    tell(lab)?;
    let _envoy = gateway(lab)?;
    {
        let _server = lab.pod("server").sink(APP)?;
        let mut stream = open(lab)?;
        let sent = socket::pattern(&mut stream, SOME)?;
        stream.shutdown(Shutdown::Write)?;
        let answer = socket::read_text(&stream).context("after the client's half close")?;
        ensure!(answer == sent.to_string(), "the server says {answer:?}");
    }
    let (done, seen) = channel();
    let _server = lab.pod("server").serve(APP, move |mut stream, _| {
        socket::pattern(&mut stream, SOME)?;
        stream.shutdown(Shutdown::Write)?;
        done.send(socket::drain(&mut stream)).ok();
        Ok(())
    })?;
    let mut stream = open(lab)?;
    let received = socket::drain(&mut stream).context("from a server that is done")?;
    ensure!(received == socket::pattern_digest(SOME), "the client got {received}");
    thread::sleep(Duration::from_millis(200));
    let sent = socket::pattern(&mut stream, SOME).context("to a server that is done")?;
    drop(stream);
    let seen = seen.recv_timeout(SOON).context("the server is not done")??;
    ensure!(seen == sent, "the server got {seen}");
    Ok(())
}

fn reset_by_client(lab: &Lab) -> Result<()> {
    tell(lab)?;
    let _envoy = gateway(lab)?;
    let (done, seen) = channel();
    let _server = lab.pod("server").serve(APP, move |mut stream, _| {
        timeouts(stream, Duration::from_secs(20))?;
        stream.read_exact(&mut [0; 5])?;
        stream.write_all(b"ready")?;
        done.send(socket::ending(stream, SOON)).ok();
        Ok(())
    })?;
    let stream = open(lab)?;
    socket::exchange(&stream, "ready")?;
    socket::reset(stream)?;
    let ending = seen.recv_timeout(2 * SOON).context("the server has seen nothing")??;
    ensure!(ending == Ending::Reset, "the server sees {ending:?}");
    quiet(lab)
}

fn reset_by_server(lab: &Lab) -> Result<()> {
    tell(lab)?;
    let _envoy = gateway(lab)?;
    let server = lab.pod("server").echo(APP)?;
    let stream = open(lab)?;
    socket::exchange(&stream, "ready")?;
    server.reset_all();
    let ending = socket::ending(&stream, SOON)?;
    ensure!(ending == Ending::Reset, "the client sees {ending:?}");
    drop(stream);
    quiet(lab)
}

/// What each connection begins with: what is wanted of the server.
const ECHO: u8 = b'e';
const SOURCE: u8 = b's';
const SINK: u8 = b'k';

/// Clients that do not read, and servers; their neighbour, in a tunnel of its own inside the same outer one, does not
/// notice. When they read again, all of it arrives.
fn stopped_readers(lab: &Lab) -> Result<()> {
    tell(lab)?;
    let _envoy = gateway(lab)?;
    let gate = Arc::new(Mutex::new(()));
    let closed = gate.lock().unwrap_or_else(PoisonError::into_inner);
    let waiting = Arc::clone(&gate);
    let _server = lab.pod("server").serve(APP, move |mut stream, _| {
        let mut wish = [0];
        stream.read_exact(&mut wish)?;
        match wish[0] {
            SOURCE => socket::pattern(&mut stream, MUCH).map(drop),
            SINK => {
                drop(waiting.lock().unwrap_or_else(PoisonError::into_inner));
                server::sink(stream)
            }
            _ => server::echo(stream),
        }
    })?;
    let ask = |wish: u8| -> Result<TcpStream> {
        let mut stream = open(lab)?;
        stream.write_all(&[wish])?;
        Ok(stream)
    };
    let neighbour = ask(ECHO)?;
    let before = ping_pong(&neighbour, Duration::from_millis(500))?.percentile(99);
    let all = |wish| (0..STOPPED).map(|_| ask(wish)).collect::<Result<Vec<_>>>();
    let (mut downs, ups) = (all(SOURCE)?, all(SINK)?);
    thread::scope(|scope| {
        let senders: Vec<_> = ups.iter().map(|stream| scope.spawn(move || push(stream))).collect();
        thread::sleep(Duration::from_secs(1));
        let meanwhile = ping_pong(&neighbour, Duration::from_secs(2)).and_then(|mut times| {
            let p99 = times.percentile(99);
            say(format_args!("    p99 of a neighbour: {before:?} before, {p99:?} meanwhile"));
            ensure!(p99 < PATIENCE, "p99 of {} round trips is {p99:?}; it was {before:?}", times.count());
            let another = ask(ECHO)?;
            socket::exchange(&another, "hello").context("a new connection beside stopped ones")?;
            if senders.iter().any(thread::ScopedJoinHandle::is_finished) {
                bail!("a sender is done: nobody has stopped");
            }
            Ok(())
        });
        drop(closed);
        for stream in &mut downs {
            // After a failure nobody waits for the rest.
            if meanwhile.is_ok() {
                let received = socket::drain(stream).context("a client that reads again")?;
                ensure!(received == socket::pattern_digest(MUCH), "a client got {received}");
            }
        }
        senders.into_iter().try_for_each(|sender| sender.join().map_err(|_| anyhow!("a sender panicked"))?)?;
        meanwhile
    })
}

fn push(mut stream: &TcpStream) -> Result<()> {
    let sent = socket::pattern(&mut stream, MUCH).context("to a server that reads again")?;
    stream.shutdown(Shutdown::Write)?;
    let answer = socket::read_text(stream)?;
    ensure!(answer == sent.to_string(), "a server got {answer} instead of {sent}");
    Ok(())
}
