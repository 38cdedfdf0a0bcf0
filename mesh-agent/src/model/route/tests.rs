//! The decision table of the protocol note, section 7.6, row by row.

use std::net::IpAddr;
use std::sync::Arc;

use super::{NoRoute, Route, Trip, no_names, route};
use crate::model::addr::{NetworkAddress, OrigDst};
use crate::model::balance::{LoadBalancing, Mode};
use crate::model::gateway::{GatewayAddress, GatewayPlace, Waypoints};
use crate::model::service::{IpFamilies, Ports, Service, ServiceKey};
use crate::model::workload::{AppTunnel, AppTunnelProtocol, Health, NetworkMode, Tunnel, Workload};
use crate::model::world::{Place, UnknownDestination};
use crate::model::{Identity, World};

fn key(name: &str) -> ServiceKey {
    ServiceKey::new("default", &format!("{name}.default.svc"))
}

fn identity(name: &str) -> Identity {
    Identity::new("cluster.local", "default", name).unwrap()
}

fn workload(name: &str, addresses: &[&str], change: impl FnOnce(&mut Workload)) -> Workload {
    let mut workload = Workload::new(name, name, identity(name));
    workload.addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
    workload.node = if name == "client" { "here".into() } else { "there".into() };
    change(&mut workload);
    workload
}

fn service(name: &str, vips: &[&str], ports: &[(u16, u16)], change: impl FnOnce(&mut Service)) -> Service {
    let mut service = Service::new(key(name), name);
    service.vips = vips.iter().map(|ip| NetworkAddress { network: "".into(), ip: ip.parse().unwrap() }).collect();
    service.ports = ports.iter().copied().collect();
    change(&mut service);
    service
}

fn member(service: &str, ports: &[(u16, u16)]) -> impl FnOnce(&mut Workload) {
    let (key, ports): (_, Ports) = (key(service), ports.iter().copied().collect());
    move |workload| workload.services.insert(key, ports)
}

fn by_name(name: &str, port: u16) -> GatewayAddress {
    GatewayAddress { place: GatewayPlace::Hostname(key(name)), hbone_port: port }
}

fn by_ip(ip: &str) -> GatewayAddress {
    let address = NetworkAddress { network: "".into(), ip: ip.parse().unwrap() };
    GatewayAddress { place: GatewayPlace::Address(address), hbone_port: 15008 }
}

fn behind(waypoint: GatewayAddress) -> impl FnOnce(&mut Service) {
    move |service| service.waypoints = Waypoints { only: Some(waypoint), weighted: Vec::new() }
}

/// On network "far": no address that we could use, only the entrance.
fn far(service: &str, entrance: Option<GatewayAddress>) -> impl FnOnce(&mut Workload) {
    let membership = member(service, &[]);
    move |workload| {
        workload.network = "far".into();
        workload.network_gateway = entrance.map(Arc::new);
        membership(workload);
    }
}

fn workloads() -> Vec<Workload> {
    vec![
        workload("client", &["10.0.0.1", "fd00::1"], |_| {}),
        workload("web", &["10.0.0.2", "fd00::2"], member("web", &[])),
        workload("legacy", &["10.0.0.3"], |w| {
            w.tunnel = Tunnel::None;
            member("legacy", &[])(w);
        }),
        workload("sick", &["10.0.0.4"], |w| {
            w.health = Health::Unhealthy;
            member("sick", &[])(w);
        }),
        workload("named", &["10.0.0.5"], member("named", &[(80, 9090)])),
        workload("host", &["192.168.0.1"], |w| {
            w.network_mode = NetworkMode::HostNetwork;
            w.tunnel = Tunnel::None;
            member("host", &[])(w);
        }),
        workload("both", &["10.0.0.9"], |w| w.services.insert(key("entry-full"), Ports::default())),
        workload("waypoint", &["10.0.1.1"], member("waypoint", &[])),
        workload("sandwich", &["10.0.1.2"], |w| {
            w.app_tunnel = Some(AppTunnel { protocol: AppTunnelProtocol::Proxy, port: Some(15088) });
            member("sandwich", &[])(w);
        }),
        workload("guarded", &["10.0.2.1"], |w| {
            w.waypoint = Some(by_name("waypoint", 15008).into());
            member("plain-entry", &[])(w);
        }),
        workload("guarded-by-ip", &["10.0.2.2"], |w| w.waypoint = Some(by_ip("10.0.1.1").into())),
        workload("lost", &["10.0.2.3"], |w| w.waypoint = Some(by_name("nowhere", 15008).into())),
        workload("remote", &[], far("far", Some(by_name("entrance", 15008)))),
        workload("remote-by-ip", &[], far("far-by-ip", Some(by_ip("10.0.3.1")))),
        workload("remote-lost", &["10.0.9.9"], far("far-lost", None)),
        workload("remote-waypoint", &[], far("far-waypoint", Some(by_name("entrance", 15008)))),
        workload("entrance", &["10.0.3.1"], member("entrance", &[])),
        workload("outside", &[], |w| {
            w.hostname = Some("example.org".into());
            w.tunnel = Tunnel::None;
            member("outside", &[])(w);
        }),
    ]
}

fn services() -> Vec<Service> {
    vec![
        service("web", &["10.96.0.1", "fd00:96::1"], &[(80, 8080)], |_| {}),
        service("web-v6", &["10.96.0.11"], &[(80, 8080)], |s| s.ip_families = IpFamilies::V6Only),
        service("legacy", &["10.96.0.2"], &[(80, 8080)], |_| {}),
        service("sick", &["10.96.0.3"], &[(80, 8080)], |_| {}),
        service("named", &["10.96.0.4"], &[(80, 0), (81, 0)], |_| {}),
        service("host", &["10.96.0.5"], &[(80, 8080)], |_| {}),
        service("entry", &["10.0.0.2"], &[(443, 443)], behind(by_name("waypoint", 15008))),
        service("entry-full", &["10.0.0.9"], &[(443, 443)], |_| {}),
        service("waypoint", &["10.96.1.1"], &[(15008, 15008)], |s| {
            s.subject_alt_names = vec![identity("waypoint-too")];
        }),
        service("sandwich", &["10.96.1.2"], &[(80, 80)], |_| {}),
        service("shop", &["10.96.2.1"], &[(80, 8080)], behind(by_name("waypoint", 15008))),
        service("shop-sandwich", &["10.96.2.2"], &[(80, 8080)], behind(by_name("sandwich", 15008))),
        service("shop-lost", &["10.96.2.3"], &[(80, 8080)], behind(by_name("nowhere", 15008))),
        service("shop-far", &["10.96.2.4"], &[(80, 8080)], behind(by_name("far-waypoint", 15008))),
        service("plain-entry", &["10.0.2.1", "10.96.2.5"], &[(80, 8080)], |_| {}),
        service("passthrough", &["10.96.3.1"], &[(80, 80)], |s| s.load_balancing = passthrough()),
        service("passthrough-guarded", &["10.96.3.2"], &[(80, 80)], |s| {
            s.load_balancing = passthrough();
            behind(by_name("waypoint", 15008))(s);
        }),
        service("far", &["10.96.4.1"], &[(80, 8080)], |s| s.subject_alt_names = vec![identity("remote")]),
        service("far-by-ip", &["10.96.4.2"], &[(80, 8080)], |_| {}),
        service("far-lost", &["10.96.4.3"], &[(80, 8080)], |_| {}),
        service("far-waypoint", &["10.96.4.4"], &[(15008, 15008)], |s| {
            s.subject_alt_names = vec![identity("remote-waypoint")];
        }),
        service("entrance", &["10.96.4.5"], &[(15008, 15009)], |_| {}),
        service("outside", &["10.96.5.1"], &[(443, 443)], |_| {}),
    ]
}

fn passthrough() -> LoadBalancing {
    LoadBalancing { mode: Mode::Passthrough, ..LoadBalancing::default() }
}

fn world(unknown: UnknownDestination) -> World {
    let place = Place { node: "here".into(), network: "".into(), unknown };
    World::new(place, workloads(), services(), Vec::new())
}

fn names(identities: &[Identity]) -> String {
    identities.iter().map(Identity::service_account).collect::<Vec<_>>().join("+")
}

fn describe(result: Result<Route, NoRoute>) -> String {
    match result {
        Ok(Route::Tunnel { leg, authority, .. }) => {
            format!("tunnel {} {authority} {}", leg.next_hop, names(&leg.accepted))
        }
        Ok(Route::Nested { outer, accepted, authority, .. }) => {
            let (hop, outer, inner) = (outer.next_hop, names(&outer.accepted), names(&accepted));
            format!("nested {hop} {authority} {outer} [{inner}]")
        }
        Ok(Route::Plain { next_hop, workload, .. }) => format!("plain {next_hop} {}", workload.name),
        Ok(Route::Passthrough { next_hop, service }) => {
            format!("passthrough {next_hop}{}", service.map(|service| format!(" {}", service.name)).unwrap_or_default())
        }
        Err(error) => format!("error: {error}"),
    }
}

fn ask(world: &World, source: &str, to: &str) -> String {
    let source = Arc::clone(world.workload_by_uid(source).unwrap());
    let trip = Trip { source: &source, to: OrigDst(to.parse().unwrap()), draw: 12345, names: &no_names };
    describe(route(world, &trip))
}

fn check(cases: &[(&str, &str, &str)]) {
    let world = world(UnknownDestination::Passthrough);
    for (name, to, expected) in cases {
        assert_eq!(ask(&world, "client", to), *expected, "{name}");
    }
}

#[test]
fn rows_4_to_11_without_gateways() {
    check(&[
        ("row 4", "10.96.0.1:80", "tunnel 10.0.0.2:15008 10.0.0.2:8080 web"),
        ("row 4, v6", "[fd00:96::1]:80", "tunnel [fd00::2]:15008 [fd00::2]:8080 web"),
        ("row 4, endpoint's own port", "10.96.0.4:80", "tunnel 10.0.0.5:15008 10.0.0.5:9090 named"),
        ("row 5", "10.96.0.2:80", "plain 10.0.0.3:8080 legacy"),
        ("row 5, host network", "10.96.0.5:80", "plain 192.168.0.1:8080 host"),
        ("row 6", "10.96.3.1:80", "passthrough 10.96.3.1:80 passthrough"),
        ("row 7", "10.96.0.3:80", "error: service default/sick.default.svc has no healthy endpoint for port 80"),
        (
            "row 7, no port on any",
            "10.96.0.4:81",
            "error: service default/named.default.svc has no healthy endpoint for port 81",
        ),
        ("no such port", "10.96.0.1:81", "error: service default/web.default.svc has no port 81"),
        ("row 9", "10.0.0.5:1234", "tunnel 10.0.0.5:15008 10.0.0.5:1234 named"),
        ("row 9, health is ignored (trap 14)", "10.0.0.4:1234", "tunnel 10.0.0.4:15008 10.0.0.4:1234 sick"),
        ("row 10", "10.0.0.3:1234", "plain 10.0.0.3:1234 legacy"),
        ("row 11", "8.8.8.8:53", "passthrough 8.8.8.8:53"),
        ("row 11, node address", "192.168.0.1:10250", "passthrough 192.168.0.1:10250"),
    ]);
}

/// Trap 11: what was addressed is a workload first, where it is sent is a service first.
#[test]
fn two_lookups_with_opposite_precedence() {
    check(&[
        (
            "no waypoint of the service, but its ports",
            "10.0.0.2:80",
            "error: service default/entry.default.svc has no port 80",
        ),
        ("the service's endpoints", "10.0.0.9:443", "tunnel 10.0.0.9:15008 10.0.0.9:443 both"),
        (
            "and then the workload's waypoint",
            "10.0.2.1:80",
            "tunnel 10.0.1.1:15008 10.0.2.1:8080 waypoint+waypoint-too",
        ),
    ]);
}

#[test]
fn rows_1_and_8_waypoints() {
    check(&[
        ("row 1", "10.96.2.1:80", "tunnel 10.0.1.1:15008 10.96.2.1:80 waypoint+waypoint-too"),
        ("row 1, whatever the port", "10.96.2.1:81", "tunnel 10.0.1.1:15008 10.96.2.1:81 waypoint+waypoint-too"),
        ("row 1, sandwiched", "10.96.2.2:80", "tunnel 10.0.1.2:15008 10.96.2.2:80 sandwich"),
        ("waypoint wins over passthrough", "10.96.3.2:80", "tunnel 10.0.1.1:15008 10.96.3.2:80 waypoint+waypoint-too"),
        ("row 8, by address", "10.0.2.2:80", "tunnel 10.0.1.1:15008 10.0.2.2:80 waypoint"),
        (
            "service-addressed: the workload's waypoint is not used",
            "10.96.2.5:80",
            "tunnel 10.0.2.1:15008 10.0.2.1:8080 guarded",
        ),
    ]);
}

/// Trap 13: a waypoint that is not there is an error, never passed by.
#[test]
fn waypoints_fail_closed() {
    let lost = "error: waypoint default/nowhere.default.svc:15008 is not known, or none of its endpoints can be used";
    check(&[("of a service", "10.96.2.3:80", lost), ("of a workload", "10.0.2.3:80", lost)]);
}

#[test]
fn a_waypoint_is_not_sent_back_to_itself() {
    let world = world(UnknownDestination::Passthrough);
    assert_eq!(ask(&world, "waypoint", "10.0.2.2:80"), "tunnel 10.0.2.2:15008 10.0.2.2:80 guarded-by-ip");
    assert_eq!(ask(&world, "waypoint", "10.0.2.1:80"), "tunnel 10.0.2.1:15008 10.0.2.1:8080 guarded");
}

/// Trap 15: the inner tunnel accepts the service's names only.
#[test]
fn rows_2_and_3_other_networks() {
    check(&[
        ("row 3", "10.96.4.1:80", "nested 10.0.3.1:15009 far.default.svc:80 entrance [remote]"),
        ("row 3, entrance by address", "10.96.4.2:80", "nested 10.0.3.1:15008 far-by-ip.default.svc:80 entrance []"),
        (
            "no entrance",
            "10.96.4.3:80",
            "error: workload remote-lost is on network \"far\", which has no known gateway",
        ),
        ("row 2", "10.96.2.4:80", "nested 10.0.3.1:15009 shop-far.default.svc:80 entrance [remote-waypoint]"),
    ]);
}

#[test]
fn a_workload_with_a_name_needs_it_looked_up() {
    let world = world(UnknownDestination::Passthrough);
    assert_eq!(ask(&world, "client", "10.96.5.1:443"), "error: the host name example.org has no address");
    let source = Arc::clone(world.workload_by_uid("client").unwrap());
    let found = |name: &str| {
        (name == "example.org").then(|| ["2001:db8::1", "192.0.2.1"].map(|ip| ip.parse::<IpAddr>().unwrap()).to_vec())
    };
    let trip = Trip { source: &source, to: OrigDst("10.96.5.1:443".parse().unwrap()), draw: 1, names: &found };
    assert_eq!(describe(route(&world, &trip)), "plain 192.0.2.1:443 outside");
}

#[test]
fn the_unknown_may_be_refused() {
    let world = world(UnknownDestination::Refused);
    let expected = "error: 8.8.8.8:53 is not in the mesh, and connections to the unknown are refused here";
    assert_eq!(ask(&world, "client", "8.8.8.8:53"), expected);
    assert_eq!(ask(&world, "client", "10.96.3.1:80"), "passthrough 10.96.3.1:80 passthrough");
}
