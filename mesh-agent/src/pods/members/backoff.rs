//! When something that failed is tried again.

use std::time::Duration;

use tokio::time::Instant;

/// Waits that double.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff {
    first: Duration,
    cap: Duration,
    wait: Duration,
    /// Before then nothing is tried.
    at: Option<Instant>,
}

impl Backoff {
    pub(super) const fn new(first: Duration, cap: Duration) -> Self {
        Self { first, cap, wait: first, at: None }
    }

    /// Forgets what failed: the next try may be at once.
    pub(super) fn reset(&mut self) {
        *self = Self::new(self.first, self.cap);
    }

    pub(super) fn failed(&mut self, now: Instant) {
        self.at = Some(now + self.wait);
        self.wait = (self.wait * 2).min(self.cap);
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.at.is_none_or(|at| at <= now)
    }

    /// The time of the next try, if it has to be waited for.
    pub(super) fn next(&self) -> Option<Instant> {
        self.at
    }
}
