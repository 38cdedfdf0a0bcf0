//! The run: a client on one node, a server on the other, and two crowds of connections, each through new agents.

use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_e2e::{Lab, Pod, eventually};
use serde::Serialize;

use super::crowd::{LANES, Servers, allow_files};
use crate::bench::contender::measured;
use crate::bench::usage::Held;
use crate::step::{say, timed};

/// What an idle connection has said.
const FEW: usize = 64;
/// What one has that was busy before.
pub(super) const BURST: usize = 256 << 10;
/// Until agents that have done something are at rest.
const SETTLE: Duration = Duration::from_secs(3);
/// After the last connection has come, and after the last has ended.
pub(super) const AFTER: Duration = Duration::from_secs(10);
/// How long the agents may take to know of all connections.
const KNOWN: Duration = Duration::from_secs(10);

/// Both agents: that of the client's node, and that of the server's.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Both {
    pub(super) client: Held,
    pub(super) server: Held,
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Figures {
    pub(super) connections: u32,
    /// Each has carried some bytes.
    pub(super) quiet: Stages,
    /// Each has carried a burst.
    pub(super) burst: Stages,
}

/// New agents, and a crowd of connections that comes and goes.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Stages {
    /// Ready; pods have sent nothing yet.
    pub(super) started: Both,
    /// A few connections have come and gone: certificates and tunnels are there, and the code that they need.
    pub(super) warm: Both,
    pub(super) open: Both,
    pub(super) closed: Both,
}

/// Plays it all with the agent at that path.
pub(super) fn play(agent: &Path, connections: u32) -> Result<Figures> {
    allow_files(connections)?;
    let lab = timed("starting the lab", || Lab::start(measured(agent).pod(Pod::new("server", "n2"))))?;
    let servers = Servers::listen(lab.pod("server"))?;
    let through = |what: &str, bytes| {
        let title = format!("{connections} connections, {what}");
        timed(&title, || stages(&lab, &servers, (connections, bytes))).with_context(|| lab.logs(6))
    };
    let quiet = through("a few bytes each", FEW)?;
    let burst = through("a burst each", BURST)?;
    Ok(Figures { connections, quiet, burst })
}

fn stages(lab: &Lab, servers: &Servers<'_>, (count, bytes): (u32, usize)) -> Result<Stages> {
    lab.start_agents()?;
    sleep(SETTLE);
    let started = held(lab)?;
    let first = servers.gather(lab, LANES, bytes)?;
    known(lab, LANES)?;
    ensure!(
        lab.agent("n1").flows()?.iter().all(|flow| flow.security == "mutual_tls"),
        "what is measured would be no tunnels"
    );
    drop(first);
    sleep(SETTLE);
    let warm = held(lab)?;
    let crowd = servers.gather(lab, count, bytes)?;
    known(lab, count)?;
    sleep(AFTER);
    let open = held(lab)?;
    say(format_args!("    all are open: {:.1} MiB and {:.1} MiB", open.client.resident, open.server.resident));
    drop(crowd);
    sleep(AFTER);
    known(lab, 0)?;
    let closed = held(lab)?;
    lab.nodes().iter().try_for_each(|node| node.agent().stop().map(drop))?;
    Ok(Stages { started, warm, open, closed })
}

/// Waits until both agents say that they have so many connections.
fn known(lab: &Lab, count: u32) -> Result<()> {
    eventually(KNOWN, || {
        let [out, into] =
            [lab.agent("n1").status()?.connections.outbound, lab.agent("n2").status()?.connections.inbound];
        ensure!(out == u64::from(count) && into == out, "{count} connections; the agents know of {out} and {into}");
        Ok(())
    })
}

fn held(lab: &Lab) -> Result<Both> {
    let of = |node: &str| Held::by(lab.agent(node).pid().with_context(|| format!("the agent of {node} has ended"))?);
    Ok(Both { client: of("n1")?, server: of("n2")? })
}
