//! The one task that owns this node's pods.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::capture::{Capture, CaptureError, Enrolled};
use super::plan::{Observed, Step, plan};
use crate::bpf::object::Origin;
use crate::model::PodSpec;
use crate::proxy::shard::{LocalPod, Shards};

/// First wait before a failed pod is tried again; it doubles up to [`RETRY_CAP`].
const RETRY: Duration = Duration::from_millis(500);
const RETRY_CAP: Duration = Duration::from_secs(30);

/// How a pod is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodState {
    Enrolled,
    /// A former agent's capture was taken over.
    Adopted,
    /// Captured as it was: the last change could not be made.
    Outdated(String),
    Draining,
    Failed(String),
}

impl PodState {
    /// Whether the pod's new connections are taken.
    pub fn is_captured(&self) -> bool {
        matches!(self, Self::Enrolled | Self::Adopted | Self::Outdated(_))
    }
}

/// One pod's state, for status and readiness.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodStatus {
    pub spec: Arc<PodSpec>,
    pub state: PodState,
}

/// What happens to the capture when the agent ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnShutdown {
    /// It stays in force: nothing leaves in plaintext until the next start.
    #[default]
    Keep,
    Withdraw,
}

/// How the driver works.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub on_shutdown: OnShutdown,
    /// How long connections of a pod that is being withdrawn may go on.
    pub drain: Duration,
}

/// The driver's parts.
#[derive(Debug)]
pub struct Driver<C> {
    capture: Arc<C>,
    shards: Shards,
    settings: Settings,
    pods: HashMap<Arc<str>, PodStatus>,
    statuses: watch::Sender<Vec<PodStatus>>,
    /// Pods whose connections are ending; each gives its uid when they have.
    leaving: FuturesUnordered<BoxFuture<'static, Arc<str>>>,
    /// Pods left by a former agent and not dealt with yet.
    left_behind: Vec<Arc<str>>,
}

impl<C: Capture> Driver<C> {
    /// A driver, and the statuses it will report.
    pub fn new(capture: Arc<C>, shards: Shards, settings: Settings) -> (Self, watch::Receiver<Vec<PodStatus>>) {
        let (statuses, reader) = watch::channel(Vec::new());
        let left_behind = capture.left_behind();
        let (pods, leaving) = (HashMap::new(), FuturesUnordered::new());
        (Self { capture, shards, settings, pods, statuses, leaving, left_behind }, reader)
    }

    /// Follows `desired` until `stop`, then ends as the settings say.
    pub async fn run(mut self, mut desired: watch::Receiver<Arc<Vec<Arc<PodSpec>>>>, stop: CancellationToken) {
        let mut wait = RETRY;
        while !stop.is_cancelled() {
            let wanted = Arc::clone(&desired.borrow_and_update());
            let settled = self.converge(&wanted).await;
            if settled {
                wait = RETRY;
            }
            tokio::select! {
                changed = desired.changed() => {
                    if changed.is_err() {
                        stop.cancelled().await;
                    }
                }
                // A failure is noted and tried again by the next round.
                Some(uid) = self.leaving.next() => drop(self.remove(uid).await),
                () = tokio::time::sleep(wait), if !settled => wait = (wait * 2).min(RETRY_CAP),
                () = stop.cancelled() => {}
            }
        }
        self.end().await;
    }

    /// Runs the steps once; tells whether all succeeded.
    async fn converge(&mut self, desired: &[Arc<PodSpec>]) -> bool {
        let mut settled = true;
        self.settle(desired);
        for step in plan(desired, &self.observed()) {
            settled &= self.execute(step).await.is_ok();
            self.report();
        }
        self.report();
        settled
    }

    /// Ends what `desired` has made pointless. A pod that failed and is no longer wanted is not tried again; it may have left
    /// traces. A change that failed and was taken back is none.
    fn settle(&mut self, desired: &[Arc<PodSpec>]) {
        self.pods.retain(|uid, pod| {
            let wanted = desired.iter().find(|spec| spec.uid == *uid);
            match &pod.state {
                PodState::Failed(_) if wanted.is_none() => {
                    self.left_behind.push(Arc::clone(uid));
                    return false;
                }
                PodState::Outdated(_) if wanted == Some(&pod.spec) => pod.state = PodState::Enrolled,
                PodState::Enrolled
                | PodState::Adopted
                | PodState::Outdated(_)
                | PodState::Draining
                | PodState::Failed(_) => {}
            }
            true
        });
    }

    fn observed(&self) -> Vec<Observed> {
        let present = self.pods.values().filter_map(|pod| match pod.state {
            PodState::Enrolled | PodState::Adopted | PodState::Outdated(_) => {
                Some(Observed::Enrolled(Arc::clone(&pod.spec)))
            }
            PodState::Draining => Some(Observed::Leaving(Arc::clone(&pod.spec.uid))),
            PodState::Failed(_) => None,
        });
        present.chain(self.left_behind.iter().map(|uid| Observed::LeftBehind(Arc::clone(uid)))).collect()
    }

    async fn execute(&mut self, step: Step) -> Result<(), ()> {
        match step {
            Step::Enrol(spec) => {
                let result = self.enrol(&spec).await;
                self.left_behind.retain(|uid| *uid != spec.uid);
                self.note(spec, result)
            }
            Step::Reconfigure(spec) => {
                let (capture, changed) = (Arc::clone(&self.capture), Arc::clone(&spec));
                match blocking(move || capture.reconfigure(&changed)).await {
                    Ok(()) => self.note(spec, Ok(PodState::Enrolled)),
                    Err(error) => self.keep(&spec, &error),
                }
            }
            Step::Withdraw(uid) => {
                self.release(&uid, self.settings.drain).await;
                Ok(())
            }
            Step::Evict(uid) => {
                self.shards.retire(&uid, Duration::ZERO).await;
                self.remove(uid).await
            }
            Step::Discard(uid) => {
                let (capture, gone) = (Arc::clone(&self.capture), Arc::clone(&uid));
                let result = blocking(move || capture.withdraw(&gone)).await;
                if result.is_ok() {
                    self.left_behind.retain(|left| *left != uid);
                }
                result.map_err(|error| tracing::warn!(pod = %uid, %error, "cannot remove what was left of a pod"))
            }
        }
    }

    async fn enrol(&self, spec: &Arc<PodSpec>) -> Result<PodState, CaptureError> {
        let (capture, wanted, shards) = (Arc::clone(&self.capture), Arc::clone(spec), self.shards.count());
        let Enrolled { netns, listeners, origin } = blocking(move || capture.enrol(&wanted, shards)).await?;
        let pod = LocalPod { spec: Arc::clone(spec), netns };
        let serving = self.shards.serve(pod, listeners).await;
        serving.map_err(|cause| CaptureError::System { what: "handing the pod to the shards", cause })?;
        Ok(match origin {
            Origin::Fresh => PodState::Enrolled,
            Origin::Adopted => PodState::Adopted,
        })
    }

    fn note(&mut self, spec: Arc<PodSpec>, result: Result<PodState, CaptureError>) -> Result<(), ()> {
        let outcome = match &result {
            Ok(state) => {
                tracing::info!(pod = %spec.uid, netns = %spec.netns.display(), ?state, "pod enrolled");
                Ok(())
            }
            Err(error) => {
                tracing::error!(pod = %spec.uid, %error, "pod not enrolled");
                Err(())
            }
        };
        let state = result.unwrap_or_else(|error| PodState::Failed(error.to_string()));
        self.pods.insert(Arc::clone(&spec.uid), PodStatus { spec, state });
        outcome
    }

    /// A change that cannot be made leaves the pod as it is.
    fn keep(&mut self, spec: &PodSpec, error: &CaptureError) -> Result<(), ()> {
        tracing::error!(pod = %spec.uid, %error, "the pod's change was not made");
        if let Some(pod) = self.pods.get_mut(&spec.uid) {
            pod.state = PodState::Outdated(error.to_string());
        }
        Err(())
    }

    /// New connections pass; open ones get time to end, which is waited for among `leaving`.
    async fn release(&mut self, uid: &Arc<str>, drain: Duration) {
        if let Some(pod) = self.pods.get_mut(uid) {
            pod.state = PodState::Draining;
        }
        self.report();
        let (capture, leaving) = (Arc::clone(&self.capture), Arc::clone(uid));
        if let Err(error) = blocking(move || capture.release(&leaving)).await {
            tracing::debug!(pod = %uid, %error, "the pod's programs are gone already");
        }
        let (shards, uid) = (self.shards.clone(), Arc::clone(uid));
        self.leaving.push(Box::pin(async move {
            shards.retire(&uid, drain).await;
            uid
        }));
    }

    /// Removes every trace of a pod that no connection uses any more.
    async fn remove(&mut self, uid: Arc<str>) -> Result<(), ()> {
        let (capture, gone) = (Arc::clone(&self.capture), Arc::clone(&uid));
        let result = blocking(move || capture.withdraw(&gone)).await;
        self.pods.remove(&uid);
        self.report();
        match result {
            Ok(()) => {
                tracing::info!(pod = %uid, "pod withdrawn");
                Ok(())
            }
            Err(error) => {
                tracing::error!(pod = %uid, %error, "pod not withdrawn completely");
                self.left_behind.push(uid);
                Err(())
            }
        }
    }

    fn report(&self) {
        let mut all: Vec<PodStatus> = self.pods.values().cloned().collect();
        all.sort_by(|a, b| a.spec.uid.cmp(&b.spec.uid));
        self.statuses.send_if_modified(|old| {
            let changed = *old != all;
            *old = all;
            changed
        });
    }

    async fn end(mut self) {
        let captured = self.pods.values().filter(|pod| pod.state.is_captured());
        let uids: Vec<Arc<str>> = captured.map(|pod| Arc::clone(&pod.spec.uid)).collect();
        match self.settings.on_shutdown {
            OnShutdown::Keep => {
                let retiring = uids.iter().map(|uid| self.shards.retire(uid, self.settings.drain));
                futures_util::future::join_all(retiring).await;
            }
            OnShutdown::Withdraw => {
                for uid in uids {
                    self.release(&uid, self.settings.drain).await;
                }
                self.settle(&[]);
                for uid in std::mem::take(&mut self.left_behind) {
                    self.execute(Step::Discard(uid)).await.ok();
                }
            }
        }
        while let Some(uid) = self.leaving.next().await {
            // Each failure is logged where it happens.
            self.remove(uid).await.ok();
        }
        self.shards.stop();
    }
}

/// Runs kernel work on a thread that may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CaptureError> + Send + 'static,
) -> Result<T, CaptureError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(CaptureError::System { what: "kernel work", cause: std::io::Error::other(error) }),
    }
}

#[cfg(test)]
mod tests;
