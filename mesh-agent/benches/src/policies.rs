//! Whether a peer may reach a port, with a thousand policies in force.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use mesh_agent::model::authorize::{authorize, dry_run};
use mesh_agent::model::policy::{
    Action, Clause, Enforcement, Match, PolicyName, Rule, Scope, ServiceAccountMatch, StringMatch,
};
use mesh_agent::model::{Identity, Peer, Policy, Workload, World};

use crate::draw::one;
use crate::world::{NODE, place, workload};
use crate::{Ask, Case};

const COUNT: u32 = 1_000;
/// Of this node.
const PODS: u32 = 64;
/// The namespace of the pods that are connected to.
const OWN: &str = "default";

/// What a policy names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Identity,
    Account,
    Namespace,
    /// The beginning of an identity.
    Prefix,
    Block,
    Port,
    /// An identity, a block and a port, each of which others name as well.
    All,
}

/// Which policies are the pod's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    /// All but every hundredth are those of other namespaces.
    Others,
    Own,
    /// The pod is selected by all.
    Selected,
}

/// What becomes of the peers that ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Allowed,
    Denied,
    /// No policy is about them.
    Unheard,
}

pub(crate) fn cases() -> Vec<Case> {
    use By::{Account, All, Block, Identity, Namespace, Port, Prefix};
    use Fate::{Allowed, Denied, Unheard};
    use Whose::{Others, Own, Selected};
    let case = |(name, whose, by, fate): (&str, _, _, _)| Case::new("policy", name, move || policies(whose, by, fate));
    [
        ("most of other namespaces", Others, Identity, Allowed),
        ("by identity", Own, Identity, Allowed),
        ("by identity, denied", Own, Identity, Denied),
        ("by identity, nobody allows it", Own, Identity, Unheard),
        ("by service account", Own, Account, Allowed),
        ("by namespace", Own, Namespace, Allowed),
        ("by the beginning of an identity", Own, Prefix, Allowed),
        ("by block of addresses", Own, Block, Allowed),
        ("by port", Own, Port, Allowed),
        ("by all of these", Own, All, Allowed),
        ("selected, by identity", Selected, Identity, Allowed),
        ("selected, by identity, denied", Selected, Identity, Denied),
    ]
    .map(case)
    .into()
}

/// The first half denies others than the second half allows.
fn policies(whose: Whose, by: By, fate: Fate) -> Result<Ask> {
    let all = (0..COUNT).map(|number| policy(number, whose, by)).collect::<Result<Vec<_>>>()?;
    let selected = all.iter().filter(|_| whose == Whose::Selected).map(|policy| policy.name.clone()).collect();
    let pods = pods(selected)?;
    let uids: Vec<_> = pods.iter().map(|pod| Arc::clone(&pod.uid)).collect();
    let world = World::new(place(), pods, Vec::new(), all);
    let numbers = match fate {
        Fate::Denied => 0..COUNT / 2,
        Fate::Allowed => COUNT / 2..COUNT,
        Fate::Unheard => COUNT..COUNT * 2,
    };
    let own = numbers.filter(|number| whose != Whose::Others || number % 100 == 0);
    let asked = own.map(|number| question(number, by)).collect::<Result<Vec<_>>>()?;
    let pod = |uid: &Arc<str>| world.workload_by_uid(uid).map(Arc::clone).context("a pod is not in the world");
    let pods = uids.iter().map(pod).collect::<Result<Vec<_>>>()?;
    for ((peer, target), pod) in asked.iter().zip(pods.iter().cycle()) {
        let found = authorize(&world, pod, peer, *target);
        ensure!(found.is_ok() == (fate == Fate::Allowed), "{peer:?}: {found:?}");
        ensure!(found.is_err() || found.is_ok_and(|permit| permit.policy().is_some()), "no policy allows {peer:?}");
    }
    // As for each connection that arrives: the policies on trial are asked as well.
    Ok(Box::new(move |draw| {
        let (Some((peer, target)), Some(pod)) = (one(&asked, draw), one(&pods, draw.rotate_left(32))) else { return };
        drop(black_box(authorize(&world, pod, peer, *target)));
        drop(black_box(dry_run(&world, pod, peer, *target)));
    }))
}

/// Several: where in memory one pod's name happens to be makes a difference of some instructions.
fn pods(policies: Vec<PolicyName>) -> Result<Vec<Workload>> {
    let pod = |number| {
        let mut pod = workload(number, &format!("web-{number}"))?;
        (pod.node, pod.policies) = (NODE.into(), policies.clone());
        Ok(pod)
    };
    (0..PODS).map(pod).collect()
}

fn policy(number: u32, whose: Whose, by: By) -> Result<Policy> {
    let own = whose != Whose::Others || number.is_multiple_of(100);
    let namespace = if own { OWN.into() } else { format!("other-{}", number % 100).into() };
    Ok(Policy {
        name: PolicyName { namespace, name: format!("policy-{number:04}").into() },
        scope: if whose == Whose::Selected { Scope::WorkloadSelector } else { Scope::Namespace },
        action: if number < COUNT / 2 { Action::Deny } else { Action::Allow },
        enforcement: Enforcement::Enforced,
        rules: vec![Rule { clauses: vec![Clause { matches: vec![fields(number, by)?] }] }],
    })
}

/// Which identity, block of addresses and port a policy of this number names, by their numbers.
fn parts(number: u32, by: By) -> (u32, u32, u32) {
    match by {
        By::All => (number % 32, number / 32, number % 25),
        By::Identity | By::Account | By::Namespace | By::Prefix | By::Block | By::Port => (number, number, number),
    }
}

fn fields(number: u32, by: By) -> Result<Match> {
    let none = Match::default();
    let (who, from, to) = parts(number, by);
    let exact = |text: String| vec![StringMatch::Exact(text)];
    let principals = exact(identity(who)?.principal().to_owned());
    let source_ips = vec![IpNet::new(address(from), 28)?];
    let destination_ports = vec![port(to)];
    Ok(match by {
        By::Identity => Match { principals, ..none },
        By::Account => {
            let account = ServiceAccountMatch { namespace: namespace(who), service_account: account(who) };
            Match { service_accounts: vec![account], ..none }
        }
        By::Namespace => Match { namespaces: exact(namespace(who)), ..none },
        By::Prefix => {
            let prefix = StringMatch::Prefix(format!("cluster.local/ns/{}/", namespace(who)));
            Match { principals: vec![prefix], ..none }
        }
        By::Block => Match { source_ips, ..none },
        By::Port => Match { destination_ports, ..none },
        By::All => Match { principals, source_ips, destination_ports, ..none },
    })
}

/// A peer that the policy of this number is about, and only this one.
fn question(number: u32, by: By) -> Result<(Peer, SocketAddr)> {
    let (who, from, to) = parts(number, by);
    let peer = Peer { address: SocketAddr::new(address(from), 40_000), identity: Some(identity(who)?) };
    Ok((peer, SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 64, 0, 9)), port(to))))
}

fn namespace(number: u32) -> String {
    format!("team-{number}")
}

fn account(number: u32) -> String {
    format!("client-{number}")
}

fn identity(number: u32) -> Result<Identity> {
    Ok(Identity::new("cluster.local", &namespace(number), &account(number))?)
}

/// In a block of 16 of its own.
fn address(number: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(0x0a80_0003 + number * 16))
}

fn port(number: u32) -> u16 {
    // Of 2,000 numbers, which fit.
    2_000 + number as u16
}
