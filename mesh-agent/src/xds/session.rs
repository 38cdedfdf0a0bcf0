//! The protocol without I/O: one session over many streams (protocol note, sections 1.4 to 1.8).
//!
//! ```text
//!              opened                 request sent              response
//!   Closed ------------> Opening ----------------> Asked ----------------> Answered      of each kind
//!     ^                     |                        |                        |
//!     '---------------------'------------------------'------------------------'  lost
//! ```
//!
//! **Acknowledging.** [`Session::receive`] hands a response to the [`Apply`] and notes the answer in one go: there is no
//! way to acknowledge what was not applied, and no moment between the two in which a stream could be lost.
//!
//! **What has gone while there was no stream.** In the opening request we list what we hold with its version, and the
//! server names what of it is no more. Some cannot be listed: resources without versions (all policies), those whose
//! newest version we rejected, and what would make the request too large. These we find ourselves. The server answers an
//! opening request with one response, even an empty one, before it sends anything else of that kind; whatever exists and
//! was not listed is in it. So what was held, not listed, and is not in that response, has gone.
//!
//! On demand nothing is left to find: every name that is held and every key that was asked for is subscribed again, in
//! the opening request or in one that follows it, and the server says of each if it is no more.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use super::asked::{Answer, Asked, Asking, Change};
use super::config::Node;
use super::held::Held;
use super::kind::{Kind, PerKind};
use super::nack;
use super::response::{Apply, Rejected, Resources, Response};
use crate::proto::discovery::{self, DeltaDiscoveryRequest as Request, DeltaDiscoveryResponse};

/// Most bytes of names and versions in an opening request: istiod takes requests of 4 MiB.
const OPENING: usize = 3 << 20;
/// Most bytes of keys in a later one.
const CHANGE: usize = 1 << 20;

/// What of the addresses is subscribed. Of policies it is always all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Everything.
    Wildcard,
    /// What is asked for, and what the server adds on its own.
    OnDemand,
}

/// The state of a session.
#[derive(Debug)]
pub struct Session {
    node: discovery::Node,
    /// The server has been told on this stream who we are.
    introduced: bool,
    kinds: PerKind<Subscription>,
    answers: VecDeque<Request>,
    /// Most bytes of names and versions in an opening request.
    budget: usize,
}

/// The state of one kind.
#[derive(Debug)]
struct Subscription {
    mode: Mode,
    stage: Stage,
    held: Held,
    asked: Asked,
    synced: bool,
}

#[derive(Debug)]
enum Stage {
    Closed,
    Opening,
    /// With what is held and was not listed.
    Asked(HashSet<Arc<str>>),
    Answered,
}

/// What became of a response.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// None for a type that we do not know.
    pub kind: Option<Kind>,
    /// Resources that were applied, or held already.
    pub accepted: usize,
    pub removed: usize,
    pub rejected: Vec<Rejected>,
    /// Keys whose answer this was.
    pub answered: Vec<Arc<str>>,
}

impl Session {
    pub fn new(node: &Node, addresses: Mode) -> Self {
        let subscription = |kind| Subscription {
            mode: if kind == Kind::Address { addresses } else { Mode::Wildcard },
            stage: Stage::Closed,
            held: Held::default(),
            asked: Asked::default(),
            synced: false,
        };
        let kinds = PerKind::new(subscription);
        Self { node: node.message(), introduced: false, kinds, answers: VecDeque::new(), budget: OPENING }
    }

    /// A stream was opened: every kind is to be subscribed on it.
    pub fn opened(&mut self) {
        self.lost();
        for kind in Kind::ALL {
            self.kinds.of_mut(kind).stage = Stage::Opening;
        }
    }

    /// The stream is gone, and with it whatever was to be sent on it. What is held stays.
    pub fn lost(&mut self) {
        self.introduced = false;
        self.answers.clear();
        for kind in Kind::ALL {
            self.kinds.of_mut(kind).stage = Stage::Closed;
        }
    }

    /// Whether there was a response of this kind since the agent's start. On demand there is nothing to wait for.
    pub fn synced(&self, kind: Kind) -> bool {
        let subscription = self.kinds.of(kind);
        subscription.synced || subscription.mode == Mode::OnDemand
    }

    /// How many resources of this kind are held; those whose newest version was rejected count.
    pub fn held(&self, kind: Kind) -> usize {
        self.kinds.of(kind).held.len()
    }

    /// Asks for what a key leads to: `<network>/<ip>`, `<namespace>/<hostname>`, or the uid of a workload.
    pub fn subscribe(&mut self, key: &str) -> Asking {
        let addresses = self.kinds.of_mut(Kind::Address);
        // A name that the server told us about is subscribed there, and asking again would have no answer.
        if addresses.mode == Mode::Wildcard || addresses.held.contains(key) {
            return Asking::Answered;
        }
        addresses.asked.ask(key)
    }

    /// Forgets that a key was asked for. A resource it led to is still held, under its name.
    pub fn unsubscribe(&mut self, key: &str) {
        self.kinds.of_mut(Kind::Address).asked.drop(key);
    }

    /// Whether there is a stream.
    pub fn is_open(&self) -> bool {
        !matches!(self.kinds.of(Kind::Address).stage, Stage::Closed)
    }

    /// How many answers to responses wait to be sent.
    pub fn unsent(&self) -> usize {
        self.answers.len()
    }

    /// Whether [`Self::next_request`] has one.
    pub fn has_request(&self) -> bool {
        let waits = |subscription: &Subscription| match subscription.stage {
            Stage::Closed => false,
            Stage::Opening => true,
            Stage::Asked(_) | Stage::Answered => subscription.asked.has_change(),
        };
        !self.answers.is_empty() || self.kinds.iter().any(|(_, subscription)| waits(subscription))
    }

    /// The next request to send on the stream.
    pub fn next_request(&mut self) -> Option<Request> {
        for kind in Kind::ALL {
            if matches!(self.kinds.of(kind).stage, Stage::Opening) {
                return Some(self.opening(kind));
            }
        }
        self.answers.pop_front().or_else(|| Kind::ALL.into_iter().find_map(|kind| self.kinds.of_mut(kind).change(kind)))
    }

    fn opening(&mut self, kind: Kind) -> Request {
        let mut request = self.kinds.of_mut(kind).open(kind, self.budget);
        if !self.introduced {
            self.introduced = true;
            request.node = Some(self.node.clone());
        }
        request
    }

    /// Has a response applied, and notes the answer to it.
    pub fn receive(&mut self, message: DeltaDiscoveryResponse, apply: &mut impl Apply) -> Received {
        let mut answer =
            Request { type_url: message.type_url.clone(), response_nonce: message.nonce.clone(), ..Request::default() };
        let received = match Kind::of(&message.type_url) {
            Some(kind) => self.kinds.of_mut(kind).receive(kind, message, apply),
            None => {
                tracing::warn!(type_url = nack::cut(&message.type_url), "istiod sent a type that was not asked for");
                Received::default()
            }
        };
        if !received.rejected.is_empty() {
            // Its presence is what counts; istiod's clients leave the code at 0 (protocol note, section 16, number 3).
            answer.error_detail = Some(discovery::Status { code: 0, message: nack::message(&received.rejected) });
        }
        self.answers.push_back(answer);
        received
    }
}

impl Subscription {
    /// The opening request.
    fn open(&mut self, kind: Kind, budget: usize) -> Request {
        let mut request = Request { type_url: kind.url().to_owned(), ..Request::default() };
        let mut listed = Listed { versions: BTreeMap::new(), left: budget };
        let mut unlisted = Vec::new();
        if self.mode == Mode::OnDemand {
            // An empty subscription would be one to everything (protocol note, section 16, number 4).
            request.resource_names_subscribe = vec!["*".to_owned()];
            request.resource_names_unsubscribe = vec!["*".to_owned()];
            let held = &self.held;
            let keys = self.asked.reopen().filter(|key| !held.contains(key));
            unlisted.extend(keys.filter(|key| !listed.add(key, String::new())).map(Arc::clone));
        }
        for (name, version) in self.held.iter() {
            let listable = version.is_known() || self.mode == Mode::OnDemand;
            if !listable || !listed.add(name, version.to_string()) {
                unlisted.push(Arc::clone(name));
            }
        }
        request.initial_resource_versions = listed.versions;
        self.stage = match self.mode {
            Mode::Wildcard => Stage::Asked(unlisted.into_iter().collect()),
            Mode::OnDemand => {
                self.asked.subscribe(unlisted);
                Stage::Asked(HashSet::new())
            }
        };
        request
    }

    /// A request for what was asked for since the last one.
    fn change(&mut self, kind: Kind) -> Option<Request> {
        if !matches!(self.stage, Stage::Asked(_) | Stage::Answered) || !self.asked.has_change() {
            return None;
        }
        let Change { subscribe, unsubscribe } = self.asked.change(CHANGE);
        Some(Request {
            type_url: kind.url().to_owned(),
            resource_names_subscribe: subscribe,
            resource_names_unsubscribe: unsubscribe,
            ..Request::default()
        })
    }

    fn receive(&mut self, kind: Kind, message: DeltaDiscoveryResponse, apply: &mut impl Apply) -> Received {
        let mut removed: Vec<_> = message.removed_resources.iter().map(|name| self.held.share(name)).collect();
        let mut whole = false;
        if let Stage::Asked(unlisted) = &mut self.stage {
            whole = self.mode == Mode::Wildcard && unlisted.len() == self.held.len();
            removed.extend(absent(std::mem::take(unlisted), &message.resources));
            self.stage = Stage::Answered;
        }
        self.synced = true;
        // Before the resources are looked at: one that is removed and comes again is news, whatever its version.
        let answered = self.remove(&removed);

        let mut resources = Resources::new(kind, message.resources, &self.held, &self.asked);
        let mut rejected = apply.apply(Response { kind, whole, removed: &removed, resources: &mut resources });
        let ledger = resources.close();
        rejected.extend(ledger.rejected);

        let names: HashSet<_> = rejected.iter().map(|rejected| Arc::clone(&rejected.name)).collect();
        let accepted = ledger.unchanged + ledger.offered.iter().filter(|(name, _)| !names.contains(name)).count();
        ledger.answered.iter().for_each(|key| self.asked.answer(key, Answer::Known));
        self.held.commit(ledger.offered, &names);
        let answered = answered.into_iter().chain(ledger.answered).collect();
        Received { kind: Some(kind), accepted, removed: removed.len(), rejected, answered }
    }

    /// Notes that these are no more. Returns those that were asked for.
    fn remove(&mut self, names: &[Arc<str>]) -> Vec<Arc<str>> {
        let mut answered = Vec::new();
        for name in names {
            let held = self.held.contains(name);
            self.held.remove(name);
            if self.mode == Mode::OnDemand {
                answered.extend(self.asked.key(name));
                // The server still has it subscribed, asked for or not: it would not answer if we asked.
                if held || self.asked.knows(name) {
                    self.asked.answer(name, Answer::Unknown);
                }
            }
        }
        answered
    }
}

/// Those of `names` that no resource has. When a resource has no readable name, it may be any of them, and none is absent.
fn absent(mut names: HashSet<Arc<str>>, resources: &[Bytes]) -> HashSet<Arc<str>> {
    if names.is_empty() {
        return names;
    }
    for resource in resources {
        match discovery::ResourceName::decode(resource.clone()) {
            Ok(discovery::ResourceName { name }) => names.remove(name.as_str()),
            Err(_) => return HashSet::new(),
        };
    }
    names
}

/// The versions of an opening request, as many as fit.
struct Listed {
    versions: BTreeMap<String, String>,
    left: usize,
}

impl Listed {
    fn add(&mut self, name: &str, version: String) -> bool {
        // Tags and lengths of the entry, the name and the version.
        let bytes = name.len() + version.len() + 16;
        let Some(left) = self.left.checked_sub(bytes) else { return false };
        self.left = left;
        self.versions.insert(name.to_owned(), version);
        true
    }
}

#[cfg(test)]
pub(super) mod tests;
