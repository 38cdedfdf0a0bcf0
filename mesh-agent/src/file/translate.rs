//! From what is written to what it means, collecting every mistake on the way.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use mesh_common::maps::MAX_PROBE_PORTS;
use serde_saphyr::Spanned;

use super::Config;
use super::policy::{self, Labelled};
use super::problem::{Problem, Problems};
use super::schema::{self, NodeFile};
use crate::model::addr::NetworkAddress;
use crate::model::balance::{HealthPolicy, LoadBalancing};
use crate::model::service::{Ports, ServiceKey};
use crate::model::workload::{Health, Locality, NetworkMode, Tunnel};
use crate::model::world::{Place, UnknownDestination};
use crate::model::{Identity, PodSpec, Service, WhenDown, Workload, World};

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
struct Draft {
    workload: Workload,
    labels: BTreeMap<String, String>,
}

type Name = (String, String);

/// Checks the file as a whole and builds the model.
pub(super) fn translate(path: &Path, file: NodeFile) -> Result<Config, Problems> {
    let mut findings = Findings::default();
    let mut drafts = workloads(&file, &mut findings);
    let services = services(&file, &mut drafts, &mut findings);
    let pods = pods(&file, &mut drafts, &mut findings);
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
        unknown: UnknownDestination::default(),
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
        let workload = workload(file, written, identity);
        if workload.network_mode == NetworkMode::Standard {
            for ip in &workload.addresses {
                let place = (workload.network.to_string(), *ip);
                if let Some(owner) = owners.insert(place, written.name.clone()) {
                    findings
                        .mistake(spanned, format!("address {ip} of workload {} is {owner}'s already", written.name));
                }
            }
        }
        if workload.addresses.is_empty() {
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
        capacity: written.capacity,
        ..Workload::new(&uid, &written.name, identity)
    }
}

fn services(file: &NodeFile, drafts: &mut BTreeMap<Name, Draft>, findings: &mut Findings) -> Vec<Service> {
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
        let health = if written.publish_not_ready { HealthPolicy::AllowAll } else { HealthPolicy::OnlyHealthy };
        all.push(Service {
            vips: written
                .addresses
                .iter()
                .map(|ip| NetworkAddress { network: Arc::clone(&network), ip: ip.to_canonical() })
                .collect(),
            ports: ports(spanned, &key, findings),
            subject_alt_names,
            load_balancing: LoadBalancing { health, ..LoadBalancing::default() },
            ..Service::new(key, &written.name)
        });
    }
    all
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

/// Whether all of the selector's labels are among `labels`. An empty selector selects everything.
pub(super) fn selects(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

fn pods(file: &NodeFile, drafts: &mut BTreeMap<Name, Draft>, findings: &mut Findings) -> Vec<Arc<PodSpec>> {
    let (mut names, mut namespaces) = (BTreeSet::new(), BTreeSet::new());
    let mut all = Vec::new();
    for spanned in &file.pods {
        let pod = &spanned.value;
        let name = format!("{}/{}", pod.namespace, pod.name);
        if !names.insert(name.clone()) {
            findings.mistake(spanned, format!("pod {name} is listed twice"));
        }
        if !namespaces.insert(&pod.netns) {
            findings.mistake(
                spanned,
                format!("pod {name} has the network namespace of another pod: {}", pod.netns.display()),
            );
        }
        let Some(draft) = drafts.get_mut(&(pod.namespace.clone(), pod.name.clone())) else {
            findings.mistake(spanned, format!("pod {name} has no entry under workloads"));
            continue;
        };
        let workload = &mut draft.workload;
        if workload.node.is_empty() {
            workload.node = file.node.name.as_str().into();
        } else if *workload.node != *file.node.name {
            let node = &file.node.name;
            findings.mistake(spanned, format!("pod {name} is of node {}, and this is node {node}", workload.node));
        }
        if workload.tunnel == Tunnel::None {
            findings.mistake(
                spanned,
                format!("pod {name} is to be enrolled, but its workload says protocol TCP; write HBONE"),
            );
        }
        if workload.network_mode == NetworkMode::HostNetwork {
            findings.mistake(spanned, format!("pod {name} is on the host's network and cannot be enrolled"));
        }
        if pod.probe_ports.len() > MAX_PROBE_PORTS {
            let count = pod.probe_ports.len();
            findings.mistake(
                spanned,
                format!("pod {name} has {count} probe ports, at most {MAX_PROBE_PORTS} are possible"),
            );
        }
        all.push(Arc::new(PodSpec {
            uid: Arc::clone(&workload.uid),
            name: pod.name.clone(),
            namespace: pod.namespace.clone(),
            netns: pod.netns.clone(),
            interface: pod.interface.clone(),
            addresses: workload.addresses.clone(),
            probe_ports: pod.probe_ports.iter().map(|port| port.number()).collect(),
            node_addresses: file.node.addresses.iter().map(IpAddr::to_canonical).collect(),
            when_down: match pod.when_down {
                schema::WhenDown::Refuse => WhenDown::Refuse,
                schema::WhenDown::Pass => WhenDown::Pass,
            },
        }));
    }
    all
}

#[cfg(test)]
#[path = "translate/tests.rs"]
mod tests;
