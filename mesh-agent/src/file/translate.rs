//! From what is written to what it means, collecting every mistake on the way.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use serde_saphyr::Spanned;

use super::Config;
use super::gateway;
use super::pods;
use super::policy::{self, Labelled};
use super::problem::{Problem, Problems};
use super::schema::{self, NodeFile};
use super::service;
use crate::model::workload::{AppTunnel, AppTunnelProtocol, Health, Locality, NetworkMode, Tunnel, TunnelEnd};
use crate::model::world::{Place, UnknownDestination};
use crate::model::{Identity, Workload, World};

/// Mistakes and doubts found so far.
#[derive(Debug, Default)]
pub(super) struct Findings {
    problems: Vec<Problem>,
    warnings: Vec<(u64, String)>,
}

impl Findings {
    pub(super) fn mistake<T>(&mut self, at: &Spanned<T>, reason: impl Into<String>) {
        self.problems.push(Problem { line: line(at), reason: reason.into() });
    }

    pub(super) fn doubt<T>(&mut self, at: &Spanned<T>, reason: impl Into<String>) {
        self.warnings.push((line(at), reason.into()));
    }
}

fn line<T>(at: &Spanned<T>) -> u64 {
    at.referenced.line()
}

/// A workload under construction, with what later steps look at.
pub(super) struct Draft {
    pub(super) workload: Workload,
    pub(super) labels: BTreeMap<String, String>,
}

pub(super) type Name = (String, String);

/// Checks the file as a whole and builds the model.
pub(super) fn translate(path: &Path, file: NodeFile) -> Result<Config, Problems> {
    let mut findings = Findings::default();
    let mut drafts = workloads(&file, &mut findings);
    two_sources(&file, &mut findings);
    half_a_mesh(&file, &mut findings);
    sources_of_pods(&file.node, &mut findings);
    let services = service::services(&file, &mut drafts, &mut findings);
    let pods = pods::pods(&file, &mut drafts, &mut findings);
    let mut labelled: Vec<Labelled<'_>> =
        drafts.values_mut().map(|draft| Labelled { workload: &mut draft.workload, labels: &draft.labels }).collect();
    let policies = policy::translate(&file, &mut labelled, &mut findings);
    if !findings.problems.is_empty() {
        findings.problems.sort_by_key(|problem| problem.line);
        return Err(Problems { path: path.to_owned(), problems: findings.problems });
    }
    let identities = pods.iter().filter_map(|pod| {
        let draft = drafts.get(&(pod.namespace.clone(), pod.name.clone()))?;
        Some(draft.workload.identity.clone())
    });
    let identities: HashSet<Identity> = identities.collect();
    let place = Place {
        node: file.node.name.as_str().into(),
        network: file.node.network.as_str().into(),
        unknown: match file.node.unknown_destinations {
            schema::UnknownDestinations::Passthrough => UnknownDestination::Passthrough,
            schema::UnknownDestinations::Refuse => UnknownDestination::Refused,
        },
    };
    let workloads = drafts.into_values().map(|draft| draft.workload).collect();
    let warnings = findings.warnings.into_iter().map(|(line, text)| format!("{}:{line}: {text}", path.display()));
    Ok(Config {
        node: file.node,
        pods: Arc::new(pods),
        world: Arc::new(World::new(place, workloads, services, policies)),
        identities,
        warnings: warnings.collect(),
    })
}

/// With an istiod, the file says nothing about the mesh: half of two pictures is none.
fn two_sources(file: &NodeFile, findings: &mut Findings) {
    const REASON: &str = "node.xds says that an istiod describes the mesh, so nothing of it may be listed here";
    if file.node.xds.is_none() {
        return;
    }
    let mistake = |findings: &mut Findings, line| findings.problems.push(Problem { line, reason: REASON.to_owned() });
    file.workloads.first().iter().for_each(|one| mistake(findings, line(one)));
    file.services.first().iter().for_each(|one| mistake(findings, line(one)));
    file.authorization_policies.first().iter().for_each(|one| mistake(findings, line(one)));
    file.peer_authentications.first().iter().for_each(|one| mistake(findings, line(one)));
}

/// Names cannot be answered from a picture that has only what was asked for by address (protocol note, section 1.8).
fn half_a_mesh(file: &NodeFile, findings: &mut Findings) {
    let on_demand = file.node.xds.as_ref().is_some_and(|istiod| istiod.mode == schema::xds::Mode::OnDemand);
    let named = |pod: &Spanned<schema::Pod>| pod.value.dns_capture.unwrap_or(file.node.dns.capture);
    if on_demand && (file.node.dns.capture || file.pods.iter().any(named)) {
        let reason = "node.xds.mode on_demand needs node.dns.capture false: names cannot be answered for a mesh of which only \
                      what was asked for is known";
        findings.problems.push(Problem { line: 0, reason: reason.to_owned() });
    }
}

/// Pods have one source, and somebody must say what they are.
fn sources_of_pods(node: &schema::Node, findings: &mut Findings) {
    let mut mistake = |reason: &str| findings.problems.push(Problem { line: 0, reason: reason.to_owned() });
    if node.kubernetes.is_some() && node.zds.is_some() {
        mistake("node.kubernetes and node.zds both say where the pods come from; leave one out");
    }
    if node.kubernetes.is_some() && node.xds.is_none() {
        mistake("node.kubernetes needs node.xds: what the pods of the cluster are is said by its istiod");
    }
    if node.cni.is_some() && node.kubernetes.is_none() {
        mistake("node.cni needs node.kubernetes: the plugin announces pods that Kubernetes has");
    }
}

fn workloads(file: &NodeFile, findings: &mut Findings) -> BTreeMap<Name, Draft> {
    let mut drafts = BTreeMap::new();
    let mut owners: HashMap<(String, IpAddr), String> = HashMap::new();
    for spanned in &file.workloads {
        let written = &spanned.value;
        let domain = written.trust_domain.as_ref().unwrap_or(&file.node.trust_domain);
        let identity = match Identity::new(domain, &written.namespace, &written.service_account) {
            Ok(identity) => identity,
            Err(error) => {
                findings.mistake(spanned, format!("workload {}: {error}", written.name));
                continue;
            }
        };
        let mut workload = workload(file, written, identity);
        for (field, text, into) in [
            ("waypoint", &written.waypoint, &mut workload.waypoint),
            ("network_gateway", &written.network_gateway, &mut workload.network_gateway),
        ] {
            match text.as_ref().map(|text| gateway::read(text, &file.node.network)).transpose() {
                Ok(gateway) => *into = gateway.map(Arc::new),
                Err(error) => findings.mistake(spanned, format!("workload {}: {field}: {error}", written.name)),
            }
        }
        if workload.network_mode == NetworkMode::Standard {
            for ip in &workload.addresses {
                let place = (workload.network.to_string(), *ip);
                if let Some(owner) = owners.insert(place, written.name.clone()) {
                    findings
                        .mistake(spanned, format!("address {ip} of workload {} is {owner}'s already", written.name));
                }
            }
        }
        if !workload.has_address() && workload.network_gateway.is_none() {
            findings.doubt(spanned, format!("workload {} has no address", written.name));
        }
        let name = (written.namespace.clone(), written.name.clone());
        let draft = Draft { workload, labels: written.labels.clone() };
        if drafts.insert(name, draft).is_some() {
            findings.mistake(spanned, format!("workload {}/{} is listed twice", written.namespace, written.name));
        }
    }
    drafts
}

fn workload(file: &NodeFile, written: &schema::Workload, identity: Identity) -> Workload {
    let uid = format!("{}//Pod/{}/{}", file.node.cluster, written.namespace, written.name);
    let owner = written.workload_name.as_ref().unwrap_or(&written.name);
    let label = |keys: &[&str]| keys.iter().find_map(|key| written.labels.get(*key)).cloned();
    Workload {
        network: written.network.as_ref().unwrap_or(&file.node.network).as_str().into(),
        addresses: written.addresses.iter().map(IpAddr::to_canonical).collect(),
        tunnel: match written.protocol {
            schema::Protocol::Hbone => Tunnel::Hbone,
            schema::Protocol::Tcp => Tunnel::None,
        },
        network_mode: match written.network_mode {
            schema::NetworkMode::Standard => NetworkMode::Standard,
            schema::NetworkMode::Host => NetworkMode::HostNetwork,
        },
        node: written.node.as_str().into(),
        cluster: file.node.cluster.as_str().into(),
        canonical_name: label(&["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"])
            .map_or_else(|| owner.as_str().into(), Arc::from),
        canonical_revision: label(&["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"])
            .unwrap_or_else(|| "latest".to_owned())
            .into(),
        workload_name: owner.as_str().into(),
        locality: Arc::new(Locality {
            region: written.locality.region.as_str().into(),
            zone: written.locality.zone.as_str().into(),
            subzone: written.locality.subzone.as_str().into(),
        }),
        health: if written.healthy { Health::Healthy } else { Health::Unhealthy },
        hostname: written.hostname.as_ref().map(|name| name.to_ascii_lowercase().into()),
        tunnel_end: match written.tunnel_end {
            schema::TunnelEnd::Agent => TunnelEnd::Agent,
            schema::TunnelEnd::Workload => TunnelEnd::Workload,
        },
        app_tunnel: written.application_tunnel.as_ref().map(|tunnel| AppTunnel {
            protocol: match tunnel.protocol {
                schema::TunnelProtocol::None => AppTunnelProtocol::None,
                schema::TunnelProtocol::Proxy => AppTunnelProtocol::Proxy,
            },
            port: tunnel.port.map(|port| port.number()),
        }),
        capacity: written.capacity,
        ..Workload::new(&uid, &written.name, identity)
    }
}

/// Whether all of the selector's labels are among `labels`. An empty selector selects everything.
pub(super) fn selects(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

#[cfg(test)]
#[path = "translate/tests.rs"]
mod tests;
