//! How long new pods waited for the mesh, and those that did not.

use std::fmt;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;

/// Seconds. A new pod's other preparations take about one.
const BUCKETS: [f64; 8] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// The time from a new pod's announcement until its runtime was answered, and pods that were not announced; register it with
/// the metrics registry. Clones share it.
#[derive(Clone, Debug)]
pub struct Announced {
    answered: Histogram,
    missed: Counter,
    around: Counter,
}

impl Default for Announced {
    fn default() -> Self {
        Self { answered: Histogram::new(BUCKETS), missed: Counter::default(), around: Counter::default() }
    }
}

impl Announced {
    pub fn answered(&self, after: Duration) {
        self.answered.observe(after.as_secs_f64());
    }

    /// A pod of the mesh ran before it was captured, and its interface carried so many bytes.
    pub fn missed(&self, bytes: u64) {
        self.missed.inc();
        self.around.inc_by(bytes);
    }
}

impl Collector for Announced {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "Time from the announcement of a new pod by the CNI plugin until it was answered";
        let kind = self.answered.metric_type();
        self.answered.encode(encoder.encode_descriptor("mesh_cni_add_duration_seconds", help, None, kind)?)?;
        let counters = [
            (&self.missed, "mesh_cni_missed_pods", "New pods of the mesh that ran before they were captured"),
            (&self.around, "mesh_cni_missed_bytes", "What the interfaces of such pods carried around the mesh"),
        ];
        for (counter, name, help) in counters {
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Announced;
    use crate::telemetry::metrics::Metrics;

    #[test]
    fn answers_are_counted_by_their_time() {
        let announced = Announced::default();
        announced.answered(Duration::from_millis(300));
        announced.answered(Duration::from_secs(3));
        announced.missed(40);
        announced.missed(2);
        let metrics = Metrics::new("0");
        metrics.register(Box::new(announced));
        let page = metrics.page(None).body;
        let has = |line: &str| assert!(page.lines().any(|found| found == line), "{line:?} is not in\n{page}");
        has("mesh_cni_add_duration_seconds_bucket{le=\"0.25\"} 0");
        has("mesh_cni_add_duration_seconds_bucket{le=\"1.0\"} 1");
        has("mesh_cni_add_duration_seconds_bucket{le=\"+Inf\"} 2");
        has("mesh_cni_add_duration_seconds_count 2");
        has("mesh_cni_missed_pods_total 2");
        has("mesh_cni_missed_bytes_total 42");
    }
}
