//! When to ask for the next certificate (protocol note, section 4.5). Sans-IO: time and chance are arguments.

use std::time::{Duration, SystemTime};

/// First wait after a failure, the factor, and the longest wait.
const FIRST: Duration = Duration::from_secs(1);
const FACTOR: u32 = 2;
const CAP: Duration = Duration::from_secs(150);
/// Waits vary by this much either way, so that a fleet does not ask in step.
const JITTER: f64 = 0.2;

/// The schedule of one identity's certificate.
#[derive(Clone, Debug, Default)]
pub struct Schedule {
    failures: u32,
}

/// A certificate's lifetime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

impl Schedule {
    /// A certificate came: the next is due at half its life, up to a fifth earlier. `chance` is uniform in 0..1. One that
    /// is past that already (authorities backdate) is due at half of what is left.
    pub fn succeeded(&mut self, now: SystemTime, validity: Validity, chance: f64) -> SystemTime {
        self.failures = 0;
        let early = |length: Duration| (length / 2).mul_f64(1.0 - JITTER * chance);
        let life = validity.not_after.duration_since(validity.not_before).unwrap_or_default();
        let next = validity.not_before + early(life);
        if next > now {
            return next;
        }
        let left = validity.not_after.duration_since(now).unwrap_or_default();
        now + early(left).max(FIRST)
    }

    /// None came: the next try, earlier if the present certificate would expire before it.
    pub fn failed(&mut self, now: SystemTime, expiry: Option<SystemTime>, chance: f64) -> SystemTime {
        let wait = FIRST.saturating_mul(FACTOR.saturating_pow(self.failures)).min(CAP);
        self.failures = self.failures.saturating_add(1);
        let next = now + wait.mul_f64(1.0 - JITTER + 2.0 * JITTER * chance);
        match expiry {
            Some(expiry) if expiry > now => next.min(expiry),
            _ => next,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use proptest::prelude::*;

    use super::{CAP, Schedule, Validity};

    const START: SystemTime = SystemTime::UNIX_EPOCH;

    fn at(seconds: u64) -> SystemTime {
        START + Duration::from_secs(seconds)
    }

    #[test]
    fn renewal_is_at_half_life_or_a_little_earlier() {
        let validity = Validity { not_before: at(0), not_after: at(1000) };
        assert_eq!(Schedule::default().succeeded(at(0), validity, 0.0), at(500));
        assert_eq!(Schedule::default().succeeded(at(0), validity, 1.0), at(400));
    }

    #[test]
    fn a_certificate_past_its_half_life_is_renewed_at_half_of_what_is_left() {
        let validity = Validity { not_before: at(0), not_after: at(180) };
        assert_eq!(Schedule::default().succeeded(at(120), validity, 0.0), at(150));
        assert_eq!(Schedule::default().succeeded(at(200), validity, 0.0), at(201), "an expired one, not at once");
    }

    #[test]
    fn waits_double_and_end_at_the_cap() {
        let mut schedule = Schedule::default();
        let waits: Vec<u64> = (0..10)
            .map(|_| schedule.failed(at(0), None, 0.5).duration_since(START).unwrap().as_secs_f64().round() as u64)
            .collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 150, 150]);
        schedule.succeeded(at(0), Validity { not_before: at(0), not_after: at(10) }, 0.0);
        assert_eq!(schedule.failed(at(0), None, 0.5), at(1));
    }

    #[test]
    fn a_certificate_near_its_end_is_not_left_to_expire_unattended() {
        let mut schedule = Schedule { failures: 8 };
        assert_eq!(schedule.failed(at(100), Some(at(110)), 0.5), at(110));
        let mut schedule = Schedule { failures: 8 };
        assert!(schedule.failed(at(100), Some(at(90)), 0.5) > at(200));
    }

    proptest! {
        #[test]
        fn the_next_try_is_always_ahead_and_never_far(failures in 0u32..100, chance in 0.0f64..1.0) {
            let mut schedule = Schedule { failures };
            let next = schedule.failed(at(1000), None, chance);
            prop_assert!(next > at(1000));
            prop_assert!(next <= at(1000) + CAP.mul_f64(1.2));
        }
    }
}
