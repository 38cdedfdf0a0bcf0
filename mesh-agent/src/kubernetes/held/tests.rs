//! Events in any order against a picture made from scratch.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::runtime::watcher::Event;
use proptest::prelude::*;
use serde_json::json;

use super::super::eligibility::Namespace::{self, Ambient, Plain};
use super::super::object::{NamespaceObject, PodObject};
use super::super::{Outside, Picture, Standing};
use super::Held;

/// A pod of the namespace; its number is in its uid and name, and `version` where nobody looks.
fn pod(number: u8, namespace: &str, label: Option<&str>, version: u32) -> PodObject {
    serde_json::from_value(json!({
        "metadata": {
            "uid": format!("uid-{number}"), "name": format!("p{number}"), "namespace": namespace,
            "resourceVersion": version.to_string(),
            "labels": label.map_or(json!({}), |label| json!({"istio.io/dataplane-mode": label, "x": version.to_string()})),
        },
        "status": {"phase": "Running", "podIP": format!("10.0.0.{number}"), "conditions": [{"x": version}]},
    }))
    .unwrap()
}

/// A pod that says it is the mirror of the static one with this uid.
fn mirror(number: u8, uid: &str) -> PodObject {
    let mut object = pod(number, "apps", Some("ambient"), 1);
    let written = [("kubernetes.io/config.mirror", uid), ("kubernetes.io/config.hash", uid)];
    object.metadata.annotations = Some(written.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    object
}

#[test]
fn a_mirror_has_the_uid_of_its_static_pod_unless_another_pod_has_it() {
    let (mut held, picture) = started(vec![mirror(1, "static")], vec![namespace("apps", Plain)]);
    assert_eq!(picture.pods.keys().map(|uid| &**uid).collect::<Vec<_>>(), ["static"]);
    let picture = held.pod(Event::Apply(pod(2, "apps", None, 1))).unwrap();
    assert_eq!(standings(&picture), named([("p1", MEMBER), ("p2", NOT)]));
    let picture = held.pod(Event::Apply(mirror(1, "uid-2"))).unwrap();
    assert_eq!(standings(&picture), named([("p2", NOT)]), "written, and not believed");
}

fn namespace(name: &str, mode: Namespace) -> NamespaceObject {
    let labels = if mode == Ambient { json!({"istio.io/dataplane-mode": "ambient"}) } else { json!({}) };
    serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}})).unwrap()
}

fn list<K>(objects: impl IntoIterator<Item = K>) -> impl Iterator<Item = Event<K>> {
    let objects = objects.into_iter().map(Event::InitApply);
    [Event::Init].into_iter().chain(objects).chain([Event::InitDone])
}

/// A start with these, and the picture after it.
fn started(pods: Vec<PodObject>, namespaces: Vec<NamespaceObject>) -> (Held, Arc<Picture>) {
    let mut held = Held::new(&["kube-system".to_owned()]);
    for event in list(pods) {
        assert_eq!(held.pod(event), None, "the namespaces are not known yet");
    }
    let mut pictures: Vec<_> = list(namespaces).filter_map(|event| held.namespace(event)).collect();
    assert_eq!(pictures.len(), 1);
    (held, pictures.remove(0))
}

/// The standings, in the order of the pods' numbers.
fn standings(picture: &Picture) -> Vec<(String, Standing)> {
    picture.pods.values().map(|pod| (pod.name.clone(), pod.standing)).collect()
}

const MEMBER: Standing = Standing::Member;
const NOT: Standing = Standing::Outside(Outside::NotLabelled);

fn named<const N: usize>(expected: [(&str, Standing); N]) -> Vec<(String, Standing)> {
    expected.map(|(name, standing)| (name.to_owned(), standing)).to_vec()
}

#[test]
fn the_first_picture_needs_both_lists_in_either_order() {
    let (_, picture) = started(vec![pod(1, "apps", None, 1)], vec![namespace("apps", Ambient)]);
    assert_eq!(standings(&picture), named([("p1", MEMBER)]));
    let mut held = Held::new(&[]);
    assert!(list([namespace("apps", Ambient)]).all(|event| held.namespace(event).is_none()));
    let pictures: Vec<_> = list([pod(1, "apps", None, 1)]).filter_map(|event| held.pod(event)).collect();
    assert_eq!(pictures, [picture]);
    let mut held = Held::new(&[]);
    assert!(list([]).all(|event| held.namespace(event).is_none()));
    let pictures: Vec<_> = list([]).filter_map(|event| held.pod(event)).collect();
    assert_eq!(pictures, [Arc::new(Picture::default())], "a node without pods has a picture");
}

#[test]
fn only_what_is_judged_or_told_makes_a_picture() {
    let (mut held, _) =
        started(vec![pod(1, "apps", None, 1)], vec![namespace("apps", Ambient), namespace("other", Plain)]);
    assert_eq!(held.pod(Event::Apply(pod(1, "apps", None, 2))), None);
    assert_eq!(held.namespace(Event::Apply(namespace("apps", Ambient))), None);
    assert_eq!(held.namespace(Event::Apply(namespace("other", Ambient))), None, "it has no pods");
    assert_eq!(held.namespace(Event::Delete(namespace("other", Ambient))), None);
    assert_eq!(held.pod(Event::Delete(pod(9, "apps", None, 1))), None, "it was never there");
    assert!(list([pod(1, "apps", None, 3)]).all(|event| held.pod(event).is_none()), "listed again, and the same");
    let mut moved = pod(1, "apps", None, 4);
    moved.status.pod_ip = Some("10.0.0.77".into());
    let picture = held.pod(Event::Apply(moved)).unwrap();
    assert_eq!(picture.pods["uid-1"].addresses, ["10.0.0.77".parse::<std::net::IpAddr>().unwrap()]);
}

#[test]
fn a_namespaces_label_judges_its_pods_and_no_others() {
    let pods = vec![pod(1, "apps", None, 1), pod(2, "apps", Some("none"), 1), pod(3, "other", None, 1)];
    let (mut held, before) = started(pods, vec![namespace("apps", Plain), namespace("other", Plain)]);
    let opted_out = ("p2", Standing::Outside(Outside::OptedOut));
    assert_eq!(standings(&before), named([("p1", NOT), opted_out, ("p3", NOT)]));
    let after = held.namespace(Event::Apply(namespace("apps", Ambient))).unwrap();
    assert_eq!(standings(&after), named([("p1", MEMBER), opted_out, ("p3", NOT)]));
    let same = |uid: &str| Arc::ptr_eq(&before.pods[uid], &after.pods[uid]);
    assert_eq!(["uid-1", "uid-2", "uid-3"].map(same), [false, true, true]);
    let back = held.namespace(Event::Apply(namespace("apps", Plain))).unwrap();
    assert_eq!(back, before);
}

#[test]
fn a_list_after_an_absence_removes_what_has_gone() {
    let pods = vec![pod(1, "apps", None, 1), pod(2, "apps", None, 1)];
    let (mut held, _) = started(pods, vec![namespace("apps", Ambient)]);
    assert_eq!(held.pod(Event::Init), None);
    assert_eq!(held.pod(Event::InitApply(pod(1, "apps", None, 5))), None);
    // The list broke off; what came of it counts for nothing.
    assert_eq!(held.pod(Event::Init), None);
    assert_eq!(held.pod(Event::InitApply(pod(2, "apps", None, 6))), None);
    assert_eq!(held.pod(Event::InitApply(pod(3, "apps", None, 6))), None);
    let picture = held.pod(Event::InitDone).unwrap();
    assert_eq!(standings(&picture), named([("p2", MEMBER), ("p3", MEMBER)]));
}

#[test]
fn a_pod_whose_namespace_is_not_known_yet_waits() {
    let (mut held, _) = started(vec![], vec![]);
    assert_eq!(held.pod(Event::Apply(pod(1, "new", None, 1))), None);
    let settled = held.pod(Event::Apply(pod(2, "new", Some("ambient"), 1))).unwrap();
    assert_eq!(standings(&settled), named([("p2", MEMBER)]));
    let picture = held.namespace(Event::Apply(namespace("new", Ambient))).unwrap();
    assert_eq!(standings(&picture), named([("p1", MEMBER), ("p2", MEMBER)]));
}

#[test]
fn a_namespace_that_goes_first_takes_no_pod_out() {
    let (mut held, _) = started(vec![pod(1, "apps", None, 1)], vec![namespace("apps", Ambient)]);
    assert_eq!(held.namespace(Event::Delete(namespace("apps", Ambient))), None);
    let mut marked = pod(1, "apps", None, 2);
    marked.metadata.annotations = Some([("ambient.istio.io/redirection".to_owned(), "enabled".to_owned())].into());
    let picture = held.pod(Event::Apply(marked)).unwrap();
    assert_eq!(standings(&picture), named([("p1", MEMBER)]));
    let picture = held.pod(Event::Delete(pod(1, "apps", None, 3))).unwrap();
    assert_eq!(standings(&picture), []);
}

#[test]
fn a_pod_of_the_same_name_is_another() {
    let (mut held, _) = started(vec![pod(1, "apps", None, 1)], vec![namespace("apps", Ambient)]);
    let mut next = pod(1, "apps", None, 2);
    next.metadata.uid = Some("uid-1-next".into());
    let both = held.pod(Event::Apply(next)).unwrap();
    assert_eq!(both.pods.len(), 2);
    let one = held.pod(Event::Delete(pod(1, "apps", None, 3))).unwrap();
    assert_eq!(one.pods.keys().map(|uid| &**uid).collect::<Vec<_>>(), ["uid-1-next"]);
}

#[derive(Clone, Debug)]
enum Change {
    Pod(u8, &'static str, Option<&'static str>),
    PodGone(u8),
    Namespace(&'static str, Namespace),
    /// All are listed again, in the middle of things.
    Relist,
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let label = prop_oneof![Just(None), Just(Some("ambient")), Just(Some("none")), Just(Some("other"))];
    let (name, mode) = (prop_oneof![Just("apps"), Just("other")], prop_oneof![Just(Ambient), Just(Plain)]);
    let change = prop_oneof![
        (0_u8..5, name.clone(), label).prop_map(|(number, name, label)| Change::Pod(number, name, label)),
        (0_u8..5).prop_map(Change::PodGone),
        (name, mode).prop_map(|(name, mode)| Change::Namespace(name, mode)),
        Just(Change::Relist),
    ];
    prop::collection::vec(change, 0..40)
}

proptest! {
    /// Whatever the way to it, the picture is that of a fresh start with the same objects.
    #[test]
    fn the_way_does_not_matter(changes in changes()) {
        let mut labels = BTreeMap::from([("apps", Ambient), ("other", Plain)]);
        let mut pods: BTreeMap<u8, PodObject> = BTreeMap::new();
        let all = |labels: &BTreeMap<&str, Namespace>| {
            labels.iter().map(|(name, mode)| namespace(name, *mode)).collect::<Vec<_>>()
        };
        let (mut held, mut picture) = started(vec![], all(&labels));
        for (version, change) in (2..).zip(changes) {
            let mut published = Vec::new();
            match change {
                Change::Pod(number, namespace, label) => {
                    let object = pod(number, namespace, label, version);
                    pods.insert(number, object.clone());
                    published.extend(held.pod(Event::Apply(object)));
                }
                Change::PodGone(number) => if let Some(object) = pods.remove(&number) {
                    published.extend(held.pod(Event::Delete(object)));
                },
                Change::Namespace(name, mode) => {
                    labels.insert(name, mode);
                    published.extend(held.namespace(Event::Apply(namespace(name, mode))));
                }
                Change::Relist => {
                    published.extend(list(pods.values().cloned()).filter_map(|event| held.pod(event)));
                    published.extend(list(all(&labels)).filter_map(|event| held.namespace(event)));
                }
            }
            for next in published {
                prop_assert_ne!(&next, &picture, "published, and the same");
                picture = next;
            }
            let (_, fresh) = started(pods.values().cloned().collect(), all(&labels));
            prop_assert_eq!(&picture, &fresh);
        }
    }
}
