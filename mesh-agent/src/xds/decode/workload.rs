//! `istio.workload.Workload`.

use std::sync::Arc;

use super::address::{gateway, ip, service_key};
use super::service::ports;
use super::{Texts, Unusable, or, policy_name, port};
use crate::model::Workload;
use crate::model::service::{Ports, ServiceKey};
use crate::model::workload::{
    AppTunnel, AppTunnelProtocol, Health, Memberships, NetworkMode, Tunnel, TunnelEnd, WorkloadType,
};
use crate::proto::workload as wire;

pub(super) fn convert(workload: wire::Workload, texts: &mut Texts) -> Result<Workload, Unusable> {
    if workload.uid.is_empty() {
        return Err(Unusable::Missing { field: "uid" });
    }
    let domain = or(&workload.trust_domain, "cluster.local", texts);
    let account = or(&workload.service_account, "default", texts);
    let policies = workload.authorization_policies.iter();
    let policies = policies.map(|name| policy_name("authorization_policies", name, texts));
    let policies = policies.collect::<Result<Vec<_>, _>>()?;
    let gateway = |field, one: &Option<wire::GatewayAddress>, texts: &mut Texts| {
        one.as_ref().map(|one| gateway(field, one, texts)).transpose().map(|one| one.map(Arc::new))
    };
    let mut addresses = Vec::with_capacity(workload.addresses.len());
    for address in &workload.addresses {
        addresses.push(ip("addresses", address)?);
    }
    let locality = workload.locality.clone().unwrap_or_default();
    Ok(Workload {
        uid: workload.uid.as_str().into(),
        name: workload.name.as_str().into(),
        identity: texts.identity(&domain, &workload.namespace, &account)?,
        network: texts.shared(&workload.network),
        addresses,
        hostname: (!workload.hostname.is_empty()).then(|| workload.hostname.to_ascii_lowercase().into()),
        tunnel: tunnel(workload.tunnel_protocol)?,
        tunnel_end: if workload.native_tunnel { TunnelEnd::Workload } else { TunnelEnd::Agent },
        network_mode: network_mode(workload.network_mode)?,
        node: texts.shared(&workload.node),
        cluster: or(&workload.cluster_id, "Kubernetes", texts),
        canonical_name: texts.shared(&workload.canonical_name),
        canonical_revision: texts.shared(&workload.canonical_revision),
        workload_name: texts.shared(&workload.workload_name),
        workload_type: workload_type(workload.workload_type),
        locality: texts.locality(&locality.region, &locality.zone, &locality.subzone),
        health: health(workload.status)?,
        waypoint: gateway("waypoint", &workload.waypoint, texts)?,
        network_gateway: gateway("network_gateway", &workload.network_gateway, texts)?,
        app_tunnel: workload.application_tunnel.as_ref().map(app_tunnel).transpose()?,
        policies,
        services: memberships(&workload, texts)?,
        capacity: workload.capacity.unwrap_or(1),
    })
}

fn memberships(workload: &wire::Workload, texts: &mut Texts) -> Result<Memberships, Unusable> {
    let mut all: Vec<(ServiceKey, Ports)> = Vec::with_capacity(workload.services.len());
    for (key, list) in &workload.services {
        let not_qualified = || Unusable::NotQualified { field: "services", text: key.clone() };
        let (namespace, hostname) = key.split_once('/').ok_or_else(not_qualified)?;
        all.push((service_key(namespace, hostname, texts), ports(&list.ports)?));
    }
    Ok(all.into_iter().collect())
}

fn tunnel(value: i32) -> Result<Tunnel, Unusable> {
    let unknown = |_| Unusable::UnknownValue { field: "tunnel_protocol", value };
    match wire::TunnelProtocol::try_from(value).map_err(unknown)? {
        wire::TunnelProtocol::None => Ok(Tunnel::None),
        wire::TunnelProtocol::Hbone => Ok(Tunnel::Hbone),
        wire::TunnelProtocol::LegacyIstioMtls => Err(Unusable::LegacyTunnel),
    }
}

fn network_mode(value: i32) -> Result<NetworkMode, Unusable> {
    let unknown = |_| Unusable::UnknownValue { field: "network_mode", value };
    Ok(match wire::NetworkMode::try_from(value).map_err(unknown)? {
        wire::NetworkMode::Standard => NetworkMode::Standard,
        wire::NetworkMode::HostNetwork => NetworkMode::HostNetwork,
    })
}

fn health(value: i32) -> Result<Health, Unusable> {
    let unknown = |_| Unusable::UnknownValue { field: "status", value };
    Ok(match wire::WorkloadStatus::try_from(value).map_err(unknown)? {
        wire::WorkloadStatus::Healthy => Health::Healthy,
        wire::WorkloadStatus::Unhealthy => Health::Unhealthy,
    })
}

/// An unknown type is taken for the zero value (section 2.6): it only names things.
fn workload_type(value: i32) -> WorkloadType {
    match wire::WorkloadType::try_from(value) {
        Ok(wire::WorkloadType::Deployment) | Err(_) => WorkloadType::Deployment,
        Ok(wire::WorkloadType::Cronjob) => WorkloadType::CronJob,
        Ok(wire::WorkloadType::Pod) => WorkloadType::Pod,
        Ok(wire::WorkloadType::Job) => WorkloadType::Job,
    }
}

fn app_tunnel(tunnel: &wire::ApplicationTunnel) -> Result<AppTunnel, Unusable> {
    use wire::application_tunnel::Protocol;
    let value = tunnel.protocol;
    let unknown = |_| Unusable::UnknownValue { field: "application_tunnel.protocol", value };
    let protocol = match Protocol::try_from(value).map_err(unknown)? {
        Protocol::None => AppTunnelProtocol::None,
        Protocol::Proxy => AppTunnelProtocol::Proxy,
    };
    Ok(AppTunnel { protocol, port: Some(port(tunnel.port)).filter(|port| *port != 0) })
}
