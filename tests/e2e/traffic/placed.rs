//! Which shard a connection gets.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use mesh_e2e::documents::Flow;
use mesh_e2e::{Lab, Namespace, eventually, socket};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::support::{connect, quiet};
use super::{APP, topology};
use crate::runner::{Case, Fixture, say};

/// A shard at home on each core.
static CORES: Fixture = Fixture {
    name: "shards at home",
    topology: || topology().node_setting("steering", "core").node_setting("shards", 2),
};

pub(super) const CASES: &[Case] = &[
    Case::shared("a_core_and_its_shard", &CORES, cores),
    Case::shared("heavy_connections_are_spread", &CORES, heavy).limit(60),
    Case::shared("a_core_with_too_much_to_do", &CORES, crowded).limit(60),
];

/// The port that much is carried to.
const BULK: u16 = 9099;

fn usable() -> Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    let cores: Vec<_> = (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect();
    ensure!(cores.len() == 2, "this case is made for two cores, and the machine has {}", cores.len());
    Ok(cores)
}

/// Does it on a thread that stays on the core.
fn on<T: Send>(core: usize, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let stay = || {
        let mut set = CpuSet::new();
        set.set(core);
        sched_setaffinity(None, &set)?;
        work()
    };
    thread::scope(|scope| scope.spawn(stay).join().map_err(|_| anyhow!("the thread panicked"))?)
}

/// The shards of the client's live connections to the port, oldest first.
fn shards(lab: &Lab, port: u16) -> Result<Vec<u32>> {
    let to = |flow: &Flow| flow.direction == "outbound" && flow.original.ends_with(&format!(":{port}"));
    Ok(lab.agent("n1").flows()?.iter().filter(|flow| to(flow)).map(|flow| flow.shard).collect())
}

fn cores(lab: &Lab) -> Result<()> {
    let (client, server) = (lab.pod("client"), lab.pod("server"));
    let _server = server.echo(APP)?;
    for turn in 0..6 {
        for (shard, core) in usable()?.into_iter().enumerate() {
            quiet(lab)?;
            let stream = on(core, || connect(client, server.at4(APP)))?;
            ensure!(socket::exchange(&stream, "x")? == "x", "no answer");
            let got = shards(lab, APP)?;
            ensure!(got == [u32::try_from(shard)?], "turn {turn}: a connection from core {core} is on shard {got:?}");
        }
    }
    Ok(())
}

/// Opens one and sends so much on it.
fn send(client: &Namespace, to: SocketAddr, mib: usize) -> Result<std::net::TcpStream> {
    let mut stream = connect(client, to)?;
    let piece = vec![7; 1 << 20];
    for _ in 0..mib {
        stream.write_all(&piece).context("sending")?;
    }
    Ok(stream)
}

fn heavy(lab: &Lab) -> Result<()> {
    let (client, server) = (lab.pod("client"), lab.pod("server"));
    let _server = server.sink(BULK)?;
    let (core, to) = (usable()?[0], server.at4(BULK));
    let four = |_: &str| on(core, || (0..4).map(|_| connect(client, to)).collect::<Result<Vec<_>>>());
    let unknown = four("nothing is known of them")?;
    eventually(Duration::from_secs(2), || {
        let got = shards(lab, BULK)?;
        ensure!(got == [0; 4], "before much was carried, they are on {got:?}");
        Ok(())
    })?;
    drop(unknown);
    quiet(lab)?;
    let before = lab.agent("n1").metric("mesh_connections_moved_total", &[])?;
    drop(on(core, || send(client, to, 300))?);
    quiet(lab)?;
    let _known = four("they go where a heavy one went")?;
    eventually(Duration::from_secs(2), || {
        let mut got = shards(lab, BULK)?;
        got.sort_unstable();
        ensure!(got == [0, 0, 1, 1], "after much was carried, they are on {got:?}");
        Ok(())
    })?;
    let moved = lab.agent("n1").metric("mesh_connections_moved_total", &[])? - before;
    say(format_args!("    {moved} moved"));
    ensure!(moved >= 2.0, "{moved} are counted");
    Ok(())
}

/// Shards of eight connections from the first core.
fn eight(lab: &Lab) -> Result<Vec<u32>> {
    let (client, server) = (lab.pod("client"), lab.pod("server"));
    let core = usable()?[0];
    let open = on(core, || (0..8).map(|_| connect(client, server.at4(APP))).collect::<Result<Vec<_>>>())?;
    eventually(Duration::from_secs(2), || {
        let got = shards(lab, APP)?;
        ensure!(got.len() == open.len(), "{} of {} connections are shown", got.len(), open.len());
        Ok(got)
    })
}

/// Does it on the core again and again.
fn until(stop: &AtomicBool, core: usize, again: impl Fn() -> Result<()> + Send + Sync) -> Result<()> {
    on(core, || {
        while !stop.load(Relaxed) {
            again()?;
        }
        Ok(())
    })
}

/// Much to carry and many who come, on a core that others use as well: what comes up there is anybody's meanwhile.
fn crowded(lab: &Lab) -> Result<()> {
    let (client, server) = (lab.pod("client"), lab.pod("server"));
    let (_server, _sink) = (server.echo(APP)?, server.sink(BULK)?);
    let (core, to) = (usable()?[0], server.at4(BULK));
    let agent = lab.agent("n1");
    let left = || agent.metric("mesh_shards_left_home_total", &[]);
    let before = left()?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let rival = scope.spawn(|| until(&stop, core, || Ok(())));
        let bulk = scope.spawn(|| until(&stop, core, || send(client, to, 64).map(drop)));
        let guests = scope.spawn(|| until(&stop, core, || connect(client, server.at4(APP)).map(drop)));
        let seen = eventually(Duration::from_secs(20), || {
            ensure!(left()? > before, "no shard has left its home");
            let got = shards(lab, APP)?;
            ensure!(got.contains(&0) && got.contains(&1), "all of them are on {got:?}");
            Ok(())
        });
        stop.store(true, Relaxed);
        for thread in [rival, bulk, guests] {
            thread.join().map_err(|_| anyhow!("the thread panicked"))??;
        }
        seen
    })?;
    eventually(Duration::from_secs(20), || {
        quiet(lab)?;
        let got = eight(lab)?;
        ensure!(got == [0; 8], "when there is less to do, they are on {got:?}");
        Ok(())
    })
}
