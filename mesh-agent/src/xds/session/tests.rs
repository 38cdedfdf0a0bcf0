//! The session against a server that is played by hand; `converge` has one that plays itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use super::{Asking, Mode, Request, Session};
use crate::proto::discovery::{Any, DeltaDiscoveryResponse, Resource as Encoded, Status};
use crate::xds::{Apply, Kind, Node, Rejected, Response};

mod converge;

/// Puts bodies into a book; refuses those that begin with `bad`.
#[derive(Debug, Default)]
pub(in crate::xds) struct Book {
    pub(in crate::xds) pages: BTreeMap<(Kind, String), String>,
    /// What the last response was: its removals, its resources' names, whether it was whole.
    last: (Vec<String>, Vec<String>, bool),
    /// Stops reading after so many.
    patience: Option<usize>,
}

impl Apply for Book {
    fn apply(&mut self, Response { kind, whole, removed, resources }: Response<'_>) -> Vec<Rejected> {
        let mut rejected = Vec::new();
        self.last = (removed.iter().map(ToString::to_string).collect(), Vec::new(), whole);
        removed.iter().for_each(|name| drop(self.pages.remove(&(kind, name.to_string()))));
        for resource in resources.take(self.patience.unwrap_or(usize::MAX)) {
            self.last.1.push(resource.name.to_string());
            let body = String::from_utf8(resource.body.to_vec()).unwrap();
            if body.starts_with("bad") {
                rejected.push(Rejected { name: resource.name, reason: format!("{body} is bad") });
            } else {
                self.pages.insert((kind, resource.name.to_string()), body);
            }
        }
        rejected
    }
}

fn session(addresses: Mode) -> Session {
    let metadata = BTreeMap::new();
    let node =
        Node { ip: None, pod: "p".into(), namespace: "n".into(), node: "x".into(), cluster: "c".into(), metadata };
    Session::new(&node, addresses)
}

/// A resource as it is in a response; `name=body`, with the version `v`, which policies have not.
pub(in crate::xds) fn encoded(kind: Kind, name: &str, version: &str, body: &str, aliases: &[&str]) -> Bytes {
    let value = Bytes::copy_from_slice(body.as_bytes());
    Encoded {
        version: version.to_owned(),
        resource: Some(Any { type_url: kind.url().to_owned(), value }),
        name: name.to_owned(),
        aliases: aliases.iter().map(ToString::to_string).collect(),
    }
    .encode_to_vec()
    .into()
}

/// `name=version=body`.
fn response(kind: Kind, nonce: &str, resources: &[&str], removed: &[&str]) -> DeltaDiscoveryResponse {
    let parts = resources.iter().map(|text| text.splitn(3, '=').collect::<Vec<_>>());
    DeltaDiscoveryResponse {
        type_url: kind.url().to_owned(),
        nonce: nonce.to_owned(),
        resources: parts.map(|parts| encoded(kind, parts[0], parts[1], parts[2], &[])).collect(),
        removed_resources: removed.iter().map(ToString::to_string).collect(),
        ..DeltaDiscoveryResponse::default()
    }
}

fn requests(session: &mut Session) -> Vec<Request> {
    let requests: Vec<_> = std::iter::from_fn(|| session.next_request()).collect();
    assert!(!session.has_request());
    requests
}

fn ack(kind: Kind, nonce: &str) -> Request {
    Request { type_url: kind.url().to_owned(), response_nonce: nonce.to_owned(), ..Request::default() }
}

/// A session whose first stream is open and has had its first responses.
fn started(book: &mut Book, addresses: &[&str], policies: &[&str]) -> Session {
    let mut session = session(Mode::Wildcard);
    session.opened();
    requests(&mut session);
    session.receive(response(Kind::Address, "a1", addresses, &[]), book);
    session.receive(response(Kind::Authorization, "p1", policies, &[]), book);
    assert!(Kind::ALL.iter().all(|kind| session.synced(*kind)));
    requests(&mut session);
    session
}

/// The opening requests of the next stream.
fn reopened(session: &mut Session) -> (Request, Request) {
    session.lost();
    assert_eq!(requests(session), []);
    session.opened();
    let [addresses, policies] = requests(session).try_into().unwrap();
    assert_eq!((&*addresses.type_url, &*policies.type_url), (Kind::Address.url(), Kind::Authorization.url()));
    (addresses, policies)
}

fn versions(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
    entries.iter().map(|(name, version)| ((*name).to_owned(), (*version).to_owned())).collect()
}

#[test]
fn a_stream_opens_with_one_request_for_each_kind() {
    let mut session = session(Mode::Wildcard);
    assert!(!session.has_request(), "there is no stream");
    session.opened();
    assert!(session.has_request());
    let requests = requests(&mut session);
    let expected = Kind::ALL.map(|kind| Request { type_url: kind.url().to_owned(), ..Request::default() });
    assert_eq!(requests[0].node.as_ref().unwrap().id, "ztunnel~1.1.1.1~p.n~n.svc.cluster.local");
    let bare = requests.into_iter().enumerate().map(|(i, request)| {
        assert_eq!(request.node.is_some(), i == 0, "the node is on the first");
        Request { node: None, ..request }
    });
    assert_eq!(bare.collect::<Vec<_>>(), expected, "an empty subscription is one to everything");
}

#[test]
fn trap_4_on_demand_opens_with_the_wildcard_subscribed_and_unsubscribed() {
    let mut session = session(Mode::OnDemand);
    session.opened();
    let requests = requests(&mut session);
    assert_eq!(requests[0].resource_names_subscribe, ["*"]);
    assert_eq!(requests[0].resource_names_unsubscribe, ["*"]);
    assert_eq!(requests[1], Request { type_url: Kind::Authorization.url().to_owned(), ..Request::default() });
    assert!(session.synced(Kind::Address), "nothing will come unasked");
    assert!(!session.synced(Kind::Authorization));
}

#[test]
fn a_response_is_applied_and_acknowledged() {
    let (mut book, mut session) = (Book::default(), session(Mode::Wildcard));
    session.opened();
    requests(&mut session);
    let received = session.receive(response(Kind::Address, "n7", &["a=1=x", "b=2=y"], &[]), &mut book);
    assert_eq!((received.kind, received.accepted, received.rejected), (Some(Kind::Address), 2, vec![]));
    assert_eq!(requests(&mut session), [ack(Kind::Address, "n7")]);
    assert_eq!(book.pages.values().collect::<Vec<_>>(), ["x", "y"]);
    assert_eq!((session.synced(Kind::Address), session.synced(Kind::Authorization)), (true, false));
    session.receive(response(Kind::Authorization, "n8", &[], &[]), &mut book);
    assert!(session.synced(Kind::Authorization), "an empty response is one");
    session.receive(response(Kind::Address, "n9", &["a=3=z"], &["b", "c"]), &mut book);
    assert_eq!(requests(&mut session), [ack(Kind::Authorization, "n8"), ack(Kind::Address, "n9")]);
    assert_eq!(book.pages.values().collect::<Vec<_>>(), ["z"]);
    assert_eq!((session.held(Kind::Address), session.held(Kind::Authorization)), (1, 0));
}

#[test]
fn trap_3_a_refusal_has_code_0_and_the_good_part_is_applied() {
    let mut book = Book::default();
    let mut session = started(&mut book, &["b=1=old", "c=1=old"], &[]);
    let message = response(Kind::Address, "n", &["a=2=new", "b=2=bad port", "c=2=bad name", "d=2=bad"], &[]);
    let received = session.receive(message, &mut book);
    assert_eq!((received.accepted, received.rejected.len()), (1, 3));
    let text = "b: bad port is bad; c: bad name is bad; d: bad is bad".to_owned();
    let refusal = Request { error_detail: Some(Status { code: 0, message: text }), ..ack(Kind::Address, "n") };
    assert_eq!(requests(&mut session), [refusal]);
    assert_eq!(book.pages.values().collect::<Vec<_>>(), ["new", "old", "old"]);
    let (addresses, _) = reopened(&mut session);
    assert_eq!(addresses.initial_resource_versions, versions(&[("a", "2")]), "b and c are not what the server has");
    session.receive(response(Kind::Address, "m", &["b=2=bad port"], &[]), &mut book);
    book.last.0.sort();
    let reason = "they have gone meanwhile, and were not listed, so that the server could not say so";
    assert_eq!(book.last.0, ["c", "d"], "{reason}; of d something may stand in");
}

#[test]
fn types_that_nobody_asked_for_are_acknowledged() {
    let mut book = Book::default();
    let mut session = started(&mut book, &[], &[]);
    let url = "type.googleapis.com/istio.workload.Workload".to_owned();
    let message = DeltaDiscoveryResponse {
        type_url: url.clone(),
        nonce: "n".into(),
        ..response(Kind::Address, "", &["a=1=x"], &[])
    };
    assert_eq!(session.receive(message, &mut book).kind, None);
    assert_eq!(requests(&mut session), [Request { type_url: url, ..ack(Kind::Address, "n") }]);
    assert_eq!(book.pages.len(), 0);
}

#[test]
fn versions_are_listed_on_the_next_stream() {
    let mut book = Book::default();
    let mut session = started(&mut book, &["a=1f=x", "b=not-hex=y", "c==z"], &["p==r"]);
    let (addresses, policies) = reopened(&mut session);
    assert_eq!(addresses.initial_resource_versions, versions(&[("a", "1f"), ("b", "not-hex")]));
    assert_eq!(policies.initial_resource_versions, versions(&[]), "policies have no versions");
    assert!(addresses.node.is_some() && addresses.resource_names_subscribe.is_empty());
    session.receive(response(Kind::Address, "n", &["c==z2"], &["b"]), &mut book);
    assert_eq!(book.last, (vec!["b".to_owned()], vec!["c".to_owned()], false));
}

#[test]
fn what_could_not_be_listed_and_does_not_come_again_has_gone() {
    let mut book = Book::default();
    let mut session = started(&mut book, &[], &["p==1", "q==1", "r==1"]);
    reopened(&mut session);
    session.receive(response(Kind::Authorization, "n", &["q==2", "s==1"], &[]), &mut book);
    let (mut removed, resources, whole) = book.last.clone();
    removed.sort();
    assert_eq!((removed, resources, whole), (vec!["p".into(), "r".into()], vec!["q".into(), "s".into()], true));
    session.receive(response(Kind::Authorization, "n", &["p==2"], &[]), &mut book);
    assert_eq!(book.last, (vec![], vec!["p".into()], false), "later responses are changes");
    reopened(&mut session);
    session.receive(response(Kind::Authorization, "n", &[], &[]), &mut book);
    assert_eq!((book.last.0.len(), session.held(Kind::Authorization)), (3, 0), "an empty response says it too");
}

#[test]
fn a_resource_without_a_readable_name_may_be_any() {
    let mut book = Book::default();
    let mut session = started(&mut book, &[], &["p==1"]);
    reopened(&mut session);
    let mut message = response(Kind::Authorization, "n", &[], &[]);
    message.resources.push(Bytes::from_static(b"\xff\xff"));
    let received = session.receive(message, &mut book);
    assert_eq!((received.rejected.len(), received.removed, book.pages.len()), (1, 0, 1));
    let refusal = requests(&mut session).pop().unwrap().error_detail.unwrap().message;
    assert!(refusal.starts_with("(a resource without a readable name): "), "{refusal}");
}

#[test]
fn an_opening_request_has_a_limit() {
    let mut book = Book::default();
    let names: Vec<String> = (0..10).map(|i| format!("n{i}=1=x")).collect();
    let mut session = started(&mut book, &names.iter().map(String::as_str).collect::<Vec<_>>(), &[]);
    session.budget = 100;
    let (addresses, _) = reopened(&mut session);
    let listed = addresses.initial_resource_versions;
    assert_eq!(listed.len(), 5, "{listed:?}");
    // The server has everything still, and sends what was not listed.
    let rest = names.iter().filter(|text| !listed.contains_key(&text[..2])).map(String::as_str);
    let received = session.receive(response(Kind::Address, "n", &rest.collect::<Vec<_>>(), &[]), &mut book);
    assert_eq!((received.accepted, received.removed), (5, 0));
    assert_eq!(book.last.1, [""; 0], "what came is held in that version, and is not applied again");
    let (addresses, _) = reopened(&mut session);
    let listed = addresses.initial_resource_versions;
    session.receive(response(Kind::Address, "n", &[], &[]), &mut book);
    assert_eq!((session.held(Kind::Address), listed.len()), (5, 5));
    assert!(listed.keys().all(|name| book.pages.contains_key(&(Kind::Address, name.clone()))));
    session.budget = 0;
    assert_eq!(reopened(&mut session).0.initial_resource_versions.len(), 0);
    session.receive(response(Kind::Address, "n", &["x=1=x"], &[]), &mut book);
    assert!(book.last.2, "nothing was listed: this is everything");
    assert_eq!(book.pages.len(), 1);
}

#[test]
fn what_is_not_read_is_not_acknowledged() {
    let mut book = Book { patience: Some(1), ..Book::default() };
    let mut session = started(&mut book, &[], &[]);
    session.receive(response(Kind::Address, "n", &["a=1=x", "b=1=y", "c=1=z"], &[]), &mut book);
    let refusal = requests(&mut session).pop().unwrap().error_detail.unwrap().message;
    assert_eq!(refusal, "b: not read; c: not read");
    assert_eq!(reopened(&mut session).0.initial_resource_versions, versions(&[("a", "1")]));
}

#[test]
fn bodies_of_another_kind_and_none_are_refused() {
    let mut book = Book::default();
    let mut session = started(&mut book, &["a=1=x"], &[]);
    let mut message = response(Kind::Address, "n", &[], &[]);
    message.resources.push(encoded(Kind::Authorization, "a", "2", "y", &[]));
    message.resources.push(Encoded { name: "b".into(), ..Encoded::default() }.encode_to_vec().into());
    message.resources.push(encoded(Kind::Address, "", "2", "y", &[]));
    let rejected = session.receive(message, &mut book).rejected;
    let texts: Vec<_> = rejected.iter().map(|Rejected { name, reason }| format!("{name}: {reason}")).collect();
    assert_eq!(
        texts,
        [
            "a: a body of type \"type.googleapis.com/istio.security.Authorization\"",
            "b: no body",
            "(a resource without a name): the name is empty",
        ]
    );
    assert_eq!(book.pages[&(Kind::Address, "a".into())], "x");
}

#[test]
fn a_resource_that_is_removed_and_comes_again_is_news() {
    let mut book = Book::default();
    let mut session = started(&mut book, &["a=1=x"], &[]);
    session.receive(response(Kind::Address, "n", &["a=1=x"], &["a"]), &mut book);
    assert_eq!((book.pages.len(), session.held(Kind::Address)), (1, 1));
}

#[test]
fn a_response_to_nothing_is_no_first_one() {
    let mut book = Book::default();
    let mut session = started(&mut book, &["a=1=x"], &["p==1"]);
    session.lost();
    session.opened();
    session.receive(response(Kind::Authorization, "early", &[], &[]), &mut book);
    assert_eq!(book.pages.len(), 2);
    assert_eq!(requests(&mut session).len(), 3, "both kinds are opened yet, and the answer goes out");
}

#[test]
fn answers_do_not_outlive_their_stream() {
    let mut book = Book::default();
    let mut session = started(&mut book, &[], &[]);
    session.receive(response(Kind::Address, "old", &["a=1=x"], &[]), &mut book);
    assert_eq!(session.unsent(), 1);
    let (addresses, policies) = reopened(&mut session);
    assert_eq!((&*addresses.response_nonce, &*policies.response_nonce), ("", ""));
    assert_eq!(addresses.initial_resource_versions, versions(&[("a", "1")]), "it was applied all the same");
}

#[test]
fn names_are_shared_between_updates() {
    struct Names(Vec<Arc<str>>);
    impl Apply for Names {
        fn apply(&mut self, response: Response<'_>) -> Vec<Rejected> {
            self.0.extend(response.resources.map(|resource| resource.name));
            self.0.extend(response.removed.iter().cloned());
            Vec::new()
        }
    }
    let (mut names, mut session) = (Names(Vec::new()), session(Mode::Wildcard));
    for message in [response(Kind::Address, "1", &["a=1=x"], &[]), response(Kind::Address, "2", &["a=2=x"], &[])] {
        session.receive(message, &mut names);
    }
    session.receive(response(Kind::Address, "3", &[], &["a"]), &mut names);
    assert!(names.0.iter().all(|name| Arc::ptr_eq(name, &names.0[0])), "{names:?}", names = names.0);
}

#[test]
fn what_is_asked_for_is_subscribed_and_answered_by_name_alias_or_removal() {
    let (mut book, mut session) = (Book::default(), session(Mode::OnDemand));
    assert_eq!(session.subscribe("early"), Asking::Waits);
    session.opened();
    let [opening, _, change] = requests(&mut session).try_into().unwrap();
    assert_eq!(
        (opening.initial_resource_versions.len(), change.resource_names_subscribe),
        (0, vec!["early".to_owned()])
    );
    for key in ["net/10.0.0.1", "shop/web.shop", "net/10.0.0.9"] {
        assert_eq!(session.subscribe(key), Asking::Waits);
    }
    let [change] = requests(&mut session).try_into().unwrap();
    let keys = ["net/10.0.0.1", "shop/web.shop", "net/10.0.0.9"].map(String::from).into();
    let expected =
        Request { type_url: Kind::Address.url().to_owned(), resource_names_subscribe: keys, ..Request::default() };
    assert_eq!(change, expected);
    let mut message = response(Kind::Address, "n", &["shop/web.shop=1=s"], &["net/10.0.0.9"]);
    message.resources.push(encoded(Kind::Address, "uid", "1", "w", &["net/10.0.0.1", "net/fd::1"]));
    let mut answered = session.receive(message, &mut book).answered;
    answered.sort();
    assert_eq!(
        answered.iter().map(|key| &**key).collect::<Vec<_>>(),
        ["net/10.0.0.1", "net/10.0.0.9", "shop/web.shop"]
    );
    for key in ["shop/web.shop", "uid"] {
        assert_eq!(session.subscribe(key), Asking::Answered, "{key}: nothing more is to be learnt");
    }
    assert_eq!(requests(&mut session), [ack(Kind::Address, "n")]);
    assert_eq!(session.subscribe("net/10.0.0.9"), Asking::Waits, "something may have come to be there");
}

#[test]
fn on_demand_everything_is_subscribed_again() {
    let (mut book, mut session) = (Book::default(), session(Mode::OnDemand));
    session.opened();
    for key in ["alias", "nothing", "waits"] {
        session.subscribe(key);
    }
    let mut message = response(Kind::Address, "n", &["own=2=w", "odd=2=bad"], &["nothing"]);
    message.resources.push(encoded(Kind::Address, "uid", "1", "w", &["alias"]));
    requests(&mut session);
    session.receive(message, &mut book);
    session.lost();
    session.opened();
    let [addresses, _, change] = requests(&mut session).try_into().unwrap();
    assert_eq!(addresses.resource_names_subscribe, ["*"]);
    let listed = [("alias", ""), ("nothing", ""), ("odd", ""), ("own", "2"), ("uid", "1")];
    assert_eq!(addresses.initial_resource_versions, versions(&listed));
    assert_eq!(change.resource_names_subscribe, ["waits"], "its answer must not be left out for being held");
    session.receive(response(Kind::Address, "n", &[], &["nothing", "uid"]), &mut book);
    assert_eq!(book.pages.len(), 1, "what is not mentioned has not changed");
    assert_eq!(session.subscribe("uid"), Asking::Answered, "still subscribed: the server would not answer");
    session.budget = 50;
    session.lost();
    session.opened();
    let [first, _, rest] = requests(&mut session).try_into().unwrap();
    assert!((1..5).contains(&first.initial_resource_versions.len()), "{first:?}");
    let mut keys: Vec<_> = first.initial_resource_versions.into_keys().chain(rest.resource_names_subscribe).collect();
    keys.sort();
    assert_eq!(keys, ["alias", "nothing", "odd", "own", "uid", "waits"]);
}

#[test]
fn what_is_not_wanted_any_more_is_unsubscribed() {
    let mut session = session(Mode::OnDemand);
    session.opened();
    requests(&mut session);
    session.subscribe("a");
    requests(&mut session);
    session.unsubscribe("a");
    session.unsubscribe("never asked for");
    assert_eq!(requests(&mut session), [], "alone, istiod would take it for the end of everything");
    session.subscribe("b");
    let [change] = requests(&mut session).try_into().unwrap();
    assert_eq!(
        (change.resource_names_subscribe, change.resource_names_unsubscribe),
        (vec!["b".into()], vec!["a".into()])
    );
    assert_eq!(session.subscribe("a"), Asking::Waits);
}
