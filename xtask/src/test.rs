//! `cargo xtask test`: everything a contributor runs, in order, ending with one line that counts.
//!
//! The checks and the unit tests share the dev profile and see the workspace as a whole, so that each dependency is
//! compiled once; the end-to-end tests run the release build, which is what users run.

use std::fmt;
use std::io::{BufRead, BufReader};
use std::ops;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::bench::count;
use crate::step::{self, say};
use crate::{lab, setup, tidy};

/// Arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only the checks and the unit tests, which need no root
    #[arg(long, conflicts_with = "e2e")]
    unit: bool,
    /// Only the end-to-end tests, or those of them whose name contains FILTER
    #[arg(long, value_name = "FILTER", num_args = 0..=1, default_missing_value = "")]
    e2e: Option<String>,
}

/// How many tests passed and failed. A step that could not run, or found something, is a failed one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
}

impl ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} passed, {} failed", self.passed, self.failed)
    }
}

pub(crate) fn run(root: &Path, args: &Args) -> Result<()> {
    let start = Instant::now();
    let mut tally = Tally::default();
    tally += check(setup::ensure(root));
    if args.e2e.is_none() {
        tally += checks(root);
        tally += unit(root);
    }
    if args.e2e.is_none() && !args.unit {
        tally += counts(root);
    }
    if !args.unit {
        tally += end_to_end(root, args.e2e.as_deref().unwrap_or_default());
    }
    say(format_args!("--- all of it took {:.0} s", start.elapsed().as_secs_f64()));
    say(tally);
    if tally.failed > 0 { Err(Failed.into()) } else { Ok(()) }
}

/// Not all passed, which has been said already: the line that counts is the last one.
#[derive(Debug)]
pub(crate) struct Failed;

impl fmt::Display for Failed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("not all passed")
    }
}

impl std::error::Error for Failed {}

/// What a step that runs no tests adds: nothing, or one failure, told at once.
fn check(result: Result<()>) -> Tally {
    if let Err(error) = &result {
        say(format_args!("FAILED: {error:#}"));
    }
    Tally { passed: 0, failed: u64::from(result.is_err()) }
}

fn checks(root: &Path) -> Tally {
    let mut tally = check(step::run("rustfmt", cargo(root).args(["fmt", "--all", "--check"])));
    tally += check(step::run("rustfmt of the eBPF programs", cargo(&root.join("mesh-ebpf")).args(["fmt", "--check"])));
    tally += check(step::timed("tidy", || tidy::run(root)));
    let mut clippy = cargo(root);
    clippy.args(["clippy", "--workspace", "--all-targets", "--locked", "--quiet", "--keep-going"]);
    tally += check(step::run("clippy", clippy.args(["--", "--deny", "warnings"])));
    tally
}

fn unit(root: &Path) -> Tally {
    let mut tests = cargo(root);
    tests.args(["test", "--workspace", "--lib", "--bins", "--test", "examples"]);
    tests_of("unit tests", tests.args(["--locked", "--quiet", "--no-fail-fast"]))
}

/// Beside the end-to-end tests, whose build of the agent's library it shares.
fn counts(root: &Path) -> Tally {
    match count::fits() {
        true => check(step::timed("instructions of the hot path", || count::check(root))),
        // There are none to compare with.
        false => Tally::default(),
    }
}

fn end_to_end(root: &Path, filter: &str) -> Tally {
    match suite(root, "e2e") {
        Ok(mut tests) => {
            if !filter.is_empty() {
                tests.arg(filter);
            }
            tests_of("end-to-end tests", &mut tests)
        }
        Err(error) => check(Err(error)),
    }
}

/// End-to-end tests, to be given filters, having built the agent.
pub(crate) fn suite(root: &Path, name: &str) -> Result<Command> {
    let agent = lab::agent::build(root)?;
    // The whole workspace, as for the unit tests: another selection could mean other features, and new builds.
    let mut tests = cargo(root);
    tests.args(["test", "--workspace", "--test", name, "--locked", "--quiet", "--"]);
    tests.env(mesh_e2e::binary::VARIABLE, agent);
    Ok(tests)
}

/// Runs one suite, and ends with the line that counts.
pub(crate) fn run_suite(title: &str, tests: &mut Command) -> Result<()> {
    let tally = tests_of(title, tests);
    say(tally);
    if tally.failed > 0 { Err(Failed.into()) } else { Ok(()) }
}

/// Runs tests, passing on what they print, and counts them by it.
fn tests_of(title: &str, command: &mut Command) -> Tally {
    let mut tally = Tally::default();
    let result = step::timed(title, || {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cargo")?;
        for line in BufReader::new(child.stdout.take().context("its output")?).lines() {
            let line = line?;
            say(&line);
            tally += counted(&line).unwrap_or_default();
        }
        let status = child.wait()?;
        if !status.success() || tally.failed > 0 {
            bail!("{title} failed ({status})");
        }
        if tally.passed == 0 {
            bail!("no test ran");
        }
        Ok(())
    });
    if tally.failed == 0 {
        tally += check(result);
    }
    tally
}

/// Reads `test result: ok. 3 passed; 0 failed; ...` as the standard harness prints it, and `3 passed, 0 failed`.
fn counted(line: &str) -> Option<Tally> {
    let (words, separator) = match line.strip_prefix("test result: ") {
        Some(rest) => (rest.split_once(". ")?.1, ';'),
        None => (line, ','),
    };
    let mut counts = words.split(separator).map(str::trim);
    let passed = counts.next()?.strip_suffix(" passed")?.parse().ok()?;
    let failed = counts.next()?.strip_suffix(" failed")?.parse().ok()?;
    Some(Tally { passed, failed })
}

/// Cargo in a folder, as a user would run it: a shell's `MESH_EBPF=skip` must not make tests of nothing.
fn cargo(folder: &Path) -> Command {
    let mut command = step::cargo(folder);
    command.env_remove("MESH_EBPF");
    command
}

#[cfg(test)]
mod tests {
    use super::{Tally, counted};

    #[test]
    fn results_are_counted() {
        let tally = |passed, failed| Some(Tally { passed, failed });
        for (line, expected) in [
            ("test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out", tally(12, 0)),
            ("test result: FAILED. 1 passed; 2 failed; 0 ignored", tally(1, 2)),
            ("3 passed, 4 failed", tally(3, 4)),
            ("3 passed, 4 failed, 1 skipped", tally(3, 4)),
            ("test a ... ok", None),
            ("it passed, it failed", None),
            ("", None),
        ] {
            assert_eq!(counted(line), expected, "{line}");
        }
    }
}
