//! Tasks with an owner: spawned by name, cancelled together, awaited with a deadline.

use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

pub mod lane;
mod roaming;
mod turn;

pub use lane::{Errand, Lane, Place, Thread};
pub use roaming::Roaming;
pub use turn::Turn;

/// A group of tasks. Clones share the group.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Tasks {
    pub fn new() -> Self {
        Self::default()
    }

    /// The token that [`Tasks::stop`] cancels; tasks that need to finish in order watch it.
    pub fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Runs `future` on the current multi-threaded runtime until it ends or the group is stopped.
    pub fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        // The tracker owns the task; its handle is not needed.
        drop(self.tracker.spawn(async move { stop.run_until_cancelled_owned(future).await }));
    }

    /// Runs `future` on the current thread's `LocalSet`; it is not cut by [`Tasks::stop`], only awaited by `drain`.
    pub fn spawn_local(&self, future: impl Future<Output = ()> + 'static) {
        drop(self.tracker.spawn_local(future));
    }

    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Work of somebody else's task, which the group does not end without: for as long as what this gives is held.
    pub fn busy(&self) -> TaskTrackerToken {
        self.tracker.token()
    }

    /// Stops the group and waits until all its tasks ended.
    pub async fn ended(&self) {
        self.stop();
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// Stops the group and waits until all its tasks ended; tells whether they did within `deadline`.
    pub async fn drain(&self, deadline: Duration) -> Drained {
        match tokio::time::timeout(deadline, self.ended()).await {
            Ok(()) => Drained::Completely,
            Err(_) => Drained::TasksLeft(self.tracker.len()),
        }
    }
}

/// A time that others wait for, and that its owner may bring forward. Without one they wait for ever.
#[derive(Debug)]
pub struct Limit(watch::Sender<Option<Instant>>);

/// What waits for a [`Limit`].
#[derive(Clone, Debug)]
pub struct Limited(watch::Receiver<Option<Instant>>);

impl Limit {
    /// None: it is not set yet.
    pub fn new(after: Option<Duration>) -> Self {
        Self(watch::Sender::new(after.map(|after| Instant::now() + after)))
    }

    pub fn watch(&self) -> Limited {
        Limited(self.0.subscribe())
    }

    /// From now on at most so long.
    pub fn at_most(&self, after: Duration) {
        let new = Instant::now() + after;
        self.0.send_if_modified(|at| {
            let sooner = at.is_none_or(|at| new < at);
            if sooner {
                *at = Some(new);
            }
            sooner
        });
    }
}

impl Limited {
    /// Ends at the time, whatever becomes of it meanwhile. A limit that nobody can change any more stays as it is.
    pub async fn reached(&mut self) {
        loop {
            let at = *self.0.borrow_and_update();
            let passed = async {
                match at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = passed => return,
                Ok(()) = self.0.changed() => {}
            }
        }
    }
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    Completely,
    TasksLeft(usize),
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{Instant, timeout};

    use super::Limit;

    #[tokio::test(start_paused = true)]
    async fn a_limit_comes_only_nearer() {
        let (began, second) = (Instant::now(), Duration::from_secs(1));
        let limit = Limit::new(None);
        let (mut early, mut late) = (limit.watch(), limit.watch());
        assert!(timeout(second * 1000, early.reached()).await.is_err(), "there is none");
        let shortened = async {
            limit.at_most(second * 2);
            limit.at_most(second * 5);
        };
        tokio::join!(late.reached(), shortened);
        assert_eq!(began.elapsed(), second * 1002);
        early.reached().await;
        assert_eq!(began.elapsed(), second * 1002, "it has passed");
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_outlives_its_owner() {
        let began = Instant::now();
        let mut waiting = Limit::new(Some(Duration::from_secs(3))).watch();
        waiting.reached().await;
        assert_eq!(began.elapsed(), Duration::from_secs(3));
    }
}
