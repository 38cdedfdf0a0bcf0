//! What must hold of every mesh.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use mesh_common::abi::HBONE_PORT;
use proptest::prelude::*;

use super::{Place, World};
use crate::model::Identity;
use crate::model::addr::{NetworkAddress, NextHop, OrigDst};
use crate::model::balance::{HealthPolicy, LoadBalancing};
use crate::model::route::{Authority, NoRoute, Route, Trip, no_names, route};
use crate::model::service::{Ports, Service, ServiceKey};
use crate::model::workload::{Health, NetworkMode, Tunnel, Workload};

const PORT: u16 = 80;

fn key(namespace: &str) -> ServiceKey {
    ServiceKey { namespace: namespace.into(), hostname: "web".into() }
}

fn ip(last: u8) -> IpAddr {
    [10, 0, 0, last].into()
}

fn vip() -> IpAddr {
    [10, 96, 0, 1].into()
}

/// A workload of any kind, by its number. `port` is what it says of the service: nothing, membership, a port of its own.
fn workload() -> impl Strategy<Value = Workload> {
    let addresses = prop::collection::vec((0u8..6).prop_map(ip), 0..3);
    let kinds = (any::<bool>(), any::<bool>(), any::<bool>());
    let port = prop_oneof![Just(None), Just(Some(None)), (1u16..).prop_map(|port| Some(Some(port)))];
    (addresses, kinds, 0u32..5, port).prop_map(|(addresses, (hbone, shared, healthy), capacity, port)| {
        let mut workload = Workload::new("", "w", Identity::new("cluster.local", "shop", "w").unwrap());
        workload.addresses = addresses;
        workload.tunnel = if hbone { Tunnel::Hbone } else { Tunnel::None };
        workload.network_mode = if shared { NetworkMode::HostNetwork } else { NetworkMode::Standard };
        workload.health = if healthy { Health::Healthy } else { Health::Unhealthy };
        workload.capacity = capacity;
        if let Some(own) = port {
            let own: Ports = own.map(|port| (PORT, port)).into_iter().collect();
            workload.services.insert(key("shop"), own);
        }
        workload
    })
}

fn workloads() -> impl Strategy<Value = Vec<Workload>> {
    prop::collection::vec(workload(), 0..8).prop_map(|mut workloads| {
        for (number, workload) in workloads.iter_mut().enumerate() {
            workload.uid = number.to_string().into();
        }
        workloads
    })
}

fn service() -> impl Strategy<Value = Service> {
    let target = prop_oneof![Just(0u16), 1u16..];
    (target, any::<bool>()).prop_map(|(target, all)| {
        let health = if all { HealthPolicy::AllowAll } else { HealthPolicy::OnlyHealthy };
        Service {
            vips: vec![NetworkAddress { network: "".into(), ip: vip() }],
            ports: [(PORT, target)].into_iter().collect(),
            subject_alt_names: vec![Identity::new("cluster.local", "shop", "also").unwrap()],
            load_balancing: LoadBalancing { health, ..LoadBalancing::default() },
            ..Service::new(key("shop"), "web")
        }
    })
}

/// The port at which this workload serves the service, if it may be chosen at all.
fn eligible(service: &Service, workload: &Workload) -> Option<u16> {
    let own = workload.services.get(&service.key)?;
    let stated = own.get(PORT).filter(|port| *port > 0).or_else(|| service.ports.get(PORT));
    let port = stated.unwrap_or_default();
    let ready = service.load_balancing.health == HealthPolicy::AllowAll || workload.health == Health::Healthy;
    (ready && port > 0 && workload.capacity > 0 && !workload.addresses.is_empty()).then_some(port)
}

fn to_vip(world: &World, draw: u64) -> Result<Route, NoRoute> {
    let source = Workload::new("source", "s", Identity::new("cluster.local", "shop", "s").unwrap());
    let to = OrigDst((vip(), PORT).into());
    route(world, &Trip { source: &source, to, draw, names: &no_names })
}

/// The workload that a route leads to.
fn chosen(route: &Route) -> &Arc<Workload> {
    match route {
        Route::Tunnel { workload, .. } | Route::Plain { workload, .. } => workload,
        Route::Nested { .. } => panic!("there is one network"),
        Route::Passthrough { next_hop, .. } => panic!("past the service to {next_hop}"),
    }
}

proptest! {
    #[test]
    fn a_service_leads_to_those_who_serve_it(workloads in workloads(), service in service(), draw in any::<u64>()) {
        let able: HashMap<_, _> =
            workloads.iter().filter_map(|w| Some((w.uid.to_string(), eligible(&service, w)?))).collect();
        let world = World::new(Place::default(), workloads, vec![service], Vec::new());
        let route = match to_vip(&world, draw) {
            Err(error) => {
                prop_assert!(able.is_empty(), "{}", error);
                prop_assert!(matches!(error, NoRoute::NoHealthyUpstream { port: PORT, .. }), "{}", error);
                return Ok(());
            }
            Ok(route) => route,
        };
        let workload = chosen(&route);
        let port = able.get(&*workload.uid);
        prop_assert!(port.is_some(), "{} must not be chosen", workload.uid);
        match &route {
            Route::Tunnel { leg, authority: Authority::Address(authority), .. } => {
                let NextHop(hop) = leg.next_hop;
                prop_assert_eq!(workload.tunnel, Tunnel::Hbone);
                prop_assert_eq!((hop.port(), hop.ip()), (HBONE_PORT, authority.ip()));
                prop_assert!(workload.addresses.contains(&authority.ip()));
                prop_assert_eq!(Some(&authority.port()), port);
                let names: Vec<_> = leg.accepted.iter().map(Identity::service_account).collect();
                prop_assert_eq!(names, ["w", "also"]);
            }
            Route::Plain { next_hop: NextHop(hop), .. } => {
                prop_assert_eq!(workload.tunnel, Tunnel::None);
                prop_assert!(workload.addresses.contains(&hop.ip()));
                prop_assert_eq!(Some(&hop.port()), port);
            }
            Route::Tunnel { .. } | Route::Nested { .. } | Route::Passthrough { .. } => {
                unreachable!("chosen() refuses it")
            }
        }
    }

    #[test]
    fn the_order_of_the_configuration_does_not_matter(
        workloads in workloads(),
        service in service(),
        draw in any::<u64>(),
    ) {
        let mut turned = workloads.clone();
        turned.reverse();
        let choice = |workloads| {
            let world = World::new(Place::default(), workloads, vec![service.clone()], Vec::new());
            to_vip(&world, draw).map(|route| chosen(&route).uid.to_string()).map_err(|error| error.to_string())
        };
        prop_assert_eq!(choice(workloads), choice(turned));
    }

    #[test]
    fn an_address_is_the_best_workloads(workloads in workloads(), last in 0u8..6) {
        let here = |w: &&Workload| w.network_mode == NetworkMode::Standard && w.addresses.contains(&ip(last));
        let all: Vec<_> = workloads.iter().filter(here).collect();
        let in_mesh: Vec<_> = all.iter().filter(|w| w.tunnel == Tunnel::Hbone).copied().collect();
        // The last of the best.
        let best = if in_mesh.is_empty() { all } else { in_mesh };
        let expected = best.last().map(|w| &*w.uid);
        let world = World::new(Place::default(), workloads.clone(), Vec::new(), Vec::new());
        prop_assert_eq!(world.workload_at("", ip(last)).map(|w| &*w.uid), expected);
        prop_assert!(world.workload_at("elsewhere", ip(last)).is_none());
        for workload in &workloads {
            prop_assert_eq!(&world.workload_by_uid(&workload.uid).unwrap().addresses, &workload.addresses);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]
    #[test]
    fn each_endpoint_gets_its_share(workloads in workloads(), service in service(), seed in any::<u64>()) {
        let able: HashMap<_, _> = workloads
            .iter()
            .filter(|w| eligible(&service, w).is_some())
            .map(|w| (w.uid.to_string(), f64::from(w.capacity)))
            .collect();
        prop_assume!(!able.is_empty());
        let whole: f64 = able.values().sum();
        let world = World::new(Place::default(), workloads, vec![service], Vec::new());
        let mut random = fastrand::Rng::with_seed(seed);
        let (draws, mut seen) = (10_000, HashMap::<_, f64>::new());
        for _ in 0..draws {
            *seen.entry(chosen(&to_vip(&world, random.u64(..)).unwrap()).uid.to_string()).or_default() += 1.0;
        }
        for (uid, weight) in able {
            let (expected, got) = (weight / whole, seen.get(&uid).copied().unwrap_or_default() / f64::from(draws));
            prop_assert!((expected - got).abs() < 0.03, "{} gets {}, not {}", uid, got, expected);
        }
    }
}

#[test]
fn of_several_services_at_an_address_the_clients_own_is_meant() {
    let at_vip = |namespace: &str| Service {
        vips: vec![NetworkAddress { network: "".into(), ip: vip() }],
        ..Service::new(key(namespace), namespace)
    };
    let world = World::new(Place::default(), Vec::new(), ["a", "b", "c"].map(at_vip).into(), Vec::new());
    for (client, expected) in [("a", "a"), ("b", "b"), ("c", "c"), ("d", "a")] {
        let found = world.service_at("", vip(), client).map(|service| &*service.name);
        assert_eq!(found, Some(expected), "a client in {client}");
    }
    assert!(world.service_at("elsewhere", vip(), "a").is_none());
    assert!(world.service_at("", ip(1), "a").is_none());
}
