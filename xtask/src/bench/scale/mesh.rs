//! The made-up mesh: 100,000 workloads and 10,000 services, with texts as long as those of real ones. The lab's pods are
//! among them, and one workload that moves from one pod's address to another's.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU64, Ordering};

use mesh_e2e::{Lab, RunningPod};
use prost::Message;

use mesh_e2e::discovery::{ADDRESS, Address, Any, HBONE, Locality, Place, Port, Ports, Resource, Service, Workload};

/// Both with what the lab has of its own.
pub(super) const WORKLOADS: u32 = 100_000;
pub(super) const SERVICES: u32 = 10_000;
const NAMESPACES: u32 = 250;
const NODES: u32 = 1_000;
/// Behind it is only the workload that moves.
pub(super) const VIP: Ipv4Addr = Ipv4Addr::new(10, 200, 255, 254);
pub(super) const PORT: u16 = 80;
/// Where the lab's servers listen that tell who they are.
pub(super) const TARGET: u16 = 8080;
const CLUSTER: &str = "Kubernetes";
const SHOP: &str = "default/shop.default.svc.cluster.local";
/// The lab's pods, and the one that moves.
const OWN: u32 = 4;

/// The lab's own part: its pods, and a service whose only endpoint is at `at`.
pub(super) fn own(lab: &Lab, at: &RunningPod) -> Vec<Resource> {
    let pods = lab.pods().iter().map(pod);
    let service = Service {
        name: "shop".to_owned(),
        namespace: "default".to_owned(),
        hostname: "shop.default.svc.cluster.local".to_owned(),
        addresses: vec![Place { address: VIP.octets().to_vec() }],
        ports: vec![Port { service_port: PORT.into(), target_port: TARGET.into() }],
        ..Service::default()
    };
    pods.chain([moved(at), of_service(service)]).collect()
}

/// The workload that moves, now at the address of `pod`, under the identity that both places have.
pub(super) fn moved(pod: &RunningPod) -> Resource {
    of_workload(Workload {
        name: "mover".to_owned(),
        addresses: vec![octets(pod.v4)],
        service_account: account(pod).to_owned(),
        node: "elsewhere".to_owned(),
        services: BTreeMap::from([(SHOP.to_owned(), Ports { ports: Vec::new() })]),
        ..described("default", "mover")
    })
}

/// Everybody else.
pub(super) fn others() -> impl Iterator<Item = Resource> {
    (0..SERVICES - 1).map(service).chain((0..WORKLOADS - OWN).map(|number| workload(number, 0)))
}

/// One of the others after `changes` of its address.
pub(super) fn workload(number: u32, changes: u32) -> Resource {
    let service = number % (SERVICES - 1);
    let (namespace, app) = (namespace(service), format!("checkout-{service}"));
    // 10.64.0.0/11 at first, and other such blocks after changes.
    let address = Ipv4Addr::from_bits(0x0a40_0000 + number + (changes % 4) * 0x0020_0000);
    let name = format!("{app}-7d9f8c6b5d-{number:05x}");
    of_workload(Workload {
        addresses: vec![address.octets().to_vec()],
        service_account: app.clone(),
        node: format!("worker-{}.europe-west3.example.net", number % NODES),
        services: BTreeMap::from([(format!("{namespace}/{}", hostname(service)), Ports { ports: vec![port()] })]),
        locality: Some(Locality { region: "europe-west3".to_owned(), zone: format!("europe-west3-{}", number % 3) }),
        canonical_name: app.clone(),
        workload_name: app,
        canonical_revision: "v1".to_owned(),
        ..described(&namespace, &name)
    })
}

/// How many others there are.
pub(super) fn other_workloads() -> u32 {
    WORKLOADS - OWN
}

fn pod(pod: &RunningPod) -> Resource {
    let addresses = [pod.v4, pod.v6].map(octets).to_vec();
    of_workload(Workload {
        addresses,
        service_account: account(pod).to_owned(),
        node: pod.node.clone(),
        canonical_name: pod.name.clone(),
        ..described("default", &pod.name)
    })
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// The service account of a pod: the last part of its SPIFFE identity.
fn account(pod: &RunningPod) -> &str {
    pod.identity.rsplit('/').next().unwrap_or_default()
}

fn service(number: u32) -> Resource {
    let [.., high, low] = number.to_be_bytes();
    of_service(Service {
        name: format!("checkout-{number}"),
        namespace: namespace(number),
        hostname: hostname(number),
        addresses: vec![Place { address: vec![10, 200, high, low] }],
        ports: vec![port()],
        ..Service::default()
    })
}

fn port() -> Port {
    Port { service_port: PORT.into(), target_port: TARGET.into() }
}

fn namespace(service: u32) -> String {
    format!("team-{}", service % NAMESPACES)
}

fn hostname(service: u32) -> String {
    format!("checkout-{service}.{}.svc.cluster.local", namespace(service))
}

fn described(namespace: &str, name: &str) -> Workload {
    Workload {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        tunnel_protocol: HBONE,
        cluster_id: CLUSTER.to_owned(),
        uid: format!("{CLUSTER}//Pod/{namespace}/{name}"),
        ..Workload::default()
    }
}

fn of_workload(workload: Workload) -> Resource {
    let name = workload.uid.clone();
    resource(name, &Address { workload: Some(workload), service: None })
}

fn of_service(service: Service) -> Resource {
    let name = format!("{}/{}", service.namespace, service.hostname);
    resource(name, &Address { workload: None, service: Some(service) })
}

fn resource(name: String, address: &Address) -> Resource {
    // Each a new one: a server that says the same version again says that nothing has changed.
    static VERSION: AtomicU64 = AtomicU64::new(1);
    let version = VERSION.fetch_add(1, Ordering::Relaxed).to_string();
    let body = Any { type_url: ADDRESS.to_owned(), value: address.encode_to_vec().into() };
    Resource { version, resource: Some(body), name }
}
