//! Workloads, services and policies of the dump. They are written from the picture while it is encoded, so that a mesh of a
//! hundred thousand workloads is not copied first.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;

use ipnet::IpNet;
use serde::ser::{Serialize, Serializer};
use serde_json::{Value, json};

use crate::model::balance::LoadBalancing;
use crate::model::endpoints::Endpoints;
use crate::model::policy::{Match, Policy, ServiceAccountMatch, StringMatch};
use crate::model::service::Ports;
use crate::model::workload::Tunnel;
use crate::model::{Service, Workload, World};

pub(super) struct Workloads(pub(super) Arc<World>);
pub(super) struct Services(pub(super) Arc<World>);
pub(super) struct Policies(pub(super) Arc<World>);

impl Serialize for Workloads {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut all: Vec<_> = self.0.workloads().collect();
        all.sort_by(|a, b| a.uid.cmp(&b.uid));
        serializer.collect_seq(all.into_iter().map(|one| workload(one)))
    }
}

impl Serialize for Services {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut all: Vec<_> = self.0.services().collect();
        all.sort_by(|a, b| a.key.cmp(&b.key));
        serializer.collect_seq(all.into_iter().map(|one| service(one, self.0.endpoints(&one.key).map(Arc::as_ref))))
    }
}

impl Serialize for Policies {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut all: Vec<_> = self.0.policies().collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        serializer.collect_seq(all.into_iter().map(|one| policy(one)))
    }
}

fn texts<T: Display>(all: impl IntoIterator<Item = T>) -> Vec<String> {
    all.into_iter().map(|one| one.to_string()).collect()
}

fn gateway(gateway: Option<&crate::model::gateway::GatewayAddress>) -> Value {
    use crate::model::gateway::GatewayPlace;
    let Some(gateway) = gateway else { return Value::Null };
    let destination = match &gateway.place {
        GatewayPlace::Hostname(key) => key.to_string(),
        GatewayPlace::Address(address) => address.to_string(),
    };
    json!({ "destination": destination, "hboneMtlsPort": gateway.hbone_port })
}

fn ports(ports: &Ports) -> BTreeMap<String, u16> {
    ports.iter().map(|port| (port.service.to_string(), port.target)).collect()
}

fn workload(one: &Workload) -> Value {
    let services: BTreeMap<_, _> = one.services.iter().map(|(key, own)| (key.to_string(), ports(own))).collect();
    let tunnel = one.app_tunnel.map(|tunnel| json!({ "protocol": named(tunnel.protocol), "port": tunnel.port }));
    json!({
        "uid": &*one.uid,
        "name": &*one.name,
        "namespace": one.namespace(),
        "serviceAccount": one.identity.service_account(),
        "trustDomain": one.identity.trust_domain(),
        "workloadIps": texts(&one.addresses),
        "hostname": one.hostname.as_deref().unwrap_or_default(),
        "protocol": if one.tunnel == Tunnel::Hbone { "HBONE" } else { "TCP" },
        "node": &*one.node,
        "network": &*one.network,
        "networkMode": named(one.network_mode),
        "waypoint": gateway(one.waypoint.as_deref()),
        "networkGateway": gateway(one.network_gateway.as_deref()),
        "workloadName": &*one.workload_name,
        "workloadType": one.workload_type.as_str(),
        "canonicalName": &*one.canonical_name,
        "canonicalRevision": &*one.canonical_revision,
        "clusterId": &*one.cluster,
        "status": named(one.health),
        "locality": {
            "region": &*one.locality.region,
            "zone": &*one.locality.zone,
            "subzone": &*one.locality.subzone,
        },
        "services": services,
        "authorizationPolicies": texts(&one.policies),
        "capacity": one.capacity,
        "applicationTunnel": tunnel.unwrap_or_else(|| json!({ "protocol": "" })),
    })
}

/// A variant as it is called in the code, which is how the reference writes it.
fn named(variant: impl std::fmt::Debug) -> String {
    format!("{variant:?}")
}

fn service(one: &Service, endpoints: Option<&Endpoints>) -> Value {
    let members = endpoints.map(Endpoints::members).unwrap_or_default();
    let endpoint = |member: &Arc<Workload>| {
        let own = member.services.get(&one.key).filter(|own| !own.is_empty()).unwrap_or(&one.ports);
        let port = ports(own);
        let value = json!({ "workloadUid": &*member.uid, "port": port, "status": named(member.health) });
        (member.uid.to_string(), value)
    };
    json!({
        "name": &*one.name,
        "namespace": &*one.key.namespace,
        "hostname": &*one.key.hostname,
        "vips": texts(&one.vips),
        "cidrVips": texts(one.cidr_vips.iter().map(|(network, block)| format!("{network}/{block}"))),
        "ports": ports(&one.ports),
        "endpoints": members.iter().map(endpoint).collect::<BTreeMap<_, _>>(),
        "subjectAltNames": texts(&one.subject_alt_names),
        "waypoint": gateway(one.waypoints.only.as_ref()),
        "loadBalancer": load_balancing(&one.load_balancing),
        "ipFamilies": named(one.ip_families),
        "canonical": one.standing == crate::model::service::Standing::Canonical,
    })
}

fn load_balancing(balancing: &LoadBalancing) -> Value {
    if *balancing == LoadBalancing::default() {
        return Value::Null;
    }
    json!({
        "mode": named(balancing.mode),
        "routingPreferences": balancing.preferences.iter().map(named).collect::<Vec<_>>(),
        "healthPolicy": named(balancing.health),
    })
}

fn policy(one: &Policy) -> Value {
    let clause = |clause: &crate::model::policy::Clause| clause.matches.iter().map(fields).collect::<Vec<_>>();
    let rules = one.rules.iter().map(|rule| rule.clauses.iter().map(clause).collect::<Vec<_>>());
    json!({
        "name": &*one.name.name,
        "namespace": &*one.name.namespace,
        "scope": named(one.scope),
        "action": named(one.action),
        "enforcement": named(one.enforcement),
        "rules": rules.collect::<Vec<_>>(),
    })
}

fn fields(one: &Match) -> Value {
    let mut set = serde_json::Map::new();
    let mut add = |name: &str, values: Vec<Value>| {
        if !values.is_empty() {
            set.insert(name.to_owned(), values.into());
        }
    };
    add("namespaces", one.namespaces.iter().map(text).collect());
    add("notNamespaces", one.not_namespaces.iter().map(text).collect());
    add("principals", one.principals.iter().map(text).collect());
    add("notPrincipals", one.not_principals.iter().map(text).collect());
    add("sourceIps", one.source_ips.iter().map(net).collect());
    add("notSourceIps", one.not_source_ips.iter().map(net).collect());
    add("destinationIps", one.destination_ips.iter().map(net).collect());
    add("notDestinationIps", one.not_destination_ips.iter().map(net).collect());
    add("destinationPorts", one.destination_ports.iter().map(|port| json!(port)).collect());
    add("notDestinationPorts", one.not_destination_ports.iter().map(|port| json!(port)).collect());
    add("serviceAccounts", one.service_accounts.iter().map(account).collect());
    add("notServiceAccounts", one.not_service_accounts.iter().map(account).collect());
    set.into()
}

fn text(one: &StringMatch) -> Value {
    match one {
        StringMatch::Exact(text) => json!({ "Exact": text }),
        StringMatch::Prefix(text) => json!({ "Prefix": text }),
        StringMatch::Suffix(text) => json!({ "Suffix": text }),
        StringMatch::Presence => json!({ "Presence": {} }),
    }
}

fn net(one: &IpNet) -> Value {
    json!(one.to_string())
}

fn account(one: &ServiceAccountMatch) -> Value {
    json!({ "namespace": one.namespace, "serviceAccount": one.service_account })
}
