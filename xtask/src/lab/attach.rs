//! `lab attach`: agents for nodes and pods that exist already, such as those of the shared benchmark.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use mesh_e2e::attach::{Attached, ForeignNode, ForeignPod};
use serde::de::DeserializeOwned;

use super::{agent, keeper};

/// Builds the agent, starts a keeper for the described lab, and prints the agents' pids: these alone are on standard
/// output, everything else goes to standard error.
pub(super) fn run(root: &Path) -> Result<()> {
    // Not inherited by what is started: whoever reads our output waits for its end.
    let mut output = File::from(rustix::stdio::stdout().try_clone_to_owned()?);
    rustix::stdio::dup2_stdout(rustix::stdio::stderr())?;
    // Said before anything is built.
    described::<ForeignPod>("LAB_PODS")?;
    described::<ForeignNode>("LAB_NODES")?;
    agent::build(root)?;
    let log = root.join(".mesh-lab/attach.log");
    let pids = keeper::start(root, &["lab", "hold-attached"], &log)?;
    eprintln!("captured; the keeper's log is {}", log.display());
    pids.split_whitespace().try_for_each(|pid| writeln!(output, "{pid}"))?;
    Ok(())
}

/// The keeper: runs the agents until somebody ends them, and then the authority.
pub(super) fn hold() -> Result<()> {
    keeper::leave_job()?;
    let (pods, nodes) = (described::<ForeignPod>("LAB_PODS")?, described::<ForeignNode>("LAB_NODES")?);
    let attached = Attached::start(&agent::path()?, &nodes, &pods)?;
    let pids: Vec<String> = attached.pids().iter().map(u32::to_string).collect();
    keeper::report(&pids.join(" "))?;
    attached.wait()
}

/// A JSON list in the environment.
fn described<T: DeserializeOwned>(variable: &str) -> Result<Vec<T>> {
    let text = std::env::var_os(variable).with_context(|| format!("{variable} is not set: it describes the lab"))?;
    let text = text.into_string().ok().with_context(|| format!("{variable} is not text"))?;
    serde_json::from_str(&text).with_context(|| format!("{variable} is no list in JSON as it should be"))
}
