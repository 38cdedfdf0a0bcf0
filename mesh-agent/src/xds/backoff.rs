//! When to connect again (protocol note, section 1.12). Sans-IO: time and chance are arguments.

use std::time::Duration;

use super::status::Termination;

/// First wait, and longest; each is twice the one before.
const FIRST: Duration = Duration::from_millis(10);
const CAP: Duration = Duration::from_secs(15);
/// A stream that lasted as long as this has worked: its end says nothing about the next one. Below, an istiod that ends
/// every stream at once would be asked a hundred times a second, by every node.
const WORKED: Duration = Duration::from_secs(10);

/// The waits between streams.
#[derive(Clone, Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// How long to wait after a stream that lasted this long. `chance` is uniform in 0..1; waits vary by it downwards to
    /// the half, so that the nodes of a cluster do not come back in step.
    pub(super) fn ended(&mut self, how: Termination, lasted: Duration, chance: f64) -> Duration {
        let worked = lasted >= WORKED;
        if worked && how == Termination::Complete {
            self.failures = 0;
            return Duration::ZERO;
        }
        if worked && how != Termination::ConnectionError {
            self.failures = 0;
        }
        let wait = FIRST.saturating_mul(2_u32.saturating_pow(self.failures)).min(CAP);
        self.failures = self.failures.saturating_add(1);
        wait.mul_f64(1.0 - chance / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Backoff, CAP, Termination, WORKED};

    const SHORT: Duration = Duration::from_millis(5);

    fn waits(how: Termination, lasted: Duration) -> Vec<u128> {
        let mut backoff = Backoff::default();
        (0..14).map(|_| backoff.ended(how, lasted, 0.0).as_millis()).collect()
    }

    #[test]
    fn waits_double_up_to_the_cap() {
        let doubled = [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 5120, 10240, 15000, 15000, 15000];
        for how in [Termination::ConnectionError, Termination::Error, Termination::Reconnect, Termination::Complete] {
            assert_eq!(waits(how, SHORT), doubled, "{how:?}");
        }
        assert_eq!(
            waits(Termination::ConnectionError, WORKED),
            doubled,
            "nothing has worked: time was lost connecting"
        );
    }

    #[test]
    fn a_stream_that_worked_starts_anew() {
        assert_eq!(waits(Termination::Complete, WORKED), [0; 14]);
        assert_eq!(waits(Termination::Reconnect, WORKED), [10; 14]);
        assert_eq!(waits(Termination::Error, WORKED), [10; 14]);
        let mut backoff = Backoff { failures: 30 };
        assert_eq!(backoff.ended(Termination::Complete, WORKED, 0.5), Duration::ZERO);
        assert_eq!(backoff.ended(Termination::Error, SHORT, 0.0), Duration::from_millis(10));
    }

    #[test]
    fn chance_takes_up_to_half() {
        let mut backoff = Backoff { failures: u32::MAX };
        assert_eq!(backoff.ended(Termination::Error, SHORT, 0.0), CAP);
        assert_eq!(backoff.ended(Termination::Error, SHORT, 1.0), CAP / 2);
    }
}
