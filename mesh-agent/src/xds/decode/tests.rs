//! The parsing rules of the protocol note, section 2.6, and all fields there and back.

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;

use super::{Address, Texts, Unusable, address, authorization};
use crate::model::balance::{HealthPolicy, Mode, Scope};
use crate::model::gateway::GatewayPlace;
use crate::model::policy::{Enforcement, StringMatch};
use crate::model::service::{IpFamilies, Standing, Visibility};
use crate::model::workload::{AppTunnelProtocol, Health, NetworkMode, Tunnel, TunnelEnd, WorkloadType};
use crate::model::{Service, Workload};
use crate::proto::workload::{self as wire, address::Type, gateway_address::Destination};
use crate::proto::{security, workload};

fn decode(body: Type) -> Result<Address, Unusable> {
    let message = wire::Address { r#type: Some(body) };
    address(message.encode_to_vec().into(), &mut Texts::default())
}

fn to_workload(workload: wire::Workload) -> Result<Workload, Unusable> {
    match decode(Type::Workload(workload))? {
        Address::Workload(workload) => Ok(workload),
        Address::Service(service) => panic!("{service:?}"),
    }
}

fn to_service(service: wire::Service) -> Result<Service, Unusable> {
    match decode(Type::Service(service))? {
        Address::Service(service) => Ok(service),
        Address::Workload(workload) => panic!("{workload:?}"),
    }
}

fn a_workload() -> wire::Workload {
    wire::Workload { uid: "c//Pod/ns/w".into(), name: "w".into(), namespace: "ns".into(), ..Default::default() }
}

fn a_service() -> wire::Service {
    wire::Service { name: "s".into(), namespace: "ns".into(), hostname: "s.ns.svc".into(), ..Default::default() }
}

fn named(hostname: &str) -> wire::GatewayAddress {
    let name = wire::NamespacedHostname { namespace: "ns".into(), hostname: hostname.into() };
    wire::GatewayAddress { destination: Some(Destination::Hostname(name)), hbone_mtls_port: 15008 }
}

fn network_address(bytes: &'static [u8], length: Option<u32>) -> wire::NetworkAddress {
    wire::NetworkAddress { network: "n".into(), address: Bytes::from_static(bytes), length }
}

#[test]
fn defaults_of_a_workload() {
    let read = to_workload(a_workload()).unwrap();
    assert_eq!(read.identity.uri(), "spiffe://cluster.local/ns/ns/sa/default");
    assert_eq!((&*read.cluster, read.capacity), ("Kubernetes", 1));
    assert_eq!((read.tunnel, read.tunnel_end), (Tunnel::None, TunnelEnd::Agent));
    assert_eq!((read.health, read.network_mode), (Health::Healthy, NetworkMode::Standard));
    assert_eq!(read.app_tunnel, None);
}

#[test]
fn every_field_of_a_workload() {
    let ports = vec![wire::Port { service_port: 80, target_port: 8080, app_protocol: 1 }];
    let read = to_workload(wire::Workload {
        addresses: vec![Bytes::from_static(&[10, 0, 0, 1]), Bytes::from(vec![0xfd; 16])],
        network: "n".into(),
        tunnel_protocol: wire::TunnelProtocol::Hbone.into(),
        trust_domain: "td".into(),
        service_account: "sa".into(),
        waypoint: Some(named("Waypoint.ns")),
        node: "n1".into(),
        canonical_name: "cn".into(),
        canonical_revision: "cr".into(),
        workload_type: wire::WorkloadType::Job.into(),
        workload_name: "wn".into(),
        native_tunnel: true,
        authorization_policies: vec!["ns/p".into()],
        status: wire::WorkloadStatus::Unhealthy.into(),
        cluster_id: "c".into(),
        network_gateway: Some(wire::GatewayAddress {
            destination: Some(Destination::Address(network_address(&[10, 0, 0, 9], None))),
            hbone_mtls_port: 15009,
        }),
        hostname: "Example.org".into(),
        services: [("ns/s.ns.svc".to_owned(), wire::PortList { ports })].into(),
        application_tunnel: Some(wire::ApplicationTunnel { protocol: 1, port: 15088 }),
        locality: Some(wire::Locality { region: "r".into(), zone: "z".into(), subzone: "s".into() }),
        network_mode: wire::NetworkMode::HostNetwork.into(),
        capacity: Some(0),
        ..a_workload()
    })
    .unwrap();
    assert_eq!(read.identity.uri(), "spiffe://td/ns/ns/sa/sa");
    assert_eq!(read.addresses.iter().map(ToString::to_string).collect::<Vec<_>>()[0], "10.0.0.1");
    assert_eq!(read.waypoint.unwrap().to_string(), "ns/waypoint.ns:15008");
    assert_eq!(read.network_gateway.unwrap().to_string(), "n/10.0.0.9:15009");
    assert_eq!((read.tunnel, read.tunnel_end, read.health), (Tunnel::Hbone, TunnelEnd::Workload, Health::Unhealthy));
    assert_eq!(
        (read.workload_type, read.network_mode, read.capacity),
        (WorkloadType::Job, NetworkMode::HostNetwork, 0)
    );
    let texts = [&read.node, &read.canonical_name, &read.canonical_revision, &read.workload_name, &read.cluster];
    assert_eq!(texts.map(|text| &**text), ["n1", "cn", "cr", "wn", "c"]);
    assert_eq!((&*read.locality.region, &*read.locality.zone, &*read.locality.subzone), ("r", "z", "s"));
    assert_eq!(read.hostname.as_deref(), Some("example.org"));
    assert_eq!(read.policies[0].to_string(), "ns/p");
    let (service, ports) = read.services.iter().next().unwrap();
    assert_eq!((service.to_string().as_str(), ports.get(80)), ("ns/s.ns.svc", Some(8080)));
    let tunnel = read.app_tunnel.unwrap();
    assert_eq!((tunnel.protocol, tunnel.port), (AppTunnelProtocol::Proxy, Some(15088)));
}

#[test]
fn every_field_of_a_service() {
    let read = to_service(wire::Service {
        hostname: "S.ns.svc".into(),
        addresses: vec![
            network_address(&[10, 0, 0, 1], None),
            network_address(&[10, 0, 0, 2], Some(32)),
            network_address(&[10, 1, 2, 3], Some(16)),
        ],
        ports: vec![wire::Port { service_port: 80, target_port: 0, app_protocol: 0 }],
        subject_alt_names: vec!["spiffe://td/ns/a/sa/b".into(), "example.org".into()],
        waypoint: Some(named("waypoint")),
        load_balancing: Some(wire::LoadBalancing { routing_preference: vec![6, 1, 2], mode: 2, health_policy: 1 }),
        ip_families: wire::IpFamilies::Ipv6Only.into(),
        canonical: true,
        weighted_waypoints: vec![wire::WeightedWaypoint { destination: Some(named("canary")), weight: 7 }],
        visibility: 1,
        ..a_service()
    })
    .unwrap();
    assert_eq!(read.key.to_string(), "ns/s.ns.svc");
    assert_eq!(read.vips.iter().map(ToString::to_string).collect::<Vec<_>>(), ["n/10.0.0.1", "n/10.0.0.2"]);
    assert_eq!(read.cidr_vips[0].1.to_string(), "10.1.0.0/16");
    assert_eq!(read.ports.get(80), Some(0));
    assert_eq!(read.subject_alt_names.len(), 1);
    let balancing = &read.load_balancing;
    assert_eq!((balancing.mode, balancing.health), (Mode::Failover, HealthPolicy::AllowAll));
    assert_eq!(balancing.preferences, [Scope::Network, Scope::Region, Scope::Zone]);
    assert_eq!((read.ip_families, read.standing), (IpFamilies::V6Only, Standing::Canonical));
    assert_eq!(read.visibility, Visibility::Namespace);
    assert!(matches!(&read.waypoints.only.unwrap().place, GatewayPlace::Hostname(key) if &*key.hostname == "waypoint"));
    assert_eq!(read.waypoints.weighted[0].1, 7);
}

/// The table of section 2.6; trap 21 is the legacy tunnel.
#[test]
fn what_is_rejected() {
    let empty = wire::GatewayAddress { destination: None, hbone_mtls_port: 15008 };
    let workloads = [
        ("no uid", wire::Workload { uid: String::new(), ..a_workload() }),
        ("trap 21", wire::Workload { tunnel_protocol: 2, ..a_workload() }),
        ("tunnel", wire::Workload { tunnel_protocol: 9, ..a_workload() }),
        ("status", wire::Workload { status: 9, ..a_workload() }),
        ("network mode", wire::Workload { network_mode: 9, ..a_workload() }),
        ("address", wire::Workload { addresses: vec![Bytes::from_static(&[1, 2, 3])], ..a_workload() }),
        ("service key", wire::Workload { services: [("s".to_owned(), Default::default())].into(), ..a_workload() }),
        ("waypoint", wire::Workload { waypoint: Some(empty.clone()), ..a_workload() }),
        ("namespace", wire::Workload { namespace: String::new(), ..a_workload() }),
        ("policy", wire::Workload { authorization_policies: vec!["p".into()], ..a_workload() }),
    ];
    for (name, workload) in workloads {
        assert!(to_workload(workload).is_err(), "{name}");
    }
    let balancing =
        |routing_preference, mode| Some(wire::LoadBalancing { routing_preference, mode, ..Default::default() });
    let services = [
        ("no hostname", wire::Service { hostname: String::new(), ..a_service() }),
        ("scope 0", wire::Service { load_balancing: balancing(vec![0], 2), ..a_service() }),
        ("scope", wire::Service { load_balancing: balancing(vec![9], 2), ..a_service() }),
        ("mode", wire::Service { load_balancing: balancing(vec![], 9), ..a_service() }),
        ("families", wire::Service { ip_families: 9, ..a_service() }),
        ("prefix", wire::Service { addresses: vec![network_address(&[1, 2, 3, 4], Some(33))], ..a_service() }),
        ("waypoint", wire::Service { waypoint: Some(empty), ..a_service() }),
        ("weighted", wire::Service { weighted_waypoints: vec![wire::WeightedWaypoint::default()], ..a_service() }),
    ];
    for (name, service) in services {
        assert!(to_service(service).is_err(), "{name}");
    }
}

#[test]
fn what_is_taken_as_something_else() {
    let unknown = to_workload(wire::Workload { workload_type: 9, ..a_workload() }).unwrap();
    assert_eq!(unknown.workload_type, WorkloadType::Deployment);
    let unknown = to_service(wire::Service { visibility: 9, ..a_service() }).unwrap();
    assert_eq!(unknown.visibility, Visibility::Public);
    let tunnel = Some(wire::ApplicationTunnel { protocol: 0, port: 0 });
    let kept = to_workload(wire::Workload { application_tunnel: tunnel, ..a_workload() }).unwrap();
    assert_eq!(kept.app_tunnel.unwrap().port, None);
    let cut = wire::Port { service_port: 65_536 + 80, target_port: 8080, app_protocol: 0 };
    assert_eq!(to_service(wire::Service { ports: vec![cut], ..a_service() }).unwrap().ports.get(80), Some(8080));
}

/// Trap 8: the numbers of the fields that are easy to get wrong, as bytes. Trap 7: a global policy keeps its name.
#[test]
fn traps_7_and_8_field_numbers_of_a_policy() {
    // name "p", namespace "root", scope 0, action 1, rules { clauses { matches { service_accounts { "ns", "sa" } } } }
    let body: &[u8] = &[
        0x0a, 1, b'p', 0x12, 4, b'r', b'o', b'o', b't', 0x20, 1, 0x2a, 14, 0x0a, 12, 0x12, 10, 0x5a, 8, 0x0a, 2, b'n',
        b's', 0x12, 2, b's', b'a',
    ];
    let policy = authorization(Bytes::from_static(body), &mut Texts::default()).unwrap();
    assert_eq!(policy.name.to_string(), "root/p");
    assert_eq!(policy.scope, crate::model::policy::Scope::Global);
    let account = &policy.rules[0].clauses[0].matches[0].service_accounts[0];
    assert_eq!((account.namespace.as_str(), account.service_account.as_str()), ("ns", "sa"));
}

#[test]
fn matchers_of_a_policy() {
    use security::string_match::MatchType;
    let text = |kind| security::StringMatch { match_type: Some(kind) };
    let net = security::Address { address: Bytes::from_static(&[10, 1, 2, 3]), length: 8 };
    let fields = security::Match {
        principals: vec![
            text(MatchType::Exact("e".into())),
            text(MatchType::Prefix("p".into())),
            text(MatchType::Suffix("s".into())),
            text(MatchType::Presence(())),
        ],
        source_ips: vec![net],
        not_destination_ports: vec![80],
        ..Default::default()
    };
    let rule = security::Rule { clauses: vec![security::Clause { matches: vec![fields] }] };
    let wire = security::Authorization {
        name: "p".into(),
        namespace: "ns".into(),
        dry_run: true,
        rules: vec![rule],
        ..Default::default()
    };
    let policy = authorization(wire.encode_to_vec().into(), &mut Texts::default()).unwrap();
    assert_eq!(policy.enforcement, Enforcement::DryRun);
    let read = &policy.rules[0].clauses[0].matches[0];
    let expected = [
        StringMatch::Exact("e".into()),
        StringMatch::Prefix("p".into()),
        StringMatch::Suffix("s".into()),
        StringMatch::Presence,
    ];
    assert_eq!(read.principals, expected);
    assert_eq!(read.source_ips[0].to_string(), "10.0.0.0/8");
    assert_eq!(read.not_destination_ports, [80]);
    let bare = security::StringMatch { match_type: None };
    let rule = security::Rule {
        clauses: vec![security::Clause {
            matches: vec![security::Match { namespaces: vec![bare], ..Default::default() }],
        }],
    };
    let wire = security::Authorization { rules: vec![rule], ..wire };
    assert!(authorization(wire.encode_to_vec().into(), &mut Texts::default()).is_err());
}

proptest! {
    /// Nothing that a control plane sends makes us panic.
    #[test]
    fn any_bytes(body in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut texts = Texts::default();
        address(body.clone().into(), &mut texts).ok();
        authorization(body.into(), &mut texts).ok();
    }

    /// Nor do valid messages with odd contents.
    #[test]
    fn odd_workloads(
        numbers in prop::array::uniform8(-2i32..12),
        length in 0usize..20,
        text in ".{0,12}",
        prefix in prop::option::of(0u32..200),
    ) {
        let [tunnel_protocol, workload_type, status, network_mode, protocol, mode, scope, ip_families] = numbers;
        let bytes = Bytes::from(vec![7; length]);
        to_workload(wire::Workload {
            uid: text.clone(),
            namespace: text.clone(),
            trust_domain: text.clone(),
            addresses: vec![bytes.clone()],
            tunnel_protocol,
            workload_type,
            status,
            network_mode,
            services: [(text.clone(), workload::PortList::default())].into(),
            application_tunnel: Some(wire::ApplicationTunnel { protocol, port: u32::MAX }),
            ..Default::default()
        }).ok();
        to_service(wire::Service {
            hostname: text,
            addresses: vec![wire::NetworkAddress { network: String::new(), address: bytes, length: prefix }],
            load_balancing: Some(wire::LoadBalancing { routing_preference: vec![scope], mode, health_policy: protocol }),
            ip_families,
            ..Default::default()
        }).ok();
    }
}
