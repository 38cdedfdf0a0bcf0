//! Tables for every level and matcher of section 8.4.

use std::net::SocketAddr;

use super::{Denied, authorize, dry_run};
use crate::model::policy::{
    Action, Clause, Enforcement, Match, Policy, PolicyName, Rule, Scope, ServiceAccountMatch, StringMatch,
};
use crate::model::world::Place;
use crate::model::{Identity, Peer, Workload, World};

#[path = "tests/plain.rs"]
mod plain;

fn name(name: &str) -> PolicyName {
    PolicyName { namespace: "default".into(), name: name.into() }
}

fn policy(text: &str, action: Action, rules: Vec<Rule>) -> Policy {
    Policy { name: name(text), scope: Scope::Namespace, action, enforcement: Enforcement::Enforced, rules }
}

fn rule(fields: Match) -> Rule {
    Rule { clauses: vec![Clause { matches: vec![fields] }] }
}

fn workload() -> Workload {
    Workload::new("web", "web", Identity::new("cluster.local", "default", "web").unwrap())
}

fn client() -> Peer {
    let identity = Identity::new("cluster.local", "shop", "client").unwrap();
    Peer { address: "10.0.0.1:4000".parse().unwrap(), identity: Some(identity) }
}

fn plain() -> Peer {
    Peer { identity: None, ..client() }
}

fn target() -> SocketAddr {
    "10.0.0.2:8080".parse().unwrap()
}

fn ask(policies: Vec<Policy>, peer: &Peer) -> Result<Option<String>, Denied> {
    let world = World::new(Place::default(), Vec::new(), Vec::new(), policies);
    authorize(&world, &workload(), peer, target()).map(|permit| permit.policy().map(|name| name.name.to_string()))
}

/// Whether one set of fields matches a connection: it is made the only DENY rule.
fn denies(fields: Match, peer: &Peer) -> bool {
    ask(vec![policy("p", Action::Deny, vec![rule(fields)])], peer).is_err()
}

fn exact(text: &str) -> Vec<StringMatch> {
    vec![StringMatch::Exact(text.into())]
}

#[test]
fn steps() {
    let all = || vec![Rule::default()];
    let none = Vec::new;
    let cases = [
        ("no policy", vec![], Ok(None)),
        ("allow all", vec![policy("a", Action::Allow, all())], Ok(Some("a".to_owned()))),
        ("allow nothing", vec![policy("a", Action::Allow, none())], Err(Denied::NotAllowed)),
        ("deny all", vec![policy("d", Action::Deny, all())], Err(Denied::ByPolicy(name("d")))),
        ("deny nothing", vec![policy("d", Action::Deny, none())], Ok(None)),
        (
            "deny wins",
            vec![policy("a", Action::Allow, all()), policy("d", Action::Deny, all())],
            Err(Denied::ByPolicy(name("d"))),
        ),
        (
            "one allow is enough",
            vec![policy("a", Action::Allow, none()), policy("b", Action::Allow, all())],
            Ok(Some("b".to_owned())),
        ),
    ];
    for (case, policies, expected) in cases {
        assert_eq!(ask(policies, &client()), expected, "{case}");
    }
}

#[test]
fn trap_05_empty_levels() {
    assert!(ask(vec![policy("d", Action::Deny, vec![Rule::default()])], &client()).is_err(), "empty rule matches");
    let empty_clause = Rule { clauses: vec![Clause::default()] };
    assert!(ask(vec![policy("d", Action::Deny, vec![empty_clause])], &client()).is_err(), "empty clause matches");
    assert!(!denies(Match::default(), &client()), "empty match never matches");
    let clauses = vec![Clause { matches: vec![Match { destination_ports: vec![8080], ..Match::default() }] }];
    let with_empty = Rule { clauses: [clauses, vec![Clause { matches: vec![Match::default()] }]].concat() };
    assert!(ask(vec![policy("d", Action::Deny, vec![with_empty])], &client()).is_ok(), "clauses are ANDed");
}

#[test]
fn fields() {
    let ip = |net: &str| vec![net.parse().unwrap()];
    let account = |namespace: &str, service_account: &str| {
        vec![ServiceAccountMatch { namespace: namespace.into(), service_account: service_account.into() }]
    };
    let none = Match::default;
    let id = "cluster.local/ns/shop/sa/client";
    let cases = [
        ("principal", Match { principals: exact(id), ..none() }, true, false),
        ("principal with scheme", Match { principals: exact(&format!("spiffe://{id}")), ..none() }, true, false),
        ("principal is case-sensitive", Match { principals: exact(&id.to_uppercase()), ..none() }, false, false),
        (
            "prefix",
            Match { principals: vec![StringMatch::Prefix("cluster.local/ns/shop/".into())], ..none() },
            true,
            false,
        ),
        ("suffix", Match { principals: vec![StringMatch::Suffix("/sa/client".into())], ..none() }, true, false),
        ("other suffix", Match { principals: vec![StringMatch::Suffix("/sa/other".into())], ..none() }, false, false),
        ("presence", Match { principals: vec![StringMatch::Presence], ..none() }, true, false),
        ("not presence", Match { not_principals: vec![StringMatch::Presence], ..none() }, false, true),
        ("not principal", Match { not_principals: exact(id), ..none() }, false, true),
        ("namespace", Match { namespaces: exact("shop"), ..none() }, true, false),
        ("not namespace", Match { not_namespaces: exact("shop"), ..none() }, false, true),
        ("service account", Match { service_accounts: account("shop", "client"), ..none() }, true, false),
        ("other account", Match { service_accounts: account("default", "client"), ..none() }, false, false),
        ("not account", Match { not_service_accounts: account("shop", "client"), ..none() }, false, true),
        ("source", Match { source_ips: ip("10.0.0.0/24"), ..none() }, true, true),
        ("other source", Match { source_ips: ip("10.0.1.0/24"), ..none() }, false, false),
        ("not source", Match { not_source_ips: ip("10.0.0.1/32"), ..none() }, false, false),
        ("not other source", Match { not_source_ips: ip("10.0.0.3/32"), ..none() }, true, true),
        ("destination", Match { destination_ips: ip("10.0.0.2/32"), ..none() }, true, true),
        ("not destination", Match { not_destination_ips: ip("10.0.0.2/32"), ..none() }, false, false),
        ("port", Match { destination_ports: vec![80, 8080], ..none() }, true, true),
        ("other port", Match { destination_ports: vec![80], ..none() }, false, false),
        ("not port", Match { not_destination_ports: vec![8080], ..none() }, false, false),
        ("fields are ANDed", Match { principals: exact(id), destination_ports: vec![80], ..none() }, false, false),
        ("a family does not match the other", Match { source_ips: ip("::/0"), ..none() }, false, false),
    ];
    for (case, fields, with_identity, without) in cases {
        assert_eq!(denies(fields.clone(), &client()), with_identity, "{case}, with an identity");
        assert_eq!(denies(fields, &plain()), without, "{case}, without one");
    }
}

#[test]
fn mapped_addresses_are_what_they_stand_for() {
    let peer = Peer { address: "[::ffff:10.0.0.1]:4000".parse().unwrap(), identity: None };
    assert!(denies(Match { source_ips: vec!["10.0.0.0/24".parse().unwrap()], ..Match::default() }, &peer));
}

#[test]
fn trap_06_scopes_and_unknown_policies() {
    let deny = |text: &str, scope| Policy { scope, ..policy(text, Action::Deny, vec![Rule::default()]) };
    let elsewhere = |text: &str| PolicyName { namespace: "elsewhere".into(), name: text.into() };
    let mut global = deny("g", Scope::Global);
    global.name = elsewhere("g");
    let mut foreign = deny("f", Scope::Namespace);
    foreign.name = elsewhere("f");
    assert_eq!(ask(vec![global], &client()), Err(Denied::ByPolicy(elsewhere("g"))));
    assert_eq!(ask(vec![foreign], &client()), Ok(None));
    assert_eq!(ask(vec![deny("s", Scope::WorkloadSelector)], &client()), Ok(None), "not selected");
    let mut selected = workload();
    selected.policies = vec![name("s")];
    let world = World::new(Place::default(), Vec::new(), Vec::new(), vec![deny("s", Scope::WorkloadSelector)]);
    assert_eq!(authorize(&world, &selected, &client(), target()), Err(Denied::ByPolicy(name("s"))));
    let empty = World::default();
    assert_eq!(authorize(&empty, &selected, &client(), target()), Err(Denied::UnknownPolicy(name("s"))));
}

#[test]
fn dry_run_is_only_told() {
    let tried = Policy { enforcement: Enforcement::DryRun, ..policy("t", Action::Deny, vec![Rule::default()]) };
    let world = World::new(Place::default(), Vec::new(), Vec::new(), vec![tried]);
    let (workload, peer) = (workload(), client());
    assert!(authorize(&world, &workload, &peer, target()).is_ok());
    let told: Vec<_> = dry_run(&world, &workload, &peer, target()).iter().map(|policy| policy.name.clone()).collect();
    assert_eq!(told, [name("t")]);
}

#[test]
fn what_could_not_be_read_denies() {
    let unreadable =
        |scope| vec![Policy::unreadable(name("u"), scope), policy("a", Action::Allow, vec![Rule::default()])];
    for scope in [Scope::Global, Scope::Namespace] {
        assert_eq!(ask(unreadable(scope), &client()), Err(Denied::UnreadablePolicy(name("u"))));
    }
    assert!(ask(unreadable(Scope::WorkloadSelector), &client()).is_ok(), "it is not among the workload's policies");
}
