//! Passes over process trees of paper; and one over a real namespace, where the test may make one.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{Look, Places, Sought, look, pass};
use crate::sys::netns::Netns;

/// A `/proc` whose namespaces are plain files, and a folder of handles.
struct Paper {
    root: TempDir,
}

impl Paper {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        for folder in ["proc", "netns", "kernel"] {
            fs::create_dir(root.path().join(folder)).unwrap();
        }
        fs::write(root.path().join("proc/uptime"), "1 1").unwrap();
        Self { root }
    }

    fn places(&self) -> Places {
        Places { proc: self.root.path().join("proc"), netns: self.root.path().join("netns") }
    }

    /// A namespace, made when it is first named.
    fn namespace(&self, name: &str) -> PathBuf {
        let path = self.root.path().join("kernel").join(name);
        if !path.exists() {
            fs::write(&path, "").unwrap();
        }
        path
    }

    fn process(&self, pid: u32, cgroup: &str, started: u64, namespace: &Path) {
        let process = self.root.path().join(format!("proc/{pid}"));
        fs::create_dir_all(process.join("ns")).unwrap();
        fs::write(process.join("cgroup"), cgroup).unwrap();
        let rest = "0 ".repeat(22 - 4);
        fs::write(process.join("stat"), format!("{pid} (a b) c) S {rest}{started} 0 0\n")).unwrap();
        symlink(namespace, process.join("ns/net")).unwrap();
    }
}

fn sought(uid: &str, address: &str) -> Sought {
    Sought { uid: uid.into(), addresses: vec![address.parse().unwrap()] }
}

fn of(uid: &str) -> String {
    format!("0::/kubepods/burstable/pod{uid}/x\n")
}

#[test]
fn the_oldest_process_of_each_namespace_stands_for_it() {
    let paper = Paper::new();
    let (a, b) = (paper.namespace("a"), paper.namespace("b"));
    paper.process(20, &of("u1"), 300, &a);
    paper.process(21, &of("u1"), 100, &a);
    paper.process(22, &of("u1"), 200, &b);
    paper.process(23, &of("u2"), 50, &b);
    paper.process(24, &of("another"), 10, &a);
    paper.process(25, "0::/system.slice/x.service\n", 1, &a);
    paper.process(26, &of("u1"), 5, Path::new("/proc/thread-self/ns/net"));
    paper.process(27, &of("u1"), 5, Path::new("/nowhere"));
    let wanted = Look { pods: vec![sought("u1", "10.0.0.1"), sought("u2", "10.0.0.2")], deserted: Vec::new() };
    let seen = pass(&paper.places(), &wanted).unwrap();
    let pids = |uid: &str| seen.pods[uid].iter().map(|candidate| candidate.pid).collect::<Vec<_>>();
    assert_eq!((pids("u1"), pids("u2")), (vec![21, 22], vec![23]));
    assert_eq!(seen.pods.len(), 2);
}

#[test]
fn what_is_not_there_is_said() {
    let paper = Paper::new();
    paper.process(20, &of("u1"), 1, &paper.namespace("a"));
    let wanted = Look { pods: vec![sought("u1", "10.0.0.1"), sought("u2", "10.0.0.2")], deserted: Vec::new() };
    let told = |places: &Places| {
        look(places, &wanted).pods.into_iter().map(|(_, result)| result.unwrap_err()).collect::<Vec<_>>()
    };
    let [first, second] = &told(&paper.places())[..] else { panic!("one for each") };
    assert!(first.starts_with("the namespace of process 20 cannot be entered"), "{first}");
    assert!(second.starts_with("no process of the pod is among those in "), "{second}");
    let nowhere = Places { proc: "/nowhere".into(), netns: "/nowhere".into() };
    assert!(told(&nowhere).iter().all(|error| error.contains("/nowhere cannot be listed")));
}

#[test]
fn a_namespace_is_deserted_when_no_process_is_in_it() {
    let paper = Paper::new();
    let (a, b) = (paper.namespace("a"), paper.namespace("b"));
    paper.process(20, "0::/user.slice\n", 1, &a);
    let netns = |path: &Path| Netns::open(path).unwrap();
    let deserted = vec![("u1".into(), netns(&a)), ("u2".into(), netns(&b))];
    let found = look(&paper.places(), &Look { pods: Vec::new(), deserted: deserted.clone() });
    assert_eq!(found.deserted, ["u2".into()], "the process need not be known as the pod's");
    let nowhere = Places { proc: "/nowhere".into(), netns: "/nowhere".into() };
    assert!(look(&nowhere, &Look { pods: Vec::new(), deserted }).deserted.is_empty(), "nothing is known then");
}

/// A full node: 250 pods of 8 processes each, and the node's own.
#[test]
fn one_pass_serves_a_full_node() {
    let paper = Paper::new();
    let (mut pods, mut deserted) = (Vec::new(), Vec::new());
    for pod in 0..250 {
        let (uid, namespace) = (format!("u{pod}"), paper.namespace(&format!("n{pod}")));
        (0..8).for_each(|process| paper.process(1000 + pod * 8 + process, &of(&uid), 7, &namespace));
        pods.push(sought(&uid, "10.0.0.1"));
        deserted.push((Arc::from(uid), Netns::open(&namespace).unwrap()));
    }
    let began = Instant::now();
    let seen = pass(&paper.places(), &Look { pods, deserted }).unwrap();
    assert_eq!((seen.pods.len(), seen.alive.len()), (250, 250));
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

/// A process in a namespace of its own, which has an address.
struct Sandbox(Child);

impl Sandbox {
    fn start(address: &str) -> Self {
        let script = format!(
            "ip link add other0 type veth peer name pod0 && ip addr add {address}/32 dev pod0 && \
             echo ready && exec sleep 60"
        );
        let mut unshare = Command::new("unshare");
        unshare.args(["--net", "sh", "-c", &script]).stdout(Stdio::piped());
        let mut child = unshare.spawn().unwrap();
        let mut ready = [0; 5];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
        Self(child)
    }

    fn namespace(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.0.id()).into()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Needs root, as the agent does; without it there is nothing to see.
#[test]
fn a_namespace_is_proven_by_an_address_in_it() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let (right, wrong) = (Sandbox::start("10.99.0.1"), Sandbox::start("10.99.0.2"));
    let paper = Paper::new();
    paper.process(20, &of("u1"), 1, &wrong.namespace());
    paper.process(21, &of("u1"), 2, &right.namespace());
    let find = |address: &str| {
        let wanted = Look { pods: vec![sought("u1", address)], deserted: Vec::new() };
        look(&paper.places(), &wanted).pods.remove(0).1
    };
    let place = find("10.99.0.1").unwrap();
    assert_eq!(place.netns, Netns::open(&right.namespace()).unwrap(), "the older process is in another one");
    assert_eq!((place.path, &*place.interface), (paper.places().proc.join("21/ns/net"), "pod0"));
    let error = find("10.99.0.3").unwrap_err();
    let address: IpAddr = "10.99.0.3".parse().unwrap();
    assert!(error.contains(&format!("process 21 has none of the pod's addresses [{address}]")), "{error}");
    symlink(right.namespace(), paper.places().netns.join("kept")).unwrap();
    symlink(wrong.namespace(), paper.places().netns.join("other")).unwrap();
    assert_eq!(find("10.99.0.1").unwrap().path, paper.places().netns.join("kept"), "what outlives processes");
}
