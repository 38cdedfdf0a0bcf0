//! The rules one by one; and any sequence of events against what must always hold.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::marks::{ENABLED, PENDING};
use super::*;
use crate::cni::Sandbox;
use crate::kubernetes::Outside;
use crate::model::pod::PodState;
use crate::model::{Captured, Inbound, PodNetns, Programs};
use crate::pods::find::Place;
use crate::sys::netns::Netns;

mod any;
mod asked;

/// Handles that are of different namespaces, for all that a handle tells.
fn namespaces<const N: usize>() -> [Netns; N] {
    let directory = tempfile::tempdir().unwrap();
    std::array::from_fn(|number| {
        let file = std::fs::File::create_new(directory.path().join(number.to_string())).unwrap();
        Netns::from_fd(file.into()).unwrap()
    })
}

const MEMBER: Standing = Standing::Member;
const UNLABELLED: Standing = Standing::Outside(Outside::NotLabelled);
const ENDED: Standing = Standing::Outside(Outside::Ended);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn pod(uid: &str, standing: Standing) -> Pod {
    Pod {
        uid: uid.into(),
        object: uid.into(),
        name: format!("name-{uid}"),
        namespace: "shop".into(),
        service_account: "sa".into(),
        addresses: vec![ip("10.0.0.7")],
        probe_ports: vec![8080],
        names: None,
        standing,
        mark: None,
        inbound: Inbound::Captured,
        virtual_interfaces: Vec::new(),
    }
}

fn sandbox(uid: &str, container: &str) -> Sandbox {
    Sandbox {
        container: container.into(),
        uid: Some(uid.into()),
        name: format!("name-{uid}"),
        namespace: "shop".into(),
        netns: path(container),
        interface: "eth0".into(),
        addresses: vec![ip("10.0.0.7")],
    }
}

fn path(container: &str) -> PathBuf {
    format!("/run/netns/{container}").into()
}

/// The node, with a clock of its own.
struct Node {
    members: Members,
    now: Instant,
    last: u64,
}

impl Node {
    fn with(plugin: Plugin, former: Vec<Arc<PodSpec>>) -> Self {
        let now = Instant::now();
        let probers = Probers { towards: |_| Some(ip("10.0.0.1")), others: vec![ip("10.0.0.1"), ip("192.0.2.1")] };
        Self { members: Members::new(probers, plugin, former, now), now, last: 0 }
    }

    fn new() -> Self {
        Self::with(Plugin::Present, Vec::new())
    }

    fn picture(&mut self, pods: &[Pod]) -> Vec<Act> {
        let pods = pods.iter().map(|pod| (Arc::clone(&pod.uid), Arc::new(pod.clone())));
        self.members.picture(&Picture { pods: pods.collect() });
        self.acts()
    }

    fn announce(&mut self, sandbox: Sandbox, netns: &Netns) -> (Number, Vec<Act>) {
        self.last += 1;
        self.members.announced(Number(self.last), sandbox, netns.clone(), self.now);
        (Number(self.last), self.acts())
    }

    fn acts(&mut self) -> Vec<Act> {
        let acts = self.members.acts(self.now);
        assert_eq!(self.members.acts(self.now), [], "everything is said once");
        assert!(self.members.next(self.now).is_none_or(|at| at > self.now), "what is due has been done");
        acts
    }

    fn after(&mut self, time: Duration) -> Vec<Act> {
        self.now += time;
        self.acts()
    }

    /// The driver has everything that is wanted, in this state.
    fn drive(&mut self, state: &PodState) -> Vec<Act> {
        let statuses: Vec<_> =
            self.members.wanted().into_iter().map(|spec| PodStatus { spec, state: state.clone() }).collect();
        self.members.statuses(&statuses);
        self.acts()
    }

    fn found(&mut self, uid: &str, result: Result<Place, &str>) -> Vec<Act> {
        let found = Found { pods: vec![(uid.into(), result.map_err(str::to_owned))], deserted: Vec::new() };
        self.members.looked(found, self.now);
        self.acts()
    }

    fn deserted(&mut self, uids: &[&str]) -> Vec<Act> {
        let found = Found { pods: Vec::new(), deserted: uids.iter().map(|uid| (*uid).into()).collect() };
        self.members.looked(found, self.now);
        self.acts()
    }

    fn wanted(&self) -> Vec<(String, Netns)> {
        let wanted = self.members.wanted();
        wanted.iter().map(|spec| (spec.uid.to_string(), netns(spec))).collect()
    }
}

fn netns(spec: &PodSpec) -> Netns {
    let PodNetns::Proven { netns, .. } = &spec.netns else { panic!("{} is not proven", spec.netns) };
    netns.clone()
}

fn place(netns: &Netns) -> Place {
    Place { path: "/proc/1/ns/net".into(), netns: netns.clone(), interface: "net1".into(), carried: 77 }
}

fn looks(acts: &[Act]) -> impl Iterator<Item = &Look> {
    acts.iter().filter_map(|act| if let Act::Look(look) = act { Some(look) } else { None })
}

fn looks_for(acts: &[Act]) -> Vec<String> {
    looks(acts).flat_map(|look| &look.pods).map(|sought| sought.uid.to_string()).collect()
}

fn looks_whether(acts: &[Act]) -> Vec<String> {
    looks(acts).flat_map(|look| &look.deserted).map(|(uid, _)| uid.to_string()).collect()
}

fn marks(acts: &[Act]) -> Vec<(String, Option<&'static str>)> {
    let mark = |act: &Act| if let Act::Mark { pod, mark } = act { Some((pod.uid.to_string(), *mark)) } else { None };
    acts.iter().filter_map(mark).collect()
}

fn second(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn a_member_that_runs_already_is_looked_for() {
    let [a] = namespaces();
    let mut node = Node::new();
    let quiet = Pod { addresses: Vec::new(), ..pod("quiet", MEMBER) };
    let pods = [pod("a", MEMBER), pod("b", UNLABELLED), quiet.clone()];
    assert_eq!(looks_for(&node.picture(&pods)), ["a"], "without an address nothing is proven");
    node.found("a", Err("no process"));
    for (nth, wait) in [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000].into_iter().enumerate() {
        let early = node.after(Duration::from_millis(wait - 1));
        assert_eq!(looks_for(&early), [""; 0], "{nth}");
        assert_eq!(looks_for(&node.after(Duration::from_millis(1))), ["a"], "{nth}");
        node.found("a", Err("no process"));
    }
    let said: Vec<_> = node.members.remarks().iter().map(|remark| format!("{} {}", remark.name, remark.what)).collect();
    assert_eq!(
        said,
        [
            "name-a its network namespace is looked for: no process",
            "name-b neither the pod nor its namespace has the label istio.io/dataplane-mode=ambient",
            "name-quiet its network namespace is looked for: it has no address yet",
        ]
    );
    let virtual_interfaces = vec!["br-vm".to_owned()];
    let inbound = Inbound::Bypassed;
    let changed = Pod { probe_ports: vec![1], inbound, virtual_interfaces, ..pod("a", MEMBER) };
    assert_eq!(looks_for(&node.picture(&[changed, quiet])), ["a"], "at once when its picture changes");
    node.found("a", Ok(place(&a)));
    assert_eq!(node.wanted(), [("a".to_owned(), a.clone())]);
    let spec = &node.members.wanted()[0];
    let Captured::ByPrograms(programs) = &spec.captured else { panic!("by programs") };
    let expected = Programs {
        interface: "net1".into(),
        addresses: vec![ip("10.0.0.7")],
        probe_ports: vec![1],
        node_addresses: vec![ip("10.0.0.1"), ip("192.0.2.1")],
        inbound: Inbound::Bypassed,
        virtual_interfaces: vec!["br-vm".into()],
        ..Programs::default()
    };
    assert_eq!((&*spec.name, &*spec.namespace, &*spec.service_account), ("name-a", "shop", "sa"));
    assert_eq!(programs, &expected);
}

#[test]
fn a_pod_that_is_no_member_any_more_is_not_wanted() {
    let [a] = namespaces();
    for standing in [UNLABELLED, Standing::Outside(Outside::OptedOut), Standing::Outside(Outside::Namespace)] {
        let mut node = Node::new();
        node.picture(&[pod("a", MEMBER)]);
        node.found("a", Ok(place(&a)));
        assert_eq!(marks(&node.drive(&PodState::Enrolled)), [("a".to_owned(), Some(ENABLED))]);
        node.members.marked("a", Ok(()), node.now);
        let acts = node.picture(&[pod("a", standing)]);
        assert_eq!((node.wanted(), marks(&acts)), (vec![], vec![("a".to_owned(), None)]));
        assert!(node.members.ended().is_empty(), "its connections live on");
        let again = node.picture(&[pod("a", MEMBER)]);
        assert_eq!((node.wanted().len(), looks_for(&again)), (1, vec![]), "it has not moved");
    }
}

fn missed(acts: &[Act]) -> Vec<(String, u64)> {
    let one = |act: &Act| {
        let Act::Missed { pod, bytes } = act else { return None };
        Some((pod.uid.to_string(), *bytes))
    };
    acts.iter().filter_map(one).collect()
}

fn older(node: &Node) -> Vec<Older> {
    let of = |spec: &Arc<PodSpec>| match &spec.captured {
        Captured::ByPrograms(programs) => programs.older,
        Captured::ByRules => panic!("not of Kubernetes"),
    };
    node.members.wanted().iter().map(of).collect()
}

#[test]
fn a_new_member_that_nobody_announced_has_gone_around() {
    let [a, b] = namespaces();
    let mut node = Node::new();
    node.picture(&[pod("old", UNLABELLED)]);
    node.picture(&[pod("old", MEMBER), pod("new", MEMBER)]);
    let acts = node.found("new", Ok(place(&a)));
    assert_eq!((missed(&acts), older(&node)), (vec![("new".to_owned(), 77)], vec![Older::Cut]));
    let acts = node.found("old", Ok(place(&b)));
    assert_eq!((missed(&acts), older(&node)), (vec![], vec![Older::Cut, Older::LeftAlone]), "it was labelled");
}

#[test]
fn who_was_there_before_us_or_was_announced_has_not_gone_around() {
    let [a, b] = namespaces();
    let mut node = Node::new();
    let (number, _) = node.announce(sandbox("outsider", "c1"), &b);
    node.told(number, Ok(Some(pod("outsider", UNLABELLED))));
    node.picture(&[pod("first", MEMBER)]);
    node.picture(&[pod("first", MEMBER), pod("outsider", MEMBER)]);
    for (uid, netns) in [("first", &a), ("outsider", &b)] {
        assert_eq!(missed(&node.found(uid, Ok(place(netns)))), [], "{uid}");
    }
    assert_eq!(older(&node), [Older::LeftAlone; 2]);
    let mut node = Node::with(Plugin::Absent, Vec::new());
    node.picture(&[]);
    node.picture(&[pod("a", MEMBER)]);
    assert_eq!(missed(&node.found("a", Ok(place(&a)))), [], "there is no plugin");
}

#[test]
fn nobody_gets_a_pods_place_by_its_uid() {
    let [a] = namespaces();
    let mut node = Node::new();
    node.picture(&[pod("a", MEMBER)]);
    node.found("a", Ok(place(&a)));
    node.drive(&PodState::Enrolled);
    let before = node.members.wanted();
    let other = Pod { name: "other".into(), service_account: "root".into(), ..pod("a", MEMBER) };
    node.picture(&[other]);
    assert_eq!(node.members.wanted(), before);
    assert_eq!(looks_whether(&node.after(second(1))), ["a"], "as of a pod that has gone");
}

#[test]
fn a_pod_goes_on_until_it_has_left_its_namespace() {
    let [a] = namespaces();
    let cases = [vec![], vec![pod("a", ENDED)]];
    for (case, then) in cases.into_iter().enumerate() {
        let mut node = Node::new();
        node.picture(&[pod("a", MEMBER)]);
        node.found("a", Ok(place(&a)));
        node.drive(&PodState::Enrolled);
        node.picture(&then);
        assert_eq!(node.wanted().len(), 1, "{case}");
        for _ in 0..3 {
            assert_eq!(looks_whether(&node.after(second(1))), ["a"], "{case}");
            node.deserted(&[]);
            assert_eq!(node.wanted().len(), 1, "{case}");
        }
        node.after(second(1));
        node.deserted(&["a"]);
        assert_eq!((node.wanted(), node.members.ended()), (vec![], ["a".into()].into()), "{case}");
        node.after(second(61));
        assert_eq!(node.members.ended().len(), 1, "{case}: as long as the driver has it");
        node.members.statuses(&[]);
        node.acts();
        assert!(node.members.ended().is_empty(), "{case}");
    }
}

/// Of one that is leaving already nothing must be waited for either.
#[test]
fn a_pod_that_ends_while_its_connections_do() {
    let [a] = namespaces();
    let mut node = Node::new();
    node.picture(&[pod("a", MEMBER)]);
    node.found("a", Ok(place(&a)));
    node.drive(&PodState::Enrolled);
    let leaving = PodStatus { spec: Arc::clone(&node.members.wanted()[0]), state: PodState::Draining };
    node.picture(&[pod("a", UNLABELLED)]);
    node.members.statuses(std::slice::from_ref(&leaving));
    assert_eq!(looks_whether(&node.after(second(5))), [""; 0], "it lives");
    assert_eq!(looks_whether(&node.picture(&[])), ["a"]);
    node.deserted(&["a"]);
    assert_eq!(node.members.ended(), ["a".into()].into());
    let mut node = Node::new();
    node.picture(&[pod("a", UNLABELLED)]);
    node.members.statuses(&[leaving]);
    node.picture(&[]);
    assert_eq!(node.members.ended(), ["a".into()].into(), "where it was is not known");
}

fn former(uid: &str, netns: &Netns) -> Arc<PodSpec> {
    Arc::new(PodSpec {
        uid: uid.into(),
        name: format!("name-{uid}"),
        namespace: "shop".into(),
        service_account: "sa".into(),
        netns: PodNetns::Proven { path: "/run/netns/old".into(), netns: netns.clone() },
        captured: Captured::ByPrograms(Programs { interface: "eth0".into(), ..Programs::default() }),
    })
}

#[test]
fn what_a_former_agent_left_is_wanted_as_it_was_until_there_is_a_picture() {
    let [a, b, c, d] = namespaces();
    let left = [former("a", &a), former("b", &b), former("c", &c), former("d", &d)];
    let mut node = Node::with(Plugin::Present, left.to_vec());
    assert_eq!(node.acts(), []);
    assert!(node.members.wanted().iter().zip(&left).all(|(is, was)| Arc::ptr_eq(is, was)));
    assert_eq!(node.after(second(100)), []);
    let enabled = |uid| Pod { mark: Some(ENABLED.into()), ..pod(uid, MEMBER) };
    node.drive(&PodState::Adopted);
    let acts = node.picture(&[enabled("a"), pod("b", UNLABELLED), enabled("d")]);
    let wanted: Vec<_> = node.wanted().into_iter().map(|(uid, _)| uid).collect();
    assert_eq!(wanted, ["a", "c", "d"], "one that is gone may run on");
    assert_eq!(looks_whether(&acts), ["a", "b", "c", "d"], "what was known may be long ago");
    node.deserted(&["c", "d"]);
    assert_eq!(node.wanted(), [("a".to_owned(), a)]);
    assert_eq!(looks_for(&node.after(second(1))), ["d"], "its sandbox was replaced meanwhile");
    assert_eq!(&*node.members.wanted()[0].netns.to_string(), "/run/netns/old", "the same place in the same words");
}

#[test]
fn marks_say_what_is_captured() {
    let [a, b] = namespaces();
    let mut node = Node::new();
    let of = |acts: &[Act]| marks(acts).into_iter().map(|(_, mark)| mark).collect::<Vec<_>>();
    node.picture(&[pod("a", MEMBER)]);
    assert_eq!(of(&node.after(second(5))), [], "it may not have started");
    assert_eq!(of(&node.found("a", Ok(place(&a)))), []);
    assert_eq!(of(&node.drive(&PodState::Failed("no".into()))), []);
    assert_eq!(of(&node.after(second(1))), [Some(PENDING)]);
    assert_eq!(of(&node.drive(&PodState::Enrolled)), [], "one write after the other");
    node.members.marked("a", Ok(()), node.now);
    assert_eq!(of(&node.acts()), [Some(ENABLED)]);
    node.members.marked("a", Err("no".into()), node.now);
    assert!(node.members.remarks().iter().any(|remark| remark.what == What::Unmarked("no".into())));
    assert_eq!(of(&node.after(second(1))), [Some(ENABLED)]);
    node.members.marked("a", Ok(()), node.now);
    assert_eq!(node.members.remarks(), []);
    let enabled = Pod { mark: Some(ENABLED.into()), ..pod("a", MEMBER) };
    let (_, acts) = {
        node.picture(&[enabled]);
        node.announce(sandbox("a", "c2"), &b)
    };
    assert_eq!(of(&acts), [], "another sandbox gets a second");
    assert_eq!(of(&node.after(Duration::from_millis(900))), []);
    assert_eq!(of(&node.drive(&PodState::Enrolled)), []);
    node.announce(sandbox("a", "c3"), &a);
    assert_eq!(of(&node.after(second(1))), [Some(PENDING)], "and not more");
}

/// An agent that starts again has many pods to adopt, and is not to have the whole mesh think that they are gone.
#[test]
fn marks_do_not_flap_when_an_agent_starts_again() {
    let [a, b] = namespaces();
    let mut node = Node::with(Plugin::Present, vec![former("a", &a)]);
    let enabled = |uid| Pod { mark: Some(ENABLED.into()), ..pod(uid, MEMBER) };
    node.picture(&[enabled("a"), enabled("b")]);
    node.found("b", Ok(place(&b)));
    assert_eq!(marks(&node.after(second(5))), [("b".to_owned(), Some(PENDING))], "that one is not captured");
    assert_eq!(marks(&node.after(second(26))), [("a".to_owned(), Some(PENDING))], "nor that one, after all");
}

#[test]
fn without_a_plugin_all_namespaces_are_looked_at_now_and_then() {
    let [a, b] = namespaces();
    let mut node = Node::with(Plugin::Absent, Vec::new());
    node.picture(&[pod("a", MEMBER)]);
    node.found("a", Ok(place(&a)));
    node.drive(&PodState::Enrolled);
    assert_eq!(looks_whether(&node.after(second(9))), [""; 0]);
    assert_eq!(looks_whether(&node.after(second(1))), ["a"]);
    node.deserted(&["a"]);
    assert_eq!(node.wanted(), []);
    assert_eq!(looks_for(&node.after(second(1))), ["a"], "its sandbox was replaced");
    node.found("a", Ok(place(&b)));
    assert_eq!(node.wanted(), [("a".to_owned(), b)]);
}
