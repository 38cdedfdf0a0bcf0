//! `istio.workload.Service`.

use super::address::{Vip, gateway, service_key, vip};
use super::{Texts, Unusable, port};
use crate::model::Service;
use crate::model::balance::{HealthPolicy, LoadBalancing, Mode, Scope};
use crate::model::gateway::Waypoints;
use crate::model::service::{AppProtocol, IngressWaypoint, IpFamilies, Port, Ports, Standing, Visibility};
use crate::proto::workload as wire;

pub(super) fn convert(service: wire::Service, texts: &mut Texts) -> Result<Service, Unusable> {
    if service.hostname.is_empty() {
        return Err(Unusable::Missing { field: "hostname" });
    }
    let key = service_key(&service.namespace, &service.hostname, texts);
    let (mut vips, mut cidr_vips) = (Vec::new(), Vec::new());
    for address in &service.addresses {
        match vip(address, texts)? {
            Vip::Host(address) => vips.push(address),
            Vip::Block(network, block) => cidr_vips.push((network, block)),
        }
    }
    Ok(Service {
        vips,
        cidr_vips,
        name: texts.shared(&service.name),
        ports: ports(&service.ports)?,
        // What is no SPIFFE identity of the mesh's form can be proven by nobody.
        subject_alt_names: service.subject_alt_names.iter().filter_map(|name| name.parse().ok()).collect(),
        waypoints: waypoints(&service, texts)?,
        load_balancing: service.load_balancing.as_ref().map(load_balancing).transpose()?.unwrap_or_default(),
        ip_families: ip_families(service.ip_families)?,
        standing: if service.canonical { Standing::Canonical } else { Standing::Ordinary },
        visibility: match wire::service::Visibility::try_from(service.visibility) {
            Ok(wire::service::Visibility::Namespace) => Visibility::Namespace,
            Ok(wire::service::Visibility::Public) | Err(_) => Visibility::Public,
        },
        ingress: if service.ingress_use_waypoint { IngressWaypoint::Used } else { IngressWaypoint::Skipped },
        key,
    })
}

pub(super) fn ports(ports: &[wire::Port]) -> Result<Ports, Unusable> {
    let convert = |one: &wire::Port| {
        let (service, target) = (port(one.service_port), port(one.target_port));
        Ok::<_, Unusable>(Port { service, target, protocol: protocol(one.app_protocol)? })
    };
    Ok(Ports::new(ports.iter().map(convert).collect::<Result<_, _>>()?))
}

fn protocol(value: i32) -> Result<AppProtocol, Unusable> {
    let unknown = |_| Unusable::UnknownValue { field: "app_protocol", value };
    Ok(match wire::AppProtocol::try_from(value).map_err(unknown)? {
        wire::AppProtocol::Unknown => AppProtocol::Unknown,
        wire::AppProtocol::Http11 => AppProtocol::Http11,
        wire::AppProtocol::Http2 => AppProtocol::Http2,
        wire::AppProtocol::Grpc => AppProtocol::Grpc,
        wire::AppProtocol::Tcp => AppProtocol::Tcp,
        wire::AppProtocol::Tls => AppProtocol::Tls,
    })
}

fn waypoints(service: &wire::Service, texts: &mut Texts) -> Result<Waypoints, Unusable> {
    const FIELD: &str = "weighted_waypoints";
    let mut weighted = Vec::new();
    for one in &service.weighted_waypoints {
        let destination = one.destination.as_ref().ok_or(Unusable::NoDestination { field: FIELD })?;
        weighted.push((gateway(FIELD, destination, texts)?, one.weight));
    }
    let only = service.waypoint.as_ref().map(|one| gateway("waypoint", one, texts)).transpose()?;
    Ok(Waypoints { only, weighted })
}

fn load_balancing(balancing: &wire::LoadBalancing) -> Result<LoadBalancing, Unusable> {
    use wire::load_balancing as on_wire;
    let unknown = |field, value| move |_| Unusable::UnknownValue { field, value };
    let (mode, health) = (balancing.mode, balancing.health_policy);
    Ok(LoadBalancing {
        mode: match on_wire::Mode::try_from(mode).map_err(unknown("mode", mode))? {
            on_wire::Mode::UnspecifiedMode => Mode::Standard,
            on_wire::Mode::Strict => Mode::Strict,
            on_wire::Mode::Failover => Mode::Failover,
            on_wire::Mode::Passthrough => Mode::Passthrough,
        },
        preferences: balancing.routing_preference.iter().map(|value| scope(*value)).collect::<Result<_, _>>()?,
        health: match on_wire::HealthPolicy::try_from(health).map_err(unknown("health_policy", health))? {
            on_wire::HealthPolicy::OnlyHealthy => HealthPolicy::OnlyHealthy,
            on_wire::HealthPolicy::AllowAll => HealthPolicy::AllowAll,
        },
    })
}

fn scope(value: i32) -> Result<Scope, Unusable> {
    use wire::load_balancing::Scope as OnWire;
    let unknown = |_| Unusable::UnknownValue { field: "routing_preference", value };
    Ok(match OnWire::try_from(value).map_err(unknown)? {
        OnWire::UnspecifiedScope => return Err(Unusable::NoScope),
        OnWire::Region => Scope::Region,
        OnWire::Zone => Scope::Zone,
        OnWire::Subzone => Scope::Subzone,
        OnWire::Node => Scope::Node,
        OnWire::Cluster => Scope::Cluster,
        OnWire::Network => Scope::Network,
    })
}

fn ip_families(value: i32) -> Result<IpFamilies, Unusable> {
    let unknown = |_| Unusable::UnknownValue { field: "ip_families", value };
    Ok(match wire::IpFamilies::try_from(value).map_err(unknown)? {
        wire::IpFamilies::Automatic => IpFamilies::Automatic,
        wire::IpFamilies::Ipv4Only => IpFamilies::V4Only,
        wire::IpFamilies::Ipv6Only => IpFamilies::V6Only,
        wire::IpFamilies::Dual => IpFamilies::Dual,
    })
}
