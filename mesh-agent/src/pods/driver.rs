//! The one task that owns this node's pods.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use self::leaving::Leaving;
pub use self::settings::{OnShutdown, Retry, Settings};
use self::work::{blocking, enrol};
use super::capture::{Capture, CaptureError};
use super::plan::{Observed, Step, plan};
pub use crate::model::pod::{PodState, PodStatus};
use crate::model::{Captured, PodSpec};
use crate::proxy::shard::{Leave, Shards};
use crate::sys::grace::{Expedited, GracePeriods};
use crate::task::Limit;

mod enrolling;
mod following;
mod leaving;
mod settings;
mod work;

/// Pods whose connections are not waited for any more, by uid: nothing of them runs on this node. A pod that is wanted is
/// none of them.
pub type Ended = Arc<BTreeSet<Arc<str>>>;

/// The pods that are to be enrolled.
type Desired = watch::Receiver<Arc<Vec<Arc<PodSpec>>>>;

/// The driver's parts.
#[derive(Debug)]
pub struct Driver {
    capture: Arc<dyn Capture>,
    shards: Shards,
    settings: Settings,
    pods: HashMap<Arc<str>, PodStatus>,
    statuses: watch::Sender<Vec<PodStatus>>,
    leaving: Leaving,
    ended: watch::Receiver<Ended>,
    /// Pods left by a former agent and not dealt with yet.
    left_behind: Vec<Arc<str>>,
    periods: Option<GracePeriods>,
    /// Short grace periods, and until when they are kept.
    quick: Option<(Expedited, Instant)>,
}

/// How long grace periods stay short after the last pod: one that comes alone is mostly not alone.
const KEPT: Duration = Duration::from_secs(10);

impl Driver {
    /// A driver, and the statuses it will report.
    pub fn new(
        capture: Arc<dyn Capture>,
        shards: Shards,
        settings: Settings,
    ) -> (Self, watch::Receiver<Vec<PodStatus>>) {
        let (statuses, reader) = watch::channel(Vec::new());
        let left_behind = capture.left_behind();
        let (pods, leaving, ended) = (HashMap::new(), Leaving::default(), watch::channel(Ended::default()).1);
        let (periods, quick) = (None, None);
        (Self { capture, shards, settings, pods, statuses, leaving, ended, left_behind, periods, quick }, reader)
    }

    /// A driver that is told of pods that have ended. Who wants a pod no longer because it has ended says so first.
    #[must_use]
    pub fn with_ended(self, ended: watch::Receiver<Ended>) -> Self {
        Self { ended, ..self }
    }

    /// A driver that makes the kernel's grace periods short while it has pods to enrol or to remove.
    #[must_use]
    pub fn expediting(self, periods: Option<GracePeriods>) -> Self {
        Self { periods, ..self }
    }

    /// Follows `desired` until `stop`, then ends as the settings say.
    pub async fn run(mut self, mut desired: Desired, stop: CancellationToken) {
        let Retry { first, cap } = self.settings.retry;
        let mut wait = first;
        let mut look = tokio::time::interval(following::EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !stop.is_cancelled() {
            let settled = self.converge(&mut desired).await;
            if settled {
                wait = first;
            }
            let quick_until = self.quick_until();
            tokio::select! {
                changed = desired.changed() => {
                    if changed.is_err() {
                        stop.cancelled().await;
                    }
                }
                Ok(()) = self.ended.changed() => {}
                Some(left) = self.leaving.next() => self.left(left).await,
                () = tokio::time::sleep(wait), if !settled => wait = (wait * 2).min(cap),
                _ = look.tick(), if self.follows() => self.follow().await,
                () = tokio::time::sleep_until(quick_until), if self.quick.is_some() => self.quick = None,
                () = stop.cancelled() => {}
            }
        }
        self.end().await;
    }

    /// Makes the kernel's grace periods short for a while, if that is wanted.
    fn quicken(&mut self) {
        let Some(periods) = &self.periods else { return };
        // Somebody else who had them short may have made them long again.
        let held = self.quick.take().map(|(held, _)| held).filter(Expedited::is_ours);
        let held = held.unwrap_or_else(|| periods.expedite());
        self.quick = Some((held, Instant::now() + KEPT));
    }

    fn quick_until(&self) -> Instant {
        self.quick.as_ref().map_or_else(Instant::now, |(_, until)| *until)
    }

    /// Runs the steps once; tells whether all succeeded.
    async fn converge(&mut self, desired: &mut Desired) -> bool {
        let (mut settled, mut missing) = (true, Vec::new());
        let ended = Arc::clone(&self.ended.borrow_and_update());
        let wanted = Arc::clone(&desired.borrow_and_update());
        self.settle(&wanted);
        for step in plan(&wanted, &ended, &self.observed()) {
            // They come last, and none depends on another.
            if let Step::Enrol(spec) = step {
                missing.push(spec);
                continue;
            }
            settled &= self.execute(step).await.is_ok();
            self.report();
        }
        settled &= self.enrol_all(missing, desired).await;
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
                // It was to be taken up again, and what was open before goes on.
                PodState::Failed(_) if wanted.is_none() && self.leaving.has(uid) => pod.state = PodState::Draining,
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
            PodState::Draining => Some(Observed::Leaving(Arc::clone(&pod.spec))),
            PodState::Failed(_) => None,
        });
        present.chain(self.left_behind.iter().map(|uid| Observed::LeftBehind(Arc::clone(uid)))).collect()
    }

    async fn execute(&mut self, step: Step) -> Result<(), ()> {
        match step {
            Step::Enrol(spec) => {
                let (spec, result) = enrol(Arc::clone(&self.capture), self.shards.clone(), spec).await;
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
                self.retire(&spec.uid, Some(self.settings.drain), Duration::ZERO);
                let (spec, result) = enrol(Arc::clone(&self.capture), self.shards.clone(), spec).await;
                self.note(spec, result)
            }
            Step::Withdraw(uid) => {
                let drain = self.drain(&uid);
                self.release(&uid, drain, self.settings.linger).await;
                Ok(())
            }
            Step::Cut(uid) => {
                self.leaving.within(&uid, Duration::ZERO);
                Ok(())
            }
            Step::Evict(uid) => {
                self.leaving.within(&uid, Duration::ZERO);
                let limit = Limit::new(Some(Duration::ZERO)).watch();
                self.shards.retire(&uid, &Leave { linger: Duration::ZERO, limit }).await;
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
    fn drain(&self, uid: &str) -> Option<Duration> {
        match self.pods.get(uid).map(|pod| &pod.spec.captured) {
            Some(Captured::ByRules) => Some(Duration::ZERO),
            Some(Captured::ByPrograms(_)) | None => self.settings.withdrawal,
        }
    }

    /// Whatever became of it, the pod is dealt with.
    fn note(&mut self, spec: Arc<PodSpec>, result: Result<PodState, CaptureError>) -> Result<(), ()> {
        self.left_behind.retain(|uid| *uid != spec.uid);
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
    async fn release(&mut self, uid: &Arc<str>, drain: Option<Duration>, linger: Duration) {
        if let Some(pod) = self.pods.get_mut(uid) {
            pod.state = PodState::Draining;
        }
        self.report();
        let (capture, leaving) = (Arc::clone(&self.capture), Arc::clone(uid));
        if let Err(error) = blocking(move || capture.release(&leaving)).await {
            tracing::debug!(pod = %uid, %error, "the pod's programs are gone already");
        }
        self.retire(uid, drain, linger);
    }

    /// Open connections get time to end, and those of former lives no more than that.
    fn retire(&mut self, uid: &Arc<str>, drain: Option<Duration>, linger: Duration) {
        if let Some(drain) = drain {
            self.leaving.within(uid, drain);
        }
        let limit = Limit::new(drain);
        let ended = self.shards.retire(uid, &Leave { linger, limit: limit.watch() });
        self.leaving.add(uid, limit, ended);
    }

    /// The last connection of a pod that was withdrawn has ended, or of what it was before it was taken up again.
    async fn left(&mut self, uid: Arc<str>) {
        if self.pods.get(&uid).is_some_and(|pod| pod.state == PodState::Draining) {
            // A failure is logged where it happens, and tried again by the next round.
            self.remove(uid).await.ok();
        }
    }

    /// Removes every trace of a pod that no connection uses any more.
    async fn remove(&mut self, uid: Arc<str>) -> Result<(), ()> {
        let (capture, gone) = (Arc::clone(&self.capture), Arc::clone(&uid));
        self.quicken();
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
        let drain = self.settings.drain;
        self.leaving.all_within(drain);
        let captured = self.pods.values().filter(|pod| pod.state.is_captured());
        let uids: Vec<Arc<str>> = captured.map(|pod| Arc::clone(&pod.spec.uid)).collect();
        match self.settings.on_shutdown {
            OnShutdown::Keep => {
                let leave = Leave { linger: Duration::ZERO, limit: Limit::new(Some(drain)).watch() };
                let retiring = uids.iter().map(|uid| self.shards.retire(uid, &leave));
                futures_util::future::join_all(retiring).await;
            }
            OnShutdown::Withdraw => {
                for uid in uids {
                    self.release(&uid, Some(drain), Duration::ZERO).await;
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

#[cfg(test)]
mod tests;
