//! A node that is full, and one on which pods come and go all the time.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_e2e::{Lab, Membership, Pod, Topology, eventually};

use super::talk::open;
use crate::runner::say;

/// The machine's switch for short grace periods.
const PERIODS: &str = "/sys/kernel/rcu_expedited";
/// As many as the lab's node has addresses for.
const PODS: u16 = 241;
/// All of them are enrolled within this, on a machine that is busy with other things as well; alone it takes less than five
/// seconds.
const ENROLLED: Duration = Duration::from_secs(15);
const LIMIT: Duration = Duration::from_secs(60);
const COME_AND_GO: u16 = 1000;
/// The first ones are not counted: caches and pools fill.
const WARM: u16 = 50;
/// Resident memory may grow by this much, KiB: an allocator's pages are not given back one by one.
const SLACK: i64 = 1024;

fn name(number: u16) -> String {
    format!("p{number}")
}

pub(super) fn full() -> Topology {
    // As it is for users.
    let start = Topology::new().node_setting("rcu_expedited", PERIODS);
    (0..PODS).fold(start, |topology, number| topology.pod(Pod::new(&name(number), "n1").plain()))
}

/// All pods of a node at once.
pub(super) fn enrolled(lab: &mut Lab) -> Result<()> {
    let before = Use::of(lab)?;
    let news = lab.agent("n1").log().from_now();
    let start = lab.write(|world| world.pods.iter_mut().for_each(|pod| pod.membership = Membership::Enrolled))?;
    // Its page is left alone meanwhile: that would be part of the time.
    eventually(LIMIT, || {
        thread::sleep(Duration::from_millis(50));
        let count = news.text().matches("\"pod enrolled\"").count();
        ensure!(count == usize::from(PODS), "{count} pods of {PODS} are enrolled");
        Ok(())
    })?;
    let took = start.elapsed();
    lab.settle()?;
    let after = Use::of(lab)?;
    let each = |now: i64, then: i64| (now - then) as f64 / f64::from(PODS);
    say(format_args!(
        "    {PODS} pods enrolled in {:.1} s; each takes {:.0} KiB of the agent's memory and {:.1} descriptors",
        took.as_secs_f64(),
        each(after.memory, before.memory),
        each(after.descriptors, before.descriptors)
    ));
    let _echo = lab.pod(&name(0)).echo(80)?;
    open(lab.pod(&name(PODS - 1)), lab.pod(&name(0)).at4(80))?;
    ensure!(took < ENROLLED, "enrolling {PODS} pods took {took:?}");
    // The machine's grace periods are as they were when the agent has stopped in order, if not before.
    let quick = || Ok::<_, anyhow::Error>(std::fs::read_to_string(PERIODS)?.trim().to_owned());
    ensure!(quick()? == "1", "they were not short");
    ensure!(lab.agent("n1").stop()?.success(), "the agent did not stop in order");
    ensure!(quick()? == "0", "they are still short");
    Ok(())
}

pub(super) fn one() -> Topology {
    Topology::new().pod(Pod::new("server", "n1"))
}

/// Pods are created and deleted one after the other, and nothing of them stays.
pub(super) fn come_and_go(lab: &mut Lab) -> Result<()> {
    let _echo = lab.pod("server").echo(80)?;
    let to = lab.pod("server").at4(80);
    let mut before = None;
    for number in 0..COME_AND_GO + WARM {
        if number == WARM {
            before = Some((Use::of(lab)?, Instant::now()));
        }
        let name = format!("c{number}");
        lab.add_pod(Pod::new(&name, "n1"))?;
        if number % 50 == 0 {
            open(lab.pod(&name), to).with_context(|| name.clone())?;
        }
        lab.delete_pod(&name)?;
        lab.publish(|world| world.pods.retain(|pod| pod.name != name))?;
    }
    let (before, start) = before.context("none was counted")?;
    let took = start.elapsed();
    let after = eventually(Duration::from_secs(10), || {
        let after = Use::of(lab)?;
        ensure!(before.rest == after.rest, "{:?} became {:?}", before.rest, after.rest);
        let (then, now) = (before.descriptors, after.descriptors);
        ensure!(now <= then, "{then} descriptors, then {now}");
        // Those of the pool for kernel work come and go.
        let (then, now) = (before.threads, after.threads);
        ensure!(now <= then, "{then} threads, then {now}");
        Ok(after)
    })?;
    let grown = after.memory - before.memory;
    say(format_args!(
        "    {COME_AND_GO} pods came and went in {:.0} s; memory {} KiB, then {} KiB",
        took.as_secs_f64(),
        before.memory,
        after.memory
    ));
    ensure!(grown <= SLACK, "the agent's memory grew by {grown} KiB");
    Ok(())
}

/// What the agent holds of the machine.
#[derive(Debug)]
struct Use {
    /// KiB of its own.
    memory: i64,
    descriptors: i64,
    threads: usize,
    /// Everything that is to be as before: what is pinned, records, BPF objects of the machine.
    rest: BTreeMap<&'static str, usize>,
}

impl Use {
    fn of(lab: &Lab) -> Result<Self> {
        let agent = lab.agent("n1");
        let pid = agent.pid().context("the agent runs")?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("RssAnon")?;
        let memory = line.trim().trim_end_matches(" kB").parse()?;
        let count = |path: &std::path::Path| fs::read_dir(path).map(Iterator::count);
        let descriptors = i64::try_from(count(format!("/proc/{pid}/fd").as_ref())?)?;
        let threads = count(format!("/proc/{pid}/task").as_ref())?;
        let records = count(&agent.run_dir().join("pods"))?;
        let pinned = pins(&agent.bpf_fs());
        Ok(Self { memory, descriptors, threads, rest: [("records", records), ("pins", pinned)].into() })
    }
}

/// Files below a directory.
fn pins(directory: &std::path::Path) -> usize {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| if entry.path().is_dir() { 1 + pins(&entry.path()) } else { 1 }).sum()
}
