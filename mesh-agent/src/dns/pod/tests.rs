//! A pod that knows a directory of paper.

use std::io;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use tokio::sync::watch;

use super::{MOST_OUTSTANDING, Pod, Step};
use crate::dns::forward::Outlet;
use crate::dns::lookup::PodName;
use crate::dns::lookup::tests::{Paper, entry, realm};
use crate::dns::query::Transport;
use crate::dns::query::tests::message;
use crate::dns::server::{Deps, Shard};
use crate::dns::{Ipv6, Settings, Upstream};
use crate::telemetry::dns::Names;
use crate::telemetry::metrics::Metrics;

/// Nobody can be asked; who was to be is written down.
#[derive(Clone, Default)]
struct Wall(Arc<Mutex<Vec<SocketAddr>>>);

impl Outlet for Wall {
    fn datagrams(&self, server: SocketAddr) -> io::Result<UdpSocket> {
        self.0.lock().unwrap().push(server);
        Err(io::ErrorKind::ConnectionRefused.into())
    }

    fn stream(&self, server: SocketAddr) -> io::Result<TcpStream> {
        self.0.lock().unwrap().push(server);
        Err(io::ErrorKind::ConnectionRefused.into())
    }
}

fn directory() -> Paper {
    Paper(vec![entry("shop", "web.shop.svc.cluster.local", &["10.0.0.1"])])
}

/// A pod, and the page of its metrics.
pub(in crate::dns) fn pod(
    name: &str,
    outlet: Box<dyn Outlet>,
    settings: Settings,
) -> (Pod<Paper>, watch::Sender<Arc<Paper>>, impl Fn() -> String) {
    let metrics = Names::default();
    let shard = Rc::new(Shard::new(&Deps { settings: Arc::new(settings), metrics: metrics.clone() }));
    let (sender, worlds) = watch::channel(Arc::new(directory()));
    let page = move || {
        let page = Metrics::new("0");
        page.register(Box::new(metrics.clone()));
        page.page(None).body
    };
    let name = PodName { namespace: "shop".to_owned(), name: name.to_owned(), service_account: String::new() };
    (Pod::new(shard, name, worlds, outlet), sender, page)
}

pub(in crate::dns) fn settings(upstream: Upstream) -> Settings {
    Settings { realm: realm(), upstream, resolv_conf: "/nonexistent".into(), ipv6: Ipv6::On }
}

pub(in crate::dns) fn asked(name: &str, kind: RecordType) -> Vec<u8> {
    message(name, kind).to_vec().unwrap()
}

fn server() -> SocketAddr {
    "10.96.0.10:53".parse().unwrap()
}

fn code(answer: &[u8]) -> ResponseCode {
    Message::from_vec(answer).unwrap().metadata.response_code
}

#[test]
fn whose_messages_are_taken() {
    let cases = [
        ("10.96.0.10:53", true),
        ("[fd00::1]:53", true),
        ("127.0.0.1:15053", true),
        ("[::1]:15053", true),
        ("10.0.0.1:15053", false),
        ("[fd00::1]:15053", false),
        ("10.0.0.1:80", false),
    ];
    for (to, taken) in cases {
        assert_eq!(Pod::<Paper>::serves(to.parse().unwrap()), taken, "{to}");
    }
}

#[tokio::test]
async fn what_the_mesh_knows_is_answered_at_once() {
    let (pod, _worlds, page) = pod("client", Box::new(Wall::default()), settings(Upstream::Original));
    for transport in [Transport::Udp, Transport::Udp, Transport::Tcp] {
        let Step::Answer(answer) = pod.begin(&asked("web", RecordType::A), transport, server()) else {
            panic!("it is not answered")
        };
        assert_eq!(Message::from_vec(&answer).unwrap().answers.len(), 1);
    }
    let labels = "source_canonical_service=\"web\",source_canonical_revision=\"v1\"} ";
    let count = |protocol: &str| {
        format!("istio_dns_requests_total{{request_query_type=\"A\",request_protocol=\"{protocol}\",{labels}")
    };
    let page = page();
    assert!(page.contains(&(count("udp") + "2")) && page.contains(&(count("tcp") + "1")), "{page}");
    assert!(matches!(pod.begin(b"short", Transport::Udp, server()), Step::Silence));
    assert!(
        matches!(pod.begin(&[0xff; 40], Transport::Udp, server()), Step::Answer(answer) if code(&answer) == ResponseCode::FormErr)
    );
}

#[tokio::test]
async fn whoever_cannot_be_asked_is_a_failure() {
    let wall = Wall::default();
    let (pod, _worlds, page) = pod("client", Box::new(wall.clone()), settings(Upstream::Original));
    let Step::Later(pending) = pod.begin(&asked("example.org", RecordType::MX), Transport::Udp, server()) else {
        panic!("who answered?")
    };
    assert_eq!(code(&pod.finish(pending).await.unwrap()), ResponseCode::ServFail);
    assert_eq!(*wall.0.lock().unwrap(), [server()]);
    let page = page();
    for name in ["istio_dns_requests_total", "istio_dns_upstream_requests_total", "istio_dns_upstream_failures_total"] {
        let line = page.lines().find(|line| line.starts_with(name)).unwrap();
        assert!(line.contains("request_query_type=\"MX\"") && line.ends_with(" 1"), "{line}");
    }
}

#[tokio::test]
async fn who_is_asked() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("resolv.conf");
    std::fs::write(&file, "nameserver 10.0.0.2\nnameserver 10.0.0.3\n").unwrap();
    let node = ["10.0.0.2:53", "10.0.0.3:53"].map(|server| server.parse().unwrap());
    let cases: [(Upstream, &str, &[SocketAddr]); 5] = [
        (Upstream::Original, "10.96.0.10:53", &[server()]),
        (Upstream::Node, "10.96.0.10:53", &node),
        // There is nobody else to ask behind our own port, and none but our own loopback behind loopback.
        (Upstream::Original, "127.0.0.1:15053", &node),
        (Upstream::Original, "127.0.0.1:53", &node),
        (Upstream::Node, "[::1]:15053", &node),
    ];
    for (upstream, to, expected) in cases {
        let wall = Wall::default();
        let settings = Settings { resolv_conf: file.clone(), ..settings(upstream) };
        let (pod, _worlds, _page) = pod("client", Box::new(wall.clone()), settings);
        let Step::Later(pending) = pod.begin(&asked("example.org", RecordType::A), Transport::Tcp, to.parse().unwrap())
        else {
            panic!("who answered?")
        };
        pod.finish(pending).await.unwrap();
        assert_eq!(*wall.0.lock().unwrap(), expected, "{upstream:?} {to}");
    }
}

#[tokio::test]
async fn those_that_wait_have_a_bound() {
    let (pod, _worlds, page) = pod("client", Box::new(Wall::default()), settings(Upstream::Original));
    let query = asked("example.org", RecordType::A);
    let begin = || pod.begin(&query, Transport::Udp, server());
    let waiting: Vec<Step> = (0..MOST_OUTSTANDING).map(|_| begin()).collect();
    assert!(waiting.iter().all(|step| matches!(step, Step::Later(_))));
    assert!(matches!(begin(), Step::Answer(answer) if code(&answer) == ResponseCode::ServFail));
    assert!(page().contains("istio_dns_upstream_failures_total{request_query_type=\"A\",request_protocol=\"udp\",source_canonical_service=\"web\",source_canonical_revision=\"v1\"} 1\n"));
    let local = pod.begin(&asked("web", RecordType::A), Transport::Udp, server());
    assert!(
        matches!(local, Step::Answer(answer) if code(&answer) == ResponseCode::NoError),
        "what is known needs no place"
    );
    drop(waiting);
    assert!(matches!(begin(), Step::Later(_)));
}

/// Knows no client until its second edition.
#[tokio::test(start_paused = true)]
async fn a_pod_that_is_not_known_yet() {
    let (pod, worlds, page) = pod("late", Box::new(Wall::default()), settings(Upstream::Original));
    let begin = || match pod.begin(&asked("web", RecordType::A), Transport::Udp, server()) {
        Step::Later(pending) => pending,
        Step::Answer(_) | Step::Silence => panic!("who answered?"),
    };
    let start = tokio::time::Instant::now();
    assert_eq!(code(&pod.finish(begin()).await.unwrap()), ResponseCode::ServFail);
    assert_eq!(start.elapsed(), Duration::from_secs(2));
    assert!(page().contains("source_canonical_service=\"unknown\",source_canonical_revision=\"unknown\"} 1\n"));
    // In time.
    let publish = async {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        worlds.send_replace(Arc::new(Paper(directory().0)));
        tokio::time::sleep(Duration::from_secs(9)).await;
    };
    tokio::select! {
        answer = pod.finish(begin()) => assert_eq!(code(&answer.unwrap()), ResponseCode::ServFail, "another edition is not enough"),
        () = publish => panic!("it waits for ever"),
    }
}
