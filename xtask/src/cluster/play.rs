//! `cluster up`, `down`, `status`, `kubectl`, `exec` and `import`.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mesh_e2e::cluster::{Cluster, Image, Inside, Settings};
use mesh_e2e::sweep;
use serde::{Deserialize, Serialize};

use super::{Import, Up, build};
use crate::lab::{agent, keeper};
use crate::step::{say, timed};

const NAME: &str = "meshcluster";
/// How long the keeper may take to remove it all.
const END: Duration = Duration::from_secs(40);

/// What can be tried with the mesh and the shop, as README.md tells it.
const STORY: [&str; 6] = [
    "",
    "cargo xtask cluster kubectl label namespace shop istio.io/dataplane-mode=ambient",
    "cargo xtask cluster kubectl -n shop exec deploy/frontend -c tools -- curl -sS http://payments/",
    "cargo xtask cluster exec n1 curl -s --unix-socket /run/mesh-agent/admin.sock http://agent/status",
    "cargo xtask cluster kubectl label namespace shop istio.io/dataplane-mode-",
    "",
];

/// What is known of the cluster that is up.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    keeper: i32,
    kubectl: PathBuf,
    kubeconfig: PathBuf,
    nodes: Vec<NodeState>,
}

#[derive(Debug, Serialize, Deserialize)]
struct NodeState {
    name: String,
    netns: String,
    pid: u32,
}

impl State {
    /// With everything else of the cluster, and gone with it.
    fn file() -> PathBuf {
        sweep::directory(NAME).join("kube/cluster.json")
    }

    fn read() -> Result<Self> {
        let text = sweep::is_owned(NAME).then(|| fs::read_to_string(Self::file()).ok()).flatten();
        let state = text.and_then(|text| serde_json::from_str(&text).ok());
        state.context("no cluster is up; start it with `cargo xtask cluster up`")
    }

    fn kubectl(&self) -> Command {
        let mut command = Command::new(&self.kubectl);
        command.arg("--kubeconfig").arg(&self.kubeconfig);
        command
    }
}

impl NodeState {
    fn inside(&self) -> Result<Inside> {
        Inside::of(&self.netns, self.pid)
    }
}

pub(super) fn up(root: &Path, &Up { mesh }: &Up) -> Result<()> {
    if State::read().is_ok() {
        bail!("{NAME} is up already; `cargo xtask cluster down` removes it");
    }
    mesh_e2e::require_root()?;
    build(root)?;
    let log = root.join("target/kube/cluster-keeper.log");
    let agent = if mesh { Some(agent::build(root)?.display().to_string()) } else { None };
    let mut hold = vec!["cluster", "hold"];
    hold.extend(agent.iter().flat_map(|agent| ["--agent", agent]));
    let title = if mesh { "API server, nodes, istiod, agents, a shop" } else { "API server, nodes, istiod" };
    timed(title, || keeper::start(root, &hold, &log))?;
    let state = State::read()?;
    say(format_args!("export KUBECONFIG={}", state.kubeconfig.display()));
    say("cargo xtask cluster kubectl get nodes,pods -A");
    if mesh {
        STORY.iter().for_each(say);
    }
    say("cargo xtask cluster down");
    Ok(())
}

/// The keeper of `cluster up`: SIGTERM ends it, and with it the cluster.
pub(super) fn hold(root: &Path, agent: Option<&Path>) -> Result<()> {
    keeper::leave_terminal()?;
    let tools = root.join("target/kube");
    let cluster = Cluster::start(&Settings::new().named(NAME).tools(&tools))?;
    let node = |node: &mesh_e2e::cluster::Node| {
        let pid = node.running()?.machine().pid();
        Ok(NodeState { name: node.name.clone(), netns: node.namespace().netns().to_owned(), pid })
    };
    let state = State {
        keeper: i32::try_from(std::process::id())?,
        kubectl: tools.join("bin/kubectl"),
        kubeconfig: cluster.write_kubeconfig()?,
        nodes: cluster.nodes().iter().map(node).collect::<Result<_>>()?,
    };
    if let Some(agent) = agent {
        cluster.install_mesh(agent)?;
        cluster.open_shop()?;
    }
    fs::write(State::file(), serde_json::to_string_pretty(&state)?)?;
    keeper::report("")?;
    loop {
        std::thread::park();
    }
}

pub(super) fn down() -> Result<()> {
    let state = State::read();
    if let Ok(state) = &state {
        keeper::end(state.keeper, NAME, END)?;
    }
    sweep::remove_left_behind()?;
    say(if state.is_ok() { "all of it is removed" } else { "nothing was up" });
    Ok(())
}

pub(super) fn status() -> Result<()> {
    let state = State::read()?;
    for node in &state.nodes {
        say(format_args!("node {:<12} network namespace {}, namespaces of pid {}", node.name, node.netns, node.pid));
    }
    let mut kubectl = state.kubectl();
    kubectl.args(["get", "nodes,pods,services", "--all-namespaces", "--output=wide"]);
    ensure!(kubectl.status().context("kubectl")?.success(), "kubectl failed");
    Ok(())
}

pub(super) fn kubectl(arguments: &[OsString]) -> Result<()> {
    Err(State::read()?.kubectl().args(arguments).exec()).context("kubectl")
}

pub(super) fn exec(name: &str, command: &[OsString]) -> Result<()> {
    let state = State::read()?;
    let node = state.nodes.iter().find(|node| node.name == name);
    let inside = node.with_context(|| format!("there is no node {name}"))?.inside()?;
    let (program, arguments) = command.split_first().context("a command")?;
    Err(inside.command(program).args(arguments).exec()).context("nsenter")
}

pub(super) fn import(import: &Import) -> Result<()> {
    let state = State::read()?;
    let place = tempfile::tempdir()?;
    let (image, path) = (Image::new(&import.name), &import.path);
    let name = path.file_name().context("a path")?.to_string_lossy();
    let archive = if path.is_dir() {
        image.directory(path).entrypoint(&import.entrypoint).write(place.path())?
    } else if name.ends_with(".tar") {
        path.clone()
    } else {
        let inside = format!("/bin/{name}");
        image.file(&inside, path).entrypoint([inside]).write(place.path())?
    };
    state.nodes.iter().try_for_each(|node| node.inside()?.import(&archive))?;
    say(format_args!("{} is known to {} nodes", import.name, state.nodes.len()));
    Ok(())
}
