//! Istio's DNS metrics: counters that shards add to without meeting each other, summed when they are scraped (protocol note,
//! section 12.1).

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

/// The labels, in the order of a [`Key`].
const LABELS: [&str; 4] =
    ["request_query_type", "request_protocol", "source_canonical_service", "source_canonical_revision"];

/// Values of the labels.
type Key = [Arc<str>; LABELS.len()];

/// Upper bounds of the histogram of name servers' answers, in seconds.
const BOUNDS: [f64; 6] = [0.0005, 0.001, 0.01, 0.1, 1.0, 5.0];

/// Label sets per shard; queries with yet other labels are counted together under `unknown`.
const MOST_SETS: usize = 4096;

/// The counters of one label set on one shard.
#[derive(Debug, Default)]
pub struct Set {
    requests: AtomicU64,
    answered: AtomicU64,
    failed: AtomicU64,
    /// By the first bound that is not exceeded; the last one has no bound.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    microseconds: AtomicU64,
}

impl Set {
    /// Counts a query.
    pub fn requested(&self) {
        self.requests.fetch_add(1, Relaxed);
    }

    /// Counts a query that a name server has answered, after this time.
    pub fn upstream_answered(&self, after: Duration) {
        self.answered.fetch_add(1, Relaxed);
        self.took(after);
    }

    /// Counts a query that no name server has answered.
    pub fn upstream_failed(&self, after: Duration) {
        self.failed.fetch_add(1, Relaxed);
        self.took(after);
    }

    fn took(&self, time: Duration) {
        let bucket = BOUNDS.iter().position(|bound| time.as_secs_f64() <= *bound).unwrap_or(BOUNDS.len());
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.microseconds.fetch_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }
}

type Sets = HashMap<Key, Arc<Set>>;

/// All shards' tables; register it with the metrics registry.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Grows when a shard starts, and is read by scrapes.
    tables: Arc<Mutex<Vec<Arc<Mutex<Sets>>>>>,
}

/// One shard's table. Nobody but a scrape ever contends its lock, and only the first query of a kind takes it.
#[derive(Clone, Debug)]
pub struct Table(Arc<Mutex<Sets>>);

impl Names {
    /// Makes the table of one more shard.
    pub fn table(&self) -> Table {
        let sets = Arc::new(Mutex::default());
        locked(&self.tables).push(Arc::clone(&sets));
        Table(sets)
    }

    fn sum(&self) -> BTreeMap<Key, Sum> {
        let tables: Vec<_> = locked(&self.tables).iter().map(Arc::clone).collect();
        let mut sums: BTreeMap<Key, Sum> = BTreeMap::new();
        for table in tables {
            for (key, set) in &*locked(&table) {
                sums.entry(key.clone()).or_default().add(set);
            }
        }
        sums
    }
}

impl Table {
    /// The counters for these values: kind of record, protocol, canonical service and revision of the pod that asks. An empty
    /// value reads `unknown`.
    pub fn set(&self, values: [&str; LABELS.len()]) -> Arc<Set> {
        let named = |value: &str| Arc::from(if value.is_empty() { "unknown" } else { value });
        let mut sets = locked(&self.0);
        let mut key = values.map(named);
        if sets.len() >= MOST_SETS && !sets.contains_key(&key) {
            key = [""; LABELS.len()].map(named);
        }
        Arc::clone(sets.entry(key).or_default())
    }
}

/// A panic while a table is locked leaves counters that are still good.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One label set's counts over all shards.
#[derive(Debug, Default)]
struct Sum {
    requests: u64,
    answered: u64,
    failed: u64,
    buckets: [u64; BOUNDS.len() + 1],
    microseconds: u64,
}

impl Sum {
    fn add(&mut self, set: &Set) {
        self.requests += set.requests.load(Relaxed);
        self.answered += set.answered.load(Relaxed);
        self.failed += set.failed.load(Relaxed);
        self.microseconds += set.microseconds.load(Relaxed);
        for (sum, bucket) in self.buckets.iter_mut().zip(&set.buckets) {
            *sum += bucket.load(Relaxed);
        }
    }

    fn upstream(&self) -> u64 {
        self.answered + self.failed
    }
}

/// Name, help and value of a counter.
type Total = (&'static str, &'static str, fn(&Sum) -> u64);

impl Collector for Names {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let sums = self.sum();
        let totals: [Total; 3] = [
            ("istio_dns_requests", "DNS queries of pods", |sum| sum.requests),
            ("istio_dns_upstream_requests", "DNS queries passed on to name servers", Sum::upstream),
            ("istio_dns_upstream_failures", "DNS queries that no name server answered", |sum| sum.failed),
        ];
        for (name, help, of) in totals {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (key, sum) in &sums {
                family.encode_family(&labels(key))?.encode_counter::<NoLabelSet, u64, u64>(&of(sum), None)?;
            }
        }
        let (name, help) =
            ("istio_dns_upstream_request_duration_seconds", "Time that name servers took to answer DNS queries");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (key, sum) in sums.iter().filter(|(_, sum)| sum.upstream() > 0) {
            let bounds = BOUNDS.into_iter().chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = bounds.zip(sum.buckets).collect();
            let seconds = Duration::from_micros(sum.microseconds).as_secs_f64();
            let labels = labels(key);
            let mut metric = family.encode_family(&labels)?;
            metric.encode_histogram::<NoLabelSet>(seconds, sum.upstream(), &buckets, None)?;
        }
        Ok(())
    }
}

fn labels(key: &Key) -> Vec<(&'static str, &str)> {
    LABELS.into_iter().zip(key.iter().map(|value| &**value)).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{MOST_SETS, Names};
    use crate::telemetry::metrics::Metrics;

    const LABELS: &str = "request_query_type=\"A\",request_protocol=\"udp\",source_canonical_service=\"web\",source_canonical_revision=\"v1\"";

    fn page(names: &Names) -> String {
        let metrics = Metrics::new("0");
        metrics.register(Box::new(names.clone()));
        metrics.page(None).body
    }

    #[track_caller]
    fn has(page: &str, line: &str) {
        assert!(page.lines().any(|found| found == line), "{line:?} is not in\n{page}");
    }

    #[test]
    fn what_shards_count_is_added_up() {
        let names = Names::default();
        for table in [names.table(), names.table()] {
            let set = table.set(["A", "udp", "web", "v1"]);
            (0..5).for_each(|_| set.requested());
            set.upstream_answered(Duration::from_micros(500));
            set.upstream_answered(Duration::from_millis(50));
            set.upstream_failed(Duration::from_millis(4500));
            set.upstream_failed(Duration::from_secs(9));
        }
        names.table().set(["TXT", "tcp", "", ""]).requested();
        let page = page(&names);
        has(&page, &format!("istio_dns_requests_total{{{LABELS}}} 10"));
        has(&page, &format!("istio_dns_upstream_requests_total{{{LABELS}}} 8"));
        has(&page, &format!("istio_dns_upstream_failures_total{{{LABELS}}} 4"));
        let name = "istio_dns_upstream_request_duration_seconds";
        for (bound, count) in
            [("0.0005", 2), ("0.001", 2), ("0.01", 2), ("0.1", 4), ("1.0", 4), ("5.0", 6), ("+Inf", 8)]
        {
            has(&page, &format!("{name}_bucket{{le=\"{bound}\",{LABELS}}} {count}"));
        }
        has(&page, &format!("{name}_count{{{LABELS}}} 8"));
        has(&page, &format!("# TYPE {name} histogram"));
        let unknown = "request_query_type=\"TXT\",request_protocol=\"tcp\",source_canonical_service=\"unknown\",source_canonical_revision=\"unknown\"";
        has(&page, &format!("istio_dns_requests_total{{{unknown}}} 1"));
        assert!(!page.contains(&format!("{name}_count{{{unknown}}}")));
    }

    #[test]
    fn label_sets_have_a_bound() {
        let names = Names::default();
        let table = names.table();
        for at in 0..MOST_SETS + 10 {
            table.set(["A", "udp", &at.to_string(), ""]).requested();
        }
        assert_eq!(table.0.lock().unwrap().len(), MOST_SETS + 1);
        let all = "request_query_type=\"unknown\",request_protocol=\"unknown\",source_canonical_service=\"unknown\",source_canonical_revision=\"unknown\"";
        has(&page(&names), &format!("istio_dns_requests_total{{{all}}} 10"));
    }
}
