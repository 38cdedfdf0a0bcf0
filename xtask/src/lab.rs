//! `cargo xtask lab`: the demo's lab, kept running to play with; and agents for a lab that someone else has made.
//!
//! A lab that outlives the command lives in a process of its own, which [`keeper`] starts and which holds everything:
//! it ends the lab when it is told to, and its end is the lab's end.

use std::path::Path;

use anyhow::Result;

pub(crate) mod agent;
mod attach;
pub(crate) mod keeper;
mod play;
pub(crate) mod shop;

/// Arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Start two nodes with pods and agents, and leave them running
    Up,
    /// Stop and remove it
    Down,
    /// Run a command in a pod or node
    Exec(play::ExecArgs),
    /// What runs, and what each agent says of itself
    Status,
    /// Start agents for the namespaces that LAB_PODS and LAB_NODES describe, and print their pids
    Attach,
    /// Hold what `up` started
    #[command(hide = true)]
    Hold,
    /// Hold what `attach` started
    #[command(hide = true)]
    HoldAttached,
}

pub(crate) fn run(root: &Path, args: &Args) -> Result<()> {
    match &args.verb {
        Verb::Up => play::up(root),
        Verb::Down => play::down(root),
        Verb::Exec(exec) => play::exec(root, exec),
        Verb::Status => play::status(root),
        Verb::Attach => attach::run(root),
        Verb::Hold => play::hold(root),
        Verb::HoldAttached => attach::hold(),
    }
}
