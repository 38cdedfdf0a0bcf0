//! `cargo xtask bench scale`: a mesh of 100,000 workloads and 10,000 services in a real agent. What the figures mean:
//! `docs/benchmarks.md`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::json;

use super::machine::Machine;
use super::take_stdout;
use crate::lab::agent;
use crate::step::say;

mod choice;
mod istiod;
mod mesh;
mod pulse;
mod run;
mod table;

/// Arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print one JSON object; progress and table go to standard error
    #[arg(long)]
    json: bool,
    /// Another build of mesh-agent, instead of building this one; the choice of routes is then not measured
    #[arg(long, value_name = "PATH")]
    agent: Option<PathBuf>,
}

pub(crate) fn run(root: &Path, args: &Args) -> Result<()> {
    let mut output = args.json.then(take_stdout).transpose()?;
    let machine = Machine::observe(root);
    let (agent, choice) = match &args.agent {
        Some(agent) => {
            mesh_e2e::require_root()?;
            (agent.clone(), BTreeMap::new())
        }
        None => (agent::build(root)?, choice::measure(root)?),
    };
    say(&machine);
    if machine.is_busy() {
        say("others are at work on this machine: stalls may be theirs");
    }
    let figures = run::play(&agent)?;
    say(format_args!("\n{machine}\n"));
    say(table::table(&figures, &choice));
    if let Some(output) = &mut output {
        let document = json!({"machine": machine, "figures": figures, "choice_ns": choice});
        writeln!(output, "{document:#}")?;
    }
    Ok(())
}
