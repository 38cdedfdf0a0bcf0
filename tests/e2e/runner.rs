//! Runs cases one after the other, each on a thread of its own with a time limit, and counts them.
//!
//! A case that fails, panics or hangs is one failure, and the run goes on: whatever lab it had is removed, and the next
//! case gets a fresh one.

mod case;
mod place;
mod watch;

use std::env;
use std::fmt::Display;
use std::io::{self, Write};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use case::When;
pub(crate) use case::{Case, Fixture};
use mesh_e2e::binary;
use place::Place;

/// Cases by module. They are in slices of slices so that a module may have its cases in several files.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) name: &'static str,
    pub(crate) cases: &'static [&'static [Case]],
}

/// What the command line asks for.
#[derive(Debug, Default)]
struct Wish {
    list: bool,
    filters: Vec<String>,
}

/// Runs what the command line asks for.
pub(crate) fn run(groups: &[Group]) -> ExitCode {
    let wish = match Wish::read(env::args().skip(1)) {
        Ok(wish) => wish,
        Err(error) => {
            say(format_args!("{error:#}"));
            return ExitCode::from(2);
        }
    };
    let all = groups.iter().flat_map(|group| group.cases.iter().copied().flatten().map(|case| (group.name, case)));
    let chosen: Vec<(String, &Case)> = all
        .map(|(group, case)| (format!("{group}/{}", case.name), case))
        .filter(|(name, case)| wish.wants(name, case))
        .collect();
    if wish.list {
        chosen.iter().for_each(|(name, _)| say(name));
        return ExitCode::SUCCESS;
    }
    if chosen.is_empty() {
        say(format_args!("no case's name contains {:?}", wish.filters));
        return ExitCode::FAILURE;
    }
    let failed = match prepared() {
        Ok(()) => run_all(&chosen),
        Err(error) => {
            say(format_args!("no case can run: {error:#}"));
            chosen.len()
        }
    };
    say(format_args!("{} passed, {failed} failed", chosen.len() - failed));
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Gives the number of failures.
fn run_all(chosen: &[(String, &Case)]) -> usize {
    let start = Instant::now();
    let mut place = Place::default();
    let mut failed = Vec::new();
    for (name, case) in chosen {
        let start = Instant::now();
        let result = place.run(case);
        let seconds = start.elapsed().as_secs_f64();
        match result {
            Ok(()) => say(format_args!("{name:<60} ok     {seconds:6.2} s")),
            Err(failure) => {
                say(format_args!("{name:<60} FAILED {seconds:6.2} s\n{failure}"));
                failed.push(name);
            }
        }
    }
    drop(place);
    say(format_args!("{} cases took {:.0} s", chosen.len(), start.elapsed().as_secs_f64()));
    failed.iter().for_each(|name| say(format_args!("failed: {name}")));
    failed.len()
}

/// What every lab needs, asked once so that its lack is told once.
fn prepared() -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "root is needed: the lab is made of network namespaces and eBPF");
    binary::find()?;
    for (tool, flag, package) in [
        ("ip", "-Version", "iproute2"),
        ("nsenter", "--version", "util-linux"),
        ("tcpdump", "--version", "tcpdump"),
        ("iptables-restore", "--version", "iptables"),
        ("nginx", "-v", "nginx-light"),
        ("dig", "-v", "bind9-dnsutils"),
        ("musl-gcc", "--version", "musl-tools"),
    ] {
        let mut command = Command::new(tool);
        command.arg(flag).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let status = command.status().with_context(|| format!("{tool} (Debian package {package})"))?;
        ensure!(status.success(), "{tool} does not work ({status})");
    }
    Ok(())
}

impl Wish {
    fn read(arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut wish = Self::default();
        for argument in arguments {
            match argument.as_str() {
                "--list" => wish.list = true,
                // What cargo says of itself is no business of ours.
                "--quiet" | "-q" => {}
                option if option.starts_with('-') => bail!("usage: e2e [--list] [FILTER...]; there is no {option}"),
                _ => wish.filters.push(argument),
            }
        }
        Ok(wish)
    }

    fn wants(&self, name: &str, case: &Case) -> bool {
        match case.when {
            When::Always => self.filters.is_empty() || self.filters.iter().any(|filter| name.contains(filter.as_str())),
            When::Named => self.list || self.filters.iter().any(|filter| filter == name || filter == case.name),
        }
    }
}

/// One line for the reader.
pub(crate) fn say(line: impl Display) {
    // Nobody is left to be told when standard output is closed.
    writeln!(io::stdout().lock(), "{line}").ok();
}
