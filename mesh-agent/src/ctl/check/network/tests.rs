//! What is said of folders, chains and other meshes.

use super::{Network, judge};
use crate::ctl::check::agent::{Agent, State};
use crate::ctl::check::finding::{Finding, Group, Level, Report};
use crate::ctl::check::lists::{Folder, FolderState, List};
use crate::ctl::check::settings::{Plugin, Pods};

fn folder(path: &str, state: FolderState) -> Folder {
    Folder { path: path.into(), state }
}

fn list(file: &str, chain: &[&str]) -> List {
    List { file: file.into(), chain: chain.iter().map(ToString::to_string).collect() }
}

/// A node whose runtime has this chain.
fn node(chain: &[&str]) -> Network {
    Network {
        networks: folder("/etc/cni/net.d", FolderState::Writable(0o755)),
        programs: folder("/opt/cni/bin", FolderState::Writable(0o755)),
        run_dir: folder("/run/mesh-agent", FolderState::Writable(0o755)),
        lists: vec![list("10-net.conflist", chain)],
        put_away: Vec::new(),
        sockets: Vec::new(),
    }
}

fn all(network: &Network, pods: &Pods, state: State) -> Vec<Finding> {
    let mut report = Report::about(Group::Network);
    judge(network, pods, &Agent { socket: "/s".into(), state }, &mut report);
    report.finish()
}

fn absent() -> State {
    State::Absent("none".into())
}

/// Level, what and found of what is not well, with no agent there.
fn bad(network: &Network, pods: &Pods) -> Vec<(Level, String, String)> {
    bad_with(network, pods, absent())
}

fn bad_with(network: &Network, pods: &Pods, state: State) -> Vec<(Level, String, String)> {
    let bad = all(network, pods, state).into_iter().filter(|finding| finding.level != Level::Ok);
    bad.inspect(|finding| assert!(finding.fix.is_some())).map(|f| (f.level, f.what, f.found)).collect()
}

#[track_caller]
fn only(found: &[(Level, String, String)], level: Level, what: &str, part: &str) {
    let [(its_level, its_what, text)] = found else { panic!("{what}: {found:?}") };
    assert_eq!((*its_level, its_what.as_str()), (level, what), "{text}");
    assert!(text.contains(part), "{text}");
}

const WITH_PLUGIN: Pods = Pods::Kubernetes(Plugin::In(None));

#[test]
fn a_good_node() {
    for pods in [Pods::Unknown, Pods::File, WITH_PLUGIN] {
        assert_eq!(bad(&node(&["calico", "portmap"]), &pods), [], "{pods:?}");
    }
    let with_agent = node(&["calico", "mesh-agent-cni"]);
    assert_eq!(bad_with(&with_agent, &WITH_PLUGIN, State::Unclear(String::new())), []);
    let found = all(&with_agent, &WITH_PLUGIN, absent());
    assert!(found.iter().any(|finding| finding.found == "10-net.conflist: calico, mesh-agent-cni"), "{found:?}");
    let fresh = Network { run_dir: folder("/run/mesh-agent", FolderState::Missing), ..node(&["calico"]) };
    assert_eq!(bad(&fresh, &WITH_PLUGIN), []);
}

#[test]
fn folders() {
    let gone = Network { networks: folder("/n", FolderState::Missing), lists: Vec::new(), ..node(&[]) };
    let found = bad(&gone, &WITH_PLUGIN);
    assert_eq!(found.iter().map(|(level, ..)| *level).collect::<Vec<_>>(), [Level::Wrong, Level::Warning], "{found:?}");
    only(&bad(&gone, &Pods::Unknown), Level::Warning, "CNI networks", "/n is not there");
    assert_eq!(bad(&gone, &Pods::File), [], "needs no runtime");
    let fixed = Network { programs: folder("/p", FolderState::ReadOnly("read only".into())), ..node(&["a"]) };
    only(&bad(&fixed, &WITH_PLUGIN), Level::Wrong, "CNI plugins", "/p cannot be written to: read only");
    let open = Network { run_dir: folder("/r", FolderState::Writable(0o1777)), ..node(&["a"]) };
    only(&bad(&open, &Pods::File), Level::Wrong, "run_dir", "mode 1777");
    let closed = Network { run_dir: folder("/r", FolderState::ReadOnly("x".into())), ..node(&["a"]) };
    only(&bad(&closed, &Pods::File), Level::Wrong, "run_dir", "cannot be written to");
}

#[test]
fn the_plugins_place() {
    use Level::{Warning, Wrong};
    let named = |name: &str| Pods::Kubernetes(Plugin::In(Some(name.into())));
    only(&bad(&node(&["a"]), &Pods::Kubernetes(Plugin::None)), Warning, "new pods", "in plaintext");
    only(&bad(&node(&[]), &WITH_PLUGIN), Warning, "network", "there is none");
    let lives = || State::Unclear(String::new());
    only(&bad_with(&node(&["a"]), &WITH_PLUGIN, lives()), Wrong, "mesh-agent-cni", "not announced");
    assert_eq!(bad_with(&node(&["a"]), &Pods::Unknown, lives()), [], "nobody has asked for the plugin");
    for pods in [WITH_PLUGIN, Pods::Unknown] {
        only(&bad(&node(&["a", "mesh-agent-cni"]), &pods), Wrong, "mesh-agent-cni", "new pods do not start");
    }
    only(&bad(&node(&["a"]), &named("other.conflist")), Wrong, "mesh-agent-cni", "is not there");
    let mut two = node(&["a"]);
    two.lists = vec![list("00-broken.conflist", &[]), list("10-a.conflist", &["a"]), list("20-b.conflist", &["b"])];
    let found = bad(&two, &named("20-b.conflist"));
    assert_eq!(found.len(), 2, "{found:?}");
    only(&found[..1], Warning, "several networks", "takes 10-a.conflist, and not 00-broken.conflist, 20-b.conflist");
    only(&found[1..], Warning, "mesh-agent-cni", "the runtime takes 10-a.conflist");
}

#[test]
fn other_meshes() {
    use Level::{Warning, Wrong};
    let chained = node(&["a", "istio-cni"]);
    only(&bad(&chained, &WITH_PLUGIN), Wrong, "Istio", "istio-cni is chained in 10-net.conflist: two meshes");
    only(&bad(&chained, &Pods::Unknown), Warning, "Istio", "two meshes");
    let sockets = Network { sockets: vec!["/z.sock".into()], ..node(&["a"]) };
    only(&bad(&sockets, &Pods::File), Wrong, "Istio", "/z.sock is there");
    let handed = Pods::CniAgent("/z.sock".into());
    assert_eq!(bad(&Network { sockets: vec!["/z.sock".into()], ..chained.clone() }, &handed), [], "as it is meant");
    only(&bad(&chained, &handed), Wrong, "Istio", "/z.sock, which is not there");
    only(&bad(&node(&["cilium-cni"]), &WITH_PLUGIN), Warning, "Cilium", "its defaults");
    let put_away = Network { put_away: vec!["10.conflist.cilium_bak".into()], ..node(&["cilium-cni"]) };
    only(&bad(&put_away, &WITH_PLUGIN), Wrong, "Cilium", "put away 10.conflist.cilium_bak");
    only(&bad(&put_away, &Pods::Unknown), Warning, "Cilium", "put away");
    only(&bad(&node(&["a", "linkerd-cni"]), &WITH_PLUGIN), Warning, "Linkerd", "work in neither");
    only(&bad(&node(&["a", "kuma-cni"]), &Pods::File), Warning, "Kuma", "work in neither");
}
