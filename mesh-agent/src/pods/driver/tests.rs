//! The driver with a kernel of paper and a real shard.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::{Driver, Ended, OnShutdown, PodState, PodStatus, Retry, Settings};
use crate::bpf::object::Origin;
use crate::dns;
use crate::identity::ca::{CaError, Certify};
use crate::identity::{Certs, Credentials};
use crate::model::policy::{Action, Enforcement, Policy, PolicyName, Rule, Scope};
use crate::model::world::Place;
use crate::model::{Captured, Identity, PodNetns, PodSpec, Programs, Workload, World};
use crate::pods::capture::{Capture, CaptureError, Enrolled};
use crate::proxy::record::Books;
use crate::proxy::shard::{Deps, Habits, PodListeners, Shards, Threads};
use crate::sys::cores::Homes;
use crate::sys::netns::Netns;
use crate::task::Tasks;
use crate::telemetry::dns::Names;
use crate::telemetry::lookups::Lookups;
use crate::telemetry::metrics::Metrics;

mod leaving;
mod together;

/// The listeners that were once opened for a pod.
#[derive(Clone, Copy, Debug)]
struct Doors {
    plaintext: SocketAddr,
    hbone: SocketAddr,
}

/// A kernel that writes down what is asked of it, and fails as often as it is told.
#[derive(Debug, Default)]
struct Paper {
    calls: Mutex<Vec<(Instant, String)>>,
    /// Calls that fail, and how often.
    faults: Mutex<HashMap<&'static str, usize>>,
    /// Every set that was opened, old ones too.
    doors: Mutex<HashMap<Arc<str>, Vec<Doors>>>,
    left: Mutex<HashSet<Arc<str>>>,
    /// How long an enrolment takes.
    slow: Duration,
    /// Enrolments that are going on, and the most there ever were.
    busy: (AtomicUsize, AtomicUsize),
}

impl Paper {
    fn failing(faults: &[(&'static str, usize)]) -> Self {
        Self { faults: Mutex::new(faults.iter().copied().collect()), ..Self::default() }
    }

    fn with_left_behind(self, uids: &[&str]) -> Self {
        self.left.lock().unwrap().extend(uids.iter().map(|uid| Arc::from(*uid)));
        self
    }

    fn note(&self, call: &str, seen: &str) -> Result<(), CaptureError> {
        self.calls.lock().unwrap().push((Instant::now(), format!("{call}{seen}")));
        match self.faults.lock().unwrap().get_mut(call) {
            Some(left) if *left > 0 => {
                *left -= 1;
                Err(CaptureError::System { what: "paper", cause: io::Error::other("torn") })
            }
            _ => Ok(()),
        }
    }

    fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().iter().map(|(_, call)| call.clone()).collect()
    }

    fn doors(&self, uid: &str) -> Vec<Doors> {
        self.doors.lock().unwrap().get(uid).cloned().unwrap_or_default()
    }

    /// Whether connections to the pod's listeners are taken.
    fn served(&self, uid: &str) -> &'static str {
        let open = |doors: &Doors| TcpStream::connect(doors.plaintext).is_ok();
        if self.doors(uid).iter().any(open) { ", served" } else { ", not served" }
    }
}

impl Capture for Paper {
    fn enrol(&self, spec: &PodSpec, homes: &Homes) -> Result<Enrolled, CaptureError> {
        self.note(&format!("enrol {}", spec.uid), "")?;
        let busy = self.busy.0.fetch_add(1, Ordering::SeqCst) + 1;
        self.busy.1.fetch_max(busy, Ordering::SeqCst);
        std::thread::sleep(self.slow);
        self.busy.0.fetch_sub(1, Ordering::SeqCst);
        let listeners: Vec<_> = homes.iter().map(|_| listeners()).collect();
        let doors = listeners.iter().map(|set| Doors {
            plaintext: set.plaintext.local_addr().unwrap(),
            hbone: set.hbone.local_addr().unwrap(),
        });
        self.doors.lock().unwrap().entry(Arc::clone(&spec.uid)).or_default().extend(doors);
        let adopted = self.left.lock().unwrap().remove(&spec.uid);
        let origin = if adopted { Origin::Adopted } else { Origin::Fresh };
        Ok(Enrolled { netns: Netns::current().unwrap(), listeners, origin })
    }

    fn reconfigure(&self, spec: &PodSpec) -> Result<(), CaptureError> {
        let Captured::ByPrograms(programs) = &spec.captured else { panic!("nothing to reconfigure") };
        self.note(&format!("reconfigure {}", spec.uid), &format!(" {:?}", programs.probe_ports))
    }

    fn follow(&self, spec: &PodSpec) -> Result<(), CaptureError> {
        self.note(&format!("follow {}", spec.uid), "")
    }

    fn release(&self, uid: &str) -> Result<(), CaptureError> {
        self.note(&format!("release {uid}"), self.served(uid))
    }

    fn withdraw(&self, uid: &str) -> Result<(), CaptureError> {
        self.note(&format!("withdraw {uid}"), self.served(uid))
    }

    fn left_behind(&self) -> Vec<Arc<str>> {
        self.left.lock().unwrap().iter().cloned().collect()
    }

    fn counters(&self, _uid: &str) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}

fn listeners() -> PodListeners {
    let open = || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        listener
    };
    PodListeners { outbound: open(), plaintext: open(), hbone: open(), dns: None }
}

/// No pod gets a certificate: an HBONE connection waits for one, and stays open for that long.
struct Nobody;

impl Certify for Nobody {
    async fn certify(&self, _identity: &Identity) -> Result<Credentials, CaError> {
        std::future::pending().await
    }
}

/// Everything is denied: a plaintext connection ends at once.
fn world() -> World {
    let workload = |uid: &&str| Workload {
        node: "here".into(),
        ..Workload::new(uid, uid, Identity::new("cluster.local", "default", uid).unwrap())
    };
    let place = Place { node: "here".into(), ..Place::default() };
    let deny = Policy {
        name: PolicyName { namespace: "default".into(), name: "deny".into() },
        scope: Scope::Global,
        action: Action::Deny,
        enforcement: Enforcement::Enforced,
        rules: vec![Rule::default()],
    };
    World::new(place, ["a", "b", "c", "x"].iter().map(workload).collect(), Vec::new(), vec![deny])
}

fn spec(uid: &str, netns: &str, probe_ports: &[u16]) -> Arc<PodSpec> {
    let programs = Programs { interface: "eth0".into(), probe_ports: probe_ports.to_vec(), ..Programs::default() };
    captured(uid, netns, Captured::ByPrograms(programs))
}

fn captured(uid: &str, netns: &str, captured: Captured) -> Arc<PodSpec> {
    Arc::new(PodSpec {
        uid: uid.into(),
        name: uid.into(),
        namespace: "default".into(),
        service_account: uid.into(),
        netns: PodNetns::Path(netns.into()),
        captured,
    })
}

fn pod(uid: &str) -> Arc<PodSpec> {
    spec(uid, &format!("/{uid}"), &[])
}

/// A driver at work.
struct Node {
    paper: Arc<Paper>,
    desired: watch::Sender<Arc<Vec<Arc<PodSpec>>>>,
    ended: watch::Sender<Ended>,
    statuses: watch::Receiver<Vec<PodStatus>>,
    stop: CancellationToken,
    driver: JoinHandle<()>,
    threads: Threads,
}

impl Node {
    fn start(paper: Paper, on_shutdown: OnShutdown, drain: Duration, desired: &[Arc<PodSpec>]) -> Self {
        let settings =
            Settings { on_shutdown, drain, withdrawal: Some(drain), linger: Duration::ZERO, retry: Retry::default() };
        Self::start_as(settings, paper, desired)
    }

    fn start_as(settings: Settings, paper: Paper, desired: &[Arc<PodSpec>]) -> Self {
        let certs = Certs::start(Nobody, &Tasks::new());
        let worlds = watch::Sender::new(Arc::new(world())).subscribe();
        let traffic = Metrics::new("0").traffic().clone();
        let books = move |shard| Books::new(shard, traffic.table(), None);
        let dns = dns::server::Deps { settings: Arc::new(dns::Settings::default()), metrics: Names::default() };
        let deps = Deps {
            network: "".into(),
            worlds,
            certs,
            demand: None,
            dns,
            lookups: Lookups::default(),
            habits: Habits::default(),
            same_node: Arc::default(),
            direct: None,
        };
        let (shards, threads) = Shards::start(Homes::new(1, &[]), &deps, books).unwrap();
        let (paper, stop) = (Arc::new(paper), CancellationToken::new());
        let (desired, ended) = (watch::Sender::new(Arc::new(desired.to_vec())), watch::Sender::new(Ended::default()));
        let kernel: Arc<dyn Capture> = Arc::clone(&paper) as _;
        let (driver, statuses) = Driver::new(kernel, shards, settings);
        let driver = driver.with_ended(ended.subscribe());
        let driver = spawn_local(driver.run(desired.subscribe(), stop.clone()));
        Self { paper, desired, ended, statuses, stop, driver, threads }
    }

    fn want(&self, desired: &[Arc<PodSpec>]) {
        self.desired.send_replace(Arc::new(desired.to_vec()));
    }

    /// Waits for these states, of all pods there are.
    async fn until(&mut self, expected: &[&str]) {
        let shown = |pods: &Vec<PodStatus>| pods.iter().map(show).collect::<Vec<_>>();
        let arrival = self.statuses.wait_for(|pods| shown(pods) == expected);
        drop(arrival.await.expect("the driver lives"));
    }

    fn called(&self, call: &str) -> usize {
        self.paper.calls().iter().filter(|made| made.starts_with(call)).count()
    }

    async fn until_called(&self, call: &str, times: usize) {
        while self.called(call) < times {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Stops the node; gives all calls, those of the end included.
    async fn finish(self) -> Vec<String> {
        self.stop.cancel();
        self.driver.await.unwrap();
        tokio::task::spawn_blocking(move || self.threads.join()).await.unwrap();
        self.paper.calls()
    }
}

fn show(pod: &PodStatus) -> String {
    let state = match &pod.state {
        PodState::Enrolled => "enrolled",
        PodState::Adopted => "adopted",
        PodState::Outdated(_) => "outdated",
        PodState::Draining => "draining",
        PodState::Failed(_) => "failed",
    };
    format!("{} {state}", pod.spec.uid)
}

const NO_TIME: Duration = Duration::from_millis(100);

/// Runs a test by the clock of the wall.
fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let timed = async { timeout(Duration::from_secs(120), test).await.expect("the test ends") };
    LocalSet::new().block_on(&runtime, timed);
}

#[test]
fn pods_come_change_and_go() {
    run(async {
        let mut node = Node::start(Paper::default(), OnShutdown::Keep, NO_TIME, &[pod("b"), pod("a")]);
        node.until(&["a enrolled", "b enrolled"]).await;
        assert_eq!(node.paper.served("a"), ", served");
        let changed = spec("a", "/a", &[8080]);
        node.want(&[pod("b"), Arc::clone(&changed)]);
        node.statuses.wait_for(|pods| pods[0].spec == changed).await.unwrap();
        node.want(&[pod("b")]);
        node.until(&["b enrolled"]).await;
        let paper = Arc::clone(&node.paper);
        let mut calls = node.finish().await;
        calls[..2].sort();
        let expected = ["enrol a", "enrol b", "reconfigure a [8080]", "release a, served", "withdraw a, not served"];
        assert_eq!(calls, expected, "kept at the end");
        assert_eq!(paper.served("b"), ", not served", "a kept capture has no listeners");
    });
}

#[test]
fn another_pod_under_the_same_name_is_enrolled_after_the_old_one_is_gone() {
    run(async {
        let mut node = Node::start(Paper::default(), OnShutdown::Keep, NO_TIME, &[pod("a")]);
        node.until(&["a enrolled"]).await;
        node.want(&[spec("a", "/elsewhere", &[])]);
        node.until_called("enrol a", 2).await;
        node.until(&["a enrolled"]).await;
        let doors = node.paper.doors("a");
        assert!(TcpStream::connect(doors[0].plaintext).is_err(), "the old pod is not served any more");
        assert!(TcpStream::connect(doors[1].plaintext).is_ok());
        let calls = node.finish().await;
        let steps: Vec<_> = calls.iter().filter(|call| !call.starts_with("release")).collect();
        assert_eq!(steps, ["enrol a", "withdraw a, not served", "enrol a"]);
    });
}

/// How long the driver waits between tries, by the driver's own clock.
#[test]
fn failures_are_retried_with_longer_waits() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let paper = Paper::failing(&[("enrol a", 9)]);
        let mut node = Node::start(paper, OnShutdown::Keep, NO_TIME, &[pod("a")]);
        node.until(&["a failed"]).await;
        let told = node.statuses.borrow()[0].state.clone();
        assert_eq!(told, PodState::Failed("paper: torn".to_owned()));
        node.until(&["a enrolled"]).await;
        let calls = node.paper.calls.lock().unwrap().clone();
        let waits: Vec<_> = calls.windows(2).map(|pair| (pair[1].0 - pair[0].0).as_millis()).collect();
        for (nth, (wait, expected)) in
            waits.iter().zip([500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]).enumerate()
        {
            assert!((expected..expected + 20).contains(wait), "wait {nth} of {waits:?} is not {expected}");
        }
        assert_eq!(waits.len(), 9);
        node.finish().await;
    });
}

#[test]
fn a_failing_pod_holds_up_nobody() {
    run(async {
        let paper = Paper::failing(&[("enrol a", usize::MAX)]);
        let mut node = Node::start(paper, OnShutdown::Keep, NO_TIME, &[pod("a"), pod("b")]);
        node.until(&["a failed", "b enrolled"]).await;
        // The next try is four seconds away.
        node.until_called("enrol a", 4).await;
        let began = Instant::now();
        node.want(&[pod("a"), pod("b"), pod("c")]);
        node.until(&["a failed", "b enrolled", "c enrolled"]).await;
        node.finish().await;
        assert!(began.elapsed() < Duration::from_secs(3), "nor the end");
    });
}

/// What a failure left in the kernel goes with the pod, and with the agent if it withdraws at its end.
#[test]
fn what_failed_is_removed_when_it_is_not_wanted_any_more() {
    run(async {
        let cases = [
            ("failed", Paper::failing(&[("enrol a", usize::MAX)]), pod("a")),
            ("failed", Paper::failing(&[("enrol a", usize::MAX)]).with_left_behind(&["a"]), pod("a")),
            ("outdated", Paper::failing(&[("reconfigure a", usize::MAX)]), spec("a", "/a", &[8080])),
        ];
        for (case, paper, changed) in cases {
            let mut node = Node::start(paper, OnShutdown::Keep, NO_TIME, &[pod("a"), pod("b")]);
            node.statuses.wait_for(|pods| pods.len() == 2).await.unwrap();
            node.want(&[changed, pod("b")]);
            node.until(&[&format!("a {case}"), "b enrolled"]).await;
            node.want(&[pod("b")]);
            node.until(&["b enrolled"]).await;
            tokio::time::sleep(NO_TIME * 3).await;
            let calls = node.finish().await;
            assert_eq!(calls.last().map(String::as_str), Some("withdraw a, not served"), "{case}: {calls:?}");
        }
        let paper = Paper::failing(&[("enrol a", usize::MAX)]);
        let mut node = Node::start(paper, OnShutdown::Withdraw, NO_TIME, &[pod("a")]);
        node.until(&["a failed"]).await;
        let calls = node.finish().await;
        assert_eq!(calls.last().map(String::as_str), Some("withdraw a, not served"), "at the end: {calls:?}");
    });
}

#[test]
fn a_change_that_fails_is_retried_and_leaves_one_set_of_listeners() {
    run(async {
        let mut node = Node::start(Paper::failing(&[("reconfigure a", 1)]), OnShutdown::Keep, NO_TIME, &[pod("a")]);
        node.until(&["a enrolled"]).await;
        let changed = spec("a", "/a", &[8080]);
        node.want(&[Arc::clone(&changed)]);
        node.until(&["a outdated"]).await;
        assert_eq!(node.paper.served("a"), ", served", "it stays captured as it was");
        assert_eq!(node.statuses.borrow()[0].spec, pod("a"));
        node.until(&["a enrolled"]).await;
        assert_eq!(node.statuses.borrow()[0].spec, changed);
        tokio::time::sleep(NO_TIME).await;
        let open = |doors: &&Doors| TcpStream::connect(doors.plaintext).is_ok();
        assert_eq!(node.paper.doors("a").iter().filter(open).count(), 1);
        node.want(&[]);
        node.until(&[]).await;
        assert_eq!(node.finish().await.last().map(String::as_str), Some("withdraw a, not served"));
    });
}

/// Again and again, also after a failure, and only where there may be any.
#[test]
fn virtual_machines_are_looked_for() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let virtual_interfaces = vec!["br-vm".to_owned()];
        let programs = Programs { interface: "eth0".into(), virtual_interfaces, ..Programs::default() };
        let host = captured("a", "/a", Captured::ByPrograms(programs));
        let mut node = Node::start(Paper::failing(&[("follow a", 1)]), OnShutdown::Keep, NO_TIME, &[host, pod("b")]);
        node.until(&["a enrolled", "b enrolled"]).await;
        node.until_called("follow a", 3).await;
        node.want(&[pod("b")]);
        node.until(&["b enrolled"]).await;
        let before = node.paper.calls().len();
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(node.paper.calls().len(), before, "nobody is left who has any");
        assert!(node.finish().await.iter().all(|call| call != "follow b"));
    });
}

#[test]
fn what_a_former_agent_left_is_adopted_or_discarded() {
    run(async {
        let paper = Paper::default().with_left_behind(&["a", "x"]);
        let mut node = Node::start(paper, OnShutdown::Keep, NO_TIME, &[pod("a"), pod("b")]);
        node.until(&["a adopted", "b enrolled"]).await;
        let mut calls = node.finish().await;
        calls[1..].sort();
        assert_eq!(calls, ["withdraw x, not served", "enrol a", "enrol b"]);
    });
}

#[test]
fn what_cannot_be_removed_is_tried_again() {
    run(async {
        for (case, paper) in [
            ("left behind", Paper::failing(&[("withdraw x", 3)]).with_left_behind(&["x"])),
            ("withdrawn", Paper::failing(&[("withdraw x", 3)])),
        ] {
            let mut node = Node::start(paper, OnShutdown::Keep, NO_TIME, &[pod("b")]);
            node.until(&["b enrolled"]).await;
            if case == "withdrawn" {
                node.want(&[pod("x"), pod("b")]);
                node.until(&["b enrolled", "x enrolled"]).await;
                node.want(&[pod("b")]);
            }
            // 0.5, 1 and 2 seconds of waiting.
            let again = timeout(Duration::from_secs(20), node.until_called("withdraw x", 4)).await;
            assert!(again.is_ok(), "{case}: {:?}", node.paper.calls());
            tokio::time::sleep(Duration::from_millis(300)).await;
            assert_eq!(node.called("withdraw x"), 4, "{case}: and not more often");
            node.finish().await;
        }
    });
}

#[test]
fn open_connections_get_their_time_and_nobody_else_waits_for_it() {
    run(async {
        let drain = Duration::from_secs(3);
        let mut node = Node::start(Paper::default(), OnShutdown::Keep, drain, &[pod("a"), pod("b")]);
        node.until(&["a enrolled", "b enrolled"]).await;
        // Each waits for the pod's certificate, which never comes.
        let open: Vec<_> = ["a", "b"].map(|uid| TcpStream::connect(node.paper.doors(uid)[0].hbone).unwrap()).into();
        tokio::time::sleep(NO_TIME).await;
        let began = Instant::now();
        node.want(&[pod("c")]);
        node.until(&["a draining", "b draining", "c enrolled"]).await;
        assert!(began.elapsed() < drain / 2, "{:?}", began.elapsed());
        node.until(&["c enrolled"]).await;
        let took = began.elapsed();
        // A second more is what cut tasks get to end.
        assert!(took >= drain && took < drain * 2, "both at once: {took:?}");
        drop(open);
        assert_eq!(node.called("withdraw"), 2);
        node.finish().await;
    });
}

#[test]
fn the_end_keeps_or_withdraws_as_it_is_told() {
    run(async {
        for (on_shutdown, expected) in [
            (OnShutdown::Keep, &[][..]),
            (
                OnShutdown::Withdraw,
                &["release a, served", "release b, served", "withdraw a, not served", "withdraw b, not served"],
            ),
        ] {
            let mut node = Node::start(Paper::default(), on_shutdown, NO_TIME, &[pod("a"), pod("b")]);
            node.until(&["a enrolled", "b enrolled"]).await;
            let paper = Arc::clone(&node.paper);
            let mut calls = node.finish().await.split_off(2);
            calls.sort();
            assert_eq!(calls, expected, "{on_shutdown:?}");
            assert_eq!((paper.served("a"), paper.served("b")), (", not served", ", not served"), "{on_shutdown:?}");
        }
    });
}

#[test]
fn without_a_configuration_any_more_it_keeps_to_the_last_one() {
    run(async {
        let mut node = Node::start(Paper::default(), OnShutdown::Keep, NO_TIME, &[pod("a")]);
        node.until(&["a enrolled"]).await;
        node.desired = watch::Sender::new(Arc::default());
        tokio::time::sleep(NO_TIME).await;
        assert!(!node.driver.is_finished());
        assert_eq!(node.paper.served("a"), ", served");
        assert_eq!(node.finish().await, ["enrol a"]);
    });
}

/// A pod that is wanted once more gets an answer of its own, be it the same as before.
#[test]
fn who_wants_a_pod_anew_hears_of_it() {
    run(async {
        let paper = Paper::failing(&[("enrol a", usize::MAX)]);
        let mut node = Node::start(paper, OnShutdown::Keep, NO_TIME, &[pod("a"), pod("b")]);
        node.until(&["a failed", "b enrolled"]).await;
        let anew = [pod("a"), pod("b")];
        node.want(&anew);
        let told = |pods: &Vec<PodStatus>| pods.iter().zip(&anew).all(|(pod, spec)| Arc::ptr_eq(&pod.spec, spec));
        let told = timeout(Duration::from_secs(5), node.statuses.wait_for(told)).await;
        assert_eq!(told.expect("in time").unwrap().iter().map(show).collect::<Vec<_>>(), ["a failed", "b enrolled"]);
        assert_eq!(node.called("enrol b"), 1);
        node.finish().await;
    });
}
