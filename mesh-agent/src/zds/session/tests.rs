//! Each rule of the protocol note's section 10.4, and any sequence of messages against those rules written a second time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;

use super::{Answer, MOST_PODS, Session, Violation};
use crate::model::{Captured, PodNetns, PodSpec};
use crate::sys::netns::Netns;
use crate::zds::wire::{Info, Request, packet};

/// Handles that are of different namespaces, for all that a handle tells.
fn namespaces() -> [Netns; 3] {
    let directory = tempfile::tempdir().unwrap();
    ["a", "b", "c"].map(|name| {
        let file = std::fs::File::create_new(directory.path().join(name)).unwrap();
        Netns::from_fd(file.into()).unwrap()
    })
}

fn info(name: &str) -> Option<Info> {
    Some(Info { name: name.to_owned(), namespace: "ns".to_owned(), service_account: "sa".to_owned() })
}

fn uid(name: &str) -> String {
    name.to_owned()
}

fn add(session: &mut Session, name: &str, netns: &Netns) -> Result<Answer, Violation> {
    session.receive(&packet(Request::Add { uid: uid(name), info: info(name) }), vec![netns.clone()])
}

fn tell(session: &mut Session, request: Request) -> Result<Answer, Violation> {
    session.receive(&packet(request), Vec::new())
}

/// Adds a pod, and it is served.
fn serve(session: &mut Session, name: &str, netns: &Netns) -> Arc<PodSpec> {
    match add(session, name, netns) {
        Ok(Answer::Of(spec)) => {
            session.served(&spec);
            spec
        }
        other => panic!("{name}: {other:?}"),
    }
}

fn names(session: &Session) -> Vec<String> {
    session.pods().iter().map(|spec| spec.uid.to_string()).collect()
}

/// A session with a connection that has sent its snapshot, in which there was nothing.
fn live() -> Session {
    let mut session = Session::default();
    session.connect();
    assert_eq!(tell(&mut session, Request::SnapshotSent), Ok(Answer::Ok));
    session
}

/// Trap 9: the pod's uid is Kubernetes' and finds no workload; name, namespace and service account do.
#[test]
fn trap_9_a_pod_is_known_by_its_names() {
    let [a, ..] = namespaces();
    let mut session = live();
    let spec = serve(&mut session, "0c5b0b5e-7c0c-4c0e-9a55-2d2a6f5b8a11", &a);
    assert_eq!(&*spec.uid, "0c5b0b5e-7c0c-4c0e-9a55-2d2a6f5b8a11");
    assert_eq!((&*spec.namespace, &*spec.service_account), ("ns", "sa"));
    assert_eq!((&spec.netns, &spec.captured), (&PodNetns::Handle(a), &Captured::ByRules));
}

#[test]
fn an_add_is_answered_by_how_its_pod_fares() {
    let [a, b, _] = namespaces();
    let mut session = live();
    let spec = serve(&mut session, "a", &a);
    assert!(!session.is_pending());
    assert_eq!(add(&mut session, "a", &a), Ok(Answer::Ok), "the same again");
    assert!(Arc::ptr_eq(&spec, &session.pods()[0]));
    let Ok(Answer::Of(moved)) = add(&mut session, "a", &b) else { panic!("another namespace is another start") };
    assert!(session.is_pending());
    session.served(&spec);
    assert!(session.is_pending(), "what is known of the old one says nothing of the new one");
    let Ok(Answer::Of(again)) = add(&mut session, "a", &b) else { panic!("what is pending is tried again") };
    session.served(&moved);
    assert!(session.is_pending());
    session.served(&again);
    assert!(!session.is_pending());
    assert_eq!(names(&session), ["a"]);
}

/// Trap 10: the descriptor comes with add and only there; without a connection nothing comes.
#[test]
fn trap_10_violations() {
    let [a, b, _] = namespaces();
    let both = || vec![a.clone(), b.clone()];
    let an_add = || packet(Request::Add { uid: uid("a"), info: info("a") });
    let keep = || packet(Request::Keep { uid: uid("a") });
    let del = || packet(Request::Del { uid: uid("a") });
    let sent = || packet(Request::SnapshotSent);
    let snapshot = || {
        let mut session = Session::default();
        session.connect();
        session
    };
    let after = || {
        let mut session = live();
        session.disconnect();
        session
    };
    let cases = [
        ("add without", live(), an_add(), vec![], Violation::Descriptors(0)),
        ("add with two", snapshot(), an_add(), both(), Violation::Descriptors(2)),
        ("keep with one", snapshot(), keep(), vec![a.clone()], Violation::StrayDescriptor),
        ("del with one", live(), del(), vec![a.clone()], Violation::StrayDescriptor),
        ("sent with one", snapshot(), sent(), vec![a.clone()], Violation::StrayDescriptor),
        ("keep, late", live(), keep(), vec![], Violation::LateKeep),
        ("sent, twice", live(), sent(), vec![], Violation::SecondSnapshot),
        ("no connection", Session::default(), del(), vec![], Violation::NotConnected),
        ("after the end", after(), del(), vec![], Violation::NotConnected),
    ];
    for (case, mut session, packet, handles, expected) in cases {
        assert_eq!(session.receive(&packet, handles), Err(expected), "{case}");
    }
    assert!(matches!(live().receive(b"garbage", vec![]), Err(Violation::Undecodable(_))));
}

#[test]
fn adds_that_are_refused() {
    let [a, ..] = namespaces();
    let mut session = live();
    let mut refuse = |request| match session.receive(&packet(request), vec![a.clone()]) {
        Ok(Answer::Error(error)) => error,
        other => panic!("{other:?}"),
    };
    assert!(refuse(Request::Add { uid: uid("a"), info: None }).contains("no workload info"));
    assert!(refuse(Request::Add { uid: uid(""), info: info("a") }).contains("without a uid"));
    assert_eq!(names(&session), [""; 0]);
    for number in 0..MOST_PODS {
        assert!(matches!(add(&mut session, &number.to_string(), &a), Ok(Answer::Of(_))));
    }
    assert!(matches!(add(&mut session, "one more", &a), Ok(Answer::Error(_))));
    assert!(matches!(add(&mut session, "0", &a), Ok(Answer::Of(_))), "those that are there may come again");
}

#[test]
fn a_snapshot_keeps_what_it_names() {
    let [a, b, c] = namespaces();
    let mut session = live();
    for (name, netns) in [("added", &a), ("kept", &b), ("lost", &c)] {
        serve(&mut session, name, netns);
    }
    add(&mut session, "pending", &c).unwrap();
    session.disconnect();
    assert_eq!(names(&session), ["added", "kept", "lost", "pending"], "the end of a connection changes nothing");
    session.connect();
    assert_eq!(names(&session), ["added", "kept", "lost"], "what could not be served is forgotten");
    assert_eq!(add(&mut session, "added", &a), Ok(Answer::Ok));
    assert_eq!(tell(&mut session, Request::Keep { uid: uid("kept") }), Ok(Answer::Ok));
    assert_eq!(tell(&mut session, Request::Keep { uid: uid("never seen") }), Ok(Answer::Ok));
    assert!(matches!(add(&mut session, "new", &c), Ok(Answer::Of(_))));
    assert_eq!(names(&session), ["added", "kept", "lost", "new"]);
    assert!(!session.is_live());
    assert_eq!(tell(&mut session, Request::SnapshotSent), Ok(Answer::Ok));
    assert_eq!(names(&session), ["added", "kept", "new"]);
    assert!(session.is_live() && session.is_pending());
}

#[test]
fn a_deletion_is_at_once_or_at_the_end_of_the_snapshot() {
    let [a, b, _] = namespaces();
    let mut session = live();
    let spec = serve(&mut session, "a", &a);
    let del = |session: &mut Session, name| tell(session, Request::Del { uid: uid(name) });
    assert_eq!(del(&mut session, "unknown"), Ok(Answer::Ok));
    assert_eq!(del(&mut session, "a"), Ok(Answer::Without(spec)));
    assert_eq!(names(&session), [""; 0]);
    serve(&mut session, "a", &a);
    session.connect();
    assert_eq!(tell(&mut session, Request::Keep { uid: uid("a") }), Ok(Answer::Ok));
    assert!(matches!(add(&mut session, "b", &b), Ok(Answer::Of(_))));
    assert_eq!(del(&mut session, "a"), Ok(Answer::Ok));
    assert!(matches!(del(&mut session, "b"), Ok(Answer::Without(_))));
    assert_eq!(names(&session), ["a"], "what runs goes when the snapshot is complete");
    tell(&mut session, Request::SnapshotSent).unwrap();
    assert_eq!(names(&session), [""; 0]);
}

/// The rules once more, as the note's table has them.
#[derive(Debug, Default)]
struct Rules {
    running: BTreeMap<u8, usize>,
    pending: BTreeMap<u8, usize>,
    /// While there is a connection: what its snapshot has named, until that is complete.
    connection: Option<Option<BTreeSet<u8>>>,
}

#[derive(Clone, Debug)]
enum Event {
    Connect,
    Disconnect,
    /// The pod, its namespace, and whether it can be served.
    Add(u8, usize, bool),
    Keep(u8),
    Del(u8),
    Sent,
    /// What was pending can be served now.
    Retry,
    Garbage,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        2 => Just(Event::Connect),
        1 => Just(Event::Disconnect),
        8 => (0u8..5, 0usize..3, any::<bool>()).prop_map(|(uid, netns, good)| Event::Add(uid, netns, good)),
        3 => (0u8..5).prop_map(Event::Keep),
        3 => (0u8..5).prop_map(Event::Del),
        3 => Just(Event::Sent),
        1 => Just(Event::Retry),
        1 => Just(Event::Garbage),
    ]
}

impl Rules {
    /// Tells whether the event is allowed.
    fn apply(&mut self, event: &Event) -> bool {
        if let Event::Connect = event {
            self.pending.clear();
            self.connection = Some(Some(BTreeSet::new()));
        } else if let Event::Disconnect = event {
            self.connection = None;
        } else if let Event::Retry = event {
            self.running.append(&mut self.pending);
        } else {
            let allowed = self.connection.is_some() && self.request(event);
            if !allowed {
                self.connection = None;
            }
            return allowed;
        }
        true
    }

    fn request(&mut self, event: &Event) -> bool {
        let snapshot = self.connection.as_mut().and_then(Option::as_mut);
        match (event, snapshot) {
            (Event::Add(uid, netns, good), snapshot) => {
                snapshot.map(|named| named.insert(*uid));
                if self.running.get(uid) != Some(netns) {
                    self.running.remove(uid);
                    self.pending.remove(uid);
                    let list = if *good { &mut self.running } else { &mut self.pending };
                    list.insert(*uid, *netns);
                }
            }
            (Event::Keep(uid), Some(named)) => drop(named.insert(*uid)),
            (Event::Del(uid), Some(named)) => {
                named.remove(uid);
                self.pending.remove(uid);
            }
            (Event::Del(uid), None) => {
                self.running.remove(uid);
                self.pending.remove(uid);
            }
            (Event::Sent, Some(named)) => {
                self.running.retain(|uid, _| named.contains(uid));
                self.pending.retain(|uid, _| named.contains(uid));
                self.connection = Some(None);
            }
            _ => return false,
        }
        true
    }
}

/// Does with the session what the client does; tells whether it was allowed.
fn drive(session: &mut Session, namespaces: &[Netns; 3], event: &Event) -> bool {
    let answer = match event {
        Event::Connect => {
            session.connect();
            return true;
        }
        Event::Disconnect => {
            session.disconnect();
            return true;
        }
        Event::Retry => {
            session.pods().iter().for_each(|spec| session.served(spec));
            return true;
        }
        Event::Add(uid, netns, _) => add(session, &uid.to_string(), &namespaces[*netns]),
        Event::Keep(uid) => tell(session, Request::Keep { uid: uid.to_string() }),
        Event::Del(uid) => tell(session, Request::Del { uid: uid.to_string() }),
        Event::Sent => tell(session, Request::SnapshotSent),
        Event::Garbage => session.receive(b"garbage", Vec::new()),
    };
    if let (Ok(Answer::Of(spec)), Event::Add(_, _, true)) = (&answer, event) {
        session.served(spec);
    }
    if answer.is_err() {
        session.disconnect();
    }
    answer.is_ok()
}

proptest! {
    #[test]
    fn what_is_served_is_what_the_rules_say(events in prop::collection::vec(event(), 0..60)) {
        let namespaces = namespaces();
        let (mut session, mut rules) = (Session::default(), Rules::default());
        for event in &events {
            let allowed = rules.apply(event);
            prop_assert_eq!(drive(&mut session, &namespaces, event), allowed, "{:?}", event);
            let expected: BTreeMap<String, PodNetns> = rules
                .running
                .iter()
                .chain(&rules.pending)
                .map(|(uid, netns)| (uid.to_string(), PodNetns::Handle(namespaces[*netns].clone())))
                .collect();
            let is: BTreeMap<String, PodNetns> =
                session.pods().iter().map(|spec| (spec.uid.to_string(), spec.netns.clone())).collect();
            prop_assert_eq!(&is, &expected, "{:?}", event);
            prop_assert_eq!(session.is_pending(), !rules.pending.is_empty(), "{:?}", event);
            prop_assert_eq!(session.is_live(), rules.connection == Some(None), "{:?}", event);
        }
    }
}
