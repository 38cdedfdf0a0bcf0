//! Many connections from one pod to another. Each carries its bytes there and back once, and idles from then on.

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread::{ScopedJoinHandle, park, scope};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use mesh_e2e::{Lab, Process, RunningPod, eventually};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::step::say;

/// Connections come up side by side in so many lanes, each to a port of its own.
pub(super) const LANES: u32 = 8;
const PORTS: [u16; LANES as usize] = [7000, 7001, 7002, 7003, 7004, 7005, 7006, 7007];
/// How long one may take to come up, and to carry its bytes.
const PATIENCE: Duration = Duration::from_secs(60);
/// The callers' last word.
const ALL_OPEN: &str = "all open\n";

/// Where connections end.
#[derive(Debug)]
pub(super) struct Servers<'a> {
    pod: &'a RunningPod,
    listeners: Vec<(u16, TcpListener)>,
    /// Crowds so far: the callers of each have a log file of their own.
    crowds: Cell<u32>,
}

/// Open connections. Dropping it ends them.
#[derive(Debug)]
pub(super) struct Crowd {
    // The callers end first.
    _callers: Process,
    _ends: Vec<TcpStream>,
}

/// Arguments of the callers: a process of its own, because few systems allow one process as many files as both ends are.
#[derive(Debug, clap::Args)]
pub(in crate::bench) struct Callers {
    to: IpAddr,
    count: u32,
    bytes: usize,
}

impl<'a> Servers<'a> {
    pub(super) fn listen(pod: &'a RunningPod) -> Result<Self> {
        let listen = |port| {
            let listener = pod.listen(port)?;
            // Also of waiting for a client.
            set_socket_timeout(&listener, Timeout::Recv, Some(PATIENCE))?;
            Ok((port, listener))
        };
        Ok(Self { pod, listeners: PORTS.into_iter().map(listen).collect::<Result<_>>()?, crowds: Cell::new(0) })
    }

    /// Has `count` connections opened in the lab's pod `client`; each carries `bytes` there, and the same ones back.
    pub(super) fn gather(&self, lab: &Lab, count: u32, bytes: usize) -> Result<Crowd> {
        let own = std::env::current_exe().context("this program's own path")?;
        let mut command = lab.pod("client").command(own);
        command.args(["bench", "callers", &self.pod.v4.to_string(), &count.to_string(), &bytes.to_string()]);
        self.crowds.set(self.crowds.get() + 1);
        let mut callers = lab.spawn(&format!("callers-{}", self.crowds.get()), &mut command)?;
        let listeners = &self.listeners;
        let ends = lanes(count, |at, share| {
            let (_, listener) = listeners.get(at).context("a listener for each lane")?;
            (0..share).map(|_| answer(listener, bytes)).collect()
        });
        let ends = ends.with_context(|| callers.log().tail(3))?;
        eventually(PATIENCE, || {
            callers.check_running()?;
            ensure!(callers.log().text().ends_with(ALL_OPEN), "the callers do not say that all is open");
            Ok(())
        })?;
        Ok(Crowd { _callers: callers, _ends: ends })
    }
}

/// The callers: opens its connections, says so, and holds them until somebody ends it.
pub(in crate::bench) fn call_and_hold(args: &Callers) -> Result<()> {
    allow_files(args.count)?;
    let _ends = lanes(args.count, |at, share| {
        let port = PORTS.get(at).context("a port for each lane")?;
        (0..share).map(|_| call(SocketAddr::new(args.to, *port), args.bytes)).collect()
    })?;
    say(ALL_OPEN.trim_end());
    loop {
        park();
    }
}

/// Raises this process's limit of open files as far as it goes, and with it that of those it starts.
pub(super) fn allow_files(connections: u32) -> Result<()> {
    let wanted = u64::from(connections) + 1024;
    let limit = getrlimit(Resource::Nofile);
    let few = limit.maximum.filter(|maximum| *maximum < wanted);
    ensure!(few.is_none(), "{wanted} open files are needed, and {} allowed: see `ulimit -Hn`", few.unwrap_or_default());
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
        .context("the limit of open files")
}

/// Has `each` open its share of `count` connections in every lane; they are told which they are.
fn lanes(count: u32, each: impl Fn(usize, u32) -> Result<Vec<TcpStream>> + Sync) -> Result<Vec<TcpStream>> {
    scope(|scope| {
        let each = &each;
        let started: Vec<_> = (0..LANES)
            .map(|lane| {
                let share = count / LANES + u32::from(lane < count % LANES);
                scope.spawn(move || each(lane as usize, share))
            })
            .collect();
        let ends = started.into_iter().map(joined).collect::<Result<Vec<_>>>()?;
        Ok(ends.into_iter().flatten().collect())
    })
}

fn joined<T>(thread: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("a thread has panicked"))?
}

/// The client's part of a connection.
fn call(to: SocketAddr, bytes: usize) -> Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE).with_context(|| format!("connecting to {to}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let said: Vec<u8> = (0..=u8::MAX).cycle().take(bytes).collect();
    let mut heard = vec![0; bytes];
    stream.write_all(&said).and_then(|()| stream.read_exact(&mut heard)).with_context(|| format!("talking to {to}"))?;
    ensure!(said == heard, "{to} says something else than it was told");
    Ok(stream)
}

/// The server's part: it hears all before it speaks.
fn answer(listener: &TcpListener, bytes: usize) -> Result<TcpStream> {
    let (mut stream, from) = listener.accept().context("waiting for a client")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut heard = vec![0; bytes];
    stream
        .read_exact(&mut heard)
        .and_then(|()| stream.write_all(&heard))
        .with_context(|| format!("answering {from}"))?;
    Ok(stream)
}
