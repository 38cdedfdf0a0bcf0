//! The services of the file, and who serves them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_saphyr::Spanned;

use super::gateway;
use super::schema::{self, NodeFile};
use super::translate::{Draft, Findings, Name, selects};
use crate::model::Service;
use crate::model::addr::NetworkAddress;
use crate::model::balance::{HealthPolicy, LoadBalancing, Mode, Scope};
use crate::model::gateway::Waypoints;
use crate::model::service::{IpFamilies, Ports, ServiceKey, Standing, Visibility};

pub(super) fn services(file: &NodeFile, drafts: &mut BTreeMap<Name, Draft>, findings: &mut Findings) -> Vec<Service> {
    let mut seen = BTreeSet::new();
    let mut all = Vec::new();
    for spanned in &file.services {
        let written = &spanned.value;
        let default = || format!("{}.{}.svc.cluster.local", written.name, written.namespace);
        let hostname = written.hostname.clone().unwrap_or_else(default).to_ascii_lowercase();
        let key = ServiceKey { namespace: written.namespace.as_str().into(), hostname: hostname.as_str().into() };
        if !seen.insert(key.clone()) {
            findings.mistake(spanned, format!("service {key} is listed twice"));
        }
        let subject_alt_names = written.subject_alt_names.iter().filter_map(|text| match text.parse() {
            Ok(identity) => Some(identity),
            Err(error) => {
                findings.mistake(spanned, format!("service {key}: {error}"));
                None
            }
        });
        let subject_alt_names = subject_alt_names.collect();
        join_members(spanned, &key, drafts, findings);
        let network: Arc<str> = file.node.network.as_str().into();
        let waypoints = waypoints(file, spanned, &key, findings);
        all.push(Service {
            vips: written
                .addresses
                .iter()
                .map(|ip| NetworkAddress { network: Arc::clone(&network), ip: ip.to_canonical() })
                .collect(),
            cidr_vips: written.blocks.iter().map(|block| (Arc::clone(&network), block.trunc())).collect(),
            ports: ports(spanned, &key, findings),
            subject_alt_names,
            waypoints,
            load_balancing: load_balancing(written),
            ip_families: match written.ip_families {
                schema::IpFamilies::Automatic => IpFamilies::Automatic,
                schema::IpFamilies::Ipv4 => IpFamilies::V4Only,
                schema::IpFamilies::Ipv6 => IpFamilies::V6Only,
            },
            visibility: match written.visibility {
                schema::Visibility::Public => Visibility::Public,
                schema::Visibility::Namespace => Visibility::Namespace,
            },
            standing: Standing::Canonical,
            ..Service::new(key, &written.name)
        });
    }
    all
}

fn load_balancing(written: &schema::Service) -> LoadBalancing {
    let scope = |scope: &schema::Scope| match scope {
        schema::Scope::Region => Scope::Region,
        schema::Scope::Zone => Scope::Zone,
        schema::Scope::Subzone => Scope::Subzone,
        schema::Scope::Node => Scope::Node,
        schema::Scope::Cluster => Scope::Cluster,
        schema::Scope::Network => Scope::Network,
    };
    LoadBalancing {
        mode: match written.traffic.mode {
            schema::TrafficMode::Any => Mode::Standard,
            schema::TrafficMode::Strict => Mode::Strict,
            schema::TrafficMode::Failover => Mode::Failover,
            schema::TrafficMode::Passthrough => Mode::Passthrough,
        },
        preferences: written.traffic.prefer.iter().map(scope).collect(),
        health: if written.publish_not_ready { HealthPolicy::AllowAll } else { HealthPolicy::OnlyHealthy },
    }
}

fn waypoints(
    file: &NodeFile,
    spanned: &Spanned<schema::Service>,
    key: &ServiceKey,
    findings: &mut Findings,
) -> Waypoints {
    let mut read = |field: &str, text: &str| match gateway::read(text, &file.node.network) {
        Ok(gateway) => Some(gateway),
        Err(error) => {
            findings.mistake(spanned, format!("service {key}: {field}: {error}"));
            None
        }
    };
    let only = spanned.value.waypoint.as_ref().and_then(|text| read("waypoint", text));
    let weighted = spanned.value.weighted_waypoints.iter();
    let weighted = weighted.filter_map(|one| Some((read("weighted_waypoints", &one.waypoint)?, one.weight)));
    Waypoints { weighted: weighted.collect(), only }
}

fn ports(spanned: &Spanned<schema::Service>, key: &ServiceKey, findings: &mut Findings) -> Ports {
    let mut ports = BTreeMap::new();
    for written in &spanned.value.ports {
        let port = written.port.number();
        if ports.insert(port, written.target_port.map_or(port, |target| target.number())).is_some() {
            findings.mistake(spanned, format!("service {key} has port {port} twice"));
        }
    }
    ports.into_iter().collect()
}

/// Makes the selected and the named workloads members of the service.
fn join_members(
    spanned: &Spanned<schema::Service>,
    key: &ServiceKey,
    drafts: &mut BTreeMap<Name, Draft>,
    findings: &mut Findings,
) {
    let written = &spanned.value;
    let mut members = 0;
    for ((namespace, _), draft) in drafts.iter_mut() {
        let chosen = !written.selector.is_empty() && selects(&written.selector, &draft.labels);
        if *namespace == written.namespace && chosen {
            draft.workload.services.insert(key.clone(), Ports::default());
            members += 1;
        }
    }
    for endpoint in &written.endpoints {
        let (namespace, name) = endpoint.split_once('/').unwrap_or((&written.namespace, endpoint));
        match drafts.get_mut(&(namespace.to_owned(), name.to_owned())) {
            Some(draft) => {
                draft.workload.services.insert(key.clone(), Ports::default());
                members += 1;
            }
            None => findings.mistake(spanned, format!("service {key}: endpoint {endpoint} is no listed workload")),
        }
    }
    if members == 0 {
        findings.doubt(spanned, format!("service {key} has no endpoints"));
    }
}
