//! Connections between shards, one of which does not know their pod.

use std::io::{ErrorKind, Read};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::doors::Door;
use super::{Deps, Habits, Shards, Threads};
use crate::dns;
use crate::identity::ca::{CaError, Certify};
use crate::identity::{Certs, Credentials};
use crate::model::world::Place;
use crate::model::{Identity, World};
use crate::proxy::placement::Moving;
use crate::proxy::record::Books;
use crate::sys::cores::Homes;
use crate::task::{Drained, Tasks};
use crate::telemetry::dns::Names;
use crate::telemetry::lookups::Lookups;
use crate::telemetry::metrics::Metrics;

struct Nobody;

impl Certify for Nobody {
    async fn certify(&self, _identity: &Identity) -> Result<Credentials, CaError> {
        std::future::pending().await
    }
}

/// Shards without pods.
fn start(count: usize) -> (Shards, Threads) {
    let traffic = Metrics::new("0").traffic().clone();
    let deps = Deps {
        network: "".into(),
        worlds: watch::Sender::new(Arc::new(World::new(Place::default(), Vec::new(), Vec::new(), Vec::new())))
            .subscribe(),
        certs: Certs::start(Nobody, &Tasks::new()),
        demand: None,
        dns: dns::server::Deps { settings: Arc::new(dns::Settings::default()), metrics: Names::default() },
        lookups: Lookups::default(),
        habits: Habits::default(),
        same_node: Arc::default(),
        direct: None,
    };
    Shards::start(Homes::new(count, &[]), &deps, move |shard| Books::new(shard, traffic.table(), None)).unwrap()
}

/// A client, and its connection on its way to another shard.
fn moving(tasks: &Tasks) -> (TcpStream, Moving) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let (tcp, from) = listener.accept().unwrap();
    tcp.set_nonblocking(true).unwrap();
    (client, Moving { tcp, client: from, weight: None, busy: tasks.busy() })
}

#[tokio::test]
async fn a_connection_whose_pod_is_nowhere_is_reset() {
    let (shards, threads) = start(2);
    let door = Door(shards.doors[1].downgrade());
    // From the other shard, which has given the pod up meanwhile, and from the same one.
    for from in [0, 1] {
        let tasks = Tasks::new();
        let (mut client, moving) = moving(&tasks);
        door.hand_over(&"gone".into(), moving, from).unwrap();
        assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset, "from {from}");
        assert_eq!(tasks.drain(Duration::from_secs(5)).await, Drained::Completely, "nobody waits for it any more");
    }
    shards.stop();
    threads.join();
}

#[tokio::test]
async fn while_it_moves_its_pod_waits_for_it() {
    let tasks = Tasks::new();
    let (_client, moving) = moving(&tasks);
    assert_eq!(tasks.drain(Duration::from_millis(50)).await, Drained::TasksLeft(1));
    drop(moving);
    assert_eq!(tasks.drain(Duration::from_secs(5)).await, Drained::Completely);
}

#[tokio::test]
async fn a_shard_that_has_ended_gives_it_back() {
    let (shards, threads) = start(1);
    let door = Door(shards.doors[0].downgrade());
    shards.stop();
    threads.join();
    for _ in 0..2 {
        let (client, moving) = moving(&Tasks::new());
        let back = door.hand_over(&"any".into(), moving, 0).unwrap_err();
        assert_eq!(back.client, client.local_addr().unwrap());
    }
    let ended = door.clone();
    drop(shards);
    ended.hand_over(&"any".into(), moving(&Tasks::new()).1, 0).unwrap_err();
}
