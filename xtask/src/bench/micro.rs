//! `cargo xtask bench micro`: how long what the hot path asks takes. What is asked, and what the rows mean:
//! `docs/benchmarks.md`.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::{Value, json};

use super::listing::{Line, goal, listing};
use super::machine::Machine;
use super::take_stdout;
use crate::setup;
use crate::step::{self, say};

/// Where criterion leaves what it found.
const FOLDER: &str = "target/bench/micro";
/// Groups of cases in the order in which they are shown, each with the goal of its cases in nanoseconds.
const GROUPS: [(&str, Option<f64>); 6] = [
    ("address", Some(100.0)),
    ("route", Some(200.0)),
    ("policy", Some(1_000.0)),
    ("capture", None),
    ("head", None),
    ("record", None),
];

/// Arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only cases whose names match this regular expression
    filter: Option<String>,
    /// Print one JSON object; progress and table go to standard error
    #[arg(long)]
    json: bool,
}

/// What one case takes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Timing {
    /// `GROUP/CASE`.
    pub(super) name: String,
    pub(super) median_ns: f64,
}

pub(super) fn run(root: &Path, args: &Args) -> Result<()> {
    let mut output = args.json.then(take_stdout).transpose()?;
    let machine = Machine::observe(root);
    let timings = measure(root, args.filter.as_deref())?;
    say(format_args!("\n{machine}"));
    if machine.is_busy() {
        say("others are at work on this machine: times may be longer than they need be");
    }
    say(format_args!("\n{}", table(&timings)));
    if let Some(output) = &mut output {
        let document = json!({"machine": machine, "timings": timings});
        writeln!(output, "{document:#}")?;
    }
    Ok(())
}

/// Times the cases whose names match.
pub(super) fn measure(root: &Path, filter: Option<&str>) -> Result<Vec<Timing>> {
    setup::ensure(root)?;
    let folder = root.join(FOLDER);
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
    }
    let mut cargo = step::cargo(root);
    cargo.env("CRITERION_HOME", &folder);
    // The release profile: what is timed is what labs run.
    cargo.args(["bench", "--profile", "release", "--package", "mesh-bench", "--bench", "micro", "--locked", "--"]);
    cargo.args(filter);
    step::logged("timing what the hot path asks", &root.join("target/bench/micro.log"), &mut cargo)?;
    let timings = read(&folder)?;
    ensure!(!timings.is_empty(), "no case is called like {:?}", filter.unwrap_or_default());
    Ok(timings)
}

/// Everything that criterion has left, in the order in which it is shown.
fn read(folder: &Path) -> Result<Vec<Timing>> {
    let mut timings = Vec::new();
    if folder.is_dir() {
        find(folder, &mut timings)?;
    }
    let rank = |timing: &Timing| GROUPS.iter().position(|(group, _)| *group == group_of(&timing.name));
    timings.sort_by(|a, b| (rank(a), &a.name).cmp(&(rank(b), &b.name)));
    Ok(timings)
}

/// A case's newest result is in a folder `new` somewhere below.
fn find(folder: &Path, timings: &mut Vec<Timing>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.ends_with("new") {
            let text = |file: &str| fs::read_to_string(path.join(file)).with_context(|| path.display().to_string());
            timings.push(timing(&text("benchmark.json")?, &text("estimates.json")?)?);
        } else if path.is_dir() {
            find(&path, timings)?;
        }
    }
    Ok(())
}

/// One case, of two of criterion's documents: which it is, and what was estimated.
fn timing(benchmark: &str, estimates: &str) -> Result<Timing> {
    let document = |text| serde_json::from_str::<Value>(text).context("criterion's JSON");
    let (benchmark, estimates) = (document(benchmark)?, document(estimates)?);
    let name = benchmark["full_id"].as_str().context("criterion does not tell full_id")?;
    let median = estimates["median"]["point_estimate"].as_f64();
    let median_ns = median.with_context(|| format!("criterion does not tell the median of {name}"))?;
    Ok(Timing { name: name.to_owned(), median_ns })
}

fn group_of(name: &str) -> &str {
    name.split_once('/').map_or(name, |(group, _)| group)
}

/// A line for each, with its goal.
pub(super) fn table(timings: &[Timing]) -> String {
    let line = |timing: &Timing| {
        let limit = GROUPS.iter().find(|(group, _)| *group == group_of(&timing.name)).and_then(|(_, limit)| *limit);
        let goal = limit.map_or_else(String::new, |limit| goal(timing.median_ns, limit, "ns"));
        Line(timing.name.clone(), format!("{:.0} ns", timing.median_ns), goal)
    };
    listing(&timings.iter().map(line).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leave(folder: &Path, place: &str, name: &str, median: f64) {
        let folder = folder.join(place).join("new");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("benchmark.json"), json!({"group_id": "g", "full_id": name}).to_string()).unwrap();
        let estimates = json!({"mean": {"point_estimate": 1.0}, "median": {"point_estimate": median}});
        fs::write(folder.join("estimates.json"), estimates.to_string()).unwrap();
    }

    #[test]
    fn what_criterion_leaves_is_read_and_shown() {
        let folder = tempfile::tempdir().unwrap();
        leave(folder.path(), "policy/by port", "policy/by port", 1_234.5);
        leave(folder.path(), "route/10", "route/10 endpoints", 99.6);
        leave(folder.path(), "head/made", "head/a CONNECT made", 2_000.4);
        fs::create_dir(folder.path().join("report")).unwrap();
        let expected = [
            "route/10 endpoints                                                     100 ns   goal 200 ns\n",
            "policy/by port                                                        1234 ns   MISSED: goal 1000 ns\n",
            "head/a CONNECT made                                                   2000 ns\n",
        ];
        assert_eq!(table(&read(folder.path()).unwrap()), expected.concat());
    }

    #[test]
    fn what_is_missing_is_named() {
        let failure = |benchmark, estimates| timing(benchmark, estimates).unwrap_err().to_string();
        assert_eq!(failure("{}", "{}"), "criterion does not tell full_id");
        let name = "{\"full_id\": \"a/b\"}";
        assert_eq!(failure(name, "{\"mean\": {}}"), "criterion does not tell the median of a/b");
        assert_eq!(failure(name, "<html>"), "criterion's JSON");
        assert_eq!(read(Path::new("/nowhere")).unwrap(), []);
    }
}
