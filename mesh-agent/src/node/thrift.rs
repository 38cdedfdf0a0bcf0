//! Gives memory back when there is little to do. Under load it stays: fetching pages anew costs more than what is done in
//! them.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::sys::memory;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(3);
/// Processor time between them that is little.
const LITTLE: Duration = Duration::from_millis(150);
/// Less is not worth the walk through the allocator's lists.
const WORTH: u64 = 4 << 20;

/// Never ends.
pub(super) async fn give_back() {
    let (mut before, mut left) = (busy(), 0);
    loop {
        tokio::time::sleep(LOOK).await;
        let now = busy();
        let worked = now.saturating_sub(before);
        before = now;
        let unused = if worked <= LITTLE { memory::unused() } else { None };
        left = match unused {
            Some(unused) if is_worth(unused, left) => release(unused),
            Some(unused) => left.min(unused),
            None => left,
        };
    }
}

/// `left`: what could not go back the last time, because something is used in each of its pages.
fn is_worth(unused: u64, left: u64) -> bool {
    unused >= left.saturating_add(WORTH)
}

/// Gives how much is left.
fn release(unused: u64) -> u64 {
    memory::release_unused();
    let left = memory::unused().unwrap_or(unused);
    tracing::debug!(released = unused.saturating_sub(left), left, "memory is given back");
    left
}

/// Processor time of all threads so far.
fn busy() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_go_back_is_not_asked_for_again() {
        for (unused, left, expected) in [
            (WORTH - 1, 0, false),
            (WORTH, 0, true),
            (3 * WORTH, 3 * WORTH, false),
            (4 * WORTH, 3 * WORTH, true),
            (0, u64::MAX, false),
        ] {
            assert_eq!(is_worth(unused, left), expected, "{unused} unused, {left} left");
        }
    }

    #[test]
    fn work_takes_time() {
        let before = busy();
        std::hint::black_box((0..1_000_000_u64).map(std::hint::black_box).sum::<u64>());
        assert!(busy() > before);
    }
}
