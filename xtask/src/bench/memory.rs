//! `cargo xtask bench memory`: what an agent holds when it has nothing to do, with many idle connections, and when they
//! have gone. What the figures mean: `docs/benchmarks.md`.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::builder::RangedU64ValueParser;
use serde_json::json;

use super::machine::Machine;
use super::take_stdout;
use crate::lab::agent;
use crate::step::say;

mod crowd;
mod run;
mod table;

pub(super) use crowd::{Callers, call_and_hold};

/// As many connections as the goals are about.
const CONNECTIONS: u32 = 10_000;

/// Arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print one JSON object; progress and table go to standard error
    #[arg(long)]
    json: bool,
    /// Another build of mesh-agent, instead of building this one
    #[arg(long, value_name = "PATH")]
    agent: Option<PathBuf>,
    /// Connections that are open at a time
    #[arg(long, value_name = "N", default_value_t = CONNECTIONS, value_parser = RangedU64ValueParser::<u32>::new().range(1..=20_000))]
    connections: u32,
}

pub(super) fn run(root: &Path, args: &Args) -> Result<()> {
    let mut output = args.json.then(take_stdout).transpose()?;
    let machine = Machine::observe(root);
    let agent = match &args.agent {
        Some(agent) => {
            mesh_e2e::require_root()?;
            agent.clone()
        }
        None => agent::build(root)?,
    };
    say(&machine);
    let figures = run::play(&agent, args.connections)?;
    say(format_args!("\n{machine}\n"));
    say(table::table(&figures));
    if let Some(output) = &mut output {
        writeln!(output, "{:#}", json!({"machine": machine, "figures": figures}))?;
    }
    Ok(())
}
