//! Any sequence of changes, losses and reconnects, against a server that behaves as istiod does (protocol note, sections
//! 1.5 to 1.8): in the end we have what it has, and at no moment do we say that we have what we have not.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;

use super::super::{Asking, DeltaDiscoveryResponse, Mode, Request, Session, Stage};
use super::{Book, encoded, session};
use crate::xds::{Kind, PerKind};

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A resource gets new contents, that we can use or not.
    Put {
        kind: Kind,
        name: usize,
        good: bool,
    },
    Delete {
        kind: Kind,
        name: usize,
    },
    /// The server sends what has changed.
    Push(Kind),
    /// The client's requests go out; one of them arrives; one response arrives.
    Send,
    Arrive,
    Answer,
    Lose,
    Open,
    /// Somebody asks for a resource by its name or its alias.
    Ask {
        name: usize,
        alias: bool,
    },
    /// The reader stops early.
    Tire(Option<usize>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let kind = prop::sample::select(&Kind::ALL[..]);
    let name = 0..NAMES.len();
    let step = prop_oneof![
        4 => (kind.clone(), name.clone(), prop::bool::weighted(0.8))
            .prop_map(|(kind, name, good)| Step::Put { kind, name, good }),
        2 => (kind.clone(), name.clone()).prop_map(|(kind, name)| Step::Delete { kind, name }),
        3 => kind.prop_map(Step::Push),
        6 => Just(Step::Send),
        6 => Just(Step::Arrive),
        6 => Just(Step::Answer),
        1 => Just(Step::Lose),
        3 => Just(Step::Open),
        2 => (name, any::<bool>()).prop_map(|(name, alias)| Step::Ask { name, alias }),
        1 => prop::option::weighted(0.4, 0usize..3).prop_map(Step::Tire),
    ];
    prop::collection::vec(step, 0..120)
}

#[derive(Debug, Default)]
struct Server {
    resources: PerKind<BTreeMap<String, String>>,
    /// Whether it leaves out what we listed in its present version. Older ones do not.
    compares: bool,
    serial: u32,
    stream: Option<Stream>,
}

#[derive(Debug, Default)]
struct Stream {
    introduced: bool,
    watches: PerKind<Option<Watch>>,
    requests: VecDeque<Request>,
    responses: VecDeque<DeltaDiscoveryResponse>,
}

/// Whether a request opens its kind.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    First,
    Later,
}

#[derive(Debug, Default)]
struct Watch {
    wildcard: bool,
    names: BTreeSet<String>,
    /// What was sent last of each.
    sent: BTreeMap<String, String>,
    /// Nonces that were not answered yet.
    nonces: VecDeque<String>,
}

fn alias(name: &str) -> String {
    format!("net/{name}")
}

fn version(kind: Kind, body: &str) -> String {
    match kind {
        Kind::Address => {
            format!("{:x}", body.bytes().fold(7_u64, |hash, byte| hash.wrapping_mul(31) + u64::from(byte)))
        }
        Kind::Authorization => String::new(),
    }
}

impl Server {
    /// `how` is how the contents begin, good or bad.
    fn put(&mut self, kind: Kind, name: &str, how: &str) {
        self.serial += 1;
        let body = format!("{how} {}", self.serial);
        self.resources.of_mut(kind).insert(name.to_owned(), body);
    }

    fn arrive(&mut self) {
        let Some(request) = self.stream.as_mut().and_then(|stream| stream.requests.pop_front()) else { return };
        let stream = self.stream.as_mut().unwrap();
        assert!(stream.introduced || request.node.is_some(), "the node is on the first request");
        stream.introduced = true;
        let kind = Kind::of(&request.type_url).unwrap();
        let watch = stream.watches.of_mut(kind);
        if !request.response_nonce.is_empty() {
            let watch = watch.as_mut().expect("an answer to a response of this kind");
            assert_eq!(watch.nonces.pop_front(), Some(request.response_nonce), "answers come in order, to their kind");
            assert!(request.resource_names_subscribe.is_empty() && request.initial_resource_versions.is_empty());
            return;
        }
        let gives_up = |name: &String| request.resource_names_unsubscribe.contains(name);
        let something = request.resource_names_subscribe.iter().any(|name| !gives_up(name));
        assert!(watch.is_none() || something, "istiod would answer that everything has gone");
        let listed = request.initial_resource_versions;
        let new: Vec<String> = request.resource_names_subscribe.into_iter().chain(listed.keys().cloned()).collect();
        let first = watch.is_none();
        let watch = watch.get_or_insert_default();
        let fresh: Vec<_> = new.into_iter().filter(|name| watch.names.insert(name.clone())).collect();
        let gone = request.resource_names_unsubscribe.iter().filter(|name| watch.names.remove(*name)).count();
        if first {
            watch.wildcard = gone == 0;
            let resources = self.resources.of(kind);
            let same = |name: &str| {
                self.compares && resources.get(name).is_some_and(|body| listed.get(name) == Some(&version(kind, body)))
            };
            watch.sent = resources.iter().filter(|(name, _)| same(name)).map(|(n, b)| (n.clone(), b.clone())).collect();
        } else if fresh.is_empty() && gone == 0 {
            return;
        }
        self.answer(kind, &fresh, if first { Turn::First } else { Turn::Later });
    }

    /// What the answer to a subscription has in it.
    fn answer(&mut self, kind: Kind, fresh: &[String], turn: Turn) {
        let watch = self.stream.as_mut().unwrap().watches.of_mut(kind).as_mut().unwrap();
        let all = turn == Turn::First && watch.wildcard;
        let resources = self.resources.of(kind);
        let is = |name: &str, key: &str| name == key || alias(name) == *key;
        let wanted = |name: &str| all || fresh.iter().any(|key| is(name, key));
        // What is asked for later is sent whether we have it or not.
        let news = |name: &str| turn == Turn::Later || watch.sent.get(name) != resources.get(name);
        let found: Vec<_> = resources.keys().filter(|name| wanted(name) && news(name)).cloned().collect();
        let missing = fresh.iter().filter(|key| *key != "*" && !resources.keys().any(|name| is(name, key)));
        let missing = missing.cloned().collect();
        self.send(kind, found, missing);
    }

    fn push(&mut self, kind: Kind) {
        let Some(watch) = self.stream.as_ref().and_then(|stream| stream.watches.of(kind).as_ref()) else { return };
        let resources = self.resources.of(kind);
        let wanted = |name: &str| watch.wildcard || watch.names.contains(name) || watch.names.contains(&alias(name));
        let changed = |(name, body): &(&String, &String)| wanted(name) && watch.sent.get(*name) != Some(body);
        let found: Vec<_> = resources.iter().filter(changed).map(|(name, _)| name.clone()).collect();
        let removed: Vec<_> = watch.sent.keys().filter(|name| !resources.contains_key(*name)).cloned().collect();
        if !found.is_empty() || !removed.is_empty() {
            self.send(kind, found, removed);
        }
    }

    fn send(&mut self, kind: Kind, names: Vec<String>, removed: Vec<String>) {
        self.serial += 1;
        let nonce = format!("{kind:?}-{}", self.serial);
        let stream = self.stream.as_mut().unwrap();
        let watch = stream.watches.of_mut(kind).as_mut().unwrap();
        watch.nonces.push_back(nonce.clone());
        let mut resources = Vec::new();
        for name in names {
            let body = &self.resources.of(kind)[&name];
            resources.push(encoded(kind, &name, &version(kind, body), body, &[&alias(&name)]));
            watch.sent.insert(name.clone(), body.clone());
            watch.names.insert(name);
        }
        removed.iter().for_each(|name| drop(watch.sent.remove(name)));
        let type_url = kind.url().to_owned();
        let removed_resources = removed;
        let response = DeltaDiscoveryResponse { type_url, nonce, resources, removed_resources, ..Default::default() };
        stream.responses.push_back(response);
    }
}

struct World {
    server: Server,
    session: Session,
    book: Book,
    /// Keys with no answer yet.
    asked: BTreeSet<String>,
}

impl World {
    fn step(&mut self, step: Step) {
        match step {
            Step::Put { kind, name, good: true } => self.server.put(kind, NAMES[name], "good"),
            Step::Put { kind, name, good: false } => self.server.put(kind, NAMES[name], "bad"),
            Step::Delete { kind, name } => drop(self.server.resources.of_mut(kind).remove(NAMES[name])),
            Step::Push(kind) => self.server.push(kind),
            Step::Send => self.send(),
            Step::Arrive => self.server.arrive(),
            Step::Answer => self.receive(),
            Step::Lose => self.lose(),
            Step::Open => self.open(),
            Step::Ask { name, alias: true } => self.ask(&alias(NAMES[name])),
            Step::Ask { name, alias: false } => self.ask(NAMES[name]),
            Step::Tire(patience) => self.book.patience = patience,
        }
        self.check();
    }

    fn send(&mut self) {
        while let Some(request) = self.session.next_request() {
            self.server.stream.as_mut().expect("requests only while there is a stream").requests.push_back(request);
        }
    }

    fn lose(&mut self) {
        self.server.stream = None;
        self.session.lost();
    }

    fn open(&mut self) {
        if self.server.stream.is_none() {
            self.server.stream = Some(Stream::default());
            self.session.opened();
        }
    }

    fn ask(&mut self, key: &str) {
        match self.session.subscribe(key) {
            Asking::Waits => drop(self.asked.insert(key.to_owned())),
            Asking::Answered => assert!(!self.asked.contains(key), "{key} is waited for"),
            Asking::Refused => panic!("{key} is refused"),
        }
    }

    fn receive(&mut self) {
        let Some(response) = self.server.stream.as_mut().and_then(|stream| stream.responses.pop_front()) else {
            return;
        };
        let (kind, nonce) = (Kind::of(&response.type_url).unwrap(), response.nonce.clone());
        let unsent = self.session.unsent();
        let received = self.session.receive(response.clone(), &mut self.book);
        assert_eq!(self.session.unsent(), unsent + 1, "one answer to each");
        let answer = self.session.answers.back().unwrap();
        assert_eq!((&answer.type_url, &answer.response_nonce), (&response.type_url, &nonce));
        // Whatever is not refused is in the book as it was sent.
        for (name, body) in response.resources.iter().map(parse) {
            let refused = received.rejected.iter().any(|rejected| *rejected.name == *name);
            let applied = self.book.pages.get(&(kind, name.clone())) == Some(&body);
            assert!(refused || applied, "{name} {body} is acknowledged and not applied");
        }
        assert_eq!(answer.error_detail.is_some(), !received.rejected.is_empty());
        self.asked.retain(|key| received.answered.iter().all(|answered| **answered != **key));
    }

    /// What is held is what was applied, and in the version that was applied.
    fn check(&self) {
        for (kind, subscription) in self.session.kinds.iter() {
            for (name, held) in subscription.held.iter().filter(|(_, held)| held.is_known()) {
                let body = self.book.pages.get(&(kind, name.to_string()));
                assert_eq!(Some(held.to_string()), body.map(|body| version(kind, body)), "{kind:?} {name}");
            }
            let pages = self.book.pages.keys().filter(|(page, _)| *page == kind);
            pages.for_each(|(_, name)| assert!(subscription.held.contains(name), "{kind:?} {name} is not held"));
        }
    }

    /// Nothing more happens but what is under way.
    fn settle(&mut self) {
        self.step(Step::Open);
        loop {
            self.step(Step::Send);
            let stream = self.server.stream.as_ref().unwrap();
            if stream.requests.is_empty() && stream.responses.is_empty() {
                for (kind, subscription) in self.session.kinds.iter() {
                    assert!(matches!(subscription.stage, Stage::Answered), "{kind:?} {:?}", subscription.stage);
                }
                return;
            }
            self.step(Step::Arrive);
            self.step(Step::Answer);
        }
    }

    /// Everything that the server has is in the book, but for what cannot be used; nothing else is.
    fn agree(&self) {
        for kind in Kind::ALL {
            let theirs = self.server.resources.of(kind);
            let watch = self.server.stream.as_ref().unwrap().watches.of(kind).as_ref().unwrap();
            let wanted =
                |name: &str| watch.wildcard || watch.names.contains(name) || watch.names.contains(&alias(name));
            for (name, body) in theirs.iter().filter(|(name, body)| body.starts_with("good") && wanted(name)) {
                assert_eq!(self.book.pages.get(&(kind, name.clone())), Some(body), "{kind:?} {name}");
            }
            let ours = self.book.pages.keys().filter(|(page, _)| *page == kind);
            ours.for_each(|(_, name)| assert!(theirs.contains_key(name), "{kind:?} {name} has gone"));
        }
        assert_eq!(self.asked, BTreeSet::new(), "these still wait");
    }
}

fn parse(resource: &bytes::Bytes) -> (String, String) {
    use prost::Message;
    let resource = crate::proto::discovery::Resource::decode(resource.clone()).unwrap();
    (resource.name, String::from_utf8(resource.resource.unwrap().value.to_vec()).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn in_the_end_we_have_what_the_server_has(
        steps in steps(),
        on_demand in any::<bool>(),
        compares in any::<bool>(),
        budget in prop_oneof![Just(usize::MAX), Just(0), 20usize..100],
    ) {
        let mode = if on_demand { Mode::OnDemand } else { Mode::Wildcard };
        let server = Server { compares, ..Server::default() };
        let mut world = World { server, session: session(mode), book: Book::default(), asked: BTreeSet::new() };
        world.session.budget = budget;
        for step in steps {
            world.step(step);
        }
        world.step(Step::Tire(None));
        world.settle();
        assert_eq!(world.asked, BTreeSet::new(), "these still wait");
        // What was refused for want of patience is not sent again on this stream: istiod does not know that it should.
        world.step(Step::Lose);
        world.settle();
        world.agree();
        // And with changes that are pushed.
        for kind in Kind::ALL {
            world.step(Step::Put { kind, name: 0, good: true });
            world.step(Step::Delete { kind, name: 1 });
            world.step(Step::Push(kind));
        }
        world.settle();
        world.agree();
    }
}
