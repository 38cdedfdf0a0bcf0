//! The client against a CNI agent of a few lines, on a real socket, with a driver that only says how pods fare.

use std::fs::File;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use prost::Message;
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType,
};
use tempfile::TempDir;
use tokio::sync::watch;

use super::wire::{Info, PACKET, Request, packet};
use super::{ANSWER, Backoff, Client, Pods, RECONNECT, RECONNECT_CAP};
use crate::admin::ready::Ready;
use crate::model::pod::{PodState, PodStatus};
use crate::proto::zds::{WorkloadResponse, workload_response};
use crate::task::Tasks;

const PATIENCE: Duration = Duration::from_secs(10);

/// A CNI agent, the client, and all they need.
struct Scene {
    listener: OwnedFd,
    directory: TempDir,
    pods: Pods,
    ready: Ready,
    _tasks: Tasks,
}

/// The client's connection.
struct Peer(OwnedFd);

impl Scene {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("zds.sock");
        let flags = SocketFlags::CLOEXEC;
        let listener = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        rustix::net::bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        rustix::net::listen(&listener, 4).unwrap();
        set_socket_timeout(&listener, Timeout::Recv, Some(PATIENCE)).unwrap();
        let (statuses, reader) = watch::channel(Vec::new());
        let (tasks, ready) = (Tasks::new(), Ready::new());
        let (client, pods) = Client::new(&path, reader, &ready, ready.gate("pods"));
        tasks.spawn(client.run());
        tasks.spawn(judge(pods.clone(), statuses));
        Self { listener, directory, pods, ready, _tasks: tasks }
    }

    /// The next connection, after its hello.
    fn accept(&self) -> Peer {
        let peer = Peer(rustix::net::accept(&self.listener).expect("the client connects"));
        set_socket_timeout(&peer.0, Timeout::Recv, Some(PATIENCE)).unwrap();
        assert_eq!(peer.receive().as_deref(), Some(&b"\x08\x01"[..]), "hello");
        peer
    }

    fn namespace(&self, name: &str) -> File {
        File::create(self.directory.path().join(name)).unwrap()
    }

    fn add(&self, peer: &Peer, name: &str) -> Option<Result<(), String>> {
        peer.ask(add(name), &[self.namespace(name).as_fd()])
    }

    fn wanted(&self) -> Vec<String> {
        self.pods.borrow().iter().map(|spec| spec.uid.to_string()).collect()
    }

    /// Waits until these are what the readiness page shows.
    fn until_pending(&self, expected: &[&str]) {
        let deadline = Instant::now() + PATIENCE;
        while self.ready.pending() != expected {
            assert!(Instant::now() < deadline, "{:?} instead of {expected:?}", self.ready.pending());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Peer {
    fn receive(&self) -> Option<Vec<u8>> {
        let mut buffer = [0; PACKET + 1];
        match rustix::net::recv(&self.0, &mut buffer[..], RecvFlags::empty()) {
            Ok((0, _)) | Err(Errno::CONNRESET) => None,
            Ok((length, _)) => Some(buffer[..length].to_vec()),
            Err(error) => panic!("no answer: {error}"),
        }
    }

    fn send(&self, bytes: &[u8], rights: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(rights.is_empty() || control.push(SendAncillaryMessage::ScmRights(rights)));
        // One that has ended the connection does not read any more.
        rustix::net::sendmsg(&self.0, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).ok();
    }

    /// What is acknowledged; nothing, if the connection ends instead.
    fn ask(&self, request: Request, rights: &[BorrowedFd<'_>]) -> Option<Result<(), String>> {
        self.send(&packet(request), rights);
        self.answer()
    }

    fn answer(&self) -> Option<Result<(), String>> {
        let response = WorkloadResponse::decode(&*self.receive()?).expect("a response");
        let workload_response::Payload::Ack(ack) = response.payload.expect("an acknowledgement");
        Some(if ack.error.is_empty() { Ok(()) } else { Err(ack.error) })
    }

    fn is_silent(&self) -> bool {
        let mut buffer = [0; 8];
        rustix::net::recv(&self.0, &mut buffer[..], RecvFlags::DONTWAIT) == Err(Errno::AGAIN)
    }
}

/// Says of each pod what its name asks for.
async fn judge(mut pods: Pods, statuses: watch::Sender<Vec<PodStatus>>) {
    while pods.changed().await.is_ok() {
        let wanted = Arc::clone(&pods.borrow_and_update());
        let status = |spec: &Arc<_>| PodStatus { spec: Arc::clone(spec), state: PodState::Enrolled };
        let mut all: Vec<_> = wanted.iter().map(status).collect();
        all.retain(|pod| &*pod.spec.name != "slow");
        for pod in all.iter_mut().filter(|pod| &*pod.spec.name == "bad") {
            pod.state = PodState::Failed("it cannot be entered".to_owned());
        }
        statuses.send_replace(all);
    }
}

fn add(name: &str) -> Request {
    let info = Info { name: name.to_owned(), namespace: "ns".to_owned(), service_account: "sa".to_owned() };
    Request::Add { uid: name.to_owned(), info: Some(info) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_are_acknowledged_by_how_they_fare() {
    let scene = Scene::new();
    assert_eq!(scene.ready.pending(), ["pods"]);
    let peer = scene.accept();
    assert_eq!(scene.add(&peer, "good"), Some(Ok(())));
    assert_eq!(scene.add(&peer, "bad"), Some(Err("it cannot be entered".to_owned())));
    assert_eq!(scene.add(&peer, "bad"), Some(Err("it cannot be entered".to_owned())), "tried again, and told again");
    let asked = Instant::now();
    let late = scene.add(&peer, "slow").unwrap().unwrap_err();
    assert!(late.contains("not served within") && asked.elapsed() >= ANSWER, "{late}");
    assert_eq!(peer.ask(Request::SnapshotSent, &[]), Some(Ok(())));
    assert_eq!(scene.wanted(), ["bad", "good", "slow"]);
    assert!(!scene.ready.pending().is_empty(), "not all pods are served");
    for name in ["bad", "slow"] {
        assert_eq!(peer.ask(Request::Del { uid: name.to_owned() }, &[]), Some(Ok(())));
    }
    scene.until_pending(&[]);
    assert_eq!(scene.wanted(), ["good"]);
    assert!(peer.is_silent(), "nothing is sent unasked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_outlive_connections() {
    let scene = Scene::new();
    let peer = scene.accept();
    for name in ["a", "b", "c"] {
        assert_eq!(scene.add(&peer, name), Some(Ok(())));
    }
    assert_eq!(peer.ask(Request::SnapshotSent, &[]), Some(Ok(())));
    scene.until_pending(&[]);
    let ended = Instant::now();
    drop(peer);
    scene.until_pending(&["CNI agent"]);
    let peer = scene.accept();
    assert!(ended.elapsed() < Duration::from_secs(1), "after a good connection the next comes soon");
    assert_eq!(scene.wanted(), ["a", "b", "c"]);
    assert_eq!(scene.add(&peer, "a"), Some(Ok(())));
    assert_eq!(peer.ask(Request::Keep { uid: "b".to_owned() }, &[]), Some(Ok(())));
    assert_eq!(peer.ask(Request::SnapshotSent, &[]), Some(Ok(())));
    scene.until_pending(&[]);
    assert_eq!(scene.wanted(), ["a", "b"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_breaks_the_protocol_ends_the_connection() {
    let scene = Scene::new();
    let file = scene.namespace("x");
    let wrong: [(&[u8], usize); 5] = [
        (b"garbage", 0),
        (&packet(add("x")), 0),
        (&packet(add("x")), 2),
        (&packet(Request::Keep { uid: "x".to_owned() }), 0),
        (&[0; PACKET + 1], 0),
    ];
    for (bytes, rights) in wrong {
        let peer = scene.accept();
        assert_eq!(scene.add(&peer, "a"), Some(Ok(())));
        assert_eq!(peer.ask(Request::SnapshotSent, &[]), Some(Ok(())));
        peer.send(bytes, &[file.as_fd(); 2][..rights]);
        assert_eq!(peer.answer(), None, "{bytes:?}");
        assert_eq!(scene.wanted(), ["a"]);
    }
}

/// Trap 10: whatever comes, each packet gets one acknowledgement or the end, and nothing is ever sent beside that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_10_nothing_but_acknowledgements() {
    let scene = Scene::new();
    let name = || (0u8..4).prop_map(|number| format!("p{number}"));
    let message = prop_oneof![
        4 => (name(), 0usize..3).prop_map(|(name, rights)| (packet(add(&name)), rights)),
        2 => name().prop_map(|uid| (packet(Request::Keep { uid }), 0)),
        2 => name().prop_map(|uid| (packet(Request::Del { uid }), 0)),
        2 => Just((packet(Request::SnapshotSent), 0)),
        1 => (prop::collection::vec(any::<u8>(), 1..40), 0usize..2),
    ];
    let mut runner = TestRunner::new(ProptestConfig { cases: 40, ..ProptestConfig::default() });
    let file = scene.namespace("x");
    let run = runner.run(&prop::collection::vec(message, 1..12), |messages| {
        // After a connection with a whole snapshot the next one comes soon.
        assert_eq!(scene.accept().ask(Request::SnapshotSent, &[]), Some(Ok(())));
        let peer = scene.accept();
        for (bytes, rights) in &messages {
            prop_assert!(peer.is_silent());
            peer.send(bytes, &[file.as_fd(); 2][..*rights]);
            if peer.answer().is_none() {
                return Ok(());
            }
        }
        prop_assert!(peer.is_silent());
        Ok(())
    });
    run.unwrap();
}

#[test]
fn waits_double_up_to_a_limit_and_vary() {
    let mut backoff = Backoff::default();
    let mut full = RECONNECT;
    let mut waits = Vec::new();
    for _ in 0..20 {
        let wait = backoff.wait();
        assert!(wait <= full && wait >= full / 2, "{wait:?} of {full:?}");
        full = (full * 2).min(RECONNECT_CAP);
        waits.push(wait);
    }
    assert_eq!(full, RECONNECT_CAP);
    waits.drain(..12);
    waits.dedup();
    assert!(waits.len() > 1, "they are all the same: {waits:?}");
}
