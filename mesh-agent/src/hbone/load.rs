//! What a tunnel carries: whether that is so much that whoever is new had better take another one, and whether streams of it
//! have gone to the lane, where its connection follows them.
//!
//! The bytes of a tunnel leave it one after the other: in front of a new stream's first byte there may be a window's worth of
//! every other stream. A tunnel of its own waits behind nobody but the network.

use std::future::pending;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::task::Place;

/// A tunnel is laden that carries this much...
const MUCH: u64 = 4 << 20;
/// ... within this time, either way...
const AT_ONCE: Duration = Duration::from_millis(50);
/// ... and for so long after that.
const LASTS: Duration = Duration::from_secs(1);
/// How long a connection stays on the lane without its streams.
const STAYS: Duration = Duration::from_secs(1);

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Nanoseconds since a moment before the first that is asked for; never 0.
fn now() -> u64 {
    u64::try_from(START.elapsed().as_nanos()).unwrap_or(u64::MAX).saturating_add(1)
}

/// Nanoseconds since `then`.
fn since(then: u64) -> Duration {
    Duration::from_nanos(now().saturating_sub(then))
}

/// Notices when much comes at once. The clock is asked only when so much has come. Two threads that count at the same time
/// may lose a little of it.
#[derive(Debug)]
pub struct Burst {
    much: u64,
    at_once: Duration,
    bytes: AtomicU64,
    /// Since when they are counted.
    since: AtomicU64,
}

impl Burst {
    pub fn of(much: u64, at_once: Duration) -> Self {
        Self { much, at_once, bytes: AtomicU64::new(0), since: AtomicU64::new(now()) }
    }

    /// As much at once as makes a tunnel laden.
    pub fn laden() -> Self {
        Self::of(MUCH, AT_ONCE)
    }

    /// Tells whether with these so much has come at once.
    pub fn add(&self, bytes: u64) -> bool {
        let all = self.bytes.load(Relaxed) + bytes;
        if all < self.much {
            self.bytes.store(all, Relaxed);
            return false;
        }
        self.bytes.store(0, Relaxed);
        since(self.since.swap(now(), Relaxed)) <= self.at_once
    }

    /// Those that are counted so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }
}

/// What one tunnel carries. Its streams share it, on whichever thread they are.
#[derive(Debug)]
pub(super) struct Load {
    burst: Burst,
    /// When it was laden; 0: never.
    laden: AtomicU64,
    /// Streams that are on the lane.
    away: AtomicUsize,
    left: Notify,
}

impl Default for Load {
    fn default() -> Self {
        Self { burst: Burst::laden(), laden: AtomicU64::new(0), away: AtomicUsize::new(0), left: Notify::new() }
    }
}

impl Load {
    pub(super) fn add(&self, bytes: usize) {
        if self.burst.add(bytes as u64) {
            self.laden.store(now(), Relaxed);
        }
    }

    pub(super) fn is_heavy(&self) -> bool {
        match self.laden.load(Relaxed) {
            0 => false,
            at => since(at) < LASTS,
        }
    }

    /// Ends when the connection should be at the other place.
    pub(super) async fn calls_away_from(&self, place: Place) {
        match place {
            Place::Only => pending().await,
            Place::Shard => {
                while self.away.load(Relaxed) == 0 {
                    self.left.notified().await;
                }
            }
            Place::Lane => loop {
                tokio::time::sleep(STAYS).await;
                if self.away.load(Relaxed) == 0 {
                    return;
                }
            },
        }
    }
}

/// A stream that is on the lane, for as long as this is held.
#[derive(Debug)]
pub struct Away(Arc<Load>);

impl Away {
    pub(super) fn from(load: &Arc<Load>) -> Self {
        load.away.fetch_add(1, Relaxed);
        load.left.notify_one();
        Self(Arc::clone(load))
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        self.0.away.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread::sleep;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::{AT_ONCE, Away, LASTS, Load, MUCH};
    use crate::task::Place;

    #[test]
    fn much_at_once_is_heavy_for_a_while() {
        let load = Load::default();
        let half = usize::try_from(MUCH / 2).unwrap();
        load.add(half);
        sleep(AT_ONCE * 2);
        load.add(half);
        assert!(!load.is_heavy(), "it took too long for that");
        load.add(half);
        assert!(!load.is_heavy(), "half as much is not heavy");
        load.add(half);
        assert!(load.is_heavy());
        sleep(LASTS);
        assert!(!load.is_heavy());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_follows_its_streams() {
        let (load, long) = (Arc::new(Load::default()), Duration::from_secs(60));
        let called = async |place| timeout(long, load.calls_away_from(place)).await.is_ok();
        assert!(!called(Place::Shard).await, "nobody has gone");
        let stream = Away::from(&load);
        assert!(called(Place::Shard).await);
        assert!(!called(Place::Only).await, "there is nowhere to go");
        assert!(!called(Place::Lane).await, "somebody is there");
        drop(stream);
        assert!(called(Place::Lane).await);
        assert!(!called(Place::Shard).await, "an old call is not heard");
    }
}
