//! A second thread beside a shard's, for work that is long, so that what is short waits for none of it.
//!
//! An [`Errand`] starts on the shard's own thread. When it turns out to be long it goes on on the lane, and comes back when it
//! has become short again. Both threads ask the scheduler for their time in short pieces, and one that mostly sleeps is
//! served before one that never does: short work meets long work only on the same connection.

use std::cell::Cell;
use std::future::{Future, pending, poll_fn};
use std::io;
use std::panic::resume_unwind;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::turn;
use crate::sys::thread;

/// How often whoever sent an errand looks how far it is.
const GLANCE: Duration = Duration::from_millis(100);

thread_local! {
    static HERE: Cell<Thread> = const { Cell::new(Thread::Shard) };
}

/// Which kind of thread one is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thread {
    Shard,
    Lane,
}

impl Thread {
    /// The one that asks.
    pub fn current() -> Self {
        HERE.get()
    }
}

/// Where an errand is, and where else it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// There is no other place.
    Only,
    /// On the shard's thread, for as long as there is little to do.
    Shard,
    /// On the lane, for as long as there is much.
    Lane,
}

/// Work that may go on on another thread.
pub trait Errand: Send + 'static {
    type Outcome: Send + 'static;

    /// Goes on until it is done, or should be at the other place: then the result is none. It is dropped where it is.
    fn go_on(&mut self, place: Place) -> impl Future<Output = Option<Self::Outcome>> + Send;
}

/// The thread beside a shard's. Dropped, it ends, and so do the errands that are on it.
#[derive(Debug)]
pub struct Lane(Option<Running>);

#[derive(Debug)]
struct Running {
    runtime: Handle,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
    /// Errands that went there.
    taken: Arc<AtomicU64>,
}

impl Lane {
    /// Everything stays where it is.
    pub fn none() -> Self {
        Self(None)
    }

    /// Starts the thread, which first does `begin`. `taken` counts the errands that go there.
    pub fn start(name: &str, taken: Arc<AtomicU64>, begin: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (handle, stop) = (runtime.handle().clone(), CancellationToken::new());
        let stopped = stop.clone().cancelled_owned();
        let thread = thread::spawn(name, move || {
            begin();
            HERE.set(Thread::Lane);
            turn::in_long_rounds();
            runtime.block_on(stopped);
        })?;
        Ok(Self(Some(Running { runtime: handle, stop, thread: Some(thread), taken })))
    }

    /// Runs an errand to its end, here and there. `seen` is called here whenever it may have come further.
    pub async fn run<E: Errand>(&self, mut errand: Box<E>, seen: impl Fn()) -> E::Outcome {
        let place = if self.0.is_some() { Place::Shard } else { Place::Only };
        loop {
            if let Some(outcome) = watched(pin!(errand.go_on(place)), &seen).await {
                return outcome;
            }
            let Some(running) = &self.0 else { continue };
            // Boxed: most errands never get there.
            match Box::pin(running.take(errand, &seen)).await {
                (_, Some(outcome)) => return outcome,
                (back, None) => errand = back,
            }
        }
    }
}

impl Running {
    async fn take<E: Errand>(&self, mut errand: Box<E>, seen: &impl Fn()) -> (Box<E>, Option<E::Outcome>) {
        self.taken.fetch_add(1, Relaxed);
        let there = self.runtime.spawn(async move {
            let outcome = errand.go_on(Place::Lane).await;
            (errand, outcome)
        });
        let mut there = AbortOnDropHandle::new(there);
        loop {
            match tokio::time::timeout(GLANCE, &mut there).await {
                Err(_) => seen(),
                Ok(Ok(done)) => {
                    seen();
                    return done;
                }
                Ok(Err(error)) => match error.try_into_panic() {
                    Ok(panic) => resume_unwind(panic),
                    // The lane has ended, and this thread is about to.
                    Err(_) => return pending().await,
                },
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!("a lane's thread panicked");
        }
    }
}

/// Lent, because a future that is given to another one takes its room twice.
async fn watched<T>(mut work: Pin<&mut impl Future<Output = T>>, seen: &impl Fn()) -> T {
    poll_fn(|cx| {
        let polled = work.as_mut().poll(cx);
        seen();
        polled
    })
    .await
}

#[cfg(test)]
mod tests;
