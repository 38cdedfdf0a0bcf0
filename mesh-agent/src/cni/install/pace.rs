//! How soon the next look comes after a repair: at once, unless somebody else keeps undoing it.

use std::time::{Duration, Instant};

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(10);
/// Repairs with more time than this between them have nothing to do with each other.
const PEACE: Duration = Duration::from_secs(60);

/// Counts repairs that follow each other.
#[derive(Debug, Default)]
pub(super) struct Pace {
    last: Option<Instant>,
    streak: u32,
}

impl Pace {
    /// The wait after a repair: it doubles, so that two agents that undo each other's work do not fill the log and the disk.
    pub(super) fn repaired(&mut self, now: Instant) -> Duration {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) > PEACE) {
            self.streak = 0;
        }
        self.last = Some(now);
        let wait = FIRST.saturating_mul(2u32.saturating_pow(self.streak)).min(LONGEST);
        self.streak = self.streak.saturating_add(1);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fight_slows_down_and_peace_ends_it() {
        let mut pace = Pace::default();
        let start = Instant::now();
        let waits: Vec<_> = (0..9).map(|repair| pace.repaired(start + repair * FIRST).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        assert_eq!(pace.repaired(start + PEACE * 2), FIRST);
        for _ in 0..100 {
            pace.repaired(start + PEACE * 2);
        }
        assert_eq!(pace.repaired(start + PEACE * 2), LONGEST);
    }
}
