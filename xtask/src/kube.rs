//! `cargo xtask kube`: a real Kubernetes API and a real istiod for the lab, built from their Go modules; kept running to
//! play with, or only built for the tests.

use std::ffi::OsString;
use std::path::Path;

use anyhow::Result;

pub(crate) mod build;
mod go;
mod memory;
mod play;

/// Arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Build the API server, istiod and what goes with them, as far as that is not done
    Build,
    /// Start the demo's lab with them, and leave it running
    Up,
    /// Stop and remove it
    Down,
    /// What runs, and how much memory it takes
    Status,
    /// Run kubectl as an administrator
    Kubectl {
        /// Its arguments
        #[arg(value_name = "ARG", trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Hold what `up` started
    #[command(hide = true)]
    Hold,
}

pub(crate) fn run(root: &Path, args: &Args) -> Result<()> {
    match &args.verb {
        Verb::Build => build::ensure(root).map(drop),
        Verb::Up => play::up(root),
        Verb::Down => play::down(root),
        Verb::Status => play::status(root),
        Verb::Kubectl { arguments } => play::kubectl(root, arguments),
        Verb::Hold => play::hold(root),
    }
}
