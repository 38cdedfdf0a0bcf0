//! AuthorizationPolicy and PeerAuthentication to the policies of the data path (protocol note, sections 14.4, 14.5).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use serde_saphyr::Spanned;

use super::schema::{self, AuthorizationPolicy, Mode, NodeFile, Operation, PeerAuthentication, Source, When};
use super::translate::{Findings, selects};
use crate::model::Workload;
use crate::model::policy::{
    Action, Clause, Enforcement, Match, Policy, PolicyName, Rule, Scope, ServiceAccountMatch, StringMatch,
};

/// The name under which the policy of strict mutual TLS goes, as istiod calls it.
const STATIC_STRICT: &str = "istio_converted_static_strict";

/// A workload with its labels, for selectors.
pub(super) struct Labelled<'a> {
    pub(super) workload: &'a mut Workload,
    pub(super) labels: &'a BTreeMap<String, String>,
}

/// All policies; selected workloads get the names of those that select them.
pub(super) fn translate(file: &NodeFile, workloads: &mut [Labelled<'_>], findings: &mut Findings) -> Vec<Policy> {
    let mut policies: Vec<Policy> = Vec::new();
    for spanned in &file.authorization_policies {
        let policy = authorization(file, spanned, findings);
        if policies.iter().any(|present| present.name == policy.name) {
            findings.mistake(spanned, format!("authorization policy {} is listed twice", policy.name));
        }
        if let Some(selector) = &spanned.value.selector {
            let mut selected = 0;
            let everywhere = spanned.value.namespace == file.root_namespace;
            for labelled in workloads.iter_mut() {
                let here = everywhere || labelled.workload.namespace() == spanned.value.namespace;
                if here && selects(selector, labelled.labels) {
                    labelled.workload.policies.push(policy.name.clone());
                    selected += 1;
                }
            }
            if selected == 0 {
                findings.doubt(spanned, format!("authorization policy {} selects no workload", policy.name));
            }
        }
        policies.push(policy);
    }
    policies.extend(peer_authentication(file, workloads, findings));
    policies
}

fn name(namespace: &str, name: &str) -> PolicyName {
    PolicyName { namespace: namespace.into(), name: name.into() }
}

fn authorization(file: &NodeFile, spanned: &Spanned<AuthorizationPolicy>, findings: &mut Findings) -> Policy {
    let written = &spanned.value;
    let scope = match &written.selector {
        Some(_) => Scope::WorkloadSelector,
        None if written.namespace == file.root_namespace => Scope::Global,
        None => Scope::Namespace,
    };
    let action = match written.action {
        schema::Action::Allow => Action::Allow,
        schema::Action::Deny => Action::Deny,
    };
    let mut reading = Reading { spanned, findings };
    let rules = written.rules.iter().filter_map(|rule| reading.rule(rule, action)).collect();
    Policy {
        name: name(&written.namespace, &written.name),
        scope,
        action,
        enforcement: if written.dry_run { Enforcement::DryRun } else { Enforcement::Enforced },
        rules,
    }
}

/// The reading of one policy: where mistakes are reported.
struct Reading<'a> {
    spanned: &'a Spanned<AuthorizationPolicy>,
    findings: &'a mut Findings,
}

impl Reading<'_> {
    fn mistake(&mut self, reason: &str) {
        let policy = &self.spanned.value;
        self.findings
            .mistake(self.spanned, format!("authorization policy {}/{}: {reason}", policy.namespace, policy.name));
    }

    /// One rule: a clause for `to`, one for `from`, one for each `when`. An ALLOW rule that says something of layer 7
    /// is left out whole, so that it allows less; a DENY rule keeps its other fields, so that it denies more.
    fn rule(&mut self, written: &schema::Rule, action: Action) -> Option<Rule> {
        let l7 = written.to.iter().any(|to| operation_is_l7(&to.operation))
            || written.from.iter().any(|from| source_is_l7(&from.source))
            || written.when.iter().any(|when| is_l7(&when.key));
        written.when.iter().for_each(|when| self.check_key(&when.key));
        if l7 {
            self.warn_of_l7(action);
            if action == Action::Allow {
                return None;
            }
        }
        let mut clauses = Vec::new();
        if !written.to.is_empty() {
            let matches = written.to.iter().map(|to| self.operation(&to.operation)).collect();
            clauses.push(Clause { matches });
        }
        if !written.from.is_empty() {
            let matches = written.from.iter().map(|from| self.source(&from.source)).collect();
            clauses.push(Clause { matches });
        }
        for when in &written.when {
            clauses.push(Clause { matches: vec![self.when(when)] });
        }
        Some(Rule { clauses })
    }

    fn warn_of_l7(&mut self, action: Action) {
        let policy = &self.spanned.value;
        let effect = match action {
            Action::Allow => "the whole rule is left out, so it allows nothing",
            Action::Deny => "only its layer 4 fields are enforced; without any it denies nothing",
        };
        let text = format!(
            "authorization policy {}/{} has a rule with layer 7 fields, which only a waypoint can enforce: {effect}",
            policy.namespace, policy.name
        );
        self.findings.doubt(self.spanned, text);
    }

    fn operation(&mut self, written: &Operation) -> Match {
        Match {
            destination_ports: self.ports(&written.ports),
            not_destination_ports: self.ports(&written.not_ports),
            ..Match::default()
        }
    }

    fn source(&mut self, written: &Source) -> Match {
        Match {
            principals: self.strings(&written.principals),
            not_principals: self.strings(&written.not_principals),
            namespaces: self.strings(&written.namespaces),
            not_namespaces: self.strings(&written.not_namespaces),
            service_accounts: self.accounts(&written.service_accounts),
            not_service_accounts: self.accounts(&written.not_service_accounts),
            source_ips: self.nets(&written.ip_blocks),
            not_source_ips: self.nets(&written.not_ip_blocks),
            ..Match::default()
        }
    }

    fn when(&mut self, written: &When) -> Match {
        let mut fields = Match::default();
        match when_field(&written.key) {
            Some(Field::SourceIp) => {
                fields.source_ips = self.nets(&written.values);
                fields.not_source_ips = self.nets(&written.not_values);
            }
            Some(Field::SourceNamespace) => {
                fields.namespaces = self.strings(&written.values);
                fields.not_namespaces = self.strings(&written.not_values);
            }
            Some(Field::SourcePrincipal) => {
                fields.principals = self.strings(&written.values);
                fields.not_principals = self.strings(&written.not_values);
            }
            Some(Field::DestinationIp) => {
                fields.destination_ips = self.nets(&written.values);
                fields.not_destination_ips = self.nets(&written.not_values);
            }
            Some(Field::DestinationPort) => {
                fields.destination_ports = self.ports(&written.values);
                fields.not_destination_ports = self.ports(&written.not_values);
            }
            // An empty match never matches: the rule does nothing at layer 4.
            None => {}
        }
        fields
    }

    fn check_key(&mut self, key: &str) {
        if when_field(key).is_none() && !is_l7(key) {
            self.mistake(&format!(
                "unknown condition {key:?}; at layer 4 there are source.ip, source.namespace, source.principal, destination.ip and destination.port"
            ));
        }
    }

    fn strings(&mut self, texts: &[String]) -> Vec<StringMatch> {
        if texts.iter().any(String::is_empty) {
            self.mistake("an empty string would match whoever has no identity; leave it out");
        }
        texts.iter().map(|text| string(text)).collect()
    }

    fn ports(&mut self, texts: &[String]) -> Vec<u16> {
        let mut parse = |text: &String| match text.parse::<u16>() {
            Ok(port) if port > 0 => Some(port),
            _ => {
                self.mistake(&format!("{text:?} is not a port; write a number from 1 to 65535"));
                None
            }
        };
        texts.iter().filter_map(&mut parse).collect()
    }

    fn nets(&mut self, texts: &[String]) -> Vec<IpNet> {
        let mut parse = |text: &String| {
            let net = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
            if net.is_none() {
                self.mistake(&format!("{text:?} is not an address or CIDR block, such as 10.0.0.0/8"));
            }
            net
        };
        texts.iter().filter_map(&mut parse).collect()
    }

    /// `namespace/account`, or an account of the policy's namespace.
    fn accounts(&mut self, texts: &[String]) -> Vec<ServiceAccountMatch> {
        let own = self.spanned.value.namespace.clone();
        let mut parse = |text: &String| {
            let (namespace, service_account) = text.split_once('/').unwrap_or((&own, text));
            if namespace.is_empty() || service_account.is_empty() || service_account.contains('/') {
                self.mistake(&format!("{text:?} is not a service account; write namespace/name or name"));
                return None;
            }
            Some(ServiceAccountMatch { namespace: namespace.to_owned(), service_account: service_account.to_owned() })
        };
        texts.iter().filter_map(&mut parse).collect()
    }
}

/// Conditions that layer 4 knows.
enum Field {
    SourceIp,
    SourceNamespace,
    SourcePrincipal,
    DestinationIp,
    DestinationPort,
}

fn when_field(key: &str) -> Option<Field> {
    Some(match key {
        "source.ip" => Field::SourceIp,
        "source.namespace" => Field::SourceNamespace,
        "source.principal" => Field::SourcePrincipal,
        "destination.ip" => Field::DestinationIp,
        "destination.port" => Field::DestinationPort,
        _ => return None,
    })
}

/// Whether a condition's key is one that only a waypoint can judge.
fn is_l7(key: &str) -> bool {
    ["request.", "connection.", "remote.", "experimental."].iter().any(|family| key.starts_with(family))
}

fn operation_is_l7(operation: &Operation) -> bool {
    let Operation { ports: _, not_ports: _, hosts, not_hosts, methods, not_methods, paths, not_paths } = operation;
    [hosts, not_hosts, methods, not_methods, paths, not_paths].iter().any(|field| !field.is_empty())
}

fn source_is_l7(source: &Source) -> bool {
    let fields = [
        &source.request_principals,
        &source.not_request_principals,
        &source.remote_ip_blocks,
        &source.not_remote_ip_blocks,
    ];
    fields.iter().any(|field| !field.is_empty())
}

fn string(text: &str) -> StringMatch {
    if text == "*" {
        StringMatch::Presence
    } else if let Some(suffix) = text.strip_prefix('*') {
        StringMatch::Suffix(suffix.to_owned())
    } else if let Some(prefix) = text.strip_suffix('*') {
        StringMatch::Prefix(prefix.to_owned())
    } else {
        StringMatch::Exact(text.to_owned())
    }
}

/// Strict mutual TLS is a DENY policy for whoever has no identity; it is attached to the workloads it is in force for.
fn peer_authentication(file: &NodeFile, workloads: &mut [Labelled<'_>], findings: &mut Findings) -> Vec<Policy> {
    let all: Vec<&PeerAuthentication> = file.peer_authentications.iter().map(|spanned| &spanned.value).collect();
    if all.is_empty() {
        return Vec::new();
    }
    let mut names = BTreeSet::new();
    for spanned in &file.peer_authentications {
        let written = &spanned.value;
        if !names.insert((&written.namespace, &written.name)) {
            findings.mistake(
                spanned,
                format!("peer authentication {}/{} is listed twice", written.namespace, written.name),
            );
        }
    }
    let root = &file.root_namespace;
    let strict = name(root, STATIC_STRICT);
    let mut policies =
        vec![deny(strict.clone(), vec![Match { not_principals: vec![StringMatch::Presence], ..Match::default() }])];
    for labelled in workloads {
        let (level, own) = effective(&all, root, labelled);
        let Some(own) = own.filter(|own| own.port_level.values().any(|mode| differs(*mode, level))) else {
            if level == Mode::Strict {
                labelled.workload.policies.push(strict.clone());
            }
            continue;
        };
        let own_name = name(&own.namespace, &format!("converted_peer_authentication_{}", own.name));
        labelled.workload.policies.push(own_name.clone());
        if !policies.iter().any(|policy| policy.name == own_name) {
            policies.push(per_port(own_name, own, level));
        }
    }
    policies
}

/// The mode that holds for a workload apart from port exceptions, and the object that selects it, if one does.
/// Workload before namespace before mesh; of several on a level the first.
fn effective<'a>(
    all: &[&'a PeerAuthentication],
    root: &str,
    labelled: &Labelled<'_>,
) -> (Mode, Option<&'a PeerAuthentication>) {
    let namespace = labelled.workload.namespace();
    let whole = |of: &str| all.iter().find(|pa| pa.selector.is_none() && pa.namespace == of).map(|pa| pa.mode);
    let own = all.iter().copied().find(|pa| {
        pa.namespace == namespace && pa.selector.as_ref().is_some_and(|selector| selects(selector, labelled.labels))
    });
    let levels = [own.map(|pa| pa.mode), whole(namespace), whole(root)];
    let mode = levels.into_iter().flatten().find(|mode| *mode != Mode::Unset).unwrap_or(Mode::Permissive);
    (mode, own)
}

fn differs(port: Mode, level: Mode) -> bool {
    port != Mode::Unset && (port == Mode::Strict) != (level == Mode::Strict)
}

fn per_port(policy: PolicyName, own: &PeerAuthentication, level: Mode) -> Policy {
    let exceptions = own.port_level.iter().filter(|(_, mode)| differs(**mode, level)).map(|(port, _)| port.number());
    let nobody = || Match { not_principals: vec![StringMatch::Presence], ..Match::default() };
    if level != Mode::Strict {
        let rules = exceptions.map(|port| Rule {
            clauses: vec![Clause { matches: vec![Match { destination_ports: vec![port], ..nobody() }] }],
        });
        return Policy { rules: rules.collect(), ..deny(policy, Vec::new()) };
    }
    let ports = exceptions.map(|port| Match { not_destination_ports: vec![port], ..Match::default() });
    deny(policy, std::iter::once(nobody()).chain(ports).collect())
}

/// A DENY policy with one rule, a clause for each match.
fn deny(name: PolicyName, matches: Vec<Match>) -> Policy {
    let clauses = matches.into_iter().map(|one| Clause { matches: vec![one] }).collect();
    Policy {
        name,
        scope: Scope::WorkloadSelector,
        action: Action::Deny,
        enforcement: Enforcement::Enforced,
        rules: vec![Rule { clauses }],
    }
}
