//! Floods by a peer with a good certificate: the agent may hang up on it, and nobody else notices.

use std::fs;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use mesh_e2e::Lab;

use super::client::{HBONE, SOON, raw, still_serving};
use super::credentials::good_client;
use super::frames;
use crate::runner::say;

const ALICE: &str = "spiffe://cluster.local/ns/default/sa/alice";
const TARGET: &str = "10.40.2.10:80";
const TIMES: u32 = 10_000;

/// The most that a neighbour may wait for a new connection and its echo while a flood goes on.
const WORST: Duration = Duration::from_secs(1);
/// The most that a flood may leave the agent with, in KiB.
const GROWTH: u64 = 48 << 10;

/// What a flood consists of: pieces that are written one after the other.
type Flood = (&'static str, fn(u32) -> Vec<u8>);

const FLOODS: [Flood; 7] = [
    ("CONNECT and RST_STREAM", |at| [frames::connect(2 * at + 1, TARGET), frames::reset(2 * at + 1)].concat()),
    ("CONNECT", |at| frames::connect(2 * at + 1, TARGET)),
    ("CONNECT to elsewhere", |at| frames::connect(2 * at + 1, "10.40.1.10:80")),
    ("PING", |_| frames::ping().repeat(10)),
    ("SETTINGS", |_| frames::settings().repeat(10)),
    // A head that never ends: 16 KiB a piece.
    ("CONTINUATION", |at| match at {
        0 => frames::unfinished_connect(1, TARGET),
        _ => frames::continuation(1, 150),
    }),
    ("large heads", |at| {
        let stream = 2 * at + 1;
        [frames::unfinished_connect(stream, TARGET), frames::continuation(stream, 150).repeat(8)].concat()
    }),
];

pub(super) fn floods(lab: &Lab) -> Result<()> {
    let _application = lab.pod("server").echo(80)?;
    let agent = lab.agent("n2");
    let pid = agent.pid().context("the agent runs")?;
    still_serving(lab)?;
    let mut wrong = Vec::new();
    for (what, piece) in FLOODS {
        let before = resident(pid)?;
        let (worst, sent) = beside(lab, || flood(lab, piece)).with_context(|| what.to_owned())?;
        let grown = resident(pid)?.saturating_sub(before);
        say(format_args!("    {what}: {sent} of {TIMES} taken, {grown} KiB more, neighbours waited {worst:?} at most"));
        if worst > WORST {
            wrong.push(format!("{what}: a neighbour waited for {worst:?}"));
        }
        if grown > GROWTH {
            wrong.push(format!("{what}: the agent has {grown} KiB more than before"));
        }
        ensure!(agent.pid() == Some(pid) && agent.is_running(), "{what}: the agent is gone");
        still_serving(lab).context(what)?;
    }
    // All of it is given back.
    mesh_e2e::eventually(SOON, || {
        let open = agent.status()?.connections.inbound;
        ensure!(open == 0, "{open} connections are still open");
        Ok(())
    })?;
    if wrong.is_empty() { Ok(()) } else { bail!("{}", wrong.join("\n  ")) }
}

/// Writes a flood until it is done or the agent hangs up. Gives how many pieces were taken.
fn flood(lab: &Lab, piece: fn(u32) -> Vec<u8>) -> Result<u32> {
    let mut tls = raw(lab.outside(), lab.pod("server").at4(HBONE), good_client(lab, ALICE)?)?;
    tls.write_all(frames::PREFACE)?;
    tls.write_all(&frames::settings())?;
    let mut sent = 0;
    let refused = |error: &io::Error| {
        let kind = error.kind();
        // An agent that has hung up, or one that does not read on: both are answers to a flood.
        matches!(
            kind,
            io::ErrorKind::BrokenPipe
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::WouldBlock
                | io::ErrorKind::UnexpectedEof
        )
    };
    while sent < TIMES {
        match tls.write_all(&piece(sent)) {
            Ok(()) => sent += 1,
            Err(error) if refused(&error) => return Ok(sent),
            Err(error) => return Err(error.into()),
        }
    }
    // What the agent says to it, up to a second.
    tls.sock.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut buffer = [0; 4096];
    while tls.read(&mut buffer).is_ok_and(|length| length > 0) {}
    Ok(sent)
}

/// Runs `attack` while a neighbour makes connections; gives the longest that one of these took.
fn beside<T: Send>(lab: &Lab, attack: impl FnOnce() -> Result<T> + Send) -> Result<(Duration, T)> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let neighbour = scope.spawn(|| -> Result<Duration> {
            let mut worst = Duration::ZERO;
            while !over.load(Ordering::Relaxed) {
                let at = Instant::now();
                still_serving(lab).context("a neighbour")?;
                worst = worst.max(at.elapsed());
            }
            Ok(worst)
        });
        let result = attack();
        over.store(true, Ordering::Relaxed);
        let worst = neighbour.join().map_err(|_| anyhow!("the neighbour panicked"))?;
        Ok((worst?, result?))
    })
}

fn resident(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
