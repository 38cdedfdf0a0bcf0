//! The node's own pods, as the file lists them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde_saphyr::Spanned;

use super::schema::{self, NodeFile};
use super::translate::{Draft, Findings, Name};
use crate::model::workload::{NetworkMode, Tunnel, TunnelEnd};
use crate::model::{Captured, Inbound, Older, PodNetns, PodSpec, Programs, WhenDown};

/// What is known of a pod beside its entry.
struct Described {
    uid: Arc<str>,
    service_account: String,
    addresses: Vec<IpAddr>,
}

/// By an istiod: its workload comes when it comes.
fn described_elsewhere(file: &NodeFile, spanned: &Spanned<schema::Pod>, findings: &mut Findings) -> Option<Described> {
    let pod = &spanned.value;
    if pod.addresses.is_empty() {
        findings.mistake(
            spanned,
            format!("pod {}/{} needs its addresses, since an istiod describes it", pod.namespace, pod.name),
        );
        return None;
    }
    Some(Described {
        uid: format!("{}//Pod/{}/{}", file.node.cluster, pod.namespace, pod.name).into(),
        service_account: pod.service_account.clone(),
        addresses: pod.addresses.iter().map(IpAddr::to_canonical).collect(),
    })
}

/// By an entry of the file's workloads.
fn described_here(
    file: &NodeFile,
    spanned: &Spanned<schema::Pod>,
    drafts: &mut BTreeMap<Name, Draft>,
    findings: &mut Findings,
) -> Option<Described> {
    let pod = &spanned.value;
    let name = format!("{}/{}", pod.namespace, pod.name);
    if !pod.addresses.is_empty() || !pod.service_account.is_empty() {
        findings
            .mistake(spanned, format!("pod {name}: its entry under workloads says its addresses and service account"));
    }
    let Some(draft) = drafts.get_mut(&(pod.namespace.clone(), pod.name.clone())) else {
        findings.mistake(spanned, format!("pod {name} has no entry under workloads"));
        return None;
    };
    let workload = &mut draft.workload;
    if workload.node.is_empty() {
        workload.node = file.node.name.as_str().into();
    } else if *workload.node != *file.node.name {
        let node = &file.node.name;
        findings.mistake(spanned, format!("pod {name} is of node {}, and this is node {node}", workload.node));
    }
    if workload.tunnel == Tunnel::None {
        findings
            .mistake(spanned, format!("pod {name} is to be enrolled, but its workload says protocol TCP; write HBONE"));
    }
    if workload.tunnel_end == TunnelEnd::Workload {
        let reason = "ends its own tunnels (tunnel_end: workload): port 15008 is its, and it cannot be enrolled";
        findings.mistake(spanned, format!("pod {name} {reason}"));
    }
    if workload.network_mode == NetworkMode::HostNetwork {
        findings.mistake(spanned, format!("pod {name} is on the host's network and cannot be enrolled"));
    }
    Some(Described {
        uid: Arc::clone(&workload.uid),
        service_account: workload.identity.service_account().to_owned(),
        addresses: workload.addresses.clone(),
    })
}

fn programs(file: &NodeFile, pod: &schema::Pod, addresses: Vec<IpAddr>) -> Programs {
    Programs {
        interface: pod.interface.clone(),
        addresses,
        probe_ports: pod.probe_ports.iter().map(|port| port.number()).collect(),
        node_addresses: file.node.addresses.iter().map(IpAddr::to_canonical).collect(),
        when_down: match pod.when_down {
            schema::WhenDown::Refuse => WhenDown::Refuse,
            schema::WhenDown::Pass => WhenDown::Pass,
        },
        names: pod.dns_capture,
        inbound: if pod.bypass_inbound_capture { Inbound::Bypassed } else { Inbound::Captured },
        virtual_interfaces: pod.reroute_virtual_interfaces.clone(),
        older: Older::LeftAlone,
    }
}

/// Where the pods come from, if not from the file.
fn elsewhere(node: &schema::Node) -> Option<&'static str> {
    match (&node.zds, &node.kubernetes) {
        (Some(_), _) => Some("the CNI agent (node.zds)"),
        (None, Some(_)) => Some("Kubernetes (node.kubernetes)"),
        (None, None) => None,
    }
}

pub(super) fn pods(file: &NodeFile, drafts: &mut BTreeMap<Name, Draft>, findings: &mut Findings) -> Vec<Arc<PodSpec>> {
    let (mut names, mut namespaces) = (BTreeSet::new(), BTreeSet::new());
    let mut all = Vec::new();
    if let (Some(source), Some(first)) = (elsewhere(&file.node), file.pods.first()) {
        findings.mistake(first, format!("the pods come from {source}, so none may be listed"));
    }
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
        let described = match &file.node.xds {
            Some(_) => described_elsewhere(file, spanned, findings),
            None => described_here(file, spanned, drafts, findings),
        };
        let Some(Described { uid, service_account, addresses }) = described else { continue };
        all.push(Arc::new(PodSpec {
            uid,
            name: pod.name.clone(),
            namespace: pod.namespace.clone(),
            service_account,
            netns: PodNetns::Path(pod.netns.clone()),
            captured: Captured::ByPrograms(programs(file, pod, addresses)),
        }));
    }
    all
}
