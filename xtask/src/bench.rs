//! `cargo xtask bench`: ours beside no mesh, and beside another mesh, on one machine and in one run. What the figures
//! mean, and what they do not: `docs/benchmarks.md`.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::builder::RangedU64ValueParser;
use serde_json::{Value, json};

use crate::lab::agent;
use crate::step::say;

mod awake;
mod contender;
pub(crate) mod count;
mod listing;
mod load;
mod machine;
mod memory;
mod micro;
mod parse;
mod peer;
mod plot;
mod profile;
mod rounds;
mod row;
mod scale;
mod summary;
mod table;
mod usage;
mod ztunnel;

use contender::Contender;
use machine::Machine;
use peer::Peer;
use rounds::{Plan, Record};
use row::{Measurement, Target};
use summary::Figure;

/// One JSON object a line, oldest first.
const HISTORY: &str = "target/bench/history.jsonl";

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    other: Option<Other>,
    /// Print one JSON object; progress and table go to standard error
    #[arg(long)]
    json: bool,
    /// Rounds: in each, everyone has a turn
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = RangedU64ValueParser::<u32>::new().range(1..))]
    rounds: u32,
    /// Seconds of each measurement
    #[arg(long, value_name = "S", default_value_t = 4, value_parser = RangedU64ValueParser::<u32>::new().range(1..))]
    secs: u32,
    /// Another build of mesh-agent, or a ztunnel-compatible node proxy, to be measured in the same run
    #[arg(long, value_name = "PATH")]
    peer: Option<PathBuf>,
    /// What the peer is, if it does not say so itself
    #[arg(long, value_enum, requires = "peer")]
    peer_kind: Option<peer::Kind>,
    /// How our pods of one node talk (`node.same_node.mode`): `mtls`, `local` or `direct`
    #[arg(long, value_name = "MODE")]
    same_node: Option<String>,
    /// The same of a peer that is another build, or the same one in another mode
    #[arg(long, value_name = "MODE", requires = "peer")]
    peer_same_node: Option<String>,
    /// Only these measurements (each brings its CPU figures with it)
    #[arg(long, value_enum, value_name = "ROW", num_args = 1..)]
    only: Vec<Measurement>,
    /// Where the servers are, seen from the client
    #[arg(long, value_enum, num_args = 1.., default_value = "far")]
    target: Vec<Target>,
    /// Draw the figures beside no mesh, as `bench plot` does, into this SVG file
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    #[command(flatten)]
    count: count::Counting,
}

/// Other benchmarks than that beside peers.
#[derive(Debug, clap::Subcommand)]
enum Other {
    /// How long what the hot path asks takes: addresses, endpoints, policies
    Micro(micro::Args),
    /// Where the agents' CPU time goes under each load
    Profile(profile::Args),
    /// A mesh of 100,000 workloads: memory, how fast changes arrive, what traffic notices
    Scale(scale::Args),
    /// What an agent holds: idle, with 10,000 idle connections, and when they have gone
    Memory(memory::Args),
    #[command(hide = true)]
    Callers(memory::Callers),
    /// Draw the figures of the last run beside no mesh
    Plot(plot::Args),
}

pub(crate) fn run(root: &Path, args: &Args) -> Result<()> {
    match &args.other {
        Some(Other::Scale(args)) => return scale::run(root, args),
        Some(Other::Memory(args)) => return memory::run(root, args),
        Some(Other::Callers(args)) => return memory::call_and_hold(args),
        Some(Other::Plot(args)) => return plot::run(&root.join(HISTORY), args),
        Some(Other::Profile(args)) => return profile::run(root, args),
        Some(Other::Micro(args)) => return micro::run(root, args),
        None if args.count.is_given() => return count::run(root, &args.count),
        None => {}
    }
    let mut output = args.json.then(take_stdout).transpose()?;
    let machine = Machine::observe(root);
    let peer = args.peer.as_deref().map(|binary| Peer::ask(binary, args.peer_kind)).transpose()?;
    let agent = agent::build(root)?;
    let modes = (args.same_node.as_deref(), args.peer_same_node.as_deref());
    let plan = Plan {
        rounds: args.rounds,
        seconds: args.secs,
        targets: args.target.clone(),
        measurements: Measurement::ALL
            .into_iter()
            .filter(|one| args.only.is_empty() || args.only.contains(one))
            .collect(),
    };
    say(&machine);
    if machine.is_busy() {
        say("others are at work on this machine: compare ratios, and look at their spread");
    }
    if let Some(peer) = &peer {
        say(format_args!("the peer is {}: {}", peer.binary.display(), peer.version));
    }
    let record = measure(&plan, &agent, peer.as_ref(), modes)?;
    let figures = summary::figures(&record, &plan.targets);
    report(&machine, &plan, &figures, &record);
    let mut document = document((&machine, &plan), (&agent, peer.as_ref()), (&figures, &record))?;
    document["same_node"] = json!({"ours": modes.0, "peer": modes.1});
    remember(&root.join(HISTORY), &document)?;
    say(format_args!("appended to {HISTORY}"));
    if let Some(file) = &args.plot {
        plot::write(&document, file)?;
    }
    if let Some(output) = &mut output {
        writeln!(output, "{document:#}")?;
    }
    match record.failures.len() {
        0 => Ok(()),
        failed => bail!("{failed} measurements failed"),
    }
}

/// Builds everyone's lab and plays the rounds. The labs are gone when it returns.
fn measure(
    plan: &Plan,
    agent: &Path,
    peer: Option<&Peer>,
    (ours, theirs): (Option<&str>, Option<&str>),
) -> Result<Record> {
    let mut contenders = vec![Contender::direct(agent, &plan.targets)?, Contender::ours(agent, &plan.targets, ours)?];
    if let Some(peer) = peer {
        contenders.push(Contender::peer(peer, agent, &plan.targets, theirs)?);
    }
    plan.play(&mut contenders)
}

fn report(machine: &Machine, plan: &Plan, figures: &[Figure], record: &Record) {
    let rounds = rounds::medians(plan.rounds);
    say(format_args!("\n{machine}\n{rounds}, {} s for each measurement", plan.seconds));
    say(table::table(figures));
    let lists = [("Remarks", &record.remarks), ("Failures", &record.failures)];
    for (title, lines) in lists.into_iter().filter(|(_, lines)| !lines.is_empty()) {
        say(format_args!("{title}:\n  {}\n", lines.join("\n  ")));
    }
}

/// All that there is to know of a run.
fn document(
    (machine, plan): (&Machine, &Plan),
    (agent, peer): (&Path, Option<&Peer>),
    (figures, record): (&[Figure], &Record),
) -> Result<Value> {
    let peer = peer.map(|peer| json!({"binary": peer.binary, "kind": peer.kind.id(), "version": peer.version}));
    Ok(json!({
        "machine": machine,
        "rounds": plan.rounds,
        "secs": plan.seconds,
        "ours": {"version": peer::first_line(&peer::version(agent)?)},
        "peer": peer,
        "figures": figures,
        "remarks": record.remarks,
        "failures": record.failures,
    }))
}

fn remember(history: &Path, document: &Value) -> Result<()> {
    if let Some(folder) = history.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut file = File::options().create(true).append(true).open(history)?;
    Ok(file.write_all(format!("{document}\n").as_bytes())?)
}

/// Standard output for the document alone: whatever else is said goes to standard error.
fn take_stdout() -> Result<File> {
    let output = File::from(rustix::stdio::stdout().try_clone_to_owned()?);
    rustix::stdio::dup2_stdout(rustix::stdio::stderr())?;
    Ok(output)
}
