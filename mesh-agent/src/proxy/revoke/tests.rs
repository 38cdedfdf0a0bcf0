//! A connection that is open, and a configuration that changes.

use std::sync::Arc;

use futures_util::FutureExt;
use tokio::sync::watch;

use super::Question;
use crate::model::policy::{Action, Clause, Enforcement, Match, Policy, PolicyName, Rule, Scope, StringMatch};
use crate::model::world::Place;
use crate::model::{Denied, Identity, Peer, Workload, World};

fn identity(namespace: &str, name: &str) -> Identity {
    Identity::new("cluster.local", namespace, name).unwrap()
}

fn question() -> Question {
    let peer = Peer { address: "10.0.0.1:4000".parse().unwrap(), identity: Some(identity("shop", "client")) };
    Question { workload: "web".into(), peer, target: "10.0.0.2:8080".parse().unwrap() }
}

fn name(name: &str) -> PolicyName {
    PolicyName { namespace: "shop".into(), name: name.into() }
}

/// The policies of namespace `shop`.
fn policy(text: &str, action: Action, rules: Vec<Rule>) -> Policy {
    Policy { name: name(text), scope: Scope::Namespace, action, enforcement: Enforcement::Enforced, rules }
}

fn from(account: &str) -> Vec<Rule> {
    let principal = format!("cluster.local/ns/shop/sa/{account}");
    let fields = Match { principals: vec![StringMatch::Exact(principal)], ..Match::default() };
    vec![Rule { clauses: vec![Clause { matches: vec![fields] }] }]
}

fn port(port: u16) -> Vec<Rule> {
    let fields = Match { destination_ports: vec![port], ..Match::default() };
    vec![Rule { clauses: vec![Clause { matches: vec![fields] }] }]
}

fn world(namespace: &str, policies: Vec<Policy>) -> World {
    World::new(Place::default(), vec![Workload::new("web", "web", identity(namespace, "web"))], Vec::new(), policies)
}

fn listing(unknown: &str) -> World {
    let mut web = Workload::new("web", "web", identity("shop", "web"));
    web.policies = vec![name(unknown)];
    World::new(Place::default(), vec![web], Vec::new(), Vec::new())
}

fn without_workload(policies: Vec<Policy>) -> World {
    World::new(Place::default(), Vec::new(), Vec::new(), policies)
}

/// What each configuration says of the connection when it is opened, and when it is open.
#[test]
fn answers() {
    use Action::{Allow, Deny};
    let denied = |text: &str| Some(Denied::ByPolicy(name(text)));
    let tried = Policy { enforcement: Enforcement::DryRun, ..policy("t", Deny, vec![Rule::default()]) };
    let cases = [
        ("no policy", world("shop", vec![]), None, None),
        ("allowed", world("shop", vec![policy("a", Allow, from("client"))]), None, None),
        ("allowed by another rule", world("shop", vec![policy("b", Allow, port(8080))]), None, None),
        ("on trial", world("shop", vec![tried]), None, None),
        ("another port is denied", world("shop", vec![policy("d", Deny, port(80))]), None, None),
        ("denied", world("shop", vec![policy("d", Deny, from("client"))]), denied("d"), denied("d")),
        (
            "no longer allowed",
            world("shop", vec![policy("a", Allow, from("other"))]),
            Some(Denied::NotAllowed),
            Some(Denied::NotAllowed),
        ),
        (
            "of an unknown policy",
            listing("u"),
            Some(Denied::UnknownPolicy(name("u"))),
            Some(Denied::UnknownPolicy(name("u"))),
        ),
        (
            "moved out of the policies' namespace",
            world("elsewhere", vec![policy("d", Deny, from("client"))]),
            None,
            None,
        ),
        // What is gone takes no new connections, and keeps those it has.
        ("gone", without_workload(vec![]), Some(Denied::NotAllowed), None),
        (
            "gone, and denied",
            without_workload(vec![policy("d", Deny, vec![Rule::default()])]),
            Some(Denied::NotAllowed),
            None,
        ),
    ];
    for (case, world, opening, open) in cases {
        let question = question();
        assert_eq!(question.ask(&world).err(), opening, "{case}: opening");
        // It opened under a configuration without policies.
        let (writer, mut worlds) = watch::channel(Arc::new(self::world("shop", vec![])));
        let mut waiting = Box::pin(question.until_denied(&mut worlds));
        assert_eq!(waiting.as_mut().now_or_never(), None, "{case}: before the change");
        writer.send_replace(Arc::new(world));
        assert_eq!(waiting.as_mut().now_or_never(), open, "{case}: open");
    }
}

#[test]
fn a_permit_names_the_target_and_the_policy() {
    let permit = question().ask(&world("shop", vec![policy("a", Action::Allow, from("client"))])).unwrap();
    assert_eq!((permit.target(), permit.policy()), ("10.0.0.2:8080".parse().unwrap(), Some(&name("a"))));
}

#[test]
fn changes_are_followed_until_one_denies() {
    let allow = |account| vec![policy("a", Action::Allow, from(account))];
    let (writer, mut worlds) = watch::channel(Arc::new(world("shop", allow("client"))));
    let question = question();
    let mut waiting = Box::pin(question.until_denied(&mut worlds));
    let harmless = [
        world("shop", vec![]),
        without_workload(allow("other")),
        world("elsewhere", allow("other")),
        world("shop", allow("client")),
    ];
    for (round, world) in harmless.into_iter().enumerate() {
        writer.send_replace(Arc::new(world));
        assert_eq!(waiting.as_mut().now_or_never(), None, "round {round}");
    }
    writer.send_replace(Arc::new(without_workload(allow("other"))));
    assert_eq!(waiting.as_mut().now_or_never(), None, "gone");
    writer.send_replace(Arc::new(world("shop", allow("other"))));
    assert_eq!(waiting.as_mut().now_or_never(), Some(Denied::NotAllowed), "back, and denied");
}

#[test]
fn a_denial_between_the_permit_and_the_wait_counts() {
    let (writer, mut worlds) = watch::channel(Arc::new(world("shop", vec![])));
    let denied = Arc::new(world("shop", vec![policy("d", Action::Deny, from("client"))]));
    writer.send_replace(denied);
    worlds.mark_unchanged();
    let waited = question().until_denied(&mut worlds).now_or_never();
    assert_eq!(waited, Some(Denied::ByPolicy(name("d"))));
}

#[test]
fn without_a_configuration_any_more_connections_go_on() {
    let (writer, mut worlds) = watch::channel(Arc::new(world("shop", vec![])));
    drop(writer);
    assert_eq!(question().until_denied(&mut worlds).now_or_never(), None);
}
