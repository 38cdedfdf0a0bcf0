//! The installer on a real file system, among others who write there too.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::sync::atomic::AtomicBool;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::sys::thread;

const LIST: &str = "10-net.conflist";
const SOON: Duration = Duration::from_secs(10);
/// Within which what somebody else has undone is repaired.
const REPAIR: Duration = Duration::from_secs(1);

/// A node's folders, and an installer for them.
struct Node {
    directory: TempDir,
    installer: Installer,
}

fn list(plugin: &str) -> String {
    let value = json!({"cniVersion": "1.0.0", "name": plugin, "plugins": [{"type": plugin}]});
    serde_json::to_string_pretty(&value).unwrap()
}

impl Node {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("own"), "a program").unwrap();
        let installer = Self::installer(directory.path(), None);
        Self { directory, installer }
    }

    /// One whose runtime has a network already.
    fn with_network() -> Self {
        let node = Self::new();
        fs::create_dir(node.path("net.d")).unwrap();
        node.put(LIST, &list("bridge"));
        node
    }

    fn installer(directory: &Path, network: Option<&str>) -> Installer {
        let settings = Settings {
            programs: directory.join("bin"),
            networks: directory.join("net.d"),
            network: network.map(ToOwned::to_owned),
            socket: "/run/mesh-agent/cni.sock".into(),
            excluded_namespaces: vec!["kube-system".to_owned()],
        };
        Installer::of(settings, directory.join("own"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn program(&self) -> PathBuf {
        self.path("bin").join(PROGRAM)
    }

    /// Writes a network's file as a careful agent does.
    fn put(&self, name: &str, text: &str) {
        let path = self.path("net.d").join(name);
        let fresh = path.with_extension("tmp");
        fs::write(&fresh, text).unwrap();
        fs::rename(fresh, path).unwrap();
    }

    fn network(&self, name: &str) -> String {
        fs::read_to_string(self.path("net.d").join(name)).unwrap_or_default()
    }

    /// The types of the plugins in a list; none, if it is not good.
    fn plugins(&self, name: &str) -> Vec<String> {
        let value: Value = serde_json::from_str(&self.network(name)).unwrap_or_default();
        let all = value["plugins"].as_array().into_iter().flatten();
        all.map(|plugin| plugin["type"].as_str().unwrap_or_default().to_owned()).collect()
    }

    fn is_good(&self) -> bool {
        let program = fs::read_to_string(self.program()).is_ok_and(|text| text == "a program");
        program && files::is_executable(&self.program()).unwrap()
    }

    fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(folder)).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = entries.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// Waits until it is so; gives how long that took.
async fn until(what: &str, so: impl Fn() -> bool) -> Duration {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < SOON, "{what}");
        sleep(Duration::from_millis(5)).await;
    }
    start.elapsed()
}

#[test]
fn a_pass_installs_and_the_next_one_has_nothing_to_do() {
    let node = Node::with_network();
    let path = node.path("net.d").join(LIST);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(node.installer.install().unwrap(), Standing::Chained(LIST.to_owned()));
    assert_eq!(node.plugins(LIST), ["bridge", PROGRAM]);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o640, "the mode is kept");
    assert_eq!(fs::metadata(node.program()).unwrap().permissions().mode() & 0o7777, 0o755);
    assert!(node.is_good());
    let stamps = || [&path, &node.program()].map(|path| fs::metadata(path).unwrap().ino());
    let before = stamps();
    for _ in 0..3 {
        node.installer.install().unwrap();
    }
    // Another agent, which has the same program, finds nothing to do either.
    Node::installer(node.directory.path(), None).install().unwrap();
    assert_eq!((stamps(), node.installer.repairs()), (before, 0));
    assert_eq!(node.names("bin"), [PROGRAM]);
    assert_eq!(node.names("net.d"), [LIST], "nothing half written is left");
}

#[test]
fn a_new_release_replaces_the_program_and_that_is_no_repair() {
    let node = Node::with_network();
    node.installer.install().unwrap();
    for wrong in ["b program", "a longer program", ""] {
        fs::write(node.program(), wrong).unwrap();
        let next = Node::installer(node.directory.path(), None);
        next.install().unwrap();
        assert!(node.is_good(), "{wrong}");
        assert_eq!(next.repairs(), 0);
    }
    fs::set_permissions(node.program(), fs::Permissions::from_mode(0o644)).unwrap();
    node.installer.install().unwrap();
    assert!(node.is_good());
    assert_eq!(node.installer.repairs(), 1);
}

#[test]
fn the_own_program_is_what_runs_now() {
    let directory = tempfile::tempdir().unwrap();
    let Installer { settings, .. } = Node::installer(directory.path(), None);
    let installer = Installer::new((*settings).clone());
    assert!(matches!(installer.install().unwrap(), Standing::Waiting(_)));
    let own = std::env::current_exe().unwrap();
    assert!(files::same(&own, &settings.programs.join(PROGRAM)).unwrap());
}

#[test]
fn without_a_network_it_waits() {
    let node = Node::new();
    let Standing::Waiting(reason) = node.installer.install().unwrap() else { panic!("there is no network") };
    assert!(reason.contains("net.d: there is no network yet"), "{reason}");
    assert!(node.is_good(), "the program is there before");
    node.put("10-net.conf", "{\"cniVersion\":\"0.3.1\",\"name\":\"n\",\"type\":\"bridge\"}");
    assert_eq!(node.installer.install().unwrap(), Standing::Chained("10-net-mesh-agent.conflist".to_owned()));
    assert_eq!(node.plugins("10-net-mesh-agent.conflist"), ["bridge", PROGRAM]);
    assert_eq!(node.installer.repairs(), 0);
    fs::remove_file(node.path("net.d/10-net.conf")).unwrap();
    assert!(matches!(node.installer.install().unwrap(), Standing::Waiting(_)));
    assert_eq!(node.names("net.d"), [""; 0], "the list has gone with its source");
}

#[test]
fn a_link_is_followed() {
    let node = Node::with_network();
    fs::create_dir(node.path("elsewhere")).unwrap();
    fs::rename(node.path("net.d").join(LIST), node.path("elsewhere/net")).unwrap();
    symlink("../elsewhere/net", node.path("net.d").join(LIST)).unwrap();
    node.installer.install().unwrap();
    assert!(fs::symlink_metadata(node.path("net.d").join(LIST)).unwrap().is_symlink());
    assert_eq!(node.plugins(LIST), ["bridge", PROGRAM]);
    assert_eq!(node.names("elsewhere"), ["net"]);
}

#[test]
fn what_cannot_be_done_is_said() {
    let node = Node::with_network();
    fs::write(node.path("bin"), "no folder").unwrap();
    let error = node.installer.install().unwrap_err().to_string();
    assert!(error.starts_with("cannot make the folder") && error.contains("/bin"), "{error}");
    fs::remove_file(node.path("bin")).unwrap();
    fs::create_dir_all(node.program().join("x")).unwrap();
    let error = node.installer.install().unwrap_err().to_string();
    assert!(error.starts_with("cannot write the CNI plugin's program"), "{error}");
    assert_eq!(node.plugins(LIST), ["bridge"], "no network has a plugin without a program");
}

#[test]
fn leftovers_of_killed_agents_are_removed() {
    let node = Node::with_network();
    let (old, new) = (format!("{}0123", files::FRESH), format!("{}4567", files::FRESH));
    for name in [&old, &new] {
        fs::write(node.path("net.d").join(name), "half").unwrap();
    }
    let hour_ago = std::time::SystemTime::now() - Duration::from_secs(3600);
    fs::File::open(node.path("net.d").join(&old)).unwrap().set_modified(hour_ago).unwrap();
    node.installer.install().unwrap();
    assert_eq!(node.names("net.d"), [new.as_str(), LIST], "another agent may be writing the new one");
}

#[test]
fn removing_leaves_what_was_there() {
    let node = Node::with_network();
    let single = "{\"cniVersion\":\"0.3.1\",\"name\":\"n\",\"type\":\"a\"}";
    node.put("05-old.conf", single);
    let written = node.network(LIST);
    node.installer.install().unwrap();
    // As it is when a file that sorts before has come later.
    Node::installer(node.directory.path(), Some(LIST)).install().unwrap();
    node.put("90-broken.conflist", "{");
    assert_eq!(node.names("net.d"), ["05-old-mesh-agent.conflist", "05-old.conf", LIST, "90-broken.conflist"]);
    node.installer.remove().unwrap();
    assert_eq!(node.names("net.d"), ["05-old.conf", LIST, "90-broken.conflist"]);
    assert_eq!((node.network("05-old.conf").as_str(), node.network(LIST)), (single, written));
    assert_eq!(node.names("bin"), [""; 0]);
    node.installer.remove().unwrap();
    fs::remove_dir_all(node.path("net.d")).unwrap();
    node.installer.remove().unwrap();
}

#[test]
fn the_program_stays_as_long_as_a_network_has_the_plugin() {
    let node = Node::with_network();
    node.installer.install().unwrap();
    // A folder in the place of the file that is written first; a list behind a link into a folder that is none.
    fs::rename(node.path("net.d"), node.path("hidden")).unwrap();
    fs::write(node.path("net.d"), "no folder").unwrap();
    assert!(node.installer.remove().is_err());
    assert!(node.is_good());
}

/// What others do to a node, and what must be true again soon.
type Harm = (&'static str, fn(&Node), fn(&Node) -> bool);

const CHAINED: fn(&Node) -> bool = |node| node.plugins(LIST) == ["bridge", PROGRAM] && node.is_good();

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_undo_is_repaired_within_a_second() {
    let harms: [Harm; 8] = [
        ("the network is written anew", |node| node.put(LIST, &list("bridge")), CHAINED),
        ("in place", |node| fs::write(node.path("net.d").join(LIST), list("bridge")).unwrap(), CHAINED),
        (
            "with another plugin",
            |node| node.put(LIST, &list("cilium")),
            |node| node.plugins(LIST) == ["cilium", PROGRAM],
        ),
        (
            "the network is removed and comes back",
            |node| {
                fs::remove_file(node.path("net.d").join(LIST)).unwrap();
                node.put(LIST, &list("bridge"));
            },
            CHAINED,
        ),
        (
            "a file that sorts before appears",
            |node| node.put("05-a.conflist", &list("a")),
            |node| node.plugins("05-a.conflist") == ["a", PROGRAM] && node.plugins(LIST) == ["bridge", PROGRAM],
        ),
        ("the program is removed", |node| fs::remove_file(node.program()).unwrap(), CHAINED),
        ("the program is replaced", |node| fs::write(node.program(), "another").unwrap(), CHAINED),
        (
            "the program cannot be executed",
            |node| fs::set_permissions(node.program(), fs::Permissions::from_mode(0o600)).unwrap(),
            CHAINED,
        ),
    ];
    for (what, harm, good) in harms {
        let (node, tasks) = (Node::with_network(), Tasks::new());
        let mut standing = node.installer.keep(&tasks);
        standing.wait_for(|standing| *standing == Standing::Chained(LIST.to_owned())).await.unwrap();
        assert!(CHAINED(&node), "{what}");
        harm(&node);
        let took = until(what, || good(&node)).await;
        assert!(took < REPAIR, "{what}: {took:?}");
        until("it is counted", || node.installer.repairs() == 1).await;
        tasks.stop();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_follows_folders_that_come_and_go() {
    let (node, tasks) = (Node::new(), Tasks::new());
    let standing = node.installer.keep(&tasks);
    until("it waits", || matches!(&*standing.borrow(), Standing::Waiting(reason) if reason.contains("no network yet")))
        .await;
    node.put(LIST, &list("bridge"));
    until("the network comes", || CHAINED(&node)).await;
    for folder in ["net.d", "bin"] {
        fs::remove_dir_all(node.path(folder)).unwrap();
        until("the folder is made again", || node.path(folder).is_dir()).await;
        node.put(LIST, &list("bridge"));
        until("all is in order again", || CHAINED(&node)).await;
    }
    let good = |standing: &Standing| *standing == Standing::Chained(LIST.to_owned());
    until("it says so", || good(&standing.borrow())).await;
    // A folder that is another one than it was is watched as well.
    sleep(UNWATCHED_POLL + SETTLE * 4).await;
    node.put(LIST, &list("bridge"));
    assert!(until("the network is written anew", || CHAINED(&node)).await < REPAIR);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_removed_at_a_stop() {
    let (node, tasks) = (Node::with_network(), Tasks::new());
    node.installer.keep(&tasks);
    until("it is installed", || CHAINED(&node)).await;
    tasks.drain(SOON).await;
    sleep(SETTLE * 4).await;
    assert!(CHAINED(&node));
    node.put(LIST, &list("bridge"));
    sleep(SETTLE * 4).await;
    assert_eq!(node.plugins(LIST), ["bridge"], "and nothing is repaired");
}

#[test]
fn two_installers_and_a_busy_network_agent_lose_nothing() {
    let node = Node::with_network();
    let others = [None, Some(LIST)].map(|network| Node::installer(node.directory.path(), network));
    let over = Arc::new(AtomicBool::new(false));
    let busy = others.clone().map(|installer| {
        let over = Arc::clone(&over);
        let pass = move || {
            while !over.load(Ordering::Relaxed) {
                // It may be told that the file is changed all the time.
                installer.install().ok();
            }
        };
        thread::spawn("installer", pass).unwrap()
    });
    for round in 0..300 {
        node.put(LIST, &list(&format!("round-{round}")));
        std::thread::sleep(Duration::from_micros(fastrand::u64(0..2000)));
    }
    let start = Instant::now();
    while node.plugins(LIST) != ["round-299", PROGRAM] {
        assert!(start.elapsed() < SOON, "{}", node.network(LIST));
        std::thread::sleep(Duration::from_millis(5));
    }
    over.store(true, Ordering::Relaxed);
    for thread in busy {
        thread.join().unwrap();
    }
    assert!(node.is_good());
    assert_eq!((node.names("bin"), node.names("net.d")), (vec![PROGRAM.to_owned()], vec![LIST.to_owned()]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fight_is_slow_and_ends_well() {
    let (node, tasks, stop) = (Node::with_network(), Tasks::new(), Tasks::new());
    // Two meshes that both want to be known to the plugin as theirs.
    let mut settings = (*node.installer.settings).clone();
    settings.socket = "/run/other/cni.sock".into();
    let other = Installer::of(settings, node.path("own"));
    node.installer.keep(&tasks);
    other.keep(&stop);
    until("they fight", || node.installer.repairs() > 1 && other.repairs() > 1).await;
    sleep(Duration::from_secs(2)).await;
    assert!(node.installer.repairs() < 9, "{} repairs", node.installer.repairs());
    stop.drain(SOON).await;
    until("the one that stays wins", || node.network(LIST).contains("/run/mesh-agent/cni.sock")).await;
    assert_eq!(node.plugins(LIST), ["bridge", PROGRAM]);
}
