//! The one task that has the node's pods from Kubernetes: it runs [`Members`], asks and writes for it, and publishes what
//! the driver is to want.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;

use super::driver::Ended;
use super::find::{self, Found, Look, Places};
use super::members::{Act, Members, Number, Plugin, Probers, Remark};
use crate::cni::{Answer, Asked, Request, Sandbox};
use crate::kubernetes::{Api, Picture, Pod};
use crate::model::PodSpec;
use crate::model::pod::PodStatus;
use crate::sys::netlink::address::source_towards;
use crate::sys::netns::Netns;
use crate::telemetry::announced::Announced;

/// Annotations that are written at once.
const WRITES: usize = 8;
/// Pods that are asked for at once.
const QUESTIONS: usize = 16;

/// The API server, as far as it is asked and written to. Errors are sentences.
pub trait Cluster: Send + Sync + 'static {
    /// One pod of this node as it is now; none if there is none of that name.
    fn pod(&self, namespace: &str, name: &str) -> impl Future<Output = Result<Option<Pod>, String>> + Send;
    /// Writes or removes the annotation that tells of the pod's capture.
    fn mark(&self, pod: &Pod, mark: Option<&str>) -> impl Future<Output = Result<(), String>> + Send;
}

impl Cluster for Api {
    async fn pod(&self, namespace: &str, name: &str) -> Result<Option<Pod>, String> {
        Self::pod(self, namespace, name).await.map_err(|error| error.to_string())
    }

    async fn mark(&self, pod: &Pod, mark: Option<&str>) -> Result<(), String> {
        Self::mark(self, pod, mark).await.map_err(|error| error.to_string())
    }
}

/// What the node is like.
#[derive(Clone, Debug)]
pub struct Settings {
    pub places: Places,
    /// Where probes come from, besides the addresses that the node's stack would choose.
    pub addresses: Vec<IpAddr>,
}

/// What goes in.
#[derive(Debug)]
pub struct Inputs<C> {
    pub cluster: C,
    pub pictures: watch::Receiver<Option<Arc<Picture>>>,
    /// Questions of the CNI plugin, if the node has it.
    pub asked: Option<mpsc::Receiver<Asked>>,
    /// How the pods fare that are wanted.
    pub statuses: watch::Receiver<Vec<PodStatus>>,
    /// The pods that a former agent left enrolled.
    pub former: Vec<PodSpec>,
    pub announced: Announced,
}

/// What comes out.
#[derive(Clone, Debug)]
pub struct Outputs {
    /// What the driver is to want. Until the first picture these are the former agent's pods.
    pub pods: watch::Receiver<Arc<Vec<Arc<PodSpec>>>>,
    pub ended: watch::Receiver<Ended>,
    pub remarks: watch::Receiver<Arc<Vec<Remark>>>,
}

/// The task's parts. It is the one writer of its [`Outputs`].
pub struct Source<C> {
    cluster: Arc<C>,
    places: Places,
    pictures: watch::Receiver<Option<Arc<Picture>>>,
    asked: Option<mpsc::Receiver<Asked>>,
    statuses: watch::Receiver<Vec<PodStatus>>,
    announced: Announced,
    members: Members,
    replies: BTreeMap<Number, oneshot::Sender<Answer>>,
    last: Number,
    work: FuturesUnordered<BoxFuture<'static, Done>>,
    questions: Arc<Semaphore>,
    writes: Arc<Semaphore>,
    pods: watch::Sender<Arc<Vec<Arc<PodSpec>>>>,
    ended: watch::Sender<Ended>,
    remarks: watch::Sender<Arc<Vec<Remark>>>,
}

/// Work that has ended.
enum Done {
    Told(Number, Result<Option<Pod>, String>),
    Marked(Arc<str>, Result<(), String>),
    Looked(Found),
}

impl<C: Cluster> Source<C> {
    pub fn new(inputs: Inputs<C>, settings: Settings) -> (Self, Outputs) {
        let Inputs { cluster, pictures, asked, statuses, former, announced } = inputs;
        let probers = Probers { towards, others: settings.addresses };
        let plugin = if asked.is_some() { Plugin::Present } else { Plugin::Absent };
        let former = former.into_iter().map(Arc::new).collect();
        let members = Members::new(probers, plugin, former, Instant::now());
        let (pods, wanted) = watch::channel(Arc::new(members.wanted()));
        let (ended, gone) = watch::channel(Ended::default());
        let (remarks, said) = watch::channel(Arc::default());
        let source = Self {
            cluster: Arc::new(cluster),
            places: settings.places,
            pictures,
            asked,
            statuses,
            announced,
            members,
            replies: BTreeMap::new(),
            last: Number(0),
            work: FuturesUnordered::new(),
            questions: Arc::new(Semaphore::new(QUESTIONS)),
            writes: Arc::new(Semaphore::new(WRITES)),
            pods,
            ended,
            remarks,
        };
        (source, Outputs { pods: wanted, ended: gone, remarks: said })
    }

    /// Follows what it is told, for ever.
    pub async fn run(mut self) {
        self.pictures.mark_changed();
        loop {
            self.hang_up();
            let now = Instant::now();
            for act in self.members.acts(now) {
                self.start(act);
            }
            self.publish();
            let alarm = self.members.next(now);
            tokio::select! {
                Ok(()) = self.pictures.changed() => self.see(),
                Ok(()) = self.statuses.changed() => self.members.statuses(&self.statuses.borrow_and_update()),
                Some(asked) = next(&mut self.asked) => self.take(asked),
                Some(done) = self.work.next() => self.finish(done),
                () = tokio::time::sleep_until(alarm.unwrap_or(now)), if alarm.is_some() => {}
                // Those who would bring news have ended, and so is this task about to.
                else => return,
            }
        }
    }

    fn see(&mut self) {
        let picture = self.pictures.borrow_and_update().clone();
        if let Some(picture) = picture {
            self.members.picture(&picture);
        }
    }

    /// Forgets questions whose askers wait no more.
    fn hang_up(&mut self) {
        for (number, _) in self.replies.extract_if(.., |_, reply| reply.is_closed()) {
            self.members.forget(number);
        }
    }

    fn take(&mut self, Asked { request, reply }: Asked) {
        let now = Instant::now();
        let answer = match request {
            Request::Add(sandbox) | Request::Check(sandbox) => return self.announced(sandbox, reply, now),
            Request::Delete { container, uid } => {
                self.members.deleted(&container, uid.as_deref(), now);
                Answer::Member
            }
            Request::Gc { containers } => {
                self.members.valid(&containers);
                Answer::Member
            }
            Request::Status if self.pictures.borrow().is_some() => Answer::Member,
            Request::Status => Answer::Refused("the API server has not told the pods of this node yet".to_owned()),
        };
        // Whoever has hung up wants no answer.
        reply.send(answer).ok();
    }

    fn announced(&mut self, sandbox: Sandbox, reply: oneshot::Sender<Answer>, now: Instant) {
        match open(&sandbox.netns) {
            Ok(netns) => {
                self.last = Number(self.last.0 + 1);
                self.replies.insert(self.last, reply);
                self.members.announced(self.last, sandbox, netns, now);
            }
            Err(error) => drop(reply.send(Answer::Refused(error))),
        }
    }

    fn start(&mut self, act: Act) {
        let cluster = Arc::clone(&self.cluster);
        let work = match act {
            Act::Answer { question, answer } => {
                if let Some(reply) = self.replies.remove(&question) {
                    reply.send(answer).ok();
                }
                return;
            }
            Act::Ask { question, namespace, name } => {
                limited(&self.questions, async move { Done::Told(question, cluster.pod(&namespace, &name).await) })
            }
            Act::Mark { pod, mark } => limited(&self.writes, async move {
                let result = cluster.mark(&pod, mark).await;
                if let Err(error) = &result {
                    let pod = format!("{}/{}", pod.namespace, pod.name);
                    tracing::warn!(pod, ?mark, error, "the pod's annotation was not written");
                }
                Done::Marked(Arc::clone(&pod.uid), result)
            }),
            Act::Missed { pod, bytes } => {
                let pod = format!("{}/{}", pod.namespace, pod.name);
                tracing::warn!(pod, bytes, "the pod ran before it was captured: the runtime has not called the plugin");
                self.announced.missed(bytes);
                return;
            }
            Act::Look(look) => self::look(self.places.clone(), look).map(Done::Looked).boxed(),
        };
        self.work.push(work);
    }

    fn finish(&mut self, done: Done) {
        let now = Instant::now();
        match done {
            Done::Told(question, result) => self.members.told(question, result),
            Done::Marked(uid, result) => self.members.marked(&uid, result, now),
            Done::Looked(found) => self.members.looked(found, now),
        }
    }

    /// That pods have ended is said before they are wanted no more.
    fn publish(&self) {
        let (ended, wanted, said) = (self.members.ended(), self.members.wanted(), self.members.remarks());
        replace(&self.ended, ended, |old, new| **old == *new);
        replace(&self.pods, wanted, |old, new| {
            old.len() == new.len() && old.iter().zip(new).all(|(a, b)| Arc::ptr_eq(a, b))
        });
        replace(&self.remarks, said, |old, new| **old == *new);
    }
}

impl<C> std::fmt::Debug for Source<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("members", &self.members).finish_non_exhaustive()
    }
}

fn replace<T>(sender: &watch::Sender<Arc<T>>, new: T, same: impl Fn(&Arc<T>, &T) -> bool) {
    sender.send_if_modified(|old| {
        let changed = !same(old, &new);
        if changed {
            *old = Arc::new(new);
        }
        changed
    });
}

/// The next question; never, if there is nobody to ask.
async fn next(asked: &mut Option<mpsc::Receiver<Asked>>) -> Option<Asked> {
    match asked {
        Some(asked) => asked.recv().await,
        None => None,
    }
}

/// Work that waits for its turn.
fn limited(turns: &Arc<Semaphore>, work: impl Future<Output = Done> + Send + 'static) -> BoxFuture<'static, Done> {
    let turns = Arc::clone(turns);
    Box::pin(async move {
        let _turn = turns.acquire_owned().await;
        work.await
    })
}

async fn look(places: Places, look: Look) -> Found {
    let sought = look.clone();
    match tokio::task::spawn_blocking(move || find::look(&places, &look)).await {
        Ok(found) => found,
        Err(error) => Found::failed(&sought, &error.to_string()),
    }
}

fn open(path: &Path) -> Result<Netns, String> {
    Netns::open(path)
        .map_err(|error| format!("the pod's network namespace {} cannot be opened: {error}", path.display()))
}

fn towards(ip: IpAddr) -> Option<IpAddr> {
    source_towards(ip).unwrap_or_else(|error| {
        tracing::warn!(%ip, %error, "it is not known from which address the node speaks to a pod: probes may be denied");
        None
    })
}

#[cfg(test)]
mod tests;
