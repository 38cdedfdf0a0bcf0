//! Whether a tunnel carries so much that whoever is new had better take another one.
//!
//! The bytes of a tunnel leave it one after the other: in front of a new stream's first byte there may be a window's worth of
//! every other stream. A tunnel of its own waits behind nobody but the network.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// A tunnel is laden that carries this much...
const MUCH: u64 = 4 << 20;
/// ... within this time, either way...
const AT_ONCE: Duration = Duration::from_millis(50);
/// ... and for so long after that.
const LASTS: Duration = Duration::from_secs(1);

/// Notices when much comes at once. The clock is asked only when so much has come.
#[derive(Debug)]
pub struct Burst {
    much: u64,
    at_once: Duration,
    bytes: Cell<u64>,
    /// Since when they are counted.
    since: Cell<Instant>,
}

impl Burst {
    pub fn of(much: u64, at_once: Duration) -> Self {
        Self { much, at_once, bytes: Cell::new(0), since: Cell::new(Instant::now()) }
    }

    /// Tells whether with these so much has come at once.
    pub fn add(&self, bytes: u64) -> bool {
        let all = self.bytes.get() + bytes;
        self.bytes.set(if all < self.much { all } else { 0 });
        all >= self.much && self.since.replace(Instant::now()).elapsed() <= self.at_once
    }

    /// Those that are counted so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.get()
    }
}

/// What one tunnel has carried lately.
#[derive(Debug)]
pub(super) struct Load {
    burst: Burst,
    laden: Cell<Option<Instant>>,
}

impl Default for Load {
    fn default() -> Self {
        Self { burst: Burst::of(MUCH, AT_ONCE), laden: Cell::new(None) }
    }
}

impl Load {
    pub(super) fn add(&self, bytes: usize) {
        if self.burst.add(bytes as u64) {
            self.laden.set(Some(Instant::now()));
        }
    }

    pub(super) fn is_heavy(&self) -> bool {
        self.laden.get().is_some_and(|at| at.elapsed() < LASTS)
    }
}

#[cfg(test)]
mod tests {
    use std::thread::sleep;

    use super::{AT_ONCE, LASTS, Load, MUCH};

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
}
