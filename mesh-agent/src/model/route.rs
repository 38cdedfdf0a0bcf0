//! Where an outbound connection goes (protocol note, section 7): a pure function of the world, the source and the
//! original destination.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mesh_common::abi::HBONE_PORT;

use super::addr::{NextHop, OrigDst};
use super::service::Service;
use super::workload::{Tunnel, Workload};
use super::{Identity, World};

/// How to reach the destination.
#[derive(Clone, Debug)]
pub enum Route {
    /// HBONE to `next_hop`, CONNECT to `authority`, to a peer that proves one of `accepted`.
    Tunnel {
        next_hop: NextHop,
        /// `ip:port` as CONNECT carries it.
        authority: SocketAddr,
        accepted: Vec<Identity>,
        workload: Arc<Workload>,
        service: Option<Arc<Service>>,
    },
    /// Plain TCP to a known workload that is outside the mesh.
    Plain { next_hop: NextHop, workload: Arc<Workload>, service: Option<Arc<Service>> },
    /// Plain TCP to an address the mesh does not know.
    Passthrough { next_hop: NextHop },
}

/// Why there is no way to the destination.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRoute {
    #[error("service {service} has no port {port}")]
    NoSuchPort { service: String, port: u16 },
    #[error("service {service} has no healthy endpoint for port {port}")]
    NoHealthyUpstream { service: String, port: u16 },
    #[error("the chosen endpoint {workload} has no usable address")]
    NoAddress { workload: String },
}

/// Decides the route. `draw` is a uniformly random number that picks among equal endpoints.
///
/// An address that is both a service's and a workload's is the service's here: this is the "where to send" look-up.
pub fn route(world: &World, source: &Workload, to: OrigDst, draw: u64) -> Result<Route, NoRoute> {
    let OrigDst(to) = to;
    if let Some(service) = world.service_at(&source.network, to.ip(), source.namespace()) {
        return by_service(world, service, to, draw);
    }
    match world.workload_at(&source.network, to.ip()) {
        Some(workload) => Ok(towards(workload, to, None)),
        None => Ok(Route::Passthrough { next_hop: NextHop(to) }),
    }
}

fn by_service(world: &World, service: &Arc<Service>, to: SocketAddr, draw: u64) -> Result<Route, NoRoute> {
    let (name, port) = (|| service.key.to_string(), to.port());
    let endpoints = world.endpoints(&service.key, port).ok_or_else(|| NoRoute::NoSuchPort { service: name(), port })?;
    let endpoint = endpoints.pick(draw).ok_or_else(|| NoRoute::NoHealthyUpstream { service: name(), port })?;
    let ip = target_ip(&endpoint.workload, to.ip())
        .ok_or_else(|| NoRoute::NoAddress { workload: endpoint.workload.uid.to_string() })?;
    Ok(towards(&endpoint.workload, SocketAddr::new(ip, endpoint.port), Some(service)))
}

/// The workload's address to use: the one that was addressed, else one of the same family, else any.
fn target_ip(workload: &Workload, original: IpAddr) -> Option<IpAddr> {
    let mut addresses = workload.addresses.iter().copied();
    let same_family = || addresses.clone().find(|ip| ip.is_ipv4() == original.is_ipv4());
    let exact = workload.addresses.iter().copied().find(|ip| *ip == original);
    exact.or_else(same_family).or_else(|| addresses.next())
}

fn towards(workload: &Arc<Workload>, target: SocketAddr, service: Option<&Arc<Service>>) -> Route {
    let (service, workload) = (service.map(Arc::clone), Arc::clone(workload));
    match workload.tunnel {
        Tunnel::Hbone => {
            let mut accepted = vec![workload.identity.clone()];
            if let Some(service) = &service {
                accepted.extend(service.subject_alt_names.iter().filter(|id| **id != workload.identity).cloned());
            }
            let next_hop = NextHop(SocketAddr::new(target.ip(), HBONE_PORT));
            Route::Tunnel { next_hop, authority: target, accepted, workload, service }
        }
        Tunnel::None => Route::Plain { next_hop: NextHop(target), workload, service },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::{NoRoute, Route, route};
    use crate::model::addr::{NetworkAddress, OrigDst};
    use crate::model::service::{PublishNotReady, Service, ServiceKey};
    use crate::model::workload::{Health, NetworkMode, Tunnel, Workload};
    use crate::model::{Identity, World};

    fn key(name: &str) -> ServiceKey {
        ServiceKey { namespace: "default".into(), hostname: format!("{name}.default.svc").into() }
    }

    fn workload(name: &str, addresses: &[&str], change: impl FnOnce(&mut Workload)) -> Workload {
        let mut workload = Workload::new(name, name, Identity::new("cluster.local", "default", name).unwrap());
        workload.addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
        change(&mut workload);
        workload
    }

    fn service(name: &str, vips: &[&str], ports: &[(u16, u16)]) -> Service {
        Service {
            key: key(name),
            name: name.to_owned(),
            vips: vips.iter().map(|ip| NetworkAddress { network: "".into(), ip: ip.parse().unwrap() }).collect(),
            ports: ports.iter().copied().collect(),
            subject_alt_names: Vec::new(),
            publish_not_ready: PublishNotReady::OnlyHealthy,
        }
    }

    fn member(service: &str, ports: &[(u16, u16)]) -> impl FnOnce(&mut Workload) {
        let (key, ports): (_, BTreeMap<_, _>) = (key(service), ports.iter().copied().collect());
        move |workload| drop(workload.services.insert(key, ports))
    }

    fn world() -> World {
        let workloads = vec![
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
            workload("both", &["10.0.0.9"], |_| {}),
        ];
        let services = vec![
            service("web", &["10.96.0.1", "fd00:96::1"], &[(80, 8080)]),
            service("legacy", &["10.96.0.2"], &[(80, 8080)]),
            service("sick", &["10.96.0.3"], &[(80, 8080)]),
            service("named", &["10.96.0.4"], &[(80, 0), (81, 0)]),
            service("host", &["10.96.0.5"], &[(80, 8080)]),
            service("entry", &["10.0.0.9"], &[(443, 443)]),
        ];
        World::new(workloads, services, Vec::new())
    }

    fn describe(result: Result<Route, NoRoute>) -> String {
        match result {
            Ok(Route::Tunnel { next_hop, authority, accepted, .. }) => {
                format!("tunnel {next_hop} {authority} {}", accepted[0].service_account())
            }
            Ok(Route::Plain { next_hop, workload, .. }) => format!("plain {next_hop} {}", workload.name),
            Ok(Route::Passthrough { next_hop }) => format!("passthrough {next_hop}"),
            Err(error) => format!("error: {error}"),
        }
    }

    /// Rows of the decision table, section 7.6, that need no waypoint and no second network.
    #[test]
    fn decision_table() {
        let cases = [
            ("row 4", "10.96.0.1:80", "tunnel 10.0.0.2:15008 10.0.0.2:8080 web"),
            ("row 4, v6", "[fd00:96::1]:80", "tunnel [fd00::2]:15008 [fd00::2]:8080 web"),
            ("row 4, endpoint's own port", "10.96.0.4:80", "tunnel 10.0.0.5:15008 10.0.0.5:9090 named"),
            ("row 5", "10.96.0.2:80", "plain 10.0.0.3:8080 legacy"),
            ("row 5, host network", "10.96.0.5:80", "plain 192.168.0.1:8080 host"),
            ("row 7", "10.96.0.3:80", "error: service default/sick.default.svc has no healthy endpoint for port 80"),
            (
                "row 7, no port on any",
                "10.96.0.4:81",
                "error: service default/named.default.svc has no healthy endpoint for port 81",
            ),
            ("no such port", "10.96.0.1:81", "error: service default/web.default.svc has no port 81"),
            ("row 9", "10.0.0.2:1234", "tunnel 10.0.0.2:15008 10.0.0.2:1234 web"),
            ("row 9, health is ignored", "10.0.0.4:1234", "tunnel 10.0.0.4:15008 10.0.0.4:1234 sick"),
            ("row 10", "10.0.0.3:1234", "plain 10.0.0.3:1234 legacy"),
            ("row 11", "8.8.8.8:53", "passthrough 8.8.8.8:53"),
            ("row 11, node address", "192.168.0.1:10250", "passthrough 192.168.0.1:10250"),
            (
                "service before workload",
                "10.0.0.9:443",
                "error: service default/entry.default.svc has no healthy endpoint for port 443",
            ),
        ];
        let world = world();
        let source = Arc::clone(world.workload_by_uid("client").unwrap());
        for (name, to, expected) in cases {
            let result = route(&world, &source, OrigDst(to.parse().unwrap()), 12345);
            assert_eq!(describe(result), expected, "{name}");
        }
    }
}
