//! How long new pods waited for the mesh.

use std::fmt;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::histogram::Histogram;

/// Seconds. A new pod's other preparations take about one.
const BUCKETS: [f64; 8] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// The time from a new pod's announcement until its runtime was answered; register it with the metrics registry. Clones
/// share it.
#[derive(Clone, Debug)]
pub struct Announced(Histogram);

impl Default for Announced {
    fn default() -> Self {
        Self(Histogram::new(BUCKETS))
    }
}

impl Announced {
    pub fn answered(&self, after: Duration) {
        self.0.observe(after.as_secs_f64());
    }
}

impl Collector for Announced {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "Time from the announcement of a new pod by the CNI plugin until it was answered";
        let family = encoder.encode_descriptor("mesh_cni_add_duration_seconds", help, None, self.0.metric_type())?;
        self.0.encode(family)
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
        let metrics = Metrics::new("0");
        metrics.register(Box::new(announced));
        let page = metrics.page(None).body;
        let has = |line: &str| assert!(page.lines().any(|found| found == line), "{line:?} is not in\n{page}");
        has("mesh_cni_add_duration_seconds_bucket{le=\"0.25\"} 0");
        has("mesh_cni_add_duration_seconds_bucket{le=\"1.0\"} 1");
        has("mesh_cni_add_duration_seconds_bucket{le=\"+Inf\"} 2");
        has("mesh_cni_add_duration_seconds_count 2");
    }
}
