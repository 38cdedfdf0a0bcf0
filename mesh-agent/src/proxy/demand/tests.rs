//! What is asked for, when, and what becomes of whoever waits.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::{Asker, LABELS};
use crate::model::addr::NetworkAddress;
use crate::model::gateway::{GatewayAddress, GatewayPlace};
use crate::model::service::{Ports, Service, ServiceKey};
use crate::model::world::Place;
use crate::model::{Identity, Workload, World};
use crate::xds::{Demand, NotAnswered};

const PATIENCE: Duration = Duration::from_secs(5);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn workload(address: &str) -> Workload {
    let identity = Identity::new("cluster.local", "shop", "web").unwrap();
    Workload { addresses: vec![ip(address)], ..Workload::new(address, "web", identity) }
}

fn key() -> ServiceKey {
    ServiceKey { namespace: "shop".into(), hostname: "web.shop.svc.cluster.local".into() }
}

fn service(address: &str) -> Service {
    Service { vips: vec![NetworkAddress { network: "".into(), ip: ip(address) }], ..Service::new(key(), "web") }
}

fn world(workloads: Vec<Workload>, services: Vec<Service>) -> World {
    World::new(Place::default(), workloads, services, Vec::new())
}

/// An istiod that knows `then` once it is asked for one of `known`, and says of everything else that it does not exist,
/// except of what is `silent`. Gives also what it was asked.
fn asker(now: World, then: World, silent: &'static str) -> (Asker, Arc<Mutex<Vec<String>>>) {
    let worlds = watch::Sender::new(Arc::new(now));
    let reader = worlds.subscribe();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (list, then) = (Arc::clone(&asked), Arc::new(then));
    let demand = Demand::answered_by(PATIENCE, move |key| {
        list.lock().unwrap().push(key.to_owned());
        if key == silent {
            return None;
        }
        worlds.send_replace(Arc::clone(&then));
        Some(Ok(()))
    });
    (Asker::new(demand, reader), asked)
}

#[tokio::test]
async fn the_answer_is_in_the_picture_when_the_wait_is_over() {
    let (asker, asked) = asker(World::default(), world(vec![workload("10.0.0.2")], Vec::new()), "");
    asker.address("", ip("10.0.0.2")).await.unwrap();
    assert!(asker.world().workload_at("", ip("10.0.0.2")).is_some());
    asker.address("", ip("10.0.0.2")).await.unwrap();
    assert_eq!(*asked.lock().unwrap(), ["/10.0.0.2"], "what is known is not asked for again");
    for _ in 0..2 {
        asker.address("net", ip("fd00::9")).await.unwrap();
    }
    assert_eq!(asked.lock().unwrap()[1..], ["net/fd00::9", "net/fd00::9"], "what does not exist may come to be");
}

/// It may have come along with one of its workloads.
#[tokio::test]
async fn a_service_is_asked_for_once_even_if_it_is_there() {
    let there = || world(Vec::new(), vec![service("10.9.0.1")]);
    let (asker, asked) = asker(there(), there(), "");
    for _ in 0..3 {
        asker.address("", ip("10.9.0.1")).await.unwrap();
    }
    assert_eq!(*asked.lock().unwrap(), ["/10.9.0.1"]);
}

#[tokio::test]
async fn gateways_and_services_have_keys_of_their_own() {
    let (asker, asked) = asker(World::default(), World::default(), "");
    let named = GatewayPlace::Hostname(key());
    let at = GatewayPlace::Address(NetworkAddress { network: "far".into(), ip: ip("10.0.0.7") });
    for place in [named, at] {
        asker.gateway(&GatewayAddress { place, hbone_port: 15008 }).await.unwrap();
    }
    let mut member = workload("10.0.0.2");
    member.services = [(key(), Ports::default())].into_iter().collect();
    asker.services(&member).await.unwrap();
    let name = "shop/web.shop.svc.cluster.local";
    assert_eq!(*asked.lock().unwrap(), [name, "far/10.0.0.7", name]);
}

#[tokio::test(start_paused = true)]
async fn waits_have_an_end() {
    let (asker, _) = asker(World::default(), World::default(), "/10.0.0.3");
    let start = Instant::now();
    let error = asker.address("", ip("10.0.0.3")).await.unwrap_err().to_string();
    assert_eq!(error, "asking for /10.0.0.3: istiod has not answered within 5s, maybe it is away");
    assert_eq!(start.elapsed(), PATIENCE);
    let start = Instant::now();
    asker.labels("", ip("10.0.0.3"), &workload("10.0.0.2")).await;
    assert_eq!(start.elapsed(), LABELS, "labels are not worth a long wait");
}

#[tokio::test]
async fn a_refusal_is_told() {
    let demand = Demand::answered_by(PATIENCE, |_| Some(Err(NotAnswered::TooMany)));
    let asker = Asker::new(demand, watch::channel(Arc::default()).1);
    let error = asker.address("", ip("10.0.0.3")).await.unwrap_err().to_string();
    assert_eq!(error, "asking for /10.0.0.3: too many addresses are being asked for");
}
