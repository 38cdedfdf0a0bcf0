//! `ctl flows`: the open connections as a table, one line each.

use std::collections::HashMap;
use std::time::Duration;

use super::text::{bytes, duration, or_dash, table};
use crate::admin::documents::{End, Flow, Flows, Security};

/// A flow's name: shard and number.
type Name = (u32, u64);

/// How the column RATE is filled.
#[derive(Debug)]
pub(super) enum Rates {
    /// Bytes over age, for a single look.
    Average,
    /// Bytes since an earlier look.
    Since(Look),
}

/// The byte counts at one moment.
#[derive(Debug, Default)]
pub(super) struct Look {
    counts: HashMap<Name, u64>,
    /// How long ago it was taken when the next one is compared with it.
    ago: Duration,
}

impl Look {
    pub(super) fn at(document: &Flows) -> Self {
        let counts = document.flows.iter().map(|flow| (name(flow), both_ways(flow))).collect();
        Self { counts, ago: Duration::ZERO }
    }

    /// The same look, `ago` later.
    pub(super) fn aged(self, ago: Duration) -> Self {
        Self { ago, ..self }
    }
}

impl Rates {
    /// Bytes per second, both ways.
    pub(super) fn of(&self, flow: &Flow) -> u64 {
        let age = Duration::from_millis(flow.age_ms);
        let (bytes, time) = match self {
            Self::Average => (both_ways(flow), age),
            Self::Since(look) => match look.counts.get(&name(flow)) {
                Some(before) => (both_ways(flow).saturating_sub(*before), look.ago),
                // It opened in between.
                None => (both_ways(flow), age),
            },
        };
        // A connection that is a moment old has no meaningful rate; a floor keeps it from topping the list.
        (bytes as f64 / time.as_secs_f64().max(0.1)) as u64
    }
}

fn name(flow: &Flow) -> Name {
    (flow.shard, flow.number)
}

fn both_ways(flow: &Flow) -> u64 {
    flow.to_server + flow.to_client
}

/// Whether one of the flow's ends is the pod, given as `NAME` or `NAMESPACE/NAME`.
pub(super) fn concerns(flow: &Flow, pod: &str) -> bool {
    let is = |end: &End| {
        let name = end.workload.as_deref();
        match pod.split_once('/') {
            Some((namespace, pod)) => end.namespace.as_deref() == Some(namespace) && name == Some(pod),
            None => name == Some(pod),
        }
    };
    is(&flow.source) || is(&flow.destination)
}

pub(super) fn render(document: &Flows, rates: &Rates) -> String {
    if document.flows.is_empty() {
        return format!("no open connections on {}\n", document.node);
    }
    let row = |flow: &Flow| {
        vec![
            flow.direction.as_str().to_owned(),
            source(&flow.source),
            destination(flow),
            match flow.security {
                Security::MutualTls => "mtls",
                Security::Local => "local",
                Security::Direct => "direct",
                Security::Plain => "plain",
            }
            .to_owned(),
            or_dash(flow.policy.as_deref()),
            duration(Duration::from_millis(flow.age_ms)),
            bytes(flow.to_server),
            bytes(flow.to_client),
            format!("{}/s", bytes(rates.of(flow))),
            flow.rtt_us.map_or_else(|| "-".to_owned(), |rtt| format!("{:.2}ms", f64::from(rtt) / 1000.0)),
        ]
    };
    let header =
        ["DIRECTION", "SOURCE", "DESTINATION", "TLS", "POLICY", "AGE", "TO SERVER", "TO CLIENT", "RATE", "APP RTT"];
    table(&header, document.flows.iter().map(row).collect(), &[5, 6, 7, 8, 9])
}

/// The proven identity if there is one, else what the address stands for, else the address.
fn source(end: &End) -> String {
    match (&end.identity, workload(end)) {
        (Some(identity), _) => identity.strip_prefix("spiffe://").unwrap_or(identity).to_owned(),
        (None, Some(workload)) => workload,
        (None, None) => end.address.clone(),
    }
}

/// The service and the workload behind it.
fn destination(flow: &Flow) -> String {
    match (&flow.service, workload(&flow.destination)) {
        (Some(service), Some(workload)) => format!("{service} ({workload})"),
        (Some(service), None) => service.clone(),
        (None, Some(workload)) => workload,
        (None, None) => flow.original.clone(),
    }
}

fn workload(end: &End) -> Option<String> {
    let name = end.workload.as_ref()?;
    Some(match &end.namespace {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.clone(),
    })
}
