//! Istio's TCP traffic metrics: counters that shards add to without meeting each other, summed when they are scraped.
//!
//! Each shard owns a [`Table`] from label values to a [`Set`] of atomics. A connection looks its set up once, under a
//! mutex that nobody but a scrape ever contends, and from then on only adds integers. The same labels may be in several
//! tables; the [`Collector`] adds them up. Sets that no connection has used for [`IDLE`] are dropped from all tables at
//! the same moment, so that the sum never goes back while a label set lives (a scraper would take that for a restart).
//!
//! The byte counters follow Istio's names, which look at a connection from the server: *received* is what the client
//! sent to the server, on both reporters.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabel, EncodeLabelSet, LabelSetEncoder, MetricEncoder};
use prometheus_client::metrics::MetricType;

/// The labels whose values make up a [`Key`], in this order. `request_protocol` (always `tcp`) and `response_flags`
/// (decided at the end of a connection) are added by the collector.
pub const LABELS: [&str; 25] = [
    "reporter",
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "source_region",
    "source_zone",
    "destination_service",
    "destination_service_namespace",
    "destination_service_name",
    "destination_workload",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_cluster",
    "destination_region",
    "destination_zone",
    "connection_security_policy",
];

/// How long a label set outlives its last connection.
pub const IDLE: Duration = Duration::from_secs(3600);

/// Label sets per shard; connections with yet other labels are counted together under `unknown`.
const MOST_SETS: usize = 16_384;

/// How often a scrape looks for idle sets.
const SWEEP_EVERY: Duration = Duration::from_secs(600);

const SEPARATOR: char = '\u{1f}';

/// How a connection ended, as the label `response_flags` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flag {
    /// It succeeded.
    None,
    /// Policy denied it.
    Deny,
    /// The connection to the next hop or the application failed, and every failure without a flag of its own.
    Connect,
    TlsFailure,
    H2Handshake,
    /// Connecting to the HBONE port timed out, probably because of a NetworkPolicy.
    NetworkPolicy,
    /// No certificate for the workload's own identity.
    Identity,
    CertRevoked,
}

impl Flag {
    const ALL: [Self; 8] = [
        Self::None,
        Self::Deny,
        Self::Connect,
        Self::TlsFailure,
        Self::H2Handshake,
        Self::NetworkPolicy,
        Self::Identity,
        Self::CertRevoked,
    ];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "-",
            Self::Deny => "DENY",
            Self::Connect => "CONNECT",
            Self::TlsFailure => "TLS_FAILURE",
            Self::H2Handshake => "H2_HANDSHAKE_FAILURE",
            Self::NetworkPolicy => "NETWORK_POLICY",
            Self::Identity => "IDENTITY_ERROR",
            Self::CertRevoked => "CERT_REVOKED",
        }
    }
}

/// Label values under construction: one buffer, reused for every connection of a shard.
#[derive(Debug, Default)]
pub struct Key(String);

impl Key {
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Appends the value of the next label; an empty one reads `unknown`.
    pub fn push(&mut self, value: &str) {
        if !self.0.is_empty() {
            self.0.push(SEPARATOR);
        }
        if value.contains(SEPARATOR) {
            self.0.extend(value.chars().filter(|c| *c != SEPARATOR));
        } else {
            self.0.push_str(value);
        }
    }
}

/// The counters of one label set on one shard.
#[derive(Debug, Default)]
pub struct Set {
    opened: AtomicU64,
    closed: [AtomicU64; Flag::ALL.len()],
    received: AtomicU64,
    sent: AtomicU64,
    /// Seconds since the table was made.
    used: AtomicU64,
}

impl Set {
    /// Counts bytes from the client to the server.
    pub fn received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Relaxed);
    }

    /// Counts bytes from the server to the client.
    pub fn sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Relaxed);
    }

    fn closed(&self) -> u64 {
        self.closed.iter().map(|count| count.load(Relaxed)).sum()
    }

    fn is_idle(&self, now: Duration) -> bool {
        // `closed` first: a connection that ends in between makes the set look busy, never idle.
        let closed = self.closed();
        closed == self.opened.load(Relaxed) && now.as_secs().saturating_sub(self.used.load(Relaxed)) >= IDLE.as_secs()
    }
}

type Sets = HashMap<Arc<str>, Arc<Set>>;

/// All shards' tables; register it with the metrics registry.
#[derive(Clone, Debug)]
pub struct Traffic(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    started: Instant,
    /// When idle sets were last looked for, in seconds since the start.
    swept: AtomicU64,
    /// Grows when a shard starts, and is read by scrapes; never touched by a connection.
    tables: Mutex<Vec<Arc<Mutex<Sets>>>>,
}

/// One shard's table.
#[derive(Debug)]
pub struct Table {
    sets: Arc<Mutex<Sets>>,
    started: Instant,
}

impl Default for Traffic {
    fn default() -> Self {
        let shared = Shared { started: Instant::now(), swept: AtomicU64::new(0), tables: Mutex::default() };
        Self(Arc::new(shared))
    }
}

impl Traffic {
    /// Makes the table of one more shard.
    pub fn table(&self) -> Table {
        let sets = Arc::new(Mutex::default());
        locked(&self.0.tables).push(Arc::clone(&sets));
        Table { sets, started: self.0.started }
    }

    /// Drops the label sets that no shard used for [`IDLE`]; `now` counts from the start.
    fn sweep(&self, now: Duration) {
        let tables = locked(&self.0.tables);
        // All tables at once, always in the same order; a shard only ever holds its own.
        let mut tables: Vec<_> = tables.iter().map(|table| locked(table)).collect();
        let mut busy: HashMap<Arc<str>, bool> = HashMap::new();
        for (key, set) in tables.iter().flat_map(|table| table.iter()) {
            *busy.entry(Arc::clone(key)).or_default() |= !set.is_idle(now);
        }
        for table in &mut tables {
            table.retain(|key, _| busy.get(key).copied().unwrap_or(true));
            let left = table.len();
            table.shrink_to(left * 2);
        }
        self.0.swept.store(now.as_secs(), Relaxed);
    }

    fn sum(&self) -> BTreeMap<Arc<str>, Sum> {
        let tables: Vec<_> = locked(&self.0.tables).iter().map(Arc::clone).collect();
        let mut sums: BTreeMap<Arc<str>, Sum> = BTreeMap::new();
        for table in tables {
            // Only pointers are copied under the lock.
            let sets: Vec<_> = locked(&table).iter().map(|(key, set)| (Arc::clone(key), Arc::clone(set))).collect();
            for (key, set) in sets {
                sums.entry(key).or_default().add(&set);
            }
        }
        sums
    }
}

impl Table {
    /// Counts a connection as opened and gives the set that it adds to until [`Table::close`].
    pub fn open(&self, key: &Key) -> Arc<Set> {
        let mut sets = locked(&self.sets);
        let set = match sets.get(key.0.as_str()) {
            Some(set) => Arc::clone(set),
            None if sets.len() < MOST_SETS => {
                let set = Arc::new(Set::default());
                sets.insert(key.0.as_str().into(), Arc::clone(&set));
                set
            }
            None => Arc::clone(sets.entry(reporter_of(&key.0).into()).or_default()),
        };
        // Under the lock, so that a sweep sees the connection.
        set.opened.fetch_add(1, Relaxed);
        set.used.store(self.started.elapsed().as_secs(), Relaxed);
        set
    }

    /// Counts a connection as closed.
    pub fn close(&self, set: &Set, flag: Flag) {
        set.used.store(self.started.elapsed().as_secs(), Relaxed);
        set.closed[flag as usize].fetch_add(1, Relaxed);
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        locked(&self.sets).len()
    }
}

fn reporter_of(key: &str) -> &str {
    key.split(SEPARATOR).next().unwrap_or_default()
}

/// A panic while a table is locked leaves counters that are still good.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One label set's counts over all shards.
#[derive(Debug, Default)]
struct Sum {
    opened: u64,
    closed: [u64; Flag::ALL.len()],
    received: u64,
    sent: u64,
}

impl Sum {
    fn add(&mut self, set: &Set) {
        for (sum, count) in self.closed.iter_mut().zip(&set.closed) {
            *sum += count.load(Relaxed);
        }
        self.opened += set.opened.load(Relaxed);
        self.received += set.received.load(Relaxed);
        self.sent += set.sent.load(Relaxed);
    }

    fn live(&self) -> u64 {
        self.opened.saturating_sub(self.closed.iter().sum())
    }
}

/// Name, help and value of a counter that has no flags.
type Total = (&'static str, &'static str, fn(&Sum) -> u64);

impl Collector for Traffic {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let now = self.0.started.elapsed();
        if now.as_secs().saturating_sub(self.0.swept.load(Relaxed)) >= SWEEP_EVERY.as_secs() {
            self.sweep(now);
        }
        let sums = self.sum();
        let totals: [Total; 3] = [
            ("istio_tcp_connections_opened", "TCP connections opened", |sum| sum.opened),
            ("istio_tcp_received_bytes", "Bytes sent by clients to servers", |sum| sum.received),
            ("istio_tcp_sent_bytes", "Bytes sent by servers to clients", |sum| sum.sent),
        ];
        for (name, help, of) in totals {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (key, sum) in &sums {
                count(&mut family, Labels { key, flag: Flag::None }, of(sum))?;
            }
        }
        by_flag(&mut encoder, &sums, Ends::All)?;
        by_flag(&mut encoder, &sums, Ends::Failures)?;
        sockets_open(&mut encoder, &sums)
    }
}

/// Which ends of connections a family counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ends {
    All,
    Failures,
}

fn by_flag(encoder: &mut DescriptorEncoder<'_>, sums: &BTreeMap<Arc<str>, Sum>, ends: Ends) -> fmt::Result {
    let (name, help) = match ends {
        Ends::All => ("istio_tcp_connections_closed", "TCP connections closed"),
        Ends::Failures => ("istio_tcp_connections_failed", "TCP connections that failed, by response_flags"),
    };
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (key, sum) in sums {
        for flag in Flag::ALL {
            let closed = sum.closed[flag as usize];
            // The series of normal ends exists from the first connection on, so that its first increase is seen.
            let shown = match (ends, flag) {
                (Ends::All, Flag::None) => true,
                (Ends::Failures, Flag::None) => false,
                (Ends::All | Ends::Failures, _) => closed > 0,
            };
            if shown {
                count(&mut family, Labels { key, flag }, closed)?;
            }
        }
    }
    Ok(())
}

fn sockets_open(encoder: &mut DescriptorEncoder<'_>, sums: &BTreeMap<Arc<str>, Sum>) -> fmt::Result {
    let mut live: BTreeMap<&str, u64> = BTreeMap::from([("destination", 0), ("source", 0)]);
    for (key, sum) in sums {
        *live.entry(reporter_of(key)).or_default() += sum.live();
    }
    let help = "Connections that are open now";
    let mut family = encoder.encode_descriptor("istio_tcp_sockets_open", help, None, MetricType::Gauge)?;
    for (reporter, live) in live {
        family.encode_family(&[("reporter", reporter)])?.encode_gauge(&live)?;
    }
    Ok(())
}

fn count(family: &mut MetricEncoder<'_>, labels: Labels<'_>, value: u64) -> fmt::Result {
    family.encode_family(&labels)?.encode_counter::<Labels<'_>, u64, u64>(&value, None)
}

#[derive(Clone, Copy, Debug)]
struct Labels<'a> {
    key: &'a str,
    flag: Flag,
}

impl EncodeLabelSet for Labels<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        let mut values = self.key.split(SEPARATOR);
        let (last, first) = (LABELS[LABELS.len() - 1], &LABELS[..LABELS.len() - 1]);
        let mut next = || values.next().filter(|value| !value.is_empty()).unwrap_or("unknown");
        for name in first {
            (*name, next()).encode(encoder.encode_label())?;
        }
        ("request_protocol", "tcp").encode(encoder.encode_label())?;
        ("response_flags", self.flag.as_str()).encode(encoder.encode_label())?;
        (last, next()).encode(encoder.encode_label())
    }
}

#[cfg(test)]
mod tests;
