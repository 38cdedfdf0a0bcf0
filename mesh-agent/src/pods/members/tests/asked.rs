//! Announcements of the plugin, and what they are answered.

use super::*;

fn answers(acts: &[Act]) -> Vec<(Number, Answer)> {
    let answer = |act: &Act| {
        if let Act::Answer { question, answer } = act { Some((*question, answer.clone())) } else { None }
    };
    acts.iter().filter_map(answer).collect()
}

fn asks(acts: &[Act]) -> Vec<Number> {
    let ask = |act: &Act| if let Act::Ask { question, .. } = act { Some(*question) } else { None };
    acts.iter().filter_map(ask).collect()
}

impl Node {
    pub(super) fn told(&mut self, number: Number, result: Result<Option<Pod>, &str>) -> Vec<Act> {
        self.members.told(number, result.map_err(str::to_owned));
        self.acts()
    }
}

fn refused(acts: &[Act]) -> String {
    match &answers(acts)[..] {
        [(_, Answer::Refused(reason))] => reason.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_new_pod_starts_when_it_is_captured() {
    let [a] = namespaces();
    let mut node = Node::new();
    node.picture(&[pod("a", MEMBER)]);
    node.found("a", Err("no process"));
    let (number, acts) = node.announce(sandbox("a", "c1"), &a);
    assert_eq!((answers(&acts), asks(&acts)), (vec![], vec![]), "the picture knows it");
    assert_eq!(node.wanted(), [("a".to_owned(), a.clone())]);
    assert_eq!(&*node.members.wanted()[0].netns.to_string(), "/run/netns/c1");
    assert_eq!(answers(&node.drive(&PodState::Draining)), []);
    assert_eq!(answers(&node.drive(&PodState::Enrolled)), [(number, Answer::Member)]);
    let (again, acts) = node.announce(sandbox("a", "c1"), &a);
    assert_eq!(answers(&acts), [(again, Answer::Member)], "it is captured");
}

#[test]
fn a_pod_that_cannot_be_captured_does_not_start() {
    let [a, b] = namespaces();
    let mut node = Node::new();
    node.picture(&[pod("a", MEMBER)]);
    node.announce(sandbox("a", "c1"), &a);
    let failed = PodState::Failed("the verifier does not like it".into());
    assert_eq!(refused(&node.drive(&failed)), "pod shop/name-a: the verifier does not like it");
    let before = node.members.wanted();
    node.announce(sandbox("a", "c1"), &a);
    assert!(!Arc::ptr_eq(&before[0], &node.members.wanted()[0]), "what failed before is tried again");
    assert!(refused(&node.after(second(20))).contains("not captured within 20s"));
    node.announce(sandbox("a", "c2"), &b);
    let old = PodStatus { spec: Arc::clone(&before[0]), state: PodState::Enrolled };
    node.members.statuses(&[old]);
    assert_eq!(answers(&node.acts()), [], "that is the other sandbox");
}

#[test]
fn a_pod_that_no_picture_shows_is_asked_for() {
    let [a, b, c] = namespaces();
    let mut node = Node::new();
    let (first, acts) = node.announce(sandbox("a", "c1"), &a);
    let ask = Act::Ask { question: first, namespace: "shop".into(), name: "name-a".into() };
    assert_eq!(acts, [ask]);
    let (second, acts) = node.announce(sandbox("b", "c2"), &b);
    assert_eq!(asks(&acts), [second], "beside the other");
    let outside = node.told(second, Ok(Some(pod("b", UNLABELLED))));
    assert_eq!(answers(&outside), [(second, Answer::Outside(Outside::NotLabelled.to_string()))]);
    assert_eq!(answers(&node.told(first, Ok(Some(pod("a", MEMBER))))), []);
    node.picture(&[pod("b", UNLABELLED)]);
    assert_eq!(node.wanted(), [("a".to_owned(), a.clone())], "the picture may be older");
    let acts = node.drive(&PodState::Enrolled);
    assert_eq!(answers(&acts), [(first, Answer::Member)]);
    assert_eq!(marks(&acts), [("a".to_owned(), Some(ENABLED))]);
    node.picture(&[pod("a", MEMBER)]);
    node.picture(&[]);
    node.after(super::second(30));
    node.deserted(&["a"]);
    assert_eq!(node.wanted(), [], "then it is gone");
    let (number, _) = node.announce(sandbox("c", "c3"), &c);
    assert!(refused(&node.told(number, Ok(None))).contains("has no pod shop/name-c on this node"));
    let (number, _) = node.announce(sandbox("c", "c3"), &c);
    let other = Pod { name: "name-c".into(), ..pod("another", MEMBER) };
    assert!(refused(&node.told(number, Ok(Some(other)))).contains("has the uid another"));
    let (number, _) = node.announce(sandbox("c", "c3"), &c);
    assert!(refused(&node.told(number, Err("403"))).contains("cannot say what pod shop/name-c is: 403"));
    let (number, _) = node.announce(sandbox("c", "c3"), &c);
    assert!(refused(&node.after(super::second(20))).contains("has not said within 20s"));
    assert_eq!(node.told(number, Ok(None)), [], "once is enough");
    assert_eq!(node.wanted(), []);
}

#[test]
fn a_picture_may_be_quicker_than_the_answer() {
    let [a] = namespaces();
    let mut node = Node::new();
    let (number, _) = node.announce(sandbox("a", "c1"), &a);
    node.picture(&[pod("a", MEMBER)]);
    assert_eq!(node.wanted().len(), 1);
    assert_eq!(node.told(number, Err("away")), [], "it is not needed any more");
    assert_eq!(answers(&node.drive(&PodState::Enrolled)), [(number, Answer::Member)]);
    let (number, acts) = node.announce(sandbox("b", "c2"), &a);
    assert_eq!(asks(&acts), [number]);
    let acts = node.picture(&[pod("a", MEMBER), pod("b", UNLABELLED)]);
    assert_eq!(answers(&acts), [(number, Answer::Outside(Outside::NotLabelled.to_string()))]);
}

/// Runtimes of old do not tell the uid, and an older pod of the name may be in the picture.
#[test]
fn a_sandbox_without_a_uid_is_always_asked_for() {
    let [a, b] = namespaces();
    let mut node = Node::new();
    node.picture(&[pod("a", MEMBER)]);
    let nameless = |container| Sandbox { uid: None, ..sandbox("a", container) };
    let (number, acts) = node.announce(nameless("c1"), &a);
    assert_eq!(asks(&acts), [number]);
    node.told(number, Ok(Some(pod("a", MEMBER))));
    assert_eq!(node.wanted(), [("a".to_owned(), a)]);
    let (number, _) = node.announce(nameless("c2"), &b);
    node.told(number, Err("away"));
    assert_eq!(node.wanted(), [("a".to_owned(), b)], "by its name, which has one pod at a time");
}

#[test]
fn the_api_server_need_not_be_there_for_a_pod_that_is_known() {
    let [a, b] = namespaces();
    let mut node = Node::with(Plugin::Present, vec![former("a", &a)]);
    let (number, acts) = node.announce(sandbox("a", "c2"), &b);
    assert_eq!(asks(&acts), [number], "its labels may have changed since");
    node.told(number, Err("away"));
    assert_eq!(node.wanted(), [("a".to_owned(), b)]);
    assert_eq!(answers(&node.drive(&PodState::Enrolled)), [(number, Answer::Member)]);
}

#[test]
fn a_sandbox_that_is_replaced() {
    let [a, b] = namespaces();
    let mut node = Node::new();
    node.picture(&[pod("a", MEMBER)]);
    let (first, _) = node.announce(sandbox("a", "c1"), &a);
    let (second, acts) = node.announce(sandbox("a", "c2"), &b);
    let [(number, Answer::Refused(reason))] = &answers(&acts)[..] else { panic!("the first one has lost its place") };
    assert_eq!((*number, &**reason), (first, "pod shop/name-a has another sandbox by now, or none"));
    assert_eq!(node.wanted(), [("a".to_owned(), b.clone())]);
    node.members.deleted("c1", Some("a"), node.now);
    assert_eq!(node.wanted().len(), 1, "that is told of the old one, maybe late");
    assert_eq!(answers(&node.drive(&PodState::Enrolled)), [(second, Answer::Member)]);
    node.members.deleted("c2", None, node.now);
    assert_eq!((node.wanted(), node.members.ended()), (vec![], ["a".into()].into()));
    assert_eq!(node.acts(), []);
    node.announce(sandbox("a", "c3"), &a);
    assert_eq!((node.wanted().len(), node.members.ended().len()), (1, 0));
}

#[test]
fn answers_of_the_api_server_may_come_in_any_order() {
    let [a, b] = namespaces();
    let mut node = Node::new();
    let (first, _) = node.announce(sandbox("a", "c1"), &a);
    let (second, _) = node.announce(sandbox("a", "c2"), &b);
    let acts = node.told(second, Ok(Some(pod("a", MEMBER))));
    assert!(refused(&acts).contains("another sandbox"));
    assert_eq!(answers(&acts)[0].0, first);
    assert_eq!(node.wanted(), [("a".to_owned(), b)]);
}

#[test]
fn what_is_deleted_and_was_never_announced_is_looked_at() {
    let [a] = namespaces();
    let mut node = Node::new();
    node.picture(&[pod("a", MEMBER)]);
    node.found("a", Ok(place(&a)));
    node.members.deleted("c0", Some("a"), node.now);
    assert_eq!(node.wanted().len(), 1, "it may be a sandbox of long ago");
    assert_eq!(looks_whether(&node.acts()), ["a"]);
    node.deserted(&["a"]);
    assert_eq!(node.wanted(), []);
}

#[test]
fn a_sandbox_has_time_to_start() {
    let [a] = namespaces();
    let mut node = Node::new();
    node.picture(&[pod("a", MEMBER)]);
    node.found("a", Err("no process"));
    node.announce(sandbox("a", "c1"), &a);
    node.members.valid(&["another".into()]);
    node.picture(&[]);
    assert_eq!(looks_whether(&node.after(second(29))), [""; 0], "its first process is still to come");
    assert_eq!(looks_whether(&node.after(second(1))), ["a"]);
}

#[test]
fn a_pod_that_is_unlabelled_while_it_starts() {
    let [a] = namespaces();
    let mut node = Node::new();
    node.picture(&[pod("a", MEMBER)]);
    let (number, _) = node.announce(sandbox("a", "c1"), &a);
    let acts = node.picture(&[pod("a", UNLABELLED)]);
    assert_eq!(answers(&acts), [(number, Answer::Outside(Outside::NotLabelled.to_string()))]);
}

#[test]
fn whoever_has_hung_up_is_not_answered() {
    let [a] = namespaces();
    let mut node = Node::new();
    node.picture(&[pod("a", MEMBER)]);
    let (number, _) = node.announce(sandbox("a", "c1"), &a);
    node.members.forget(number);
    assert_eq!(answers(&node.drive(&PodState::Enrolled)), []);
    assert_eq!(node.wanted().len(), 1, "what was announced stays true");
}
