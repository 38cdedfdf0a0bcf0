//! Whatever the order of changes, the picture is the one of what is there in the end.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;

use super::Store;
use crate::model::addr::NetworkAddress;
use crate::model::endpoints::Purpose;
use crate::model::policy::{Action, Enforcement, Policy, PolicyName, Rule, Scope};
use crate::model::service::{Ports, Service, ServiceKey};
use crate::model::world::{Place, World};
use crate::model::{Identity, Workload};

fn place() -> Place {
    Place { node: "n1".into(), network: "".into(), ..Place::default() }
}

fn ip(last: u8) -> IpAddr {
    [10, 0, 0, last].into()
}

fn key(number: u8) -> ServiceKey {
    ServiceKey::new("ns", &format!("s{number}"))
}

fn workload(number: u8, address: u8, services: &[u8], node: &str) -> Workload {
    let identity = Identity::new("td", "ns", &format!("a{address}")).unwrap();
    let mut workload = Workload::new(&format!("c//Pod/ns/w{number}"), &format!("w{number}"), identity);
    workload.addresses = vec![ip(address)];
    workload.node = node.into();
    workload.services = services.iter().map(|number| (key(*number), Ports::default())).collect();
    workload
}

fn service(number: u8, vip: u8, target: u16) -> Service {
    Service {
        vips: vec![NetworkAddress { network: "".into(), ip: ip(vip) }],
        cidr_vips: if vip == 0 { vec![("".into(), "10.1.0.0/16".parse().unwrap())] } else { Vec::new() },
        ports: [(80, target)].into_iter().collect(),
        ..Service::new(key(number), "s")
    }
}

fn policy(number: u8) -> PolicyName {
    PolicyName { namespace: "ns".into(), name: format!("p{number}").into() }
}

#[derive(Clone, Debug)]
enum Step {
    Workload(u8, u8, Vec<u8>, &'static str),
    Service(u8, u8, u16),
    Policy(u8, bool),
    Remove(String),
    RemovePolicy(u8),
    Look,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..4, 0u8..4, prop::collection::vec(0u8..3, 0..3), prop_oneof![Just("n1"), Just("n2")])
            .prop_map(|(number, address, services, node)| Step::Workload(number, address, services, node)),
        2 => (0u8..3, 0u8..4, 1u16..3).prop_map(|(number, vip, target)| Step::Service(number, vip, target)),
        1 => (0u8..2, any::<bool>()).prop_map(|(number, rules)| Step::Policy(number, rules)),
        1 => (0u8..4).prop_map(|number| Step::Remove(format!("c//Pod/ns/w{number}"))),
        1 => (0u8..3).prop_map(|number| Step::Remove(key(number).to_string())),
        1 => (0u8..2).prop_map(Step::RemovePolicy),
        2 => Just(Step::Look),
    ]
}

/// Everything that the data path can ask, answered.
fn answers(world: &World) -> Vec<String> {
    let mut all = Vec::new();
    let source = workload(9, 9, &[], "n1");
    for last in 0..5 {
        // Of several that are equal the last to come is meant, so only the address is compared.
        all.push(format!("{last}: {:?}", world.workload_at("", ip(last)).map(|one| one.addresses.clone())));
        all.push(format!("{last}: {}", world.service_at("", ip(last), "ns").is_some()));
    }
    all.push(format!("block: {}", world.service_at("", [10, 1, 2, 3].into(), "ns").is_some()));
    for number in 0..4 {
        all.push(format!("{:?}", world.workload_by_uid(&format!("c//Pod/ns/w{number}"))));
        all.push(format!("{:?}", world.local_workload("ns", &format!("w{number}")).map(|one| &one.uid)));
        all.push(format!("{}", world.services_named(&format!("s{number}")).len()));
        let endpoints = world.endpoints(&key(number));
        all.push(format!("{:?}", endpoints.map(|all| all.members().iter().map(|one| &one.uid).collect::<Vec<_>>())));
        for draw in [0, 1 << 62, 3 << 62] {
            let picked = endpoints.map(|all| all.pick(80, Purpose::Client, &source, draw));
            all.push(format!("{:?}", picked.map(|one| one.map(|(one, port)| (one.uid.to_string(), port)))));
        }
        all.push(format!("{:?}", world.policy(&policy(number))));
    }
    let rulings = world.rulings_of("ns").into_iter().flatten();
    let policies = rulings.flat_map(|ruling| ruling.list()).map(|policy| policy.name.to_string());
    all.push(format!("{:?}", policies.collect::<Vec<_>>()));
    all.push(format!("{:?}", world.size()));
    all
}

proptest! {
    #[test]
    fn changes_in_any_order(steps in prop::collection::vec(step(), 0..60)) {
        let mut store = Store::new(place());
        let (mut workloads, mut services, mut policies) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut kept = Vec::new();
        for step in steps {
            match step {
                Step::Workload(number, address, of, node) => {
                    let one = workload(number, address, &of, node);
                    workloads.insert(one.uid.to_string(), one.clone());
                    store.put_workload(one);
                }
                Step::Service(number, vip, target) => {
                    services.insert(key(number).to_string(), service(number, vip, target));
                    store.put_service(service(number, vip, target));
                }
                Step::Policy(number, rules) => {
                    let rules = if rules { vec![Rule::default()] } else { Vec::new() };
                    let (scope, action, enforcement) = (Scope::Namespace, Action::Deny, Enforcement::Enforced);
                    let one = Policy { name: policy(number), scope, action, enforcement, rules };
                    policies.insert(number, one.clone());
                    store.put_policy(one);
                }
                Step::Remove(name) => {
                    workloads.remove(&name);
                    services.remove(&name);
                    store.remove_address(&name);
                }
                Step::RemovePolicy(number) => {
                    policies.remove(&number);
                    store.remove_policy(&policy(number));
                }
                Step::Look => {
                    let said = store.is_changed();
                    let world = store.world();
                    let now = answers(&world);
                    let before = kept.last().map_or_else(|| answers(&World::new(place(), [].into(), [].into(), [].into())), |(then, _)| Vec::clone(then));
                    prop_assert!(said || now == before, "a change that nobody would be told of");
                    kept.push((now, world));
                }
            }
        }
        let (workloads, services) = (workloads.into_values().collect(), services.into_values().collect());
        let whole = World::new(place(), workloads, services, policies.into_values().collect());
        prop_assert_eq!(answers(&store.world()), answers(&whole));
        prop_assert!(!store.is_changed());
        for (then, world) in kept {
            prop_assert_eq!(then, answers(&world), "an old picture has changed");
        }
    }
}

#[test]
fn only_what_judgement_depends_on_makes_a_new_verdict() {
    let mut store = Store::new(place());
    store.put_workload(workload(0, 1, &[0], "n1"));
    let first = store.world();
    store.put_workload(workload(1, 2, &[0], "n2"));
    store.put_service(service(0, 3, 1));
    let second = store.world();
    assert!(second.judges_like(&first));
    store.put_workload(workload(0, 2, &[0], "n1"));
    let third = store.world();
    assert!(!third.judges_like(&second));
    store.put_workload(workload(0, 2, &[0], "n1"));
    assert!(store.world().judges_like(&third), "nothing has changed");
    store.remove_policy(&policy(0));
    assert!(store.world().judges_like(&third), "there was none");
}

/// As most pods are before they are in the mesh: on another node, and of no service.
#[test]
fn a_workload_of_no_service_is_a_change_as_well() {
    let mut store = Store::new(place());
    for change in [workload(0, 1, &[], "n2"), workload(0, 2, &[], "n2")] {
        store.put_workload(change.clone());
        assert!(store.is_changed());
        store.world();
        store.put_workload(change);
        assert!(!store.is_changed(), "it is the same one");
    }
    store.remove_workload("c//Pod/ns/w0");
    assert!(store.is_changed());
}

/// Section 1.10: a name with more slashes is a workload that is gone already.
#[test]
fn removals_by_name() {
    let mut store = Store::new(place());
    store.put_service(service(0, 3, 1));
    for name in ["c//Pod/ns/w0", "nothing", "ns/unknown", ""] {
        store.remove_address(name);
    }
    assert_eq!(store.world().size(), (0, 1, 0));
    store.remove_address("ns/s0");
    assert_eq!(store.world().size(), (0, 0, 0));
    assert!(store.world().endpoints(&key(0)).is_none());
}

#[test]
fn endpoints_may_come_before_their_service() {
    let mut store = Store::new(place());
    store.put_workload(workload(0, 1, &[0], "n2"));
    assert!(store.world().endpoints(&key(0)).is_none());
    store.put_service(service(0, 3, 8080));
    let world = store.world();
    let source = Arc::new(workload(9, 9, &[], "n1"));
    let (picked, port) = world.endpoints(&key(0)).unwrap().pick(80, Purpose::Client, &source, 1).unwrap();
    assert_eq!((&*picked.name, port), ("w0", 8080));
}
