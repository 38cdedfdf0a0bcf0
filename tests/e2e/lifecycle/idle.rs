//! An agent that has nothing to do.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_e2e::{Lab, Pod, Topology, binary};

use super::talk::open;
use crate::runner::say;

/// What the mesh promises with ten pods.
const MIB: u64 = 15;
const WATCHED: Duration = Duration::from_secs(5);

/// As they are by default: the kernel's carrying of connections keeps more of the program's code in use.
pub(super) fn ten_pods() -> Topology {
    (0..10).fold(Topology::new().same_node("local"), |topology, number| {
        topology.pod(Pod::new(&format!("p{number}"), "n1"))
    })
}

pub(super) fn little(lab: &mut Lab) -> Result<()> {
    // The debug build is not what is promised.
    let debug = binary::find()?.components().any(|part| part.as_os_str() == "debug");
    let _echo = lab.pod("p1").echo(80)?;
    // An agent that has worked, and rests.
    open(lab.pod("p0"), lab.pod("p1").at4(80))?;
    thread::sleep(Duration::from_secs(1));
    let pid = lab.agent("n1").pid().context("the agent runs")?;
    let (before, switches) = (cpu(pid)?, wakes(pid)?);
    thread::sleep(WATCHED);
    let (ticks, wakes) = (cpu(pid)? - before, wakes(pid)? - switches);
    let resident = |name: &str| field(pid, name);
    let (all, own) = (resident("VmRSS")?, resident("RssAnon")?);
    say(format_args!("    {} KiB resident ({own} KiB of its own), {ticks} ticks and {wakes} wake-ups in 5 s", all));
    ensure!(ticks <= 2, "an idle agent used {ticks} hundredths of a second in five seconds");
    ensure!(debug || all < MIB << 10, "an idle agent with ten pods has {all} KiB, more than {MIB} MiB");
    Ok(())
}

/// Hundredths of a second that the process has used.
fn cpu(pid: u32) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may have spaces; user and system time are the 12th and 13th after it.
    let after = stat.rsplit_once(')').context("a name")?.1;
    let numbers: Vec<u64> = after.split_whitespace().skip(11).take(2).filter_map(|word| word.parse().ok()).collect();
    Ok(numbers.iter().sum())
}

/// How often its threads have run.
fn wakes(pid: u32) -> Result<u64> {
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
        let status = fs::read_to_string(thread.path().join("status"))?;
        sum += number(&status, "voluntary_ctxt_switches").unwrap_or_default();
    }
    Ok(sum)
}

fn field(pid: u32, name: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    number(&status, name).with_context(|| format!("no {name} in the process's status"))
}

fn number(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}
