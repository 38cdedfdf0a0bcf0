//! The client of Istio's CNI agent: it hands over the pods of this node, with their network namespaces and identities, so
//! that this agent serves them in the place of Istio's node proxy (protocol note, section 10).
//!
//! [`session`] is the protocol without I/O, [`wire`] its messages as bytes, [`socket`] the Unix socket with descriptors
//! beside the bytes. Here they run: what is to be served goes out as a watch, and how each pod fares comes back as
//! one, from which the CNI agent gets its answers.

mod session;
mod socket;
mod wire;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::admin::ready::{Gate, Ready};
use crate::model::PodSpec;
use crate::model::pod::{PodState, PodStatus};
use crate::sys::netns::Netns;
use session::{Answer, Session, Violation};
use socket::{Packet, Socket};

/// How long a pod may take to be served before the CNI agent, which waits for 5 s, is told that it is not served yet.
const ANSWER: Duration = Duration::from_secs(4);
/// The first wait before another connection; it doubles.
const RECONNECT: Duration = Duration::from_millis(10);
const RECONNECT_CAP: Duration = Duration::from_secs(15);
/// What the readiness page shows from the end of a connection until the next one's list is complete and served.
const GATE: &str = "CNI agent";

/// The pods that are to be served; no pods until the CNI agent has named some.
pub type Pods = watch::Receiver<Arc<Vec<Arc<PodSpec>>>>;

/// The client's parts. It is the one writer of [`Pods`].
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    session: Session,
    pods: watch::Sender<Arc<Vec<Arc<PodSpec>>>>,
    statuses: watch::Receiver<Vec<PodStatus>>,
    ready: Ready,
    /// Unmarked until everything is served, and again from the end of a connection on.
    gate: Option<Gate>,
    reconnect: Backoff,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("it cannot be reached: {0}")]
    Unreachable(io::Error),
    #[error("the CNI agent has closed the connection")]
    Closed,
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
    #[error("the CNI agent breaks the protocol: {0}")]
    Violation(#[from] Violation),
}

impl Client {
    /// A client of the socket at `path`, and the pods that it will want served. `statuses` says how these fare. When all of
    /// them are served the first time, `gate` is marked; after that there is one in `ready` while there is no connection.
    pub fn new(path: &Path, statuses: watch::Receiver<Vec<PodStatus>>, ready: &Ready, gate: Gate) -> (Self, Pods) {
        let (pods, wanted) = watch::channel(Arc::default());
        let client = Self {
            path: path.to_owned(),
            session: Session::default(),
            pods,
            statuses,
            ready: ready.clone(),
            gate: Some(gate),
            reconnect: Backoff::default(),
        };
        (client, wanted)
    }

    /// Keeps connected, for ever.
    pub async fn run(mut self) {
        let mut told = String::new();
        loop {
            let Err(ended) = self.converse().await;
            self.session.disconnect();
            self.gate.get_or_insert_with(|| self.ready.gate(GATE));
            // An agent that is not there yet is told once, not at every try.
            let text = ended.to_string();
            if text == told && matches!(ended, Ended::Unreachable(_)) {
                tracing::debug!(socket = %self.path.display(), error = text, "no connection to the CNI agent");
            } else {
                tracing::warn!(socket = %self.path.display(), error = text, "no connection to the CNI agent");
                told = text;
            }
            tokio::time::sleep(self.reconnect.wait()).await;
        }
    }

    /// One connection from its hello to its end.
    async fn converse(&mut self) -> Result<std::convert::Infallible, Ended> {
        let socket = Socket::connect(&self.path).map_err(Ended::Unreachable)?;
        self.look();
        self.session.connect();
        self.publish();
        socket.send(&wire::hello()).await?;
        loop {
            let packet = tokio::select! {
                packet = socket.receive() => packet?.ok_or(Ended::Closed)?,
                changed = self.statuses.changed() => {
                    if changed.is_err() {
                        // Without a driver nothing is served any more, and this task is about to be ended.
                        std::future::pending::<()>().await;
                    }
                    self.look();
                    continue;
                }
            };
            let result = self.take(packet).await?;
            socket.send(&wire::ack(&result)).await?;
            if self.session.is_live() {
                self.reconnect = Backoff::default();
            }
        }
    }

    /// Does what a packet asks for and gives what is to be acknowledged.
    async fn take(&mut self, Packet { bytes, descriptors }: Packet) -> Result<Result<(), String>, Ended> {
        self.look();
        let handles = descriptors.into_iter().map(Netns::from_fd).collect::<io::Result<_>>()?;
        let answer = self.session.receive(&bytes, handles)?;
        self.publish();
        let result = match answer {
            Answer::Ok => Ok(()),
            Answer::Error(error) => Err(error),
            Answer::Of(spec) => self.fate(&spec).await,
            Answer::Without(spec) => {
                self.end(&spec).await;
                Ok(())
            }
        };
        self.look();
        if let Err(error) = &result {
            tracing::warn!(error, "a pod of the CNI agent is not served");
        }
        Ok(result)
    }

    /// Waits until it is known whether the pod is served.
    async fn fate(&mut self, spec: &Arc<PodSpec>) -> Result<(), String> {
        let known = self.statuses.wait_for(|pods| fate(pods, spec).is_some());
        match tokio::time::timeout(ANSWER, known).await {
            Ok(Ok(pods)) => fate(&pods, spec).unwrap_or(Ok(())),
            Ok(Err(_)) => Err("the agent is stopping".to_owned()),
            Err(_) => Err(format!("pod {} is not served within {ANSWER:?}; it is being tried on", spec.uid)),
        }
    }

    /// Waits until the pod's end has begun. So the driver sees it even if the pod is handed over again at once.
    async fn end(&mut self, spec: &Arc<PodSpec>) {
        let ended = |pods: &Vec<PodStatus>| matches!(fate(pods, spec), None | Some(Err(_)));
        // Too late or not, there is nothing else to answer.
        tokio::time::timeout(ANSWER, self.statuses.wait_for(ended)).await.ok();
    }

    /// Tells the session which pods are served, and the readiness page when there is nothing left to wait for.
    fn look(&mut self) {
        for pod in self.statuses.borrow_and_update().iter().filter(|pod| pod.state.is_captured()) {
            self.session.served(&pod.spec);
        }
        if self.session.is_live()
            && !self.session.is_pending()
            && let Some(gate) = self.gate.take()
        {
            gate.mark();
        }
    }

    fn publish(&self) {
        let wanted = self.session.pods();
        let same =
            |old: &[Arc<PodSpec>]| old.len() == wanted.len() && old.iter().zip(&wanted).all(|(a, b)| Arc::ptr_eq(a, b));
        self.pods.send_if_modified(|pods| {
            let changed = !same(pods);
            if changed {
                *pods = Arc::new(wanted.clone());
            }
            changed
        });
    }
}

/// How this very spec fares, once that is known.
fn fate(pods: &[PodStatus], spec: &Arc<PodSpec>) -> Option<Result<(), String>> {
    let pod = pods.iter().find(|pod| Arc::ptr_eq(&pod.spec, spec))?;
    match &pod.state {
        PodState::Enrolled | PodState::Adopted | PodState::Outdated(_) => Some(Ok(())),
        PodState::Failed(error) => Some(Err(error.clone())),
        PodState::Draining => None,
    }
}

/// Waits between connections.
#[derive(Debug)]
struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: RECONNECT }
    }
}

impl Backoff {
    /// The next wait, up to half of it taken off by chance: the nodes of a cluster do not come all at once.
    fn wait(&mut self) -> Duration {
        let full = self.next;
        self.next = (full * 2).min(RECONNECT_CAP);
        full.mul_f64(1.0 - fastrand::f64() / 2.0)
    }
}

#[cfg(test)]
mod tests;
