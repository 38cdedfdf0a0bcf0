//! `lab up`, `down`, `exec` and `status`.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mesh_e2e::{Lab, Namespace, sweep};
use serde::{Deserialize, Serialize};

use super::{agent, keeper, shop};
use crate::step::say;

/// How long the keeper may take to remove the lab.
const END: Duration = Duration::from_secs(20);

/// Arguments of `lab exec`.
#[derive(Debug, clap::Args)]
pub(super) struct ExecArgs {
    /// The pod, or a node
    #[arg(value_name = "POD")]
    place: String,
    /// The command and its arguments
    #[arg(value_name = "CMD", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// What is known of the lab that is up, in `.mesh-lab/lab.json`.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    name: String,
    keeper: i32,
    pods: Vec<String>,
    nodes: Vec<String>,
}

impl State {
    fn file(root: &Path) -> PathBuf {
        root.join(".mesh-lab/lab.json")
    }

    /// The lab that is up.
    fn read(root: &Path) -> Result<Self> {
        let text = fs::read_to_string(Self::file(root)).ok();
        let state: Option<Self> = text.and_then(|text| serde_json::from_str(&text).ok());
        let state = state.filter(|state| sweep::is_owned(&state.name));
        state.context("no lab is up; start one with `cargo xtask lab up`")
    }

    fn run_dir(&self, node: &str) -> PathBuf {
        sweep::directory(&self.name).join(node).join("run")
    }
}

pub(super) fn up(root: &Path) -> Result<()> {
    if let Ok(state) = State::read(root) {
        bail!("the lab {} is up already; `cargo xtask lab down` removes it", state.name);
    }
    agent::build(root)?;
    let log = root.join(".mesh-lab/keeper.log");
    say(keeper::start(root, &["lab", "hold"], &log)?);
    let state = State::read(root)?;
    say(commands(&state));
    Ok(())
}

/// The keeper of `lab up`: SIGTERM ends it, and with it the lab.
pub(super) fn hold(root: &Path) -> Result<()> {
    keeper::leave_terminal()?;
    let lab = Lab::start(shop::topology().binary(agent::path()?).named("meshlab"))?;
    let _nginx = lab.nginx("shop", shop::PORT, shop::GREETING)?;
    let state = State {
        name: lab.name().to_owned(),
        keeper: i32::try_from(std::process::id())?,
        pods: lab.pods().iter().map(|pod| pod.name.clone()).collect(),
        nodes: lab.nodes().iter().map(|node| node.name.clone()).collect(),
    };
    fs::write(State::file(root), serde_json::to_string_pretty(&state)?)?;
    keeper::report(&format!("\n{}", shop::picture(&lab)))?;
    loop {
        std::thread::park();
    }
}

pub(super) fn down(root: &Path) -> Result<()> {
    let state = State::read(root);
    if let Ok(state) = &state {
        keeper::end(state.keeper, &state.name, END)?;
    }
    sweep::remove_left_behind()?;
    fs::remove_dir_all(root.join(".mesh-lab")).ok();
    match state {
        Ok(state) => say(format_args!("the lab {} is removed", state.name)),
        Err(_) => say("no lab was up"),
    }
    Ok(())
}

pub(super) fn exec(root: &Path, args: &ExecArgs) -> Result<()> {
    let state = State::read(root)?;
    let places = || state.pods.iter().chain(&state.nodes);
    if !places().any(|place| *place == args.place) {
        let all: Vec<&str> = places().map(String::as_str).collect();
        bail!("the lab has no pod or node {}; there are {}", args.place, all.join(", "));
    }
    let namespace = Namespace::open(&format!("{}-{}", state.name, args.place))?;
    let (program, rest) = args.command.split_first().context("a command")?;
    // This process becomes the command.
    Err(namespace.command(program).args(rest).exec()).context("nsenter")
}

pub(super) fn status(root: &Path) -> Result<()> {
    let state = State::read(root)?;
    say(format_args!("lab {}, kept by pid {}; pods: {}\n", state.name, state.keeper, state.pods.join(", ")));
    for node in &state.nodes {
        let socket = state.run_dir(node).join("admin.sock");
        let status = Command::new(agent::path()?).arg("ctl").arg("--socket").arg(socket).arg("status").status()?;
        ensure!(status.success(), "the agent of {node} does not answer");
        say("");
    }
    Ok(())
}

fn commands(state: &State) -> String {
    let directory = sweep::directory(&state.name);
    let directory = directory.display();
    let agent = agent::path().unwrap_or_default();
    let ctl = format!("{} ctl --socket {directory}/n2/run/admin.sock", agent.display());
    format!(
        "Try:
  cargo xtask lab exec frontend -- curl -s http://10.50.0.1/        # allowed
  cargo xtask lab exec frontend -- curl -s http://10.50.0.1/whoami  # nginx sees the pod's own address
  cargo xtask lab exec guest -- curl -s http://10.50.0.1/           # denied: reset
  cargo xtask lab exec n1 -- tcpdump -ni eth0 -c 20 tcp             # what crosses the wire
  cargo xtask lab status
  {ctl} flows --follow
  tail -f {directory}/n2/agent.log
  $EDITOR {directory}/n2/node.yaml                                  # policies: an edit is in force at once
  cargo xtask lab down"
    )
}
