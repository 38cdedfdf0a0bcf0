//! To whom a connection is attributed, and what a host name means on a workload.

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderMap;

use super::{service_label, target_port, workload};
use crate::model::service::ServiceKey;
use crate::model::workload::NetworkMode;
use crate::model::world::Place;
use crate::model::{Identity, Service, Workload, World};

fn identity(name: &str) -> Identity {
    Identity::new("cluster.local", "shop", name).unwrap()
}

fn key(namespace: &str, hostname: &str) -> ServiceKey {
    ServiceKey { namespace: namespace.into(), hostname: hostname.into() }
}

fn service(namespace: &str, hostname: &str, ports: &[(u16, u16)]) -> Service {
    Service { ports: ports.iter().copied().collect(), ..Service::new(key(namespace, hostname), hostname) }
}

/// A service's namespace and name, and a workload's own ports for it.
type Membership<'a> = (&'a str, &'a str, &'a [(u16, u16)]);

/// A workload of namespace `shop`, in these services.
fn member(name: &str, address: &str, services: &[Membership<'_>]) -> Workload {
    let mut workload = Workload::new(name, name, identity(name));
    workload.addresses = vec![address.parse().unwrap()];
    for (namespace, hostname, ports) in services {
        workload.services.insert(key(namespace, hostname), ports.iter().copied().collect());
    }
    workload
}

fn headers(baggage: &[&str]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in baggage {
        headers.append("baggage", line.parse().unwrap());
    }
    headers
}

#[test]
fn sources() {
    let mut host = member("host", "192.168.0.1", &[]);
    host.network_mode = NetworkMode::HostNetwork;
    let world = World::new(Place::default(), vec![member("client", "10.0.0.1", &[]), host], Vec::new(), Vec::new());
    let (client, other) = (identity("client"), identity("other"));
    let host = identity("host");
    let told = [
        "k8s.cluster.name=east,k8s.pod.name=said,service.name=app,service.version=v3",
        "cloud.region=r,cloud.availability_zone=z",
    ];
    let cases = [
        ("known", "", "10.0.0.1", Some(&client), Some("client client client latest  ")),
        ("address of somebody else", "", "10.0.0.1", Some(&other), Some("other said app v3 r z")),
        ("unknown address", "", "10.0.0.9", Some(&client), Some("client said app v3 r z")),
        ("another network", "far", "10.0.0.1", Some(&client), Some("client said app v3 r z")),
        ("on a host network", "", "192.168.0.1", Some(&host), Some("host said app v3 r z")),
        ("nothing is proven", "", "10.0.0.1", None, None),
    ];
    for (case, network, peer, proven, expected) in cases {
        let peer: IpAddr = peer.parse().unwrap();
        let found = workload(&world, network, peer, proven, &headers(&told));
        let shown = found.map(|workload| {
            let Workload { workload_name, canonical_name, canonical_revision, locality, .. } = &*workload;
            let account = workload.identity.service_account();
            format!(
                "{account} {workload_name} {canonical_name} {canonical_revision} {} {}",
                locality.region, locality.zone
            )
        });
        assert_eq!(shown.as_deref(), expected, "{case}");
    }
    let known = workload(&world, "", "10.0.0.1".parse().unwrap(), Some(&client), &headers(&told)).unwrap();
    assert!(Arc::ptr_eq(&known, world.workload_at("", "10.0.0.1".parse().unwrap()).unwrap()));
    let silent = workload(&world, "", "10.0.0.9".parse().unwrap(), Some(&client), &HeaderMap::new()).unwrap();
    assert_eq!((silent.identity.clone(), &*silent.workload_name, silent.namespace()), (client, "", "shop"));
}

/// A mesh with a workload that is in several services.
fn mesh() -> (World, Arc<Workload>) {
    let services = vec![
        service("shop", "web", &[(80, 8080), (443, 8443)]),
        service("shop", "named", &[(80, 0)]),
        service("other", "shared", &[(80, 7000)]),
        service("shop", "shared", &[(80, 7001)]),
        service("other", "abroad", &[(80, 7002)]),
        service("shop", "not-a-member", &[(80, 8080)]),
    ];
    let web = member(
        "web",
        "10.0.0.2",
        &[
            ("shop", "web", &[]),
            ("shop", "named", &[(80, 9090)]),
            ("other", "shared", &[]),
            ("shop", "shared", &[]),
            ("other", "abroad", &[]),
            ("shop", "unknown", &[(80, 6000)]),
        ],
    );
    let world = World::new(Place::default(), vec![web], services, Vec::new());
    let web = Arc::clone(world.workload_by_uid("web").unwrap());
    (world, web)
}

#[test]
fn services() {
    let (world, web) = mesh();
    let cases = [
        ("by name", Some("web"), 8080, Some("shop/web")),
        ("by name, whatever the port", Some("web"), 1, Some("shop/web")),
        ("by port", None, 8443, Some("shop/web")),
        ("by the workload's own port", None, 9090, Some("shop/named")),
        ("another service's name", Some("not-a-member"), 8443, Some("shop/web")),
        ("a name that nobody has", Some("nobody"), 9090, Some("shop/named")),
        ("listed, but not known", Some("unknown"), 6000, None),
        ("no service's port", None, 80, None),
    ];
    for (case, host, port, expected) in cases {
        let found = service_label(&world, &web, host, port).map(|service| service.key.to_string());
        assert_eq!(found.as_deref(), expected, "{case}");
    }
}

#[test]
fn ports_behind_names() {
    let (world, web) = mesh();
    let cases = [
        ("web", 80, Some(8080)),
        ("web", 443, Some(8443)),
        ("web", 8080, None),
        ("named", 80, Some(9090)),
        ("shared", 80, Some(7001)),
        ("abroad", 80, Some(7002)),
        ("not-a-member", 80, None),
        ("unknown", 80, Some(6000)),
        ("unknown", 81, None),
        ("nobody", 80, None),
        ("", 80, None),
    ];
    for (host, port, expected) in cases {
        assert_eq!(target_port(&world, &web, host, port), expected, "{host}:{port}");
    }
    // A service that leaves the port to its endpoints, and an endpoint that names none.
    let (services, plain) =
        (vec![service("shop", "named", &[(80, 0)])], member("plain", "10.0.0.3", &[("shop", "named", &[])]));
    let world = World::new(Place::default(), vec![plain], services, Vec::new());
    let plain = world.workload_by_uid("plain").unwrap();
    assert_eq!(target_port(&world, plain, "named", 80), None);
}
