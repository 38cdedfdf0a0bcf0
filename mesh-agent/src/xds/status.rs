//! How the client is doing, for status pages, readiness and metrics.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use super::kind::{Kind, PerKind};

/// The latest refusals that are kept.
const REFUSALS: usize = 20;

/// How the client is doing now.
#[derive(Clone, Debug)]
pub struct Status {
    /// istiod's.
    pub address: String,
    pub link: Link,
    /// Why the last stream ended, and when.
    pub last_error: Option<(SystemTime, String)>,
    /// When the last response came.
    pub last_message: Option<SystemTime>,
    pub kinds: PerKind<KindStatus>,
    /// Resources that were rejected, the latest last. One may have been corrected since.
    pub refusals: VecDeque<Refusal>,
}

/// The stream to istiod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Since then, and nothing has come yet.
    Connecting { since: SystemTime },
    /// istiod sent its first response on this stream then.
    Connected { since: SystemTime },
    /// The next try is then; [`Status::last_error`] says why.
    Waiting { until: SystemTime },
}

/// One kind of resources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KindStatus {
    /// There was a response since the agent's start, or none has to be waited for.
    pub synced: bool,
    /// Held, with those whose newest version was rejected.
    pub resources: usize,
    pub responses: u64,
    /// Resources rejected since the agent's start.
    pub rejected: u64,
}

/// A resource that was rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub at: SystemTime,
    pub kind: Kind,
    pub name: String,
    pub reason: String,
}

impl Status {
    pub(super) fn new(address: String, kinds: PerKind<KindStatus>) -> Self {
        Self {
            address,
            link: Link::Connecting { since: SystemTime::now() },
            last_error: None,
            last_message: None,
            kinds,
            refusals: VecDeque::new(),
        }
    }

    /// Whether everything that is waited for at the start has come.
    pub fn synced(&self) -> bool {
        self.kinds.iter().all(|(_, kind)| kind.synced)
    }

    pub(super) fn refused(&mut self, refusal: Refusal) {
        if self.refusals.len() == REFUSALS {
            self.refusals.pop_front();
        }
        self.refusals.push_back(refusal);
    }
}

/// Why a stream ended, as `istio_xds_connection_terminations_total` counts it (protocol note, section 12.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Termination {
    /// There was none: istiod could not be reached.
    ConnectionError,
    Error,
    /// In a way that servers and proxies end streams in normal operation.
    Reconnect,
    /// By istiod, without an error.
    Complete,
}

impl Termination {
    pub const ALL: [Self; 4] = [Self::ConnectionError, Self::Error, Self::Reconnect, Self::Complete];

    /// The label's value.
    pub fn reason(self) -> &'static str {
        match self {
            Self::ConnectionError => "ConnectionError",
            Self::Error => "Error",
            Self::Reconnect => "Reconnect",
            Self::Complete => "Complete",
        }
    }
}

/// Numbers that only grow, written by the client and read by scrapes.
#[derive(Debug, Default)]
pub struct Counters {
    terminations: [AtomicU64; 4],
    messages: PerUrl,
    bytes: PerUrl,
}

/// One number for each kind, and one for all other types.
type PerUrl = [AtomicU64; 3];

impl Counters {
    /// Ended streams.
    pub fn terminations(&self, why: Termination) -> u64 {
        self.terminations[why as usize].load(Ordering::Relaxed)
    }

    /// Responses by type URL: their number, and the bytes of their encoded form.
    pub fn messages(&self) -> impl Iterator<Item = (&'static str, u64, u64)> {
        let urls = Kind::ALL.map(Kind::url).into_iter().chain(["unknown"]);
        let numbers = self.messages.iter().zip(&self.bytes);
        urls.zip(numbers)
            .map(|(url, (messages, bytes))| (url, messages.load(Ordering::Relaxed), bytes.load(Ordering::Relaxed)))
    }

    pub(super) fn terminated(&self, why: Termination) {
        self.terminations[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn received(&self, kind: Option<Kind>, bytes: usize) {
        let place = kind.map_or(Kind::ALL.len(), |kind| kind as usize);
        self.messages[place].fetch_add(1, Ordering::Relaxed);
        self.bytes[place].fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::{Counters, Kind, Termination};

    #[test]
    fn counters_have_their_places() {
        let counters = Counters::default();
        for kind in Kind::ALL {
            counters.received(Some(kind), 10);
        }
        counters.received(None, 3);
        counters.received(None, 4);
        let found: Vec<_> = counters.messages().collect();
        assert_eq!(found, [(Kind::Address.url(), 1, 10), (Kind::Authorization.url(), 1, 10), ("unknown", 2, 7)]);
        counters.terminated(Termination::Complete);
        assert_eq!(Termination::ALL.map(|why| counters.terminations(why)), [0, 0, 0, 1]);
    }
}
