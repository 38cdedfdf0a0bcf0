//! The access log: one line per connection, on the log target `access` (protocol note, section 12.2).
//!
//! The metrics look at bytes from the server's side; these lines show them from the reporter's own. Nothing is formatted
//! and no kernel fact is read unless the target is enabled.

use std::net::SocketAddr;

use tracing::{Level, enabled, event};

use super::{Ends, Record, Reporter, Security};

const fn direction(reporter: Reporter) -> &'static str {
    match reporter {
        Reporter::Source => "outbound",
        Reporter::Destination => "inbound",
    }
}

const fn mode(security: Security) -> &'static str {
    match security {
        Security::MutualTls => "mtls",
        Security::Local => "local",
        Security::Direct => "direct",
        Security::Plain => "plain",
    }
}

/// Logs the failure of a connection before its destination was known; such failures make no traffic metric.
pub fn refuse(reporter: Reporter, src: SocketAddr, dst: Option<SocketAddr>, error: &str) {
    event!(
        target: "access",
        Level::WARN,
        src.addr = %src,
        dst.addr = dst.map(display),
        direction = direction(reporter),
        error,
        "connection failed"
    );
}

pub(super) fn opened(record: &Record) {
    let ends = &record.ends;
    event!(
        target: "access",
        Level::DEBUG,
        src.addr = %ends.src_addr,
        src.workload = ends.source.as_ref().map(|w| w.name.as_ref()),
        dst.addr = %ends.dst_addr,
        dst.hbone_addr = ends.hbone_addr.as_ref().map(display),
        dst.workload = ends.destination.as_ref().map(|w| w.name.as_ref()),
        direction = direction(ends.reporter),
        "connection opened"
    );
}

pub(super) fn complete(record: &Record, error: Option<&str>) {
    // The macro needs a constant level; each arm is one call site.
    macro_rules! line {
        ($level:expr) => {{
            if enabled!(target: "access", $level) {
                let line = Line::of(record);
                event!(
                    target: "access",
                    $level,
                    src.addr = %line.ends.src_addr,
                    src.workload = line.source.map(|w| w.name.as_ref()),
                    src.namespace = line.source.map(|w| w.namespace()),
                    src.identity = line.identities.0,
                    src.cluster = line.source.map(|w| w.cluster.as_ref()),
                    dst.addr = %line.ends.dst_addr,
                    dst.hbone_addr = line.ends.hbone_addr.as_ref().map(display),
                    dst.service = line.ends.service.as_ref().map(|s| &*s.key.hostname),
                    dst.workload = line.destination.map(|w| w.name.as_ref()),
                    dst.namespace = line.destination.map(|w| w.namespace()),
                    dst.identity = line.identities.1,
                    dst.cluster = line.destination.map(|w| w.cluster.as_ref()),
                    direction = direction(line.ends.reporter),
                    mode = mode(line.ends.security),
                    bytes_sent = line.bytes_sent,
                    bytes_recv = line.bytes_recv,
                    duration = line.duration.as_str(),
                    policy = line.policy.as_deref(),
                    rtt = line.rtt.as_deref(),
                    retrans = line.facts.map(|facts| facts.retransmits),
                    close = line.facts.map(|facts| facts.close),
                    error,
                    "connection complete"
                );
            }
        }};
    }
    match error {
        None => line!(Level::INFO),
        Some(_) => line!(Level::ERROR),
    }
}

/// What a line shows, in the form it is shown.
struct Line<'a> {
    ends: &'a Ends,
    source: Option<&'a crate::model::Workload>,
    destination: Option<&'a crate::model::Workload>,
    identities: (Option<&'a str>, Option<&'a str>),
    bytes_sent: u64,
    bytes_recv: u64,
    duration: String,
    policy: Option<String>,
    facts: Option<super::Facts>,
    rtt: Option<String>,
}

impl<'a> Line<'a> {
    fn of(record: &'a Record) -> Self {
        let ends = &*record.ends;
        let (bytes_sent, bytes_recv) = match ends.reporter {
            Reporter::Source => (record.received.get(), record.sent.get()),
            Reporter::Destination => (record.sent.get(), record.received.get()),
        };
        let (source, destination) = ends.proven();
        let facts = record.facts();
        Self {
            ends,
            source: ends.source.as_deref(),
            destination: ends.destination.as_deref(),
            identities: (source.map(|identity| identity.uri()), destination.map(|identity| identity.uri())),
            bytes_sent,
            bytes_recv,
            duration: format!("{}ms", record.opened.elapsed().as_millis()),
            policy: record.policy.borrow().as_ref().map(ToString::to_string),
            facts,
            rtt: facts.map(|facts| format!("{}us", facts.srtt_us)),
        }
    }
}
