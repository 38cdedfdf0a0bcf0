//! Tasks with an owner: spawned by name, cancelled together, awaited with a deadline.

use std::future::Future;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

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

    /// Stops the group and waits until all its tasks ended; tells whether they did within `deadline`.
    pub async fn drain(&self, deadline: Duration) -> Drained {
        self.stop();
        self.tracker.close();
        match tokio::time::timeout(deadline, self.tracker.wait()).await {
            Ok(()) => Drained::Completely,
            Err(_) => Drained::TasksLeft(self.tracker.len()),
        }
    }
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    Completely,
    TasksLeft(usize),
}
