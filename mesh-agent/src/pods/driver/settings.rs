//! How the driver works.

use std::time::Duration;

/// How long a failed pod waits until it is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// The first wait; it doubles.
    pub first: Duration,
    /// No wait is longer.
    pub cap: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { first: Duration::from_millis(500), cap: Duration::from_secs(30) }
    }
}

/// What happens to the capture when the agent ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnShutdown {
    /// It stays in force: nothing leaves in plaintext until the next start.
    #[default]
    Keep,
    Withdraw,
}

/// How the driver works.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub on_shutdown: OnShutdown,
    /// How long connections may go on when the agent ends.
    pub drain: Duration,
    /// How long connections of a pod that is withdrawn may go on. None: to their own end, or the pod's, or the agent's.
    pub withdrawal: Option<Duration>,
    /// How long a pod that is withdrawn still takes what comes to the agent, from peers that have not heard of it.
    pub linger: Duration,
    pub retry: Retry,
}
