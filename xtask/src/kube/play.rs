//! `kube up`, `down`, `status` and `kubectl`.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mesh_e2e::kube::{Istiod, Settings, Tools};
use mesh_e2e::{Lab, kube, sweep};
use serde::{Deserialize, Serialize};

use super::{build, memory};
use crate::lab::{agent, keeper, shop};
use crate::step::{say, timed};

const NAME: &str = "meshkube";
/// How long the keeper may take to remove the lab.
const END: Duration = Duration::from_secs(20);

/// What is known of the rig that is up.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    keeper: i32,
    tools: PathBuf,
    kubeconfig: PathBuf,
    istiod: String,
    root: PathBuf,
    tokens: Vec<PathBuf>,
    nodes: Vec<String>,
}

impl State {
    /// With everything else of the lab, and gone with it.
    fn file() -> PathBuf {
        sweep::directory(NAME).join("kube/rig.json")
    }

    fn read() -> Result<Self> {
        let text = sweep::is_owned(NAME).then(|| fs::read_to_string(Self::file()).ok()).flatten();
        let state = text.and_then(|text| serde_json::from_str(&text).ok());
        state.context("nothing is up; start it with `cargo xtask kube up`")
    }
}

pub(super) fn up(root: &Path) -> Result<()> {
    if State::read().is_ok() {
        bail!("{NAME} is up already; `cargo xtask kube down` removes it");
    }
    agent::build(root)?;
    build::ensure(root)?;
    let log = root.join("target/kube/keeper.log");
    let picture = timed("etcd, API server, istiod, agents", || keeper::start(root, &["kube", "hold"], &log))?;
    say(picture);
    say(commands(&State::read()?));
    Ok(())
}

/// The keeper of `kube up`: SIGTERM ends it, and with it the lab.
pub(super) fn hold(root: &Path) -> Result<()> {
    keeper::leave_terminal()?;
    let tools = root.join("target/kube");
    let topology = shop::topology().binary(agent::path()?).named(NAME).kubernetes(Settings::new().tools(&tools));
    let lab = Lab::start(topology)?;
    let _nginx = lab.nginx("shop", shop::PORT, shop::GREETING)?;
    let kube = lab.kube();
    let state = State {
        keeper: i32::try_from(std::process::id())?,
        tools,
        kubeconfig: kube.write_kubeconfig()?,
        istiod: Istiod::address().to_string(),
        root: kube.istiod().root().to_owned(),
        tokens: lab.nodes().iter().map(|node| kube.token(&node.name)).collect(),
        nodes: lab.nodes().iter().map(|node| node.name.clone()).collect(),
    };
    fs::write(State::file(), serde_json::to_string_pretty(&state)?)?;
    keeper::report(&format!("\n{}", shop::picture(&lab)))?;
    loop {
        std::thread::park();
    }
}

pub(super) fn down(_root: &Path) -> Result<()> {
    let state = State::read();
    if let Ok(state) = &state {
        keeper::end(state.keeper, NAME, END)?;
    }
    sweep::remove_left_behind()?;
    say(if state.is_ok() { "all of it is removed" } else { "nothing was up" });
    Ok(())
}

pub(super) fn status(_root: &Path) -> Result<()> {
    let state = State::read()?;
    for program in memory::programs(&sweep::directory(NAME)) {
        let memory = program.resident.map_or("has ended".to_owned(), |kib| format!("{:>5} MiB", kib / 1024));
        say(format_args!("{:<24} pid {:<8} {memory}", program.name, program.pid));
    }
    say("");
    let mut kubectl = command(&state);
    kubectl.args(["get", "nodes,pods,services,authorizationpolicies", "--all-namespaces", "--output=wide"]);
    ensure!(kubectl.status()?.success(), "the API server does not answer");
    say("");
    say(commands(&state));
    Ok(())
}

pub(super) fn kubectl(_root: &Path, arguments: &[OsString]) -> Result<()> {
    // This process becomes kubectl.
    Err(command(&State::read()?).args(arguments).exec()).context("kubectl")
}

fn command(state: &State) -> Command {
    let mut command = Command::new(Tools::at(state.tools.clone()).program("kubectl"));
    command.arg("--kubeconfig").arg(&state.kubeconfig);
    // The user's own is for clusters that stay.
    command.arg("--cache-dir").arg(sweep::directory(NAME).join("kube/cache"));
    command
}

fn commands(state: &State) -> String {
    let tokens: Vec<_> = state.tokens.iter().map(|path| path.display().to_string()).collect();
    let directory = sweep::directory(NAME);
    format!(
        "kubeconfig          {}
istiod              {}, from nodes and pods; its certificate is valid for this address
root certificate    {}
agents' tokens      {}
logs                {}/*/*.log

Try:
  cargo xtask kube kubectl get pods -A -o wide
  ip netns exec {NAME}-frontend curl -s http://10.50.0.1/             # under certificates that istiod issued
  ip netns exec {NAME}-{} curl -s localhost:8080/debug/ambientz   # what istiod knows
  cargo xtask kube down",
        state.kubeconfig.display(),
        state.istiod,
        state.root.display(),
        tokens.join(" "),
        directory.display(),
        kube::HOST,
    )
}
