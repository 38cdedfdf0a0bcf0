//! Istio's metric of host names that are looked up when they are connected to (protocol note, sections 7.5 and 12.1).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::traffic;

/// Labels of the one who connects: those of the traffic metrics after `reporter`, but for where it is.
const SOURCE: usize = 8;

/// The labels, in the order of a [`Key`].
const LABELS: [&str; SOURCE + 1] = {
    let mut all = ["hostname"; SOURCE + 1];
    let mut at = 0;
    while at < SOURCE {
        all[at] = traffic::LABELS[1 + at];
        at += 1;
    }
    all
};

type Key = [String; LABELS.len()];

/// Label sets; look-ups with yet other labels are counted together under `unknown`.
const MOST_SETS: usize = 4096;

/// The counters; register them with the metrics registry. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Lookups {
    /// One for all shards: whoever counts is about to wait for a resolver.
    sets: Arc<Mutex<BTreeMap<Key, u64>>>,
}

impl Lookups {
    /// Counts a look-up of `host` for these values of the source's labels. An empty value reads `unknown`.
    pub fn count(&self, source: [&str; SOURCE], host: &str) {
        let named = |value: &str| if value.is_empty() { "unknown".to_owned() } else { value.to_owned() };
        let mut sets = self.locked();
        let mut key: Key = std::array::from_fn(|at| named(source.get(at).copied().unwrap_or(host)));
        if sets.len() >= MOST_SETS && !sets.contains_key(&key) {
            key = [""; LABELS.len()].map(named);
        }
        *sets.entry(key).or_default() += 1;
    }

    fn locked(&self) -> MutexGuard<'_, BTreeMap<Key, u64>> {
        self.sets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for Lookups {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "Host names of workloads that were looked up for connections";
        let mut family = encoder.encode_descriptor("istio_on_demand_dns", help, None, MetricType::Counter)?;
        for (key, count) in self.locked().iter() {
            let labels: Vec<_> = LABELS.into_iter().zip(key.iter().map(String::as_str)).collect();
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, u64>(count, None)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{LABELS, Lookups, MOST_SETS};
    use crate::telemetry::metrics::Metrics;

    #[test]
    fn labels_and_a_bound() {
        let lookups = Lookups::default();
        let web = ["web", "web", "v1", "shop", "spiffe://a/ns/shop/sa/web", "web", "v1", ""];
        (0..2).for_each(|_| lookups.count(web, "db.example.com"));
        for at in 0..MOST_SETS + 10 {
            let host = at.to_string();
            lookups.count(["web", "web", "v1", "shop", "", "web", "v1", ""], &host);
        }
        let metrics = Metrics::new("0");
        metrics.register(Box::new(lookups));
        let page = metrics.page(None).body;
        let has = |line: &str| assert!(page.lines().any(|found| found == line), "{line:?} is not in the page");
        has("istio_on_demand_dns_total{source_workload=\"web\",source_canonical_service=\"web\",\
             source_canonical_revision=\"v1\",source_workload_namespace=\"shop\",\
             source_principal=\"spiffe://a/ns/shop/sa/web\",source_app=\"web\",source_version=\"v1\",\
             source_cluster=\"unknown\",hostname=\"db.example.com\"} 2");
        let all: Vec<_> = LABELS.iter().map(|label| format!("{label}=\"unknown\"")).collect();
        has(&format!("istio_on_demand_dns_total{{{}}} 11", all.join(",")));
    }
}
