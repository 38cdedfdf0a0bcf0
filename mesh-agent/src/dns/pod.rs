//! One pod on one shard: from a client's message to the answer, by the mesh or by a name server.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use mesh_common::abi::{DNS_PORT, NAME_SERVER_PORT};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::forward::{Outlet, forward};
use super::lookup::{Client, Directory, PodName};
use super::query::{Query, Transport, Unreadable};
use super::server::Shard;
use super::{Upstream, answer, local};
use crate::telemetry::dns::Set;

/// How long a new pod's workload may take to appear: less than resolvers wait before they ask again.
const ARRIVAL: Duration = Duration::from_secs(2);

/// Queries of one pod that may wait for an answer at once, on one shard. More are refused at once.
const MOST_OUTSTANDING: usize = 1024;

/// A pod whose queries are answered. `D` is what the mesh knows.
pub(super) struct Pod<D> {
    shard: Rc<Shard>,
    name: PodName,
    worlds: watch::Receiver<Arc<D>>,
    outlet: Box<dyn Outlet>,
    outstanding: Arc<Semaphore>,
    counts: RefCell<Counts>,
}

/// What comes next for a message.
pub(super) enum Step {
    Answer(Vec<u8>),
    Silence,
    /// Somebody else must be waited for.
    Later(Pending),
}

/// A query that waits for its answer.
pub(super) struct Pending {
    query: Query,
    message: Vec<u8>,
    to: SocketAddr,
    /// None while the pod's workload is not known.
    counts: Option<Arc<Set>>,
    _place: OwnedSemaphorePermit,
}

/// Who answers.
enum Answerer {
    Mesh(Option<Vec<u8>>),
    NameServer(Arc<Set>),
    /// It is not known yet who asks.
    Nobody,
}

impl<D: Directory> Pod<D> {
    pub(super) fn new(
        shard: Rc<Shard>,
        name: PodName,
        worlds: watch::Receiver<Arc<D>>,
        outlet: Box<dyn Outlet>,
    ) -> Self {
        let outstanding = Arc::new(Semaphore::new(MOST_OUTSTANDING));
        Self { shard, name, worlds, outlet, outstanding, counts: RefCell::default() }
    }

    /// Whether a message that was sent there is for us: to a name server, or to our own port on loopback, which is how
    /// rules that redirect and people who look for faults send it.
    pub(super) fn serves(to: SocketAddr) -> bool {
        to.port() == NAME_SERVER_PORT || (to.port() == DNS_PORT && to.ip().is_loopback())
    }

    /// Answers a message if that can be done at once. `to` is where the client sent it.
    pub(super) fn begin(&self, message: &[u8], transport: Transport, to: SocketAddr) -> Step {
        let query = match Query::read(message, transport) {
            Ok(query) => query,
            Err(Unreadable::Answer(answer)) => return Step::Answer(answer),
            Err(Unreadable::Silence) => return Step::Silence,
        };
        let counts = match self.answerer(&query) {
            Answerer::Mesh(answer) => return step(answer),
            Answerer::NameServer(counts) => Some(counts),
            Answerer::Nobody => None,
        };
        match Arc::clone(&self.outstanding).try_acquire_owned() {
            Ok(place) => Step::Later(Pending { query, message: message.to_vec(), to, counts, _place: place }),
            Err(_) => {
                if let Some(counts) = counts {
                    counts.upstream_failed(Duration::ZERO);
                }
                step(answer::failed(&query, ResponseCode::ServFail))
            }
        }
    }

    /// Waits for the answer of somebody else.
    pub(super) async fn finish(&self, pending: Pending) -> Option<Vec<u8>> {
        let Pending { query, message, to, counts, _place } = pending;
        let counts = match counts {
            Some(counts) => counts,
            None => match self.arrival(&query).await {
                Answerer::Mesh(answer) => return answer,
                Answerer::NameServer(counts) => counts,
                Answerer::Nobody => {
                    self.counts(None, &query).requested();
                    tracing::debug!(pod = %self.name, "a query is refused: the pod's workload is not known");
                    return answer::failed(&query, ResponseCode::ServFail);
                }
            },
        };
        let started = Instant::now();
        match forward(&*self.outlet, &self.servers(to), &query, &message).await {
            Ok(answer) => {
                counts.upstream_answered(started.elapsed());
                Some(answer)
            }
            Err(error) => {
                counts.upstream_failed(started.elapsed());
                tracing::debug!(pod = %self.name, query = %query.question.name(), %error, "a query is not answered");
                answer::failed(&query, ResponseCode::ServFail)
            }
        }
    }

    fn answerer(&self, query: &Query) -> Answerer {
        let world = Arc::clone(&self.worlds.borrow());
        let Some(client) = world.client(&self.name) else { return Answerer::Nobody };
        let counts = self.counts(Some(&client), query);
        counts.requested();
        let settings = &self.shard.settings;
        match local::answer(&*world, query, &client, (&settings.realm, settings.ipv6)) {
            None => Answerer::NameServer(counts),
            answer => Answerer::Mesh(answer),
        }
    }

    /// A pod may ask a moment before the configuration knows it.
    async fn arrival(&self, query: &Query) -> Answerer {
        let mut worlds = self.worlds.clone();
        let arrival = worlds.wait_for(|world| world.client(&self.name).is_some());
        match tokio::time::timeout(ARRIVAL, async { arrival.await.is_ok() }).await {
            Ok(true) => self.answerer(query),
            Ok(false) | Err(_) => Answerer::Nobody,
        }
    }

    /// Who is asked what the mesh does not know.
    fn servers(&self, to: SocketAddr) -> Rc<[SocketAddr]> {
        match self.shard.settings.upstream {
            Upstream::Original if to.port() == NAME_SERVER_PORT && !to.ip().is_loopback() => Rc::new([to]),
            Upstream::Original | Upstream::Node => self.shard.node_servers(),
        }
    }

    fn counts(&self, client: Option<&Client<'_>>, query: &Query) -> Arc<Set> {
        let labels = client.map(|client| (client.canonical_service, client.canonical_revision)).unwrap_or_default();
        self.counts.borrow_mut().of(&self.shard, labels, query)
    }
}

fn step(answer: Option<Vec<u8>>) -> Step {
    answer.map_or(Step::Silence, Step::Answer)
}

/// The counters that this pod's queries add to, found once for each kind of query.
#[derive(Default)]
struct Counts {
    service: String,
    revision: String,
    known: Vec<(&'static str, Transport, Arc<Set>)>,
}

impl Counts {
    fn of(&mut self, shard: &Shard, (service, revision): (&str, &str), query: &Query) -> Arc<Set> {
        if (self.service.as_str(), self.revision.as_str()) != (service, revision) {
            *self = Self { service: service.to_owned(), revision: revision.to_owned(), known: Vec::new() };
        }
        let (kind, transport) = (query.kind(), query.transport);
        if let Some((.., set)) = self.known.iter().find(|(k, t, _)| (*k, *t) == (kind, transport)) {
            return Arc::clone(set);
        }
        let set = shard.table.set([kind, transport.as_str(), service, revision]);
        self.known.push((kind, transport, Arc::clone(&set)));
        set
    }
}

#[cfg(test)]
pub(super) mod tests;
