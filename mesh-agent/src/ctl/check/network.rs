//! The container runtime's network as the agent needs it, and other meshes on the node.

use std::path::{Path, PathBuf};

use super::agent::Agent;
use super::finding::{Level, Report, some};
use super::lists::{self, Folder, FolderState, List};
use super::settings::{Plugin, Pods};
use crate::cni::PROGRAM as PLUGIN;
use crate::file::schema::Node;

/// Sockets that Istio's CNI agent listens on.
const ISTIO: [&str; 2] = ["/var/run/ztunnel/ztunnel.sock", "/var/run/istio-cni/pluginevent.sock"];

/// What is in the node's folders.
#[derive(Clone, Debug)]
pub(super) struct Network {
    /// Where the runtime looks for networks, and for plugins.
    pub(super) networks: Folder,
    pub(super) programs: Folder,
    /// The folder of the agent's own sockets.
    pub(super) run_dir: Folder,
    pub(super) lists: Vec<List>,
    /// Networks that Cilium has put away.
    pub(super) put_away: Vec<String>,
    /// Of Istio's sockets and of the one that the agent is given its pods on, those that are there.
    pub(super) sockets: Vec<PathBuf>,
}

impl Network {
    pub(super) fn read(node: &Node) -> Self {
        let (programs, networks) = match &node.cni {
            Some(cni) => (cni.programs.as_path(), cni.networks.as_path()),
            None => (Path::new("/opt/cni/bin"), Path::new("/etc/cni/net.d")),
        };
        let (lists, put_away) = lists::read(networks);
        let handed = node.zds.as_ref().map(|zds| zds.socket.clone());
        let sockets = ISTIO.iter().map(PathBuf::from).chain(handed).filter(|socket| socket.exists());
        Self {
            networks: Folder::read(networks),
            programs: Folder::read(programs),
            run_dir: Folder::read(&node.run_dir),
            lists,
            put_away,
            sockets: sockets.collect(),
        }
    }

    /// The one that the runtime takes: the first that can be used.
    fn taken(&self) -> Option<&List> {
        self.lists.iter().find(|list| !list.chain.is_empty())
    }
}

pub(super) fn judge(network: &Network, pods: &Pods, agent: &Agent, report: &mut Report) {
    run_dir(&network.run_dir, report);
    match pods {
        Pods::Kubernetes(Plugin::In(_)) => {
            folders(network, Level::Wrong, report);
            taken(network, Level::Warning, report);
            plugin(network, pods, agent, report);
        }
        Pods::Unknown => {
            folders(network, Level::Warning, report);
            taken(network, Level::Ok, report);
            plugin(network, pods, agent, report);
        }
        Pods::Kubernetes(Plugin::None) => {
            taken(network, Level::Ok, report);
            report.warning(
                "new pods",
                "node.cni is not set: what a new pod sends before the agent has found it goes out in plaintext",
                "add `cni: {}` to node, and mount the folders of the container runtime",
            );
        }
        Pods::File | Pods::CniAgent(_) => {}
    }
    other_meshes(network, pods, report);
}

/// Who can write to the folder can put a socket of its own in the place of the agent's.
fn run_dir(folder: &Folder, report: &mut Report) {
    const WHAT: &str = "run_dir";
    const OTHERS: u32 = 0o022;
    let place = folder.path.display();
    match &folder.state {
        FolderState::Missing => report.ok(WHAT, format!("{place} will be made")),
        FolderState::Writable(mode) if mode & OTHERS != 0 => report.wrong(
            WHAT,
            format!("{place} may be written to by others than its owner (mode {mode:04o})"),
            format!("chmod 0755 {place}"),
        ),
        FolderState::Writable(mode) => report.ok(WHAT, format!("{place}, mode {mode:04o}")),
        FolderState::ReadOnly(reason) => report.wrong(
            WHAT,
            format!("{place} cannot be written to: {reason}"),
            "mount it writable, or name another folder in node.run_dir",
        ),
    }
}

/// `level` is how bad it is when one is missing.
fn folders(network: &Network, level: Level, report: &mut Report) {
    for (what, field, folder) in
        [("CNI networks", "networks", &network.networks), ("CNI plugins", "programs", &network.programs)]
    {
        let place = folder.path.display();
        let fix = format!(
            "mount the runtime's folder writable, or name it in node.cni.{field}; without Kubernetes it is not needed"
        );
        match &folder.state {
            FolderState::Missing => report.bad(level, what, format!("{place} is not there"), fix),
            FolderState::ReadOnly(reason) => {
                report.bad(level, what, format!("{place} cannot be written to: {reason}"), fix);
            }
            FolderState::Writable(_) => report.ok(what, place.to_string()),
        }
    }
}

/// `none` is how bad it is when the runtime has no network.
fn taken(network: &Network, none: Level, report: &mut Report) {
    const WHAT: &str = "network";
    let Some(taken) = network.taken() else {
        let found = format!("there is none in {}", network.networks.path.display());
        let fix = "install the cluster's network plugin; the agent waits for it";
        return if none == Level::Ok { report.ok(WHAT, found) } else { report.bad(none, WHAT, found, fix) };
    };
    report.ok(WHAT, format!("{}: {}", taken.file, taken.chain.join(", ")));
    let others: Vec<&str> = network.lists.iter().filter(|list| *list != taken).map(|list| list.file.as_str()).collect();
    if !others.is_empty() {
        report.warning(
            "several networks",
            format!("the runtime takes {}, and not {}", taken.file, some(&others)),
            "remove what is not used, or name in node.cni.network the one that the runtime is told to take",
        );
    }
}

/// Whether the agent's own plugin is where it should be.
fn plugin(network: &Network, pods: &Pods, agent: &Agent, report: &mut Report) {
    let wanted = matches!(pods, Pods::Kubernetes(Plugin::In(_)));
    let list = match pods {
        Pods::Kubernetes(Plugin::In(Some(named))) => named_list(network, named, report),
        Pods::Unknown | Pods::File | Pods::CniAgent(_) | Pods::Kubernetes(_) => network.taken(),
    };
    let Some(list) = list else { return };
    let chained = list.chain.iter().any(|kind| kind == PLUGIN);
    match (chained, agent.lives()) {
        (true, true) => report.ok(PLUGIN, format!("is chained in {}", list.file)),
        (true, false) => report.wrong(
            PLUGIN,
            format!("is chained in {}, and no agent answers: new pods do not start", list.file),
            "start the agent; if it is to go for good, remove the plugin from the file",
        ),
        (false, true) if wanted => report.wrong(
            PLUGIN,
            format!("is not chained in {}: new pods are not announced", list.file),
            "see in the agent's log why it cannot be added",
        ),
        (false, _) if wanted => report.ok(PLUGIN, format!("will be chained in {}", list.file)),
        (false, _) => {}
    }
}

/// The list that the plugin is to be added to, if it is not left to the runtime.
fn named_list<'a>(network: &'a Network, named: &str, report: &mut Report) -> Option<&'a List> {
    let list = network.lists.iter().find(|list| list.file == named);
    let fix = "make sure that the runtime takes that file, or leave the field out";
    match (list, network.taken()) {
        (None, _) => report.wrong(PLUGIN, format!("node.cni.network is {named}, which is not there"), fix),
        (Some(list), Some(taken)) if list != taken => {
            let found = format!("node.cni.network is {named}, and the runtime takes {}", taken.file);
            report.warning(PLUGIN, found, fix);
        }
        (Some(_), _) => {}
    }
    list
}

/// Others that take pods' connections.
fn other_meshes(network: &Network, pods: &Pods, report: &mut Report) {
    istio(network, pods, report);
    let Some(taken) = network.taken() else { return };
    let has = |kind: &str| taken.chain.iter().any(|plugin| plugin == kind);
    if has("cilium-cni") || !network.put_away.is_empty() {
        cilium(network, pods, report);
    }
    for (kind, mesh) in [("linkerd-cni", "Linkerd"), ("kuma-cni", "Kuma")] {
        if has(kind) {
            let found = format!("{kind} is chained in {}: pods that are in both meshes work in neither", taken.file);
            report.warning(mesh, found, format!("have no pod in both; remove {mesh} where it is not used any more"));
        }
    }
}

fn istio(network: &Network, pods: &Pods, report: &mut Report) {
    const WHAT: &str = "Istio";
    if let Pods::CniAgent(socket) = pods {
        if network.sockets.contains(socket) {
            return report.ok(WHAT, format!("its CNI agent hands over pods on {}", socket.display()));
        }
        let found = format!("its CNI agent is to hand over pods on {}, which is not there", socket.display());
        return report.wrong(WHAT, found, "install istio-cni with ambient mode, and mount the socket's folder");
    }
    let chained = network.taken().filter(|list| list.chain.iter().any(|kind| kind == "istio-cni"));
    let mut signs: Vec<String> = chained.iter().map(|list| format!("istio-cni is chained in {}", list.file)).collect();
    signs.extend(network.sockets.iter().map(|socket| format!("{} is there", socket.display())));
    if signs.is_empty() {
        return;
    }
    let level = if *pods == Pods::Unknown { Level::Warning } else { Level::Wrong };
    report.bad(
        level,
        WHAT,
        format!("{}: two meshes would take the same pods", some(&signs)),
        "uninstall istio-cni and ztunnel on this node and remove what they left; or have the pods handed over by node.zds",
    );
}

fn cilium(network: &Network, pods: &Pods, report: &mut Report) {
    const FIX: &str =
        "set cni.exclusive=false, socketLB.hostNamespaceOnly=true and bpf.masquerade=false in Cilium's values";
    if network.put_away.is_empty() {
        let found =
            "its defaults remove other plugins from the chain and translate addresses before they can be captured";
        return report.warning("Cilium", found, FIX);
    }
    let level = if matches!(pods, Pods::Kubernetes(Plugin::In(_))) { Level::Wrong } else { Level::Warning };
    let found = format!(
        "it has put away {}: it wants to be the only plugin, and will remove the agent's",
        some(&network.put_away)
    );
    report.bad(level, "Cilium", found, FIX);
}

#[cfg(test)]
mod tests;
