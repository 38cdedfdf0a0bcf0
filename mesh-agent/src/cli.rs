//! The command line: one subcommand per role. The only reader of the environment, and the only place that turns an
//! error into an exit code.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::telemetry::log;
use crate::{control, ctl, node};

/// A node-level ambient service mesh.
#[derive(Debug, Parser)]
#[command(name = "mesh-agent", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Enrol this node's pods and carry their traffic
    Node(NodeArgs),
    /// Serve the certificate authority
    Control(ControlArgs),
    /// Ask a running node agent
    Ctl(ctl::Args),
}

#[derive(Debug, Args)]
struct NodeArgs {
    /// The node's YAML file; edits are picked up while the agent runs
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Debug, Args)]
#[command(subcommand_negates_reqs = true, args_conflicts_with_subcommands = true)]
struct ControlArgs {
    #[command(subcommand)]
    verb: Option<ControlVerb>,
    /// The authority's YAML file
    #[arg(long, value_name = "FILE", required = true)]
    config: Option<PathBuf>,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Debug, Subcommand)]
enum ControlVerb {
    /// Issue one certificate from the mounted root, for a machine that cannot ask by itself
    Issue(control::IssueArgs),
}

#[derive(Debug, Args)]
struct LogArgs {
    /// What to log, such as `info` or `info,access=off`
    #[arg(long, value_name = "FILTER", default_value = "info")]
    log: String,
    /// How a log line looks
    #[arg(long, value_enum, default_value = "text")]
    log_format: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// Runs what the command line asks for.
pub fn run() -> ExitCode {
    let result = match Cli::parse().role {
        Role::Node(args) => args.log.start().and_then(|log| node::run(&args.config, log)),
        Role::Control(args) => run_control(args),
        Role::Ctl(args) => ctl::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mesh-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_control(args: ControlArgs) -> anyhow::Result<()> {
    if let Some(ControlVerb::Issue(issue)) = args.verb {
        return control::issue(&issue);
    }
    let config = args.config.ok_or_else(|| anyhow::anyhow!("control needs --config FILE"))?;
    let _log = args.log.start()?;
    control::run(&config)
}

impl LogArgs {
    fn start(&self) -> anyhow::Result<log::Log> {
        let format = match self.log_format {
            Format::Text => log::Format::Text,
            Format::Json => log::Format::Json,
        };
        Ok(log::start(&self.log, format)?)
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::Cli;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }

    #[test]
    fn control_serves_or_issues() {
        let parses = |line: &str| Cli::try_parse_from(line.split(' ')).is_ok();
        assert!(parses("mesh-agent control --config f"));
        assert!(parses("mesh-agent control issue --config f --identity i --out-cert c --out-key k"));
        assert!(!parses("mesh-agent control"));
    }
}
