//! `cargo xtask bench scale`: a mesh of 100,000 workloads and 10,000 services in a real agent. What the figures mean:
//! `docs/benchmarks.md`.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::json;

use super::machine::Machine;
use super::micro;
use super::take_stdout;
use crate::lab::agent;
use crate::step::say;

mod istiod;
mod mesh;
mod pulse;
mod run;
mod table;

/// What is timed beside: who has an address, and which endpoint is chosen.
const QUESTIONS: &str = "^(address|route)/";

/// Arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print one JSON object; progress and table go to standard error
    #[arg(long)]
    json: bool,
    /// Another build of mesh-agent, instead of building this one; look-ups are then not timed
    #[arg(long, value_name = "PATH")]
    agent: Option<PathBuf>,
}

pub(crate) fn run(root: &Path, args: &Args) -> Result<()> {
    let mut output = args.json.then(take_stdout).transpose()?;
    let machine = Machine::observe(root);
    let (agent, timings) = match &args.agent {
        Some(agent) => {
            mesh_e2e::require_root()?;
            (agent.clone(), Vec::new())
        }
        None => (agent::build(root)?, micro::measure(root, Some(QUESTIONS))?),
    };
    say(&machine);
    if machine.is_busy() {
        say("others are at work on this machine: stalls may be theirs");
    }
    let figures = run::play(&agent)?;
    say(format_args!("\n{machine}\n"));
    say(table::table(&figures, &timings));
    if let Some(output) = &mut output {
        let document = json!({"machine": machine, "figures": figures, "timings": timings});
        writeln!(output, "{document:#}")?;
    }
    Ok(())
}
