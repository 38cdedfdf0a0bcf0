//! What the mesh is told: the one source of every node's YAML file and of the authority's.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Map, Value, json};

use crate::topology::{Membership, Pod, Service};

/// Workloads, services and policies. Public, so that a test can change whatever it wants.
#[derive(Clone, Debug, Default)]
pub struct World {
    pub pods: Vec<Pod>,
    pub services: Vec<Service>,
    /// YAML list entries under `workloads` that are no pods of the lab.
    pub other_workloads: String,
    /// The same, seen from the nodes of one network only.
    pub seen_from: BTreeMap<String, String>,
    /// Networks of nodes that are not on the one without a name.
    pub networks: BTreeMap<String, String>,
    /// YAML list entries.
    pub authorization_policies: String,
    /// YAML list entries.
    pub peer_authentications: String,
    /// Further top-level fields, as YAML.
    pub more: String,
}

impl World {
    /// The pod called `name`.
    ///
    /// # Panics
    ///
    /// When the world has none.
    pub fn pod(&mut self, name: &str) -> &mut Pod {
        self.pods.iter_mut().find(|pod| pod.name == name).unwrap_or_else(|| panic!("the lab has no pod {name}"))
    }

    /// The service called `name`.
    ///
    /// # Panics
    ///
    /// When the world has none.
    pub fn service(&mut self, name: &str) -> &mut Service {
        let found = self.services.iter_mut().find(|service| service.name == name);
        found.unwrap_or_else(|| panic!("the lab has no service {name}"))
    }

    /// Adds authorization policies: a YAML list, indented as the source likes it.
    pub fn authorize(&mut self, policies: &str) {
        self.authorization_policies.push_str(&list(policies));
    }

    /// Adds peer authentications: a YAML list.
    pub fn peer_authentication(&mut self, policies: &str) {
        self.peer_authentications.push_str(&list(policies));
    }

    /// Adds workloads that are no pods of the lab: a YAML list.
    pub fn workload(&mut self, workloads: &str) {
        self.other_workloads.push_str(&list(workloads));
    }

    /// Adds workloads that only the nodes of one network know: a YAML list.
    pub fn workload_seen_from(&mut self, network: &str, workloads: &str) {
        self.seen_from.entry(network.to_owned()).or_default().push_str(&list(workloads));
    }

    /// The network that a node is on.
    pub fn network(&self, node: &str) -> &str {
        self.networks.get(node).map(String::as_str).unwrap_or_default()
    }

    /// Removes all policies of both kinds.
    pub fn clear_policies(&mut self) {
        self.authorization_policies.clear();
        self.peer_authentications.clear();
    }

    /// The YAML file of the node called `node`; `settings` are the fields of its `node`. Each entry is one line.
    pub(crate) fn render(&self, node: &str, settings: &Value, netns: impl Fn(&Pod) -> String) -> String {
        let mut text = format!("node: {settings}\n");
        let own = self.pods.iter().filter(|pod| pod.node == node && pod.membership == Membership::Enrolled);
        if settings.get("xds").is_some() {
            // The rest is said by whom that names.
            let described = |pod: &Pod| merged(enrolled(pod, &netns(pod)), &addressed(pod));
            section(&mut text, "pods", &lines(own.map(described)));
            return text;
        }
        section(&mut text, "pods", &lines(own.map(|pod| enrolled(pod, &netns(pod)))));
        let network = self.network(node);
        let near = self.pods.iter().filter(|pod| self.network(&pod.node) == network);
        let known = near.filter(|pod| pod.membership != Membership::Unknown);
        let others = self.seen_from.get(network).map(String::as_str).unwrap_or_default();
        section(&mut text, "workloads", &(lines(known.map(workload)) + &self.other_workloads + others));
        section(&mut text, "services", &lines(self.services.iter().map(service)));
        section(&mut text, "authorization_policies", &self.authorization_policies);
        section(&mut text, "peer_authentications", &self.peer_authentications);
        text.push_str(&self.more);
        text
    }

    /// The SPIFFE ids that the node called `node` may ask certificates for.
    pub(crate) fn identities(&self, node: &str, trust_domain: &str) -> Vec<String> {
        let own = self.pods.iter().filter(|pod| pod.node == node && pod.membership != Membership::Unknown);
        let mut all: Vec<_> = own.map(|pod| pod.identity_in(trust_domain)).collect();
        all.sort();
        all.dedup();
        all
    }
}

fn section(text: &mut String, name: &str, entries: &str) {
    let empty = if entries.is_empty() { " []" } else { "" };
    // Writing to a string cannot fail.
    write!(text, "{name}:{empty}\n{entries}").unwrap_or_default();
}

fn lines(entries: impl Iterator<Item = Value>) -> String {
    entries.map(|entry| format!("- {entry}\n")).collect()
}

fn enrolled(pod: &Pod, netns: &str) -> Value {
    let entry = json!({
        "name": pod.name,
        "namespace": pod.namespace,
        "netns": netns,
        "probe_ports": pod.probe_ports,
        "when_down": pod.when_down,
    });
    merged(entry, &pod.capture)
}

fn addressed(pod: &Pod) -> Map<String, Value> {
    let entry =
        [("addresses".to_owned(), json!(pod.addresses)), ("service_account".to_owned(), json!(pod.service_account))];
    entry.into_iter().collect()
}

fn workload(pod: &Pod) -> Value {
    let entry = json!({
        "name": pod.name,
        "namespace": pod.namespace,
        "service_account": pod.service_account,
        "addresses": pod.addresses,
        "node": pod.node,
        "protocol": if in_mesh(pod) { "HBONE" } else { "TCP" },
        "labels": pod.labels,
    });
    merged(entry, &pod.more)
}

fn in_mesh(pod: &Pod) -> bool {
    matches!(pod.membership, Membership::Enrolled | Membership::Handed | Membership::Gateway)
}

fn service(service: &Service) -> Value {
    let ports = service.ports.iter().map(|(port, target)| json!({"port": port, "target_port": target}));
    let entry = json!({
        "name": service.name,
        "namespace": service.namespace,
        "addresses": service.addresses,
        "ports": ports.collect::<Vec<_>>(),
        "selector": service.selector,
        "endpoints": service.endpoints,
    });
    merged(entry, &service.more)
}

fn merged(mut entry: Value, more: &Map<String, Value>) -> Value {
    if let Value::Object(fields) = &mut entry {
        fields.extend(more.clone());
    }
    entry
}

/// A YAML list from a source text: without the indentation that all its lines share.
pub(crate) fn list(text: &str) -> String {
    let lines = || text.lines().filter(|line| !line.trim().is_empty());
    let shared = lines().map(|line| line.len() - line.trim_start().len()).min().unwrap_or_default();
    lines().filter_map(|line| line.get(shared..)).map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{World, list};
    use crate::topology::{Pod, Service, Topology};

    #[test]
    fn one_entry_per_line() {
        let mut topology = Topology::new()
            .pod(Pod::new("a", "n1").probe(80))
            .pod(Pod::new("b", "n1").plain())
            .pod(Pod::new("c", "n1").unknown())
            .service(Service::new("s").port(80, 8080).endpoint("default/a"));
        topology.assign_addresses();
        let mut world = World { pods: topology.pods, services: topology.services, ..World::default() };
        world.authorize("\n        - name: p\n          rules: [{}]\n");
        let text = world.render("n1", &json!({"name": "n1"}), |pod| format!("/run/netns/{}", pod.name));
        let expected = [
            r#"node: {"name":"n1"}"#,
            "pods:",
            r#"- {"name":"a","namespace":"default","netns":"/run/netns/a","probe_ports":[80],"when_down":"refuse"}"#,
            "workloads:",
            r#"- {"addresses":["10.40.1.10","fd00:40:1::10"],"labels":{},"name":"a","namespace":"default","node":"n1","protocol":"HBONE","service_account":"a"}"#,
            r#"- {"addresses":["10.40.1.11","fd00:40:1::11"],"labels":{},"name":"b","namespace":"default","node":"n1","protocol":"TCP","service_account":"b"}"#,
            "services:",
            r#"- {"addresses":["10.50.0.1","fd00:50::1"],"endpoints":["default/a"],"name":"s","namespace":"default","ports":[{"port":80,"target_port":8080}],"selector":{}}"#,
            "authorization_policies:",
            "- name: p",
            "  rules: [{}]",
            "peer_authentications: []",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
        assert!(world.render("n2", &json!({"name": "n2"}), |_| String::new()).contains("\npods: []\n"));
    }

    #[test]
    fn lists_lose_the_indentation_of_the_source() {
        assert_eq!(list("- {name: a}"), "- {name: a}\n");
        assert_eq!(list("\n    - name: a\n      b: c\n\n    - name: d\n"), "- name: a\n  b: c\n- name: d\n");
    }
}
