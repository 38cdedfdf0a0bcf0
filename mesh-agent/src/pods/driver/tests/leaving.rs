//! Connections that outlive what is wanted of their pod, and for how long.

use std::io::{self, Read};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::{NO_TIME, Node, Paper, captured, pod, run, spec};
use crate::model::{Captured, PodSpec};
use crate::pods::driver::{OnShutdown, Retry, Settings};

fn redirected(uid: &str, netns: &str) -> Arc<PodSpec> {
    captured(uid, netns, Captured::ByRules)
}

/// A connection that is open for some seconds: it waits for the pod's certificate, which never comes.
fn waiting(node: &Node, uid: &str) -> TcpStream {
    let doors = node.paper.doors(uid);
    let stream = TcpStream::connect(doors.last().unwrap().hbone).unwrap();
    stream.set_nonblocking(true).unwrap();
    stream
}

fn is_open(mut stream: &TcpStream) -> bool {
    stream.read(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

#[test]
fn a_redirected_pod_that_moves_is_served_there_while_the_old_one_drains() {
    run(async {
        let drain = Duration::from_secs(3);
        let mut node = Node::start(Paper::default(), OnShutdown::Keep, drain, &[redirected("a", "/a")]);
        node.until(&["a enrolled"]).await;
        let open = waiting(&node, "a");
        tokio::time::sleep(NO_TIME).await;
        let moved = redirected("a", "/b");
        let began = Instant::now();
        node.want(&[Arc::clone(&moved)]);
        node.statuses.wait_for(|pods| pods.iter().any(|pod| pod.spec == moved)).await.unwrap();
        tokio::time::sleep(NO_TIME).await;
        assert!(began.elapsed() < drain / 2, "{:?}", began.elapsed());
        let doors = node.paper.doors("a");
        assert!(TcpStream::connect(doors[0].plaintext).is_err(), "nothing new in the old place");
        assert!(TcpStream::connect(doors[1].plaintext).is_ok());
        assert!(is_open(&open), "what is open there gets its time");
        tokio::time::sleep(drain * 2).await;
        assert!(!is_open(&open));
        node.until(&["a enrolled"]).await;
        assert!(TcpStream::connect(doors[1].plaintext).is_ok(), "the end of the old one is none of the new one's");
        assert_eq!(node.finish().await, ["enrol a", "enrol a"]);
    });
}

#[test]
fn a_redirected_pod_goes_at_once() {
    run(async {
        let drain = Duration::from_secs(5);
        let mut node = Node::start(Paper::default(), OnShutdown::Keep, drain, &[redirected("a", "/a"), pod("b")]);
        node.until(&["a enrolled", "b enrolled"]).await;
        let _open = waiting(&node, "a");
        tokio::time::sleep(NO_TIME).await;
        let began = Instant::now();
        node.want(&[pod("b")]);
        node.until(&["b enrolled"]).await;
        assert!(began.elapsed() < drain / 2, "{:?}", began.elapsed());
        assert_eq!(node.finish().await.last().map(String::as_str), Some("withdraw a, not served"));
    });
}

/// A cut connection that waits for a certificate ends when it has waited long enough.
async fn closed(stream: &TcpStream) {
    while is_open(stream) {
        tokio::time::sleep(NO_TIME).await;
    }
}

/// A node that lets connections of pods that are withdrawn go on to their own end.
fn patient(on_shutdown: OnShutdown, drain: Duration) -> Settings {
    Settings { on_shutdown, drain, withdrawal: None, linger: Duration::ZERO, retry: Retry::default() }
}

#[test]
fn what_is_withdrawn_goes_on_to_its_own_end() {
    run(async {
        let mut node = Node::start_as(patient(OnShutdown::Keep, NO_TIME), Paper::default(), &[pod("a"), pod("b")]);
        node.until(&["a enrolled", "b enrolled"]).await;
        let open = waiting(&node, "a");
        tokio::time::sleep(NO_TIME).await;
        node.want(&[pod("b")]);
        node.until(&["a draining", "b enrolled"]).await;
        tokio::time::sleep(NO_TIME * 20).await;
        assert!(is_open(&open), "twenty times what it would have got at the end");
        node.until(&["a draining", "b enrolled"]).await;
        assert_eq!(node.called("withdraw"), 0);
        drop(open);
        node.until(&["b enrolled"]).await;
        node.until_called("withdraw a", 1).await;
        node.finish().await;
    });
}

#[test]
fn peers_that_have_not_heard_of_it_are_served_for_a_while() {
    run(async {
        let linger = Duration::from_secs(2);
        let settings = Settings { linger, ..patient(OnShutdown::Keep, NO_TIME) };
        let mut node = Node::start_as(settings, Paper::default(), &[pod("a"), pod("b")]);
        node.until(&["a enrolled", "b enrolled"]).await;
        let connect = |node: &Node, life: usize| TcpStream::connect(node.paper.doors("a")[life].hbone);
        let began = Instant::now();
        node.want(&[pod("b")]);
        node.until(&["a draining", "b enrolled"]).await;
        connect(&node, 0).expect("it is still served");
        node.want(&[pod("a"), pod("b")]);
        node.until(&["a enrolled", "b enrolled"]).await;
        tokio::time::sleep_until(began + linger + NO_TIME * 5).await;
        assert!(connect(&node, 0).is_err(), "it has lingered");
        connect(&node, 1).expect("the end of its former life is none of the pod's");
        node.finish().await;
    });
}

#[test]
fn the_agents_end_bounds_what_is_open() {
    run(async {
        for on_shutdown in [OnShutdown::Keep, OnShutdown::Withdraw] {
            let drain = Duration::from_secs(1);
            let mut node = Node::start_as(patient(on_shutdown, drain), Paper::default(), &[pod("a"), pod("b")]);
            node.until(&["a enrolled", "b enrolled"]).await;
            let open = [waiting(&node, "a"), waiting(&node, "b")];
            tokio::time::sleep(NO_TIME).await;
            node.want(&[pod("b")]);
            node.until(&["a draining", "b enrolled"]).await;
            let began = Instant::now();
            let calls = node.finish().await;
            let took = began.elapsed();
            assert!(took >= drain && took < drain * 3, "{on_shutdown:?}: {took:?}");
            assert!(open.iter().all(|stream| !is_open(stream)), "{on_shutdown:?}");
            assert!(calls.iter().any(|call| call.starts_with("withdraw a")), "{on_shutdown:?}: no trace of it stays");
        }
    });
}

#[test]
fn a_pod_that_has_ended_is_not_waited_for() {
    run(async {
        let settings = patient(OnShutdown::Keep, NO_TIME);
        let mut node = Node::start_as(settings, Paper::default(), &[pod("a"), pod("b"), pod("c")]);
        node.until(&["a enrolled", "b enrolled", "c enrolled"]).await;
        let open = [waiting(&node, "a"), waiting(&node, "b")];
        tokio::time::sleep(NO_TIME).await;
        node.want(&[pod("a"), pod("c")]);
        node.until(&["a enrolled", "b draining", "c enrolled"]).await;
        node.ended.send_replace(Arc::new(["a".into(), "b".into()].into()));
        node.until(&["a enrolled", "c enrolled"]).await;
        assert!(is_open(&open[0]), "as long as it is wanted");
        node.want(&[pod("c")]);
        let began = Instant::now();
        node.until(&["c enrolled"]).await;
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        futures_util::future::join_all(open.iter().map(closed)).await;
        let calls = node.finish().await;
        assert!(!calls.iter().any(|call| call.starts_with("release a")), "it never drained: {calls:?}");
    });
}

#[test]
fn a_pod_that_is_wanted_again_is_taken_up_beside_what_is_open() {
    run(async {
        let mut node = Node::start_as(patient(OnShutdown::Keep, NO_TIME), Paper::default(), &[pod("a")]);
        node.until(&["a enrolled"]).await;
        let open = waiting(&node, "a");
        tokio::time::sleep(NO_TIME).await;
        node.want(&[]);
        node.until(&["a draining"]).await;
        node.want(&[pod("a")]);
        node.until(&["a enrolled"]).await;
        assert!(is_open(&open));
        assert!(TcpStream::connect(node.paper.doors("a")[1].plaintext).is_ok());
        drop(open);
        tokio::time::sleep(NO_TIME * 3).await;
        node.until(&["a enrolled"]).await;
        assert_eq!(node.called("withdraw"), 0, "the end of the old ones is none of the new ones'");
        let open = waiting(&node, "a");
        node.want(&[]);
        node.until(&["a draining"]).await;
        drop(open);
        node.until(&[]).await;
        assert_eq!(node.called("withdraw a"), 1);
        node.finish().await;
    });
}

#[test]
fn a_pod_that_comes_back_elsewhere_does_not_wait_for_what_is_open() {
    run(async {
        let mut node = Node::start_as(patient(OnShutdown::Keep, NO_TIME), Paper::default(), &[pod("a")]);
        node.until(&["a enrolled"]).await;
        let open = waiting(&node, "a");
        tokio::time::sleep(NO_TIME).await;
        node.want(&[]);
        node.until(&["a draining"]).await;
        node.want(&[spec("a", "/elsewhere", &[])]);
        timeout(Duration::from_secs(2), node.until(&["a enrolled"])).await.expect("in time");
        closed(&open).await;
        let steps = node.finish().await;
        assert_eq!(steps, ["enrol a", "release a, served", "withdraw a, not served", "enrol a"]);
    });
}

/// Taking it up again fails; what was open goes on, also when it is not wanted after all.
#[test]
fn a_pod_that_cannot_be_taken_up_again_goes_on_leaving() {
    run(async {
        let mut node = Node::start_as(patient(OnShutdown::Keep, NO_TIME), Paper::default(), &[pod("a")]);
        node.until(&["a enrolled"]).await;
        let open = waiting(&node, "a");
        tokio::time::sleep(NO_TIME).await;
        node.want(&[]);
        node.until(&["a draining"]).await;
        node.paper.faults.lock().unwrap().insert("enrol a", usize::MAX);
        node.want(&[pod("a")]);
        node.until(&["a failed"]).await;
        node.want(&[]);
        node.until(&["a draining"]).await;
        assert!(is_open(&open));
        assert_eq!(node.called("withdraw"), 0);
        drop(open);
        node.until(&[]).await;
        node.until_called("withdraw a", 1).await;
        node.finish().await;
    });
}
