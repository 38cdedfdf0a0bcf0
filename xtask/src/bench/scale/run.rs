//! The run: one node with a client and two servers, one agent, and a server that tells it of 100,000 workloads.

use std::net::SocketAddr;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mesh_e2e::{Lab, Pod, Server, Topology, server, socket};
use serde::Serialize;
use serde_json::json;

use super::istiod::{Istiod, Prepared};
use super::mesh;
use super::pulse::{Beats, Pulse};
use crate::bench::usage::{self, Resident};
use crate::step::timed;

const XDS_PORT: u16 = 15010;
const ECHO: u16 = 9000;
const CHANGES: usize = 20;
/// How long a change may take until it is seen.
const PATIENCE: Duration = Duration::from_secs(10);
const QUIET: Duration = Duration::from_secs(5);
/// After a message has been taken over: what it leaves behind is given back then.
const AFTER: Duration = Duration::from_millis(500);
/// Between changes that come at 50 a second, and how many they are.
const PERIOD: Duration = Duration::from_millis(20);
const STEADY: u32 = 250;

/// MiB of the agent's process.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Memory {
    pub(super) now: f64,
    pub(super) peak: f64,
}

/// What was found; times in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Figures {
    pub(super) message_mib: f64,
    pub(super) memory: Memories,
    /// From the push of everything at once until the agent acknowledged it.
    pub(super) taken_over: f64,
    /// From the opening of a new agent's stream until it acknowledged everything.
    pub(super) synced: f64,
    /// From a changed endpoint until a new connection reached it.
    pub(super) changes: Beats,
    pub(super) quiet: Beats,
    pub(super) streaming_in: Beats,
    pub(super) steady: Beats,
}

/// The agent's memory as the run goes on.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Memories {
    pub(super) empty: Memory,
    pub(super) full: Memory,
    pub(super) settled: Memory,
    pub(super) changed: Memory,
    /// Of another agent, which was started with everything there.
    pub(super) restarted: Memory,
    pub(super) restarted_settled: Memory,
}

/// The lab with everything in it.
struct Stage {
    // Servers before the lab whose namespaces they live in.
    _servers: [Server; 3],
    istiod: Istiod,
    lab: Lab,
}

/// Plays it all with the agent at that path.
pub(super) fn play(agent: &Path) -> Result<Figures> {
    let stage = timed("starting the lab", || Stage::new(agent))?;
    let pulse = stage.pulse()?;
    sleep(Duration::from_secs(1));
    let empty = stage.memory()?;
    let quiet = timed("quiet traffic", || {
        during(&pulse, || {
            sleep(QUIET);
            Ok(())
        })
    })?
    .1;
    let all = stage.everything();
    let (taken_over, streaming_in) = timed("100,000 workloads", || {
        during(&pulse, || {
            let start = stage.istiod.push(&all)?;
            let end = stage.istiod.acknowledged(&all)?;
            sleep(AFTER);
            Ok(end - start)
        })
    })?;
    let full = stage.memory()?;
    sleep(QUIET);
    let settled = stage.memory()?;
    let changes = timed("single changes", || stage.changes())?;
    let steady = timed("50 changes a second", || during(&pulse, || stage.steady()))?.1;
    let changed = stage.memory()?;
    drop(pulse);
    let (synced, restarted) = timed("starting another agent", || stage.restart(&all))?;
    sleep(QUIET);
    let memory = Memories { empty, full, settled, changed, restarted, restarted_settled: stage.memory()? };
    let message_mib = all.len() as f64 / f64::from(1 << 20);
    let (taken_over, synced) = (milliseconds(taken_over), milliseconds(synced));
    Ok(Figures { message_mib, memory, taken_over, synced, changes, quiet, streaming_in, steady })
}

impl Stage {
    fn new(agent: &Path) -> Result<Self> {
        // The outside host's addresses are those of all labs.
        let address = SocketAddr::from(([172, 30, 0, 254], XDS_PORT));
        let topology = Topology::new()
            .nodes(&["n1"])
            .pod(Pod::new("client", "n1"))
            .pod(Pod::new("left", "n1").service_account("server"))
            .pod(Pod::new("right", "n1").service_account("server"))
            .binary(agent.to_owned())
            .log("info,access=off")
            .node_setting("drain", "1s")
            .node_setting("xds", json!({"address": format!("http://{address}"), "plaintext": true}))
            .without_agents();
        let lab = Lab::start(topology)?;
        ensure!(lab.outside_addresses().contains(&address.ip()), "the outside host is not at {}", address.ip());
        let istiod = Istiod::start(lab.outside(), address)?;
        istiod.offer(&istiod.prepare(mesh::own(&lab, lab.pod("left"))));
        let name = |name: &'static str| lab.pod(name).serve(mesh::TARGET, move |stream, _| server::say(stream, name));
        let servers = [name("left")?, name("right")?, lab.pod("left").echo(ECHO)?];
        lab.start_agents()?;
        Ok(Self { _servers: servers, istiod, lab })
    }

    fn pulse(&self) -> Result<Pulse> {
        Pulse::start(self.lab.pod("client"), SocketAddr::new(self.lab.pod("left").v4, ECHO))
    }

    /// All there is, in one message, as istiod sends it.
    fn everything(&self) -> Prepared {
        let own = mesh::own(&self.lab, self.lab.pod("left"));
        self.istiod.prepare(own.into_iter().chain(mesh::others()).collect())
    }

    /// Moves the service's only endpoint to and fro.
    fn changes(&self) -> Result<Beats> {
        let times = ["right", "left"].into_iter().cycle().take(CHANGES).map(|place| self.change(place));
        Ok(Beats::of(times.collect::<Result<_>>()?))
    }

    /// From the push until a new connection is answered by the pod called `place`.
    fn change(&self, place: &str) -> Result<Duration> {
        let message = self.istiod.prepare(vec![mesh::moved(self.lab.pod(place))]);
        let to = SocketAddr::from((mesh::VIP, mesh::PORT));
        let start = self.istiod.push(&message)?;
        self.lab.pod("client").run(|| {
            loop {
                let stream = std::net::TcpStream::connect_timeout(&to, PATIENCE)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                if socket::read_text(&stream)? == place {
                    return Ok(start.elapsed());
                }
                ensure!(start.elapsed() < PATIENCE, "the service's endpoint did not move to {place}");
            }
        })
    }

    /// Changes others at 50 a second.
    fn steady(&self) -> Result<()> {
        let start = Instant::now();
        for number in 1..=STEADY {
            let which = number.wrapping_mul(7_919) % mesh::other_workloads();
            let message = self.istiod.prepare(vec![mesh::workload(which, 1 + number % 3)]);
            self.istiod.push(&message)?;
            sleep((start + PERIOD * number).saturating_duration_since(Instant::now()));
        }
        Ok(())
    }

    /// Another agent, which gets everything at its start.
    fn restart(&self, all: &Prepared) -> Result<(Duration, Memory)> {
        let agent = self.lab.agent("n1");
        agent.stop()?;
        self.istiod.forget();
        self.istiod.offer(all);
        agent.launch()?;
        let start = self.istiod.opened()?;
        let end = self.istiod.acknowledged(all)?;
        sleep(AFTER);
        let memory = self.memory()?;
        self.lab.agent("n1").wait_ready()?;
        let status = agent.status()?.config;
        let all = (u64::from(mesh::WORKLOADS), u64::from(mesh::SERVICES));
        ensure!((status.workloads, status.services) == all, "the agent knows {status:?}");
        Ok((end - start, memory))
    }

    fn memory(&self) -> Result<Memory> {
        let pids: Vec<u32> = self.lab.agent("n1").pid().into_iter().collect();
        let of = |which| usage::mebibytes(&pids, which);
        Ok(Memory { now: of(Resident::Now)?, peak: of(Resident::Peak)? })
    }
}

/// Does `work` and gives the round trips of that time with what came of it.
fn during<T>(pulse: &Pulse, work: impl FnOnce() -> Result<T>) -> Result<(T, Beats)> {
    let start = Instant::now();
    let value = work()?;
    Ok((value, pulse.between(start, Instant::now())?))
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
