//! Compiled policies against a plain scan of all of them: the same verdict, and the same policy named in it.

use std::net::SocketAddr;
use std::sync::Arc;

use ipnet::IpNet;
use proptest::prelude::*;

use super::super::{Denied, authorize, dry_run};
use crate::model::policy::{
    Action, Clause, Enforcement, Match, Policy, PolicyName, Rule, Scope, ServiceAccountMatch, StringMatch,
};
use crate::model::world::Place;
use crate::model::{Identity, Peer, Store, Workload, World};

/// The policy that a permit names.
type Verdict = Result<Option<PolicyName>, Denied>;

/// Everything that applies, in its order, each asked in turn.
fn scan(world: &World, workload: &Workload, peer: &Peer, target: SocketAddr) -> (Verdict, Vec<PolicyName>) {
    let mut all: Vec<_> = world.policies().map(Arc::clone).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    let global = all.iter().filter(|policy| policy.scope == Scope::Global);
    let own =
        |policy: &&Arc<Policy>| policy.scope == Scope::Namespace && *policy.name.namespace == *workload.namespace();
    let selected = workload.policies.iter().filter_map(|name| world.policy(name));
    let applying: Vec<_> = global.chain(all.iter().filter(own)).chain(selected).collect();
    let matching = |policy: &&Arc<Policy>| policy.matches(peer, target);
    let tried = applying.iter().filter(|policy| policy.enforcement == Enforcement::DryRun && matching(policy));
    (verdict(world, workload, &applying, &matching), tried.map(|policy| policy.name.clone()).collect())
}

fn verdict(
    world: &World,
    workload: &Workload,
    applying: &[&Arc<Policy>],
    matching: &dyn Fn(&&Arc<Policy>) -> bool,
) -> Verdict {
    if let Some(unknown) = workload.policies.iter().find(|name| world.policy(name).is_none()) {
        return Err(Denied::UnknownPolicy(unknown.clone()));
    }
    if let Some(policy) = applying.iter().find(|policy| policy.enforcement == Enforcement::Unreadable) {
        return Err(Denied::UnreadablePolicy(policy.name.clone()));
    }
    let of = |action| {
        let enforced = applying.iter().filter(|policy| policy.enforcement == Enforcement::Enforced);
        enforced.filter(move |policy| policy.action == action)
    };
    if let Some(policy) = of(Action::Deny).find(|policy| matching(policy)) {
        return Err(Denied::ByPolicy(policy.name.clone()));
    }
    match (of(Action::Allow).next(), of(Action::Allow).find(|policy| matching(policy))) {
        (None, _) => Ok(None),
        (Some(_), Some(policy)) => Ok(Some(policy.name.clone())),
        (Some(_), None) => Err(Denied::NotAllowed),
    }
}

fn patterns(texts: &'static [&'static str]) -> BoxedStrategy<Vec<StringMatch>> {
    let one = (0..4, prop::sample::select(texts), any::<prop::sample::Index>()).prop_map(|(kind, text, at)| {
        let at = at.index(text.len() + 1);
        match kind {
            0 => StringMatch::Exact(text.into()),
            1 => StringMatch::Prefix(text[..at].into()),
            2 => StringMatch::Suffix(text[at..].into()),
            _ => StringMatch::Presence,
        }
    });
    prop::collection::vec(one, 1..3).boxed()
}

fn sometimes<T: std::fmt::Debug + Clone + 'static>(list: BoxedStrategy<Vec<T>>) -> BoxedStrategy<Vec<T>> {
    prop_oneof![3 => Just(Vec::new()), 1 => list].boxed()
}

fn values<T: std::fmt::Debug + Clone + 'static>(all: Vec<T>) -> BoxedStrategy<Vec<T>> {
    prop::collection::vec(prop::sample::select(all), 1..3).boxed()
}

const PRINCIPALS: [&str; 6] = [
    "td/ns/a/sa/x",
    "td/ns/a/sa/y",
    "td/ns/b/sa/x",
    "spiffe://td/ns/a/sa/x",
    "spiffe://td/ns/b/sa/y",
    "spiffe://other/ns/a/sa/x",
];
const NAMESPACES: [&str; 4] = ["a", "b", "ab", ""];

fn blocks() -> Vec<IpNet> {
    let texts = ["10.0.0.1/32", "10.0.0.7/24", "10.0.0.0/8", "0.0.0.0/0", "fd00::/16", "::/0", "fd00::1/128"];
    texts.map(|text| text.parse().unwrap()).into()
}

fn accounts() -> Vec<ServiceAccountMatch> {
    let pairs = [("a", "x"), ("a", "y"), ("b", "x"), ("", "")];
    pairs.map(|(ns, account)| ServiceAccountMatch { namespace: ns.into(), service_account: account.into() }).into()
}

fn fields() -> BoxedStrategy<Match> {
    let ports = || sometimes(values(vec![80, 8080]));
    let who = (
        sometimes(patterns(&NAMESPACES)),
        sometimes(patterns(&NAMESPACES)),
        sometimes(patterns(&PRINCIPALS)),
        sometimes(patterns(&PRINCIPALS)),
        sometimes(values(accounts())),
        sometimes(values(accounts())),
    );
    let nets = || sometimes(values(blocks()));
    let places = (nets(), nets(), nets(), nets(), ports(), ports());
    (who, places)
        .prop_map(|(who, places)| Match {
            namespaces: who.0,
            not_namespaces: who.1,
            principals: who.2,
            not_principals: who.3,
            service_accounts: who.4,
            not_service_accounts: who.5,
            source_ips: places.0,
            not_source_ips: places.1,
            destination_ips: places.2,
            not_destination_ips: places.3,
            destination_ports: places.4,
            not_destination_ports: places.5,
        })
        .boxed()
}

fn rules() -> BoxedStrategy<Vec<Rule>> {
    let clause = prop::collection::vec(fields(), 0..3).prop_map(|matches| Clause { matches });
    let rule = prop::collection::vec(clause, 0..3).prop_map(|clauses| Rule { clauses });
    prop::collection::vec(rule, 0..3).boxed()
}

fn name(namespace: &str, number: usize) -> PolicyName {
    PolicyName { namespace: namespace.into(), name: format!("p{number}").into() }
}

fn policy(number: usize) -> BoxedStrategy<Policy> {
    use Enforcement::{DryRun, Enforced, Unreadable};
    let kind = (
        prop::sample::select(vec!["own", "own", "else"]),
        prop::sample::select(vec![Scope::Global, Scope::Namespace, Scope::WorkloadSelector]),
        prop::sample::select(vec![Action::Deny, Action::Allow, Action::Allow]),
        prop_oneof![30 => Just(Enforced), 5 => Just(DryRun), 1 => Just(Unreadable)],
    );
    (kind, rules())
        .prop_map(move |((namespace, scope, action, enforcement), rules)| Policy {
            name: name(namespace, number),
            scope,
            action,
            enforcement,
            rules,
        })
        .boxed()
}

/// Policies with one rule that wants several things at once, each of which many others want as well.
fn crowd() -> BoxedStrategy<Vec<Policy>> {
    let one = |all: Vec<Vec<StringMatch>>| prop::sample::select(all);
    let exact = |text: &str| vec![StringMatch::Exact(text.into())];
    let nets = || prop::sample::select(vec![Vec::new(), vec![blocks()[0]], vec![blocks()[1]], vec![blocks()[2]]]);
    let fields = (
        one(vec![Vec::new(), exact(PRINCIPALS[0]), exact(PRINCIPALS[2]), exact(PRINCIPALS[3])]),
        one(vec![Vec::new(), exact("a"), exact("b")]),
        nets(),
        nets(),
        prop::sample::select(vec![Vec::new(), vec![80], vec![8080], vec![80, 8080]]),
    );
    let matches = fields.prop_map(|(principals, namespaces, source_ips, destination_ips, destination_ports)| Match {
        principals,
        namespaces,
        source_ips,
        destination_ips,
        destination_ports,
        ..Match::default()
    });
    let policy = (prop::sample::select(vec![Action::Deny, Action::Allow]), matches);
    let policies = prop::collection::vec(policy, 12..60);
    let policy = |(number, (action, fields)): (usize, (Action, Match))| Policy {
        name: name("own", number),
        scope: Scope::Namespace,
        action,
        enforcement: Enforcement::Enforced,
        rules: vec![Rule { clauses: vec![Clause { matches: vec![fields] }] }],
    };
    policies.prop_map(move |all| all.into_iter().enumerate().map(policy).collect()).boxed()
}

fn policies() -> BoxedStrategy<Vec<Policy>> {
    let few = (0..12_usize).prop_flat_map(|count| (0..count).map(policy).collect::<Vec<_>>());
    prop_oneof![3 => few, 1 => crowd()].boxed()
}

fn question() -> BoxedStrategy<(Peer, SocketAddr)> {
    let identities = ["", "spiffe://td/ns/a/sa/x", "spiffe://td/ns/a/sa/y", "spiffe://td/ns/b/sa/x"];
    let sources = ["10.0.0.1:9", "10.0.0.9:9", "10.1.0.1:9", "[::ffff:10.0.0.1]:9", "[fd00::1]:9", "[fe80::1]:9"];
    let targets = ["10.0.0.7:80", "10.0.0.7:8080", "[fd00::1]:80", "[::ffff:10.0.0.7]:81"];
    let parts = (
        prop::sample::select(identities.to_vec()),
        prop::sample::select(sources.to_vec()),
        prop::sample::select(targets.to_vec()),
    );
    parts
        .prop_map(|(identity, source, target)| {
            let identity: Option<Identity> = identity.parse().ok();
            (Peer { address: source.parse().unwrap(), identity }, target.parse().unwrap())
        })
        .boxed()
}

/// A workload that lists policies of its namespace.
fn workload(uid: &str, listed: &[usize]) -> Workload {
    let mut workload = Workload::new(uid, uid, Identity::new("td", "own", "web").unwrap());
    workload.node = "here".into();
    workload.policies = listed.iter().map(|number| name("own", *number)).collect();
    workload
}

fn check(world: &World, uid: &str, questions: &[(Peer, SocketAddr)]) -> Result<(), TestCaseError> {
    let own = world.workload_by_uid(uid).unwrap();
    // Compiled beforehand for one of the node's own; for any other when it is asked for.
    for workload in [&**own, &Workload::clone(own)] {
        for (peer, target) in questions {
            let (expected, tried) = scan(world, workload, peer, *target);
            let found = authorize(world, workload, peer, *target).map(|permit| permit.policy().cloned());
            prop_assert_eq!(found, expected);
            let told: Vec<_> =
                dry_run(world, workload, peer, *target).iter().map(|policy| policy.name.clone()).collect();
            prop_assert_eq!(told, tried);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// From one configuration to the next: what is compiled already must not stay when it has changed.
    #[test]
    fn a_compiled_verdict_is_that_of_a_scan(
        steps in prop::collection::vec(policies(), 1..3),
        listed in prop::collection::vec((prop::collection::vec(0..12_usize, 0..4), prop::bool::weighted(0.1)), 2),
        questions in prop::collection::vec(question(), 8),
    ) {
        let mut store = Store::new(Place { node: "here".into(), ..Place::default() });
        for (policies, (mut listed, unknown_ones)) in steps.into_iter().zip(listed) {
            policies.into_iter().for_each(|policy| store.put_policy(policy));
            listed.retain(|number| unknown_ones || store.has_policy(&name("own", *number)));
            store.put_workload(workload("web", &listed));
            store.put_workload(workload("replica", &listed));
            let world = store.world();
            check(&world, "web", &questions)?;
            check(&world, "replica", &questions)?;
        }
    }
}
