//! Shares, and what depends on where the client is.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Endpoints, NoEndpoint, Purpose, Share};
use crate::model::balance::{LoadBalancing, Mode, Scope, Vantage};
use crate::model::service::{Ports, Service, ServiceKey};
use crate::model::workload::{AppTunnel, AppTunnelProtocol};
use crate::model::{Identity, Workload};

fn key() -> ServiceKey {
    ServiceKey::new("ns", "web")
}

fn service(ports: &[(u16, u16)], load_balancing: LoadBalancing) -> Arc<Service> {
    Arc::new(Service { ports: ports.iter().copied().collect(), load_balancing, ..Service::new(key(), "web") })
}

fn workload(uid: &str, change: impl FnOnce(&mut Workload)) -> Arc<Workload> {
    let mut workload = Workload::new(uid, "w", Identity::new("cluster.local", "ns", "default").unwrap());
    workload.addresses = vec!["10.0.0.1".parse().unwrap()];
    workload.services.insert(key(), Ports::default());
    change(&mut workload);
    Arc::new(workload)
}

fn pick(endpoints: &Endpoints, source: &Workload, draw: u64) -> Result<String, NoEndpoint> {
    endpoints.pick(80, Purpose::Client, source, draw).map(|(workload, port)| format!("{} {port}", workload.uid))
}

#[test]
fn shares_follow_the_weights() {
    let client = workload("client", |_| {});
    let service = service(&[(80, 8080)], LoadBalancing::default());
    for weights in [vec![1], vec![1, 1], vec![1, 2, 3, 4], vec![1, 1000], vec![5, 5, 5, 5, 80, 0], vec![1; 1000]] {
        let member = |(index, capacity): (usize, &u32)| workload(&index.to_string(), |one| one.capacity = *capacity);
        let endpoints = Endpoints::of(&service, weights.iter().enumerate().map(member).collect(), &[]);
        let mut random = fastrand::Rng::with_seed(7);
        let (mut seen, draws) = (HashMap::<String, f64>::new(), 200_000);
        for _ in 0..draws {
            *seen.entry(pick(&endpoints, &client, random.u64(..)).unwrap()).or_default() += 1.0;
        }
        let made = made_up(&endpoints, &client);
        let total: u32 = weights.iter().sum();
        for (index, weight) in weights.iter().enumerate() {
            let expected = f64::from(*weight) / f64::from(total);
            let got = seen.get(&format!("{index} 8080")).copied().unwrap_or_default() / f64::from(draws);
            assert!((got - expected).abs() < 0.01 + expected * 0.05, "{weights:?}: {index} got {got}, not {expected}");
            let made = made.get(&format!("{index} 8080")).copied().unwrap_or_default();
            assert!((made - expected).abs() < 1e-6, "{weights:?}: {index} has {made}, not {expected}");
        }
    }
}

/// What each endpoint gets, by the columns.
fn made_up(endpoints: &Endpoints, client: &Workload) -> HashMap<String, f64> {
    let shares = endpoints.shares(80, client);
    let own = |share: &Share| pick(endpoints, client, share.draw).unwrap();
    let mut made = HashMap::new();
    for share in &shares {
        let part = f64::from(share.own) / 2_f64.powi(32);
        *made.entry(own(share)).or_default() += part / shares.len() as f64;
        *made.entry(own(&shares[share.alias as usize])).or_default() += (1.0 - part) / shares.len() as f64;
    }
    made
}

#[test]
fn nobody_to_choose() {
    let client = workload("client", |_| {});
    let none = Endpoints::of(&service(&[(80, 8080)], LoadBalancing::default()), Vec::new(), &[]);
    assert_eq!(pick(&none, &client, 1), Err(NoEndpoint::NoneUsable));
    let other = Endpoints::of(&service(&[(81, 8080)], LoadBalancing::default()), vec![workload("a", |_| {})], &[]);
    assert_eq!(pick(&other, &client, 1), Err(NoEndpoint::NoSuchPort));
    let idle = Endpoints::of(
        &service(&[(80, 8080)], LoadBalancing::default()),
        vec![workload("a", |one| one.capacity = 0)],
        &[],
    );
    assert_eq!(pick(&idle, &client, 1), Err(NoEndpoint::NoneUsable));
}

/// A client that no table was made for gets the same as one that has its table.
#[test]
fn failover_by_where_the_client_is() {
    let preferences = vec![Scope::Node];
    let service = service(&[(80, 0)], LoadBalancing { mode: Mode::Failover, preferences, ..LoadBalancing::default() });
    let member = |node: &str, port: u16| {
        workload(node, |one| {
            one.node = node.into();
            one.services.insert(key(), [(80, port)].into_iter().collect());
        })
    };
    let clients = ["a", "b", "elsewhere"].map(|node| workload("client", |one| one.node = node.into()));
    let members = vec![member("a", 1), member("b", 2)];
    for vantages in [vec![], clients.iter().map(|client| Vantage::of(client)).collect()] {
        let endpoints = Endpoints::of(&service, members.clone(), &vantages);
        for draw in [0, 1 << 40, u64::MAX] {
            assert_eq!(pick(&endpoints, &clients[0], draw).unwrap(), "a 1");
            assert_eq!(pick(&endpoints, &clients[1], draw).unwrap(), "b 2");
        }
        assert_ne!(pick(&endpoints, &clients[2], 0), pick(&endpoints, &clients[2], u64::MAX));
    }
}

/// What has no address is reached through its network's gateway, by clients of other networks only.
#[test]
fn without_an_address_only_from_another_network() {
    let service = service(&[(80, 8080)], LoadBalancing::default());
    let remote = workload("remote", |one| {
        one.addresses.clear();
        one.network = "far".into();
        one.network_gateway = Some(
            crate::model::gateway::GatewayAddress {
                place: crate::model::gateway::GatewayPlace::Hostname(ServiceKey::new("ns", "gateway")),
                hbone_port: 15008,
            }
            .into(),
        );
    });
    let endpoints = Endpoints::of(&service, vec![remote], &[]);
    let (here, there) = (workload("here", |_| {}), workload("there", |one| one.network = "far".into()));
    assert_eq!(pick(&endpoints, &here, 1).unwrap(), "remote 8080");
    assert_eq!(pick(&endpoints, &there, 1), Err(NoEndpoint::NoneUsable));
}

#[test]
fn a_gateway_with_an_application_tunnel_takes_any_port() {
    let service = service(&[(80, 8080)], LoadBalancing::default());
    let tunnel = AppTunnel { protocol: AppTunnelProtocol::Proxy, port: Some(15088) };
    let sandwich = workload("sandwich", |one| one.app_tunnel = Some(tunnel));
    let endpoints = Endpoints::of(&service, vec![workload("plain", |_| {}), sandwich], &[]);
    let client = workload("client", |_| {});
    let picked = |purpose| endpoints.pick(15008, purpose, &client, 1).map(|(one, port)| (one.uid.to_string(), port));
    assert_eq!(picked(Purpose::Gateway), Ok(("sandwich".to_owned(), 15008)));
    assert_eq!(picked(Purpose::Client), Err(NoEndpoint::NoSuchPort));
}
