//! The metrics registry and the page that a scraper reads.
//!
//! One [`Metrics`] per process. Parts that own numbers hand in a closure ([`Metrics::sample`]) that is asked on each
//! scrape, so nothing is counted twice and nothing runs between scrapes; shards get a table of the traffic metrics from
//! [`Metrics::traffic`]. Names are given without `_total`, which the exposition adds to counters.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::process::Process;
use super::traffic::Traffic;

/// The registry. Clones share it.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Written while the agent starts, then only read by scrapes.
    registry: Arc<Mutex<Registry>>,
    traffic: Traffic,
}

/// What a sampled metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows. Its name gets the suffix `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// A text for scrapers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    pub content_type: &'static str,
    pub body: String,
}

/// Collects the values of one metric during a scrape.
#[derive(Debug, Default)]
pub struct Samples(Vec<(Vec<(&'static str, String)>, f64)>);

impl Metrics {
    /// A registry with the traffic metrics, the process's own and `istio_build`.
    pub fn new(version: &'static str) -> Self {
        let traffic = Traffic::default();
        let mut registry = Registry::default();
        registry.register_collector(Box::new(traffic.clone()));
        registry.register_collector(Box::new(Process));
        let metrics = Self { registry: Arc::new(Mutex::new(registry)), traffic };
        // `component` is what Istio's dashboards select node proxies by.
        metrics.sample(Kind::Gauge, "istio_build", "Version of the agent; always 1", move |out| {
            out.add(&[("component", "ztunnel"), ("tag", version)], 1.0);
        });
        metrics
    }

    /// The traffic metrics, to make the shards' tables of.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Registers a metric whose values `sample` gives on each scrape.
    pub fn sample(
        &self,
        kind: Kind,
        name: &'static str,
        help: &'static str,
        sample: impl Fn(&mut Samples) + Send + Sync + 'static,
    ) {
        self.register(Box::new(Sampled { kind, name, help, sample }));
    }

    /// Registers several metrics at once.
    pub fn register(&self, collector: Box<dyn Collector>) {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner).register_collector(collector);
    }

    /// All metrics, in the form that the `Accept` header asks for: OpenMetrics, else the classic text format.
    pub fn page(&self, accept: Option<&str>) -> Page {
        let mut body = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = text::encode(&mut body, &registry) {
            tracing::warn!(%error, "metrics cannot be encoded");
        }
        if accept.is_some_and(|accept| accept.contains("application/openmetrics-text")) {
            return Page { content_type: "application/openmetrics-text; version=1.0.0; charset=utf-8", body };
        }
        Page { content_type: "text/plain; version=0.0.4; charset=utf-8", body: classic(&body) }
    }
}

/// The classic text format calls a counter by its full name where OpenMetrics leaves out `_total`.
fn classic(open_metrics: &str) -> String {
    let mut page = String::with_capacity(open_metrics.len());
    let mut help: Option<(&str, &str)> = None;
    for line in open_metrics.lines() {
        if let Some((name, text)) = line.strip_prefix("# HELP ").and_then(|line| line.split_once(' ')) {
            // It is not known yet whether this is a counter: the type follows.
            help = Some((name, text));
            continue;
        }
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|line| line.split_once(' ')) {
            let suffix = if kind == "counter" { "_total" } else { "" };
            if let Some((_, text)) = help.take() {
                page.extend(["# HELP ", name, suffix, " ", text, "\n"]);
            }
            page.extend(["# TYPE ", name, suffix, " ", kind, "\n"]);
        } else if line != "# EOF" && !line.starts_with("# UNIT ") {
            page.extend([line, "\n"]);
        }
    }
    page
}

impl Samples {
    /// Adds one value with its labels.
    pub fn add(&mut self, labels: &[(&'static str, &str)], value: f64) {
        self.0.push((labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect(), value));
    }
}

struct Sampled<F> {
    kind: Kind,
    name: &'static str,
    help: &'static str,
    sample: F,
}

impl<F> fmt::Debug for Sampled<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sampled").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<F: Fn(&mut Samples) + Send + Sync + 'static> Collector for Sampled<F> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut samples = Samples::default();
        (self.sample)(&mut samples);
        encode(&mut encoder, (self.kind, self.name, self.help), &samples)
    }
}

/// Writes one metric: its descriptor and all its samples.
pub(super) fn encode(
    encoder: &mut DescriptorEncoder<'_>,
    (kind, name, help): (Kind, &str, &str),
    samples: &Samples,
) -> fmt::Result {
    let metric_type = match kind {
        Kind::Counter => MetricType::Counter,
        Kind::Gauge => MetricType::Gauge,
    };
    let mut family = encoder.encode_descriptor(name, help, None, metric_type)?;
    for (labels, value) in &samples.0 {
        if labels.is_empty() {
            write(&mut family, kind, *value)?;
        } else {
            write(&mut family.encode_family(labels)?, kind, *value)?;
        }
    }
    Ok(())
}

fn write(metric: &mut MetricEncoder<'_>, kind: Kind, value: f64) -> fmt::Result {
    match kind {
        Kind::Counter => metric.encode_counter::<NoLabelSet, f64, f64>(&value, None),
        Kind::Gauge => metric.encode_gauge(&value),
    }
}

#[cfg(test)]
mod tests {
    use super::{Kind, Metrics};

    #[test]
    fn both_formats() {
        let metrics = Metrics::new("1.2.3");
        metrics.sample(Kind::Counter, "mesh_captured_packets", "Packets", |out| {
            out.add(&[("direction", "egress")], 7.0);
            out.add(&[("direction", "in\"gress\n")], 0.0);
        });
        let classic = metrics.page(None);
        assert_eq!(classic.content_type, "text/plain; version=0.0.4; charset=utf-8");
        let has = |page: &str, text: &str| assert!(page.contains(text), "{text:?} is not in\n{page}");
        has(&classic.body, "\n# TYPE istio_build gauge\nistio_build{component=\"ztunnel\",tag=\"1.2.3\"} 1.0\n");
        has(
            &classic.body,
            "# HELP mesh_captured_packets_total Packets\n# TYPE mesh_captured_packets_total counter\n\
             mesh_captured_packets_total{direction=\"egress\"} 7.0\n\
             mesh_captured_packets_total{direction=\"in\\\"gress\\n\"} 0.0\n",
        );
        has(&classic.body, "\n# TYPE process_resident_memory_bytes gauge\nprocess_resident_memory_bytes ");
        assert!(!classic.body.contains("# EOF"));
        let open = metrics.page(Some("application/openmetrics-text;version=1.0.0,text/plain;q=0.5"));
        assert_eq!(open.content_type, "application/openmetrics-text; version=1.0.0; charset=utf-8");
        has(
            &open.body,
            "# TYPE mesh_captured_packets counter\nmesh_captured_packets_total{direction=\"egress\"} 7.0\n",
        );
        assert!(open.body.ends_with("# EOF\n"));
    }
}
