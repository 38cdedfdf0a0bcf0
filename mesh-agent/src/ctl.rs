//! `mesh-agent ctl`: asks a running node agent over its admin socket and shows the answer to a person or a script.
//!
//! The documents are those of [`crate::admin::documents`]; `--output json` passes them on as they are. Deliberately
//! absent: anything that changes the mesh (only the log filter can be set), and a protocol of its own: the socket speaks
//! HTTP, so `curl --unix-socket` works as well.

mod check;
mod client;
mod flows;
mod follow;
mod status;
mod text;

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use serde::Serialize;

use crate::admin::documents::{Flows, Logging, Status};
use client::{CtlError, Socket};

/// Where an agent with the default `run_dir` answers.
const SOCKET: &str = "/run/mesh-agent/admin.sock";

/// Arguments of `mesh-agent ctl`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The agent's admin socket: admin.sock in its run_dir
    #[arg(long, global = true, value_name = "PATH", default_value = SOCKET)]
    socket: PathBuf,
    /// A table for people or JSON for scripts
    #[arg(long, short, global = true, value_enum, default_value = "table")]
    output: Output,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// The node at a glance: configuration, pods, certificates, connections, capture counters
    Status,
    /// The connections that are open now
    Flows(FlowsArgs),
    /// Show or change which log lines the agent writes
    Log(LogArgs),
    /// What this node lacks for an agent, and whether the one that runs works
    Check(CheckArgs),
}

#[derive(Debug, clap::Args)]
struct CheckArgs {
    /// The agent's YAML file; without it the usual places are looked at
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What `${NAME}` in the file stands for; may be repeated
    #[arg(long, value_name = "NAME=VALUE", requires = "config")]
    set: Vec<String>,
    /// The same as --output json
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct FlowsArgs {
    /// Refresh every second until Ctrl-C
    #[arg(long, short)]
    follow: bool,
    /// Only connections of this pod, given as NAME or NAMESPACE/NAME
    #[arg(long, value_name = "POD")]
    pod: Option<String>,
}

#[derive(Debug, clap::Args)]
struct LogArgs {
    /// The new filter, such as `info,access=off` or `debug`; without it the one in force is shown
    #[arg(value_name = "FILTER", conflicts_with = "reset")]
    filter: Option<String>,
    /// Go back to the filter that the agent was started with
    #[arg(long)]
    reset: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

/// Runs one verb and writes to standard output.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match runtime.block_on(answer(args, &mut io::stdout().lock())) {
        // Whoever read the output has seen enough, as in `ctl flows | head`.
        Err(CtlError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

async fn answer(args: &Args, out: &mut impl Write) -> Result<(), CtlError> {
    let socket = Socket::new(&args.socket);
    match &args.verb {
        Verb::Check(check) => {
            let output = if check.json { Output::Json } else { args.output };
            check::run(&args.socket, check, output, out).await
        }
        Verb::Status => {
            let status: Status = socket.get("/status").await?;
            show(out, args.output, &status, status::render)
        }
        Verb::Flows(flows) if flows.follow => follow::run(&socket, flows, args.output, out).await,
        Verb::Flows(flows) => {
            let document = fetch_flows(&socket, flows).await?;
            show(out, args.output, &document, |document| flows::render(document, &flows::Rates::Average))
        }
        Verb::Log(log) => {
            let path = match (&log.filter, log.reset) {
                (Some(filter), _) => format!("/logging?level={}", client::encode(filter)),
                (None, true) => "/logging?reset".to_owned(),
                (None, false) => "/logging".to_owned(),
            };
            let logging: Logging = socket.post(&path).await?;
            show(out, args.output, &logging, |logging| format!("{}\n", logging.filter))
        }
    }
}

async fn fetch_flows(socket: &Socket<'_>, args: &FlowsArgs) -> Result<Flows, CtlError> {
    let mut document: Flows = socket.get("/flows").await?;
    if let Some(pod) = &args.pod {
        document.flows.retain(|flow| flows::concerns(flow, pod));
    }
    Ok(document)
}

fn show<D: Serialize>(
    out: &mut impl Write,
    output: Output,
    document: &D,
    render: impl Fn(&D) -> String,
) -> Result<(), CtlError> {
    let text = match output {
        Output::Table => render(document),
        Output::Json => serde_json::to_string_pretty(document).map_err(CtlError::Document)? + "\n",
    };
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(CtlError::Output)
}

/// How long an agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
