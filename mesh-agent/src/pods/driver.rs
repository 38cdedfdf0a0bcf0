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
pub use crate::model::pod::{PodState, PodStatus};
use crate::model::{Captured, PodSpec};
use crate::proxy::shard::{LocalPod, Shards};

/// How long a failed pod waits until it is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// The first wait; it doubles.
    pub first: Duration,
    /// No wait is longer.
    pub cap: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { first: Duration::from_millis(500), cap: Duration::from_secs(30) }
    }
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
    pub retry: Retry,
}

/// The driver's parts.
#[derive(Debug)]
pub struct Driver {
    capture: Arc<dyn Capture>,
    shards: Shards,
    settings: Settings,
    pods: HashMap<Arc<str>, PodStatus>,
    statuses: watch::Sender<Vec<PodStatus>>,
    /// Pods whose connections are ending; each gives its uid when they have, or none if the pod itself stays.
    leaving: FuturesUnordered<BoxFuture<'static, Option<Arc<str>>>>,
    /// Pods left by a former agent and not dealt with yet.
    left_behind: Vec<Arc<str>>,
}

impl Driver {
    /// A driver, and the statuses it will report.
    pub fn new(
        capture: Arc<dyn Capture>,
        shards: Shards,
        settings: Settings,
    ) -> (Self, watch::Receiver<Vec<PodStatus>>) {
        let (statuses, reader) = watch::channel(Vec::new());
        let left_behind = capture.left_behind();
        let (pods, leaving) = (HashMap::new(), FuturesUnordered::new());
        (Self { capture, shards, settings, pods, statuses, leaving, left_behind }, reader)
    }

    /// Follows `desired` until `stop`, then ends as the settings say.
    pub async fn run(mut self, mut desired: watch::Receiver<Arc<Vec<Arc<PodSpec>>>>, stop: CancellationToken) {
        let Retry { first, cap } = self.settings.retry;
        let mut wait = first;
        while !stop.is_cancelled() {
            let wanted = Arc::clone(&desired.borrow_and_update());
            let settled = self.converge(&wanted).await;
            if settled {
                wait = first;
            }
            tokio::select! {
                changed = desired.changed() => {
                    if changed.is_err() {
                        stop.cancelled().await;
                    }
                }
                Some(left) = self.leaving.next() => self.left(left).await,
                () = tokio::time::sleep(wait), if !settled => wait = (wait * 2).min(cap),
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
    /// traces. A change that failed and was taken back is none. A pod that is wanted anew as it is has what is wanted.
    fn settle(&mut self, desired: &[Arc<PodSpec>]) {
        self.pods.retain(|uid, pod| {
            let wanted = desired.iter().find(|spec| spec.uid == *uid);
            if let Some(wanted) = wanted.filter(|wanted| pod.state.is_captured() && **wanted == pod.spec) {
                pod.spec = Arc::clone(wanted);
            }
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
            Step::Replace(spec) => {
                let old = self.shards.retire(&spec.uid, self.settings.drain);
                self.leaving.push(Box::pin(async move {
                    old.await;
                    None
                }));
                let result = self.enrol(&spec).await;
                self.note(spec, result)
            }
            Step::Withdraw(uid) => {
                let drain = self.drain(&uid);
                self.release(&uid, drain).await;
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

    /// How long the pod's connections may go on when it is withdrawn. Rules are taken away only with the pod itself, or after
    /// the mesh was left: there is nothing to wait for.
    fn drain(&self, uid: &str) -> Duration {
        match self.pods.get(uid).map(|pod| &pod.spec.captured) {
            Some(Captured::ByRules) => Duration::ZERO,
            Some(Captured::ByPrograms(_)) | None => self.settings.drain,
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
                tracing::info!(pod = %spec.uid, netns = %spec.netns, ?state, "pod enrolled");
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
        let (retired, uid) = (self.shards.retire(uid, drain), Arc::clone(uid));
        self.leaving.push(Box::pin(async move {
            retired.await;
            Some(uid)
        }));
    }

    /// The last connection of a pod, or of its life in another namespace, has ended.
    async fn left(&mut self, uid: Option<Arc<str>>) {
        if let Some(uid) = uid {
            // A failure is logged where it happens, and tried again by the next round.
            self.remove(uid).await.ok();
        }
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
        // Who waits for the fate of a spec hears of it even if an equal one has met the same before.
        let same = |a: &PodStatus, b: &PodStatus| Arc::ptr_eq(&a.spec, &b.spec) && a.state == b.state;
        self.statuses.send_if_modified(|old| {
            let changed = old.len() != all.len() || !old.iter().zip(&all).all(|(a, b)| same(a, b));
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
        while let Some(left) = self.leaving.next().await {
            self.left(left).await;
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
