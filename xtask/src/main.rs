//! `cargo xtask`: the project's own commands, one file each.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

mod bench;
mod cluster;
mod demo;
mod deploy;
mod e2e;
mod kube;
mod lab;
mod proto;
mod setup;
mod step;
mod test;
mod tidy;

/// The project's own commands.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Find or install what building and running needs
    Setup(setup::Args),
    /// Two nodes and their pods in network namespaces: the mesh at work, told step by step
    Demo(demo::Args),
    /// The demo's lab, kept running to play with
    Lab(lab::Args),
    /// Everything: formatting, lints, tidy, unit tests, end-to-end tests on this kernel
    Test(test::Args),
    /// End-to-end tests that need more than the lab
    E2e(e2e::Args),
    /// A real Kubernetes API and istiod for the lab
    Kube(kube::Args),
    /// A real Kubernetes cluster of two nodes
    Cluster(cluster::Args),
    /// What deploy/ comes to, and whether the agent takes it
    Deploy(deploy::Args),
    /// Measure the mesh beside no mesh and other peers
    Bench(bench::Args),
    /// Check the house rules that no lint knows
    Tidy,
    /// Generate the code for mesh-agent/proto
    Proto(proto::Args),
}

fn main() -> ExitCode {
    let root = root();
    match run(&root, Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !error.is::<test::Failed>() {
                eprintln!("xtask: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(root: &std::path::Path, command: Command) -> Result<()> {
    match command {
        Command::Setup(args) => setup::run(root, &args),
        Command::Demo(args) => demo::run(root, &args),
        Command::Lab(args) => lab::run(root, &args),
        Command::Test(args) => test::run(root, &args),
        Command::E2e(args) => e2e::run(root, &args),
        Command::Kube(args) => kube::run(root, &args),
        Command::Cluster(args) => cluster::run(root, &args),
        Command::Deploy(args) => deploy::run(root, &args),
        Command::Bench(args) => bench::run(root, &args),
        Command::Tidy => tidy::run(root),
        Command::Proto(args) => proto::run(root, &args),
    }
}

/// The repository: xtask is one folder below it.
fn root() -> PathBuf {
    let mut root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.pop();
    root
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
