//! Where cases run: the lab that is there, started and removed as they want it.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Error, Result, ensure};
use mesh_e2e::cluster::Settings;
use mesh_e2e::{Cluster, Lab, Log, Topology, sweep};

use super::case::{Body, Case, Fixture};
use super::watch::{caught, limited};

/// Lines of each log that a failure shows.
const TAIL: usize = 12;
/// After so many labs in a row that did not start, no other is tried: each costs its time limit.
const ENOUGH: u32 = 3;

/// The lab of the last case, if the next one may use it.
#[derive(Debug, Default)]
pub(super) struct Place {
    shared: Option<Shared>,
    /// The same of a cluster.
    cluster: Option<Cluster>,
    /// Labs started so far; each has a name of its own, so that what is left of one stands in nobody's way.
    started: u32,
    /// Labs in a row that did not start.
    failed: u32,
}

/// A started fixture.
#[derive(Debug)]
struct Shared {
    fixture: &'static str,
    lab: Lab,
}

/// What the thread of a case gives back.
struct Report {
    shared: Option<Shared>,
    cluster: Option<Cluster>,
    result: Result<(), String>,
    started: Started,
}

/// Whether the case got what it needs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Started {
    Yes,
    No,
}

impl Place {
    /// Runs a case; gives what there is to say of a failure.
    pub(super) fn run(&mut self, case: &Case) -> Result<(), String> {
        if self.failed >= ENOUGH {
            return Err(format!("not tried: the last {ENOUGH} labs did not start"));
        }
        self.started += 1;
        let name = format!("e2e{}-{}", std::process::id(), self.started);
        let (kept, cluster) = (self.shared.take(), self.cluster.take());
        let (mine, others): (Option<Shared>, Option<Shared>) = match case.body {
            Body::Shared(fixture, _) if kept.as_ref().is_some_and(|kept| kept.fixture == fixture.name) => (kept, None),
            Body::Shared(..) | Body::Fresh(..) | Body::Alone(_) | Body::Cluster(_) => (None, kept),
        };
        drop(others);
        let cluster = cluster.filter(|_| matches!(case.body, Body::Cluster(_)));
        let in_use = mine.as_ref().map(|mine| mine.lab.name()).or(cluster.as_ref().map(Cluster::name));
        let name = in_use.map_or(name, str::to_owned);
        let (body, its_name) = (case.body, name.clone());
        let report = limited(case.limit, move || match body {
            Body::Shared(fixture, body) => shared(mine, fixture, body, &its_name),
            Body::Fresh(topology, body) => fresh(topology, body, &its_name),
            Body::Cluster(body) => clustered(cluster, body, &its_name),
            Body::Alone(body) => Report::of(caught(body).map_err(|error| chain(&error))),
        });
        match report {
            Ok(Report { shared, cluster, result, started }) => {
                (self.shared, self.cluster) = (shared, cluster);
                self.failed = if started == Started::Yes { 0 } else { self.failed + 1 };
                result
            }
            Err(hung) => Err(self::hung(&hung, &name)),
        }
    }
}

impl Report {
    /// Of a case whose lab, if it had one, is gone.
    fn of(result: Result<(), String>) -> Self {
        Self { shared: None, cluster: None, result, started: Started::Yes }
    }

    fn not_started(error: &Error) -> Self {
        Self { shared: None, cluster: None, result: Err(chain(error)), started: Started::No }
    }
}

fn shared(kept: Option<Shared>, fixture: &Fixture, body: fn(&Lab) -> Result<()>, name: &str) -> Report {
    let started = match kept {
        Some(kept) => Ok(kept),
        None => start(fixture.topology, name).map(|lab| Shared { fixture: fixture.name, lab }),
    };
    let kept = match started {
        Ok(kept) => kept,
        Err(error) => return Report::not_started(&error),
    };
    let lab = &kept.lab;
    let before = lab.world().clone();
    let result = caught(|| body(lab)).and_then(|()| {
        let stopped = lab.nodes().iter().find(|node| !node.agent().is_running());
        ensure!(stopped.is_none(), "an agent does not run any more");
        no_panic(name)?;
        lab.publish(|world| *world = before).map(drop).context("back to the world before the case")
    });
    match result {
        Ok(()) => Report { shared: Some(kept), ..Report::of(Ok(())) },
        // The logs go with the lab.
        Err(error) => Report::of(Err(failure(&error, name))),
    }
}

fn clustered(kept: Option<Cluster>, body: fn(&Cluster) -> Result<()>, name: &str) -> Report {
    let start = || caught(|| Cluster::start(&Settings::new().named(name))).context("starting the cluster");
    let cluster = match kept.map_or_else(start, Ok) {
        Ok(cluster) => cluster,
        Err(error) => return Report::not_started(&error),
    };
    match caught(|| body(&cluster)).and_then(|()| cluster.wait_ready().context("after the case")) {
        Ok(()) => Report { cluster: Some(cluster), ..Report::of(Ok(())) },
        // The logs go with the cluster.
        Err(error) => Report::of(Err(failure(&error, name))),
    }
}

fn fresh(topology: fn() -> Topology, body: fn(&mut Lab) -> Result<()>, name: &str) -> Report {
    let mut lab = match start(topology, name) {
        Ok(lab) => lab,
        Err(error) => return Report::not_started(&error),
    };
    let result = caught(|| body(&mut lab)).and_then(|()| no_panic(name));
    Report::of(result.map_err(|error| failure(&error, name)))
}

fn start(topology: fn() -> Topology, name: &str) -> Result<Lab> {
    caught(|| Lab::start(topology().named(name))).context("starting the lab")
}

/// An agent may survive a panic of one of its tasks; a test does not.
fn no_panic(lab: &str) -> Result<()> {
    for (who, log) in logs(lab) {
        let text = log.text();
        let panic = text.lines().find(|line| line.contains("panicked at"));
        ensure!(panic.is_none(), "{who}: {}", panic.unwrap_or_default());
    }
    Ok(())
}

/// What is to be told of a case that never ended; its lab is removed under it.
fn hung(error: &Error, lab: &str) -> String {
    let text = failure(error, lab);
    match sweep::remove(lab) {
        Ok(()) => text,
        Err(error) => format!("{text}\nits lab is not removed: {error:#}"),
    }
}

fn failure(error: &Error, lab: &str) -> String {
    let mut text = chain(error);
    for (who, log) in logs(lab) {
        // Writing to a string cannot fail.
        write!(text, "\n  --- {who}\n{}", log.tail(TAIL)).ok();
    }
    text
}

fn chain(error: &Error) -> String {
    error.chain().map(ToString::to_string).collect::<Vec<_>>().join("\n  because: ")
}

/// The logs of a lab: `NAME/*/*.log`; and of a cluster's nodes, `NAME/*/*/*.log`.
fn logs(lab: &str) -> Vec<(String, Log)> {
    let entries = |path: PathBuf| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let files = entries(sweep::directory(lab)).flat_map(entries).flat_map(|path| {
        // A node's disk is one of them, and has no logs of ours.
        if path.is_dir() && !path.ends_with("disk") { entries(path).collect() } else { vec![path] }
    });
    let mut logs: Vec<_> = files
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .map(|path| (path.display().to_string(), Log::at(&path)))
        .collect();
    logs.sort_by(|a, b| a.0.cmp(&b.0));
    logs
}
