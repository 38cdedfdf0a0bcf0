//! Shards: one single-threaded runtime per core. A connection lives its whole life on one shard, and nothing on its path
//! takes a lock that another shard takes; configuration arrives as an immutable snapshot.

use std::collections::HashMap;
use std::io;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use mesh_common::direct::Event;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::LocalSet;

use super::demand::Asker;
use super::direct::{Kernel, Shortcuts};
use super::locals::Locals;
use super::names::Names;
pub use super::placement::Moves;
use super::placement::{Placement, Seats};
use super::pod::Pod;
use super::record::Books;
use crate::dns::lookup::PodName;
use crate::dns::server::{self as dns, Life};
use crate::hbone;
use crate::identity::Certs;
use crate::model::{PodSpec, SameNodeModes, World};
use crate::sys::cores::Homes;
use crate::sys::netns::Netns;
use crate::sys::socket::netns_cookie;
use crate::sys::thread;
use crate::task::{Limit, Limited};
use crate::telemetry::lookups::Lookups;
use crate::xds::Demand;

mod doors;

use doors::{Ask, Order, send, settle, shard_is_gone, welcome};
pub(super) use doors::{Door, arrive};

/// How long connections may go on that came by a pod's former listeners, when it was enrolled anew.
const SUPERSEDED: Duration = Duration::from_secs(3600);

/// Inbound handshakes at once on one shard.
const HANDSHAKES: usize = 1024;

/// A pod that a shard serves.
#[derive(Clone, Debug)]
pub struct LocalPod {
    pub spec: Arc<PodSpec>,
    pub netns: Netns,
}

/// One shard's listeners of one pod, opened in the pod's namespace by [`crate::sys::socket::listen`].
#[derive(Debug)]
pub struct PodListeners {
    pub outbound: TcpListener,
    pub plaintext: TcpListener,
    pub hbone: TcpListener,
    /// None if the pod's queries are not captured.
    pub dns: Option<dns::Sockets>,
}

/// What every shard is given.
#[derive(Clone, Debug)]
pub struct Deps {
    /// Name of the node's network.
    pub network: Arc<str>,
    pub worlds: watch::Receiver<Arc<World>>,
    pub certs: Certs,
    /// Where what is not known yet is asked for; none if everything is told without being asked for.
    pub demand: Option<Demand>,
    pub dns: dns::Deps,
    /// Host names that connections wait for.
    pub lookups: Lookups,
    pub habits: Habits,
    pub same_node: Arc<SameNodeModes>,
    /// What carries connections of pods of this node, if the kernel does.
    pub direct: Option<Arc<dyn Kernel>>,
}

/// What may be chosen of how connections are carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Habits {
    pub tunnels: hbone::Settings,
    /// Whether a client is told whom it has reached, and what it says of itself is believed where nothing better is known.
    pub response_baggage: bool,
    pub applications: Applications,
}

/// Where an application behind an application tunnel is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Applications {
    #[default]
    Loopback,
    /// At the pod's own, and it sees the client's.
    Address,
}

impl Default for Habits {
    fn default() -> Self {
        Self { tunnels: hbone::Settings::default(), response_baggage: true, applications: Applications::default() }
    }
}

/// Handle on all shards. Clones share them.
#[derive(Clone, Debug)]
pub struct Shards {
    homes: Homes,
    doors: Arc<[mpsc::UnboundedSender<Order>]>,
    turnover: Arc<Turnover>,
    seats: Arc<Seats>,
}

/// Pods that came and went. The first shard counts them: all shards have the same.
#[derive(Debug, Default)]
struct Turnover {
    started: AtomicU64,
    stopped: AtomicU64,
}

/// The threads behind [`Shards`]; they end after [`Shards::stop`].
#[derive(Debug)]
pub struct Threads(Vec<JoinHandle<()>>);

/// How a pod is given up.
#[derive(Clone, Debug)]
pub struct Leave {
    /// For so long new connections are still taken: peers hear later than the agent that they should come another way.
    pub linger: Duration,
    /// When connections that are still open are cut.
    pub limit: Limited,
}

/// What the pods of one shard share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) network: Arc<str>,
    pub(super) worlds: watch::Receiver<Arc<World>>,
    pub(super) verdicts: watch::Receiver<Arc<World>>,
    pub(super) certs: Certs,
    dns: Rc<dns::Shard>,
    pub(super) books: Rc<Books>,
    /// Handshakes that may go on at once: whoever is not authenticated yet gets a share of the shard, no more.
    pub(super) handshakes: Rc<Semaphore>,
    pub(super) names: Rc<Names>,
    pub(super) asker: Option<Rc<Asker>>,
    pub(super) habits: Habits,
    pub(super) locals: Rc<Locals>,
    pub(super) shortcuts: Rc<Shortcuts>,
    pub(super) placement: Rc<Placement>,
    pub(super) doors: Arc<[Door]>,
}

impl Shards {
    /// Starts shards, each at its home if it has one; `books` makes each one's books, on its own thread.
    pub fn start(
        homes: Homes,
        deps: &Deps,
        books: impl Fn(usize) -> Books + Clone + Send + 'static,
    ) -> io::Result<(Self, Threads)> {
        let (doors, orders): (Vec<_>, Vec<_>) = homes.iter().map(|_| mpsc::unbounded_channel()).unzip();
        let ways: Arc<[Door]> = doors.iter().map(|door| Door(door.downgrade())).collect();
        let (turnover, seats) = (Arc::new(Turnover::default()), Arc::new(Seats::new(homes.count())));
        let mut threads = Vec::new();
        for (index, orders) in orders.into_iter().enumerate() {
            let (ways, seats, homes) = (Arc::clone(&ways), Arc::clone(&seats), homes.clone());
            let (deps, books) = (deps.clone(), books.clone());
            let counts = (index == 0).then(|| Arc::clone(&turnover));
            let number = u32::try_from(index).unwrap_or(u32::MAX);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            threads.push(thread::spawn(&format!("shard-{index}"), move || {
                let around = (settle(index, &homes, seats), ways);
                let books = Rc::new(books(index));
                LocalSet::new().block_on(&runtime, run((deps, books, number), around, orders, counts));
            })?);
        }
        Ok((Self { homes, doors: doors.into(), turnover, seats }, Threads(threads)))
    }

    /// Pods that were taken up, and pods that were given up, since the start.
    pub fn turnover(&self) -> (u64, u64) {
        (self.turnover.started.load(Relaxed), self.turnover.stopped.load(Relaxed))
    }

    /// What has moved since the start.
    pub fn moves(&self) -> Moves {
        self.seats.moves()
    }

    /// Where the shards are at home.
    pub fn homes(&self) -> &Homes {
        &self.homes
    }

    /// Starts serving a pod, with one set of listeners per shard (`listeners.len() == self.homes().count()`).
    pub async fn serve(&self, pod: LocalPod, listeners: Vec<PodListeners>) -> io::Result<()> {
        for (door, listeners) in self.doors.iter().zip(listeners) {
            let (done, result) = oneshot::channel();
            send(door, Order::Serve(pod.clone(), listeners, done))?;
            result.await.map_err(|_| shard_is_gone())??;
        }
        Ok(())
    }

    /// Closes the pod's listeners, when it has lingered, tells peers to go elsewhere, and waits for its connections to
    /// end; those still open at the limit are cut. What this gives is only the waiting: a pod that is served from now on
    /// under the same uid is another one.
    pub fn retire(&self, uid: &str, leave: &Leave) -> impl Future<Output = ()> + Send + use<> {
        let mut waits = Vec::new();
        for door in &*self.doors {
            let (done, wait) = oneshot::channel();
            if send(door, Order::Retire(uid.into(), leave.clone(), done)).is_ok() {
                waits.push(wait);
            }
        }
        async move {
            for wait in waits {
                // A shard that is gone serves nobody.
                wait.await.ok();
            }
        }
    }

    /// Puts a question to the books of every shard and collects the answers.
    pub async fn ask<T: Send + 'static>(&self, question: impl Fn(&Rc<Books>) -> T + Clone + Send + 'static) -> Vec<T> {
        let mut answers = Vec::new();
        for door in &*self.doors {
            let (reply, answer) = oneshot::channel();
            let question = question.clone();
            let ask: Ask = Box::new(move |books| drop(reply.send(question(books))));
            if send(door, Order::Ask(ask)).is_ok()
                && let Ok(answer) = answer.await
            {
                answers.push(answer);
            }
        }
        answers
    }

    /// Tells the shards of connections that the kernel carries: each hears of those that it has granted, and all are told, so
    /// that it is seen whether they live.
    pub fn carried(&self, events: Vec<Event>, token: &Arc<()>) -> io::Result<()> {
        let mut sorted: Vec<Vec<Event>> = self.doors.iter().map(|_| Vec::new()).collect();
        let count = self.doors.len();
        for event in events {
            sorted[event.slot.index as usize % count].push(event);
        }
        let mut told = self.doors.iter().zip(sorted);
        told.try_for_each(|(door, events)| send(door, Order::Carried(events, Arc::clone(token))))
    }

    /// Ends the shards' threads; pods that were not retired are cut.
    pub fn stop(&self) {
        for door in &*self.doors {
            // A shard that is gone has stopped.
            send(door, Order::Stop).ok();
        }
    }
}

impl Threads {
    /// Waits for the threads, after [`Shards::stop`].
    pub fn join(self) {
        for thread in self.0 {
            if thread.join().is_err() {
                tracing::error!("a shard's thread panicked");
            }
        }
    }
}

async fn run(
    (deps, books, index): (Deps, Rc<Books>, u32),
    (placement, doors): (Placement, Arc<[Door]>),
    mut orders: mpsc::UnboundedReceiver<Order>,
    counts: Option<Arc<Turnover>>,
) {
    let asker = deps.demand.map(|demand| Rc::new(Asker::new(demand, deps.worlds.clone())));
    let (worlds, verdicts) = local_copies(deps.worlds);
    let shared = Shared {
        network: deps.network,
        worlds,
        verdicts,
        certs: deps.certs,
        dns: Rc::new(dns::Shard::new(&deps.dns)),
        books,
        handshakes: Rc::new(Semaphore::new(HANDSHAKES)),
        names: Rc::new(Names::new(deps.lookups)),
        asker,
        habits: deps.habits,
        locals: Rc::new(Locals::new(deps.same_node)),
        shortcuts: Shortcuts::new(deps.direct, index),
        placement: Rc::new(placement),
        doors,
    };
    drop(tokio::task::spawn_local(Rc::clone(&shared.shortcuts).follow()));
    let placement = Rc::clone(&shared.placement);
    drop(tokio::task::spawn_local(async move { placement.keep_home().await }));
    let mut pods: HashMap<Arc<str>, Rc<Pod>> = HashMap::new();
    let mut leaving: HashMap<Arc<str>, Weak<Pod>> = HashMap::new();
    while let Some(order) = orders.recv().await {
        match order {
            Order::Serve(pod, listeners, done) => {
                let served = serve(&shared, &mut pods, pod, listeners);
                if let (Some(counts), Ok(())) = (&counts, &served) {
                    counts.started.fetch_add(1, Relaxed);
                }
                // The asker may have given up; the pod is served all the same until it is retired.
                done.send(served).ok();
            }
            Order::Retire(uid, leave, done) => {
                let pod = pods.remove(&uid);
                leaving.retain(|_, pod| pod.strong_count() > 0);
                if let Some(pod) = &pod {
                    leaving.insert(uid, Rc::downgrade(pod));
                }
                if let (Some(counts), Some(_)) = (&counts, &pod) {
                    counts.stopped.fetch_add(1, Relaxed);
                }
                drop(tokio::task::spawn_local(async move {
                    if let Some(pod) = pod {
                        pod.leave(leave).await;
                    }
                    done.send(()).ok();
                }));
            }
            Order::Take(uid, moving, from) => {
                let found = pods.get(&uid).cloned().or_else(|| leaving.get(&uid)?.upgrade());
                welcome(&shared, (uid, found), moving, from);
            }
            Order::Ask(ask) => ask(&shared.books),
            Order::Carried(events, taken) => {
                shared.shortcuts.take(&events);
                drop(taken);
            }
            Order::Stop => return,
        }
    }
}

fn serve(
    shared: &Shared,
    pods: &mut HashMap<Arc<str>, Rc<Pod>>,
    local: LocalPod,
    mut listeners: PodListeners,
) -> io::Result<()> {
    let cookie = netns_cookie(listeners.hbone.as_fd())?;
    let uid = Arc::clone(&local.spec.uid);
    let pod = Pod::new(local, cookie, shared);
    if let Some(sockets) = listeners.dns.take() {
        shared.dns.serve(answers_names(&pod), sockets)?;
    }
    pod.serve(listeners)?;
    shared.locals.insert(&pod);
    if let Some(former) = pods.insert(uid, pod) {
        let limit = Limit::new(Some(SUPERSEDED)).watch();
        drop(tokio::task::spawn_local(async move { former.retire(limit).await }));
    }
    Ok(())
}

/// What the DNS service needs of a pod.
fn answers_names(pod: &Pod) -> dns::Local<World> {
    let LocalPod { spec, netns } = &pod.local;
    dns::Local {
        name: PodName {
            namespace: spec.namespace.clone(),
            name: spec.name.clone(),
            service_account: spec.service_account.clone(),
        },
        worlds: pod.worlds.clone(),
        outlet: Box::new(netns.clone()),
        life: Life { tasks: pod.tasks.clone(), stop: pod.leaving.clone(), cut: pod.cut.clone() },
    }
}

/// Watches of this shard's own, fed from the shared one: reading them per connection touches no other shard's cache line.
/// The second changes only when an open connection may have to be judged anew, so that the many changes of a large mesh
/// wake nobody who waits for that.
fn local_copies(mut shared: watch::Receiver<Arc<World>>) -> (watch::Receiver<Arc<World>>, watch::Receiver<Arc<World>>) {
    let first = Arc::clone(&shared.borrow_and_update());
    let ((worlds, reader), (verdicts, judged)) = (watch::channel(Arc::clone(&first)), watch::channel(first));
    drop(tokio::task::spawn_local(async move {
        while shared.changed().await.is_ok() {
            let world = Arc::clone(&shared.borrow_and_update());
            if !verdicts.borrow().judges_like(&world) {
                verdicts.send_replace(Arc::clone(&world));
            }
            worlds.send_replace(world);
        }
        // The source is gone (shutdown): what is in force stays in force.
        worlds.closed().await;
    }));
    (reader, judged)
}

#[cfg(test)]
mod tests;
