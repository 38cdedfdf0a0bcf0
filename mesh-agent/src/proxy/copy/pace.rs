//! Whether a connection carries so much that it belongs on the lane.

use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::hbone::load::Burst;
use crate::task::Place;

/// A connection comes back from the lane that has carried less than this...
const LITTLE: u64 = 4 << 20;
/// ... in this time.
const WHILE: Duration = Duration::from_secs(1);

#[cfg(test)]
thread_local! {
    /// Whether connections of this thread leave whenever they have carried something.
    pub(super) static RESTLESS: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Of a connection at one place.
#[derive(Debug)]
pub(super) enum Pace {
    /// It stays, whatever it carries.
    Kept,
    /// It leaves when much comes at once.
    Light { burst: Burst, seen: u64 },
    /// It leaves when little has come for a while.
    Heavy { clock: Interval, seen: u64 },
}

impl Pace {
    /// Of a connection that has carried `all` bytes before.
    pub(super) fn at(place: Place, all: u64) -> Self {
        match place {
            Place::Only => Self::Kept,
            Place::Shard => Self::Light { burst: Burst::laden(), seen: all },
            Place::Lane => {
                let mut clock = interval(WHILE);
                clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
                clock.reset();
                Self::Heavy { clock, seen: all }
            }
        }
    }

    /// Ready when the connection, which has carried `all` bytes by now, should leave.
    pub(super) fn poll_leave(&mut self, cx: &mut Context<'_>, all: u64) -> Poll<()> {
        #[cfg(test)]
        if let Self::Light { seen, .. } | Self::Heavy { seen, .. } = self
            && RESTLESS.get()
            && *seen != all
        {
            return Poll::Ready(());
        }
        match self {
            Self::Kept => Poll::Pending,
            Self::Light { burst, seen } => {
                let new = all - std::mem::replace(seen, all);
                if new > 0 && burst.add(new) { Poll::Ready(()) } else { Poll::Pending }
            }
            Self::Heavy { clock, seen } => {
                while clock.poll_tick(cx).is_ready() {
                    if all - std::mem::replace(seen, all) < LITTLE {
                        return Poll::Ready(());
                    }
                }
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use futures_util::poll;
    use tokio::time::{Instant, advance, timeout};

    use super::{LITTLE, Pace, WHILE};
    use crate::task::Place;

    #[tokio::test(start_paused = true)]
    async fn much_at_once_goes_and_little_comes_back() {
        let mut light = Pace::at(Place::Shard, 7);
        let mut leaves = async |all| poll!(poll_fn(|cx| light.poll_leave(cx, all))).is_ready();
        assert!(!leaves(7 + LITTLE / 2).await);
        assert!(leaves(7 + LITTLE).await);

        let mut heavy = Pace::at(Place::Lane, LITTLE);
        let start = Instant::now();
        let mut at = async |seconds, all| {
            advance(WHILE * seconds - start.elapsed()).await;
            poll!(poll_fn(|cx| heavy.poll_leave(cx, all))).is_ready()
        };
        assert!(!at(1, LITTLE * 2).await, "as much again");
        assert!(!at(2, LITTLE * 3).await);
        assert!(at(3, LITTLE * 4 - 1).await, "less");
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_no_other_place_stays() {
        let mut kept = Pace::at(Place::Only, 0);
        assert!(timeout(Duration::from_secs(60), poll_fn(|cx| kept.poll_leave(cx, u64::MAX))).await.is_err());
    }
}
