//! Records: counters, access log, table of live flows.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::{Layer, SubscriberExt};

use super::{Books, Ends, Facts, Flag, KernelFacts, Outcome, Record, Reporter, Security, documents, refuse};
use crate::admin::documents::Direction;
use crate::model::service::ServiceKey;
use crate::model::workload::Locality;
use crate::model::{Identity, PolicyName, Service, Workload};
use crate::telemetry::format::{Json, SpanFields, Text};
use crate::telemetry::metrics::Metrics;

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn workload(name: &str) -> Arc<Workload> {
    let identity = Identity::new("td", name, &format!("{name}-sa")).unwrap();
    let locality = Arc::new(Locality { region: "r".into(), zone: "z".into(), subzone: "".into() });
    let mut workload = Workload::new(name, &format!("{name}-1"), identity);
    workload.workload_name = format!("{name}-deployment").into();
    workload.canonical_name = format!("{name}-app").into();
    workload.canonical_revision = "v2".into();
    Arc::new(Workload { locality, ..workload })
}

fn service() -> Arc<Service> {
    let service = Service::new(ServiceKey::new("web", "web.example"), "web");
    Arc::new(Service { ports: [(80, 8080)].into_iter().collect(), ..service })
}

/// A tunnelled connection, everything known.
fn tunnelled(reporter: Reporter) -> Ends {
    let (client, web) = (workload("client"), workload("web"));
    Ends {
        reporter,
        src_addr: address("10.0.0.2:40000"),
        dst_addr: address("10.0.1.3:15008"),
        hbone_addr: Some("10.0.1.3:8080".to_owned()),
        original: address("10.96.0.10:80"),
        source_identity: Some(client.identity.clone()),
        source: Some(client),
        destination_identity: Some(web.identity.clone()),
        destination: Some(web),
        service: Some(service()),
        security: Security::MutualTls,
        policy: None,
        netns_cookie: 7,
        app_socket: Some((address("10.0.0.2:40000"), address("10.96.0.10:80"))),
    }
}

/// A connection to an address that the mesh does not know.
fn passed_on() -> Ends {
    Ends {
        hbone_addr: None,
        destination: None,
        destination_identity: None,
        service: None,
        security: Security::Plain,
        dst_addr: address("203.0.113.9:443"),
        ..tunnelled(Reporter::Source)
    }
}

struct Kernel;

impl KernelFacts for Kernel {
    fn read(&self, cookie: u64, local: SocketAddr, remote: SocketAddr) -> Option<Facts> {
        let known = cookie == 7 && local == address("10.0.0.2:40000") && remote == address("10.96.0.10:80");
        known.then_some(Facts { srtt_us: 183, retransmits: 2, bytes_acked: 1, bytes_received: 2, close: "fin" })
    }
}

fn books(metrics: &Metrics) -> Rc<Books> {
    Rc::new(Books::new(3, metrics.traffic().table(), Some(Arc::new(Kernel))))
}

const SUCCESS: Outcome = Outcome { flag: Flag::None, error: None };

fn failure(flag: Flag, error: &str) -> Outcome {
    Outcome { flag, error: Some(error.to_owned()) }
}

struct Noon;

impl FormatTime for Noon {
    fn format_time(&self, w: &mut Writer<'_>) -> std::fmt::Result {
        w.write_str("noon")
    }
}

#[derive(Clone, Default)]
struct Out(Arc<Mutex<Vec<u8>>>);

impl io::Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Form {
    Text,
    Json,
}

/// What is logged while `act` runs, with durations made equal.
fn logged(form: Form, filter: &str, act: impl FnOnce()) -> String {
    let out = Out::default();
    let writer = {
        let out = out.clone();
        move || out.clone()
    };
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).fmt_fields(SpanFields);
    let layer = match form {
        Form::Text => layer.event_format(Text::new(Noon)).boxed(),
        Form::Json => layer.event_format(Json::new(Noon)).boxed(),
    };
    let filter: tracing_subscriber::filter::Targets = filter.parse().unwrap();
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer.with_filter(filter)), act);
    let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
    let mut parts = text.split("ms\"");
    let first = parts.next().unwrap().to_owned();
    parts.fold(first, |text, part| text.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned() + "Nms\"" + part)
}

fn carry(ends: Ends, outcome: Outcome) {
    let record = Record::open(&books(&Metrics::new("test")), ends);
    record.received(100);
    record.sent(2000);
    record.allowed_by(Some(&PolicyName { namespace: "web".into(), name: "only-client".into() }));
    record.finish(outcome);
}

const ENDS: &str = "src.addr=10.0.0.2:40000 src.workload=\"client-1\" src.namespace=\"client\" \
    src.identity=\"spiffe://td/ns/client/sa/client-sa\" src.cluster=\"Kubernetes\" \
    dst.addr=10.0.1.3:15008 dst.hbone_addr=10.0.1.3:8080 dst.service=\"web.example\" dst.workload=\"web-1\" \
    dst.namespace=\"web\" dst.identity=\"spiffe://td/ns/web/sa/web-sa\" dst.cluster=\"Kubernetes\"";

const FACTS: &str = "duration=\"Nms\" policy=\"web/only-client\" rtt=\"183us\" retrans=2 close=\"fin\"";

#[test]
fn access_log_lines() {
    let cases: [(&str, &dyn Fn(), String); 7] = [
        (
            "the source's own bytes are what it sent",
            &|| carry(tunnelled(Reporter::Source), SUCCESS),
            format!(
                "noon\tinfo\taccess\tconnection complete\t{ENDS} direction=\"outbound\" mode=\"mtls\" \
                 bytes_sent=100 bytes_recv=2000 {FACTS}\n"
            ),
        ),
        (
            "the destination's own bytes are what it sent",
            &|| carry(tunnelled(Reporter::Destination), SUCCESS),
            format!(
                "noon\tinfo\taccess\tconnection complete\t{ENDS} direction=\"inbound\" mode=\"mtls\" \
                 bytes_sent=2000 bytes_recv=100 {FACTS}\n"
            ),
        ),
        (
            "an error",
            &|| carry(tunnelled(Reporter::Source), failure(Flag::Deny, "policy x denies it")),
            format!(
                "noon\terror\taccess\tconnection complete\t{ENDS} direction=\"outbound\" mode=\"mtls\" \
                 bytes_sent=100 bytes_recv=2000 {FACTS} error=\"policy x denies it\"\n"
            ),
        ),
        (
            "identities only with mutual TLS, unknown fields absent",
            &|| {
                let ends = Ends { app_socket: None, ..passed_on() };
                let record = Record::open(&books(&Metrics::new("test")), ends);
                record.finish(SUCCESS);
            },
            "noon\tinfo\taccess\tconnection complete\tsrc.addr=10.0.0.2:40000 src.workload=\"client-1\" \
             src.namespace=\"client\" src.cluster=\"Kubernetes\" dst.addr=203.0.113.9:443 direction=\"outbound\" mode=\"plain\" \
             bytes_sent=0 bytes_recv=0 duration=\"Nms\"\n"
                .to_owned(),
        ),
        (
            "dropped without an end",
            &|| drop(Record::open(&books(&Metrics::new("test")), Ends { app_socket: None, ..passed_on() })),
            "noon\terror\taccess\tconnection complete\tsrc.addr=10.0.0.2:40000 src.workload=\"client-1\" \
             src.namespace=\"client\" src.cluster=\"Kubernetes\" dst.addr=203.0.113.9:443 direction=\"outbound\" mode=\"plain\" \
             bytes_sent=0 bytes_recv=0 duration=\"Nms\" error=\"cancelled\"\n"
                .to_owned(),
        ),
        (
            "before the destination is known",
            &|| {
                let dst = Some(address("10.0.1.3:15008"));
                refuse(Reporter::Destination, address("10.0.0.2:1"), dst, "tls: \"odd\"\nconnection complete");
            },
            "noon\twarn\taccess\tconnection failed\tsrc.addr=10.0.0.2:1 dst.addr=10.0.1.3:15008 \
             direction=\"inbound\" error=\"tls: \\\"odd\\\"\\nconnection complete\"\n"
                .to_owned(),
        ),
        (
            "before anything is known",
            &|| refuse(Reporter::Source, address("10.0.0.2:1"), None, "no"),
            "noon\twarn\taccess\tconnection failed\tsrc.addr=10.0.0.2:1 direction=\"outbound\" error=\"no\"\n"
                .to_owned(),
        ),
    ];
    for (case, act, expected) in cases {
        assert_eq!(logged(Form::Text, "info", act), expected, "{case}");
        assert_eq!(logged(Form::Text, "info,access=off", act), "", "{case}");
    }
    let opened = logged(Form::Text, "access=debug", || carry(tunnelled(Reporter::Source), SUCCESS));
    assert_eq!(
        opened.lines().next(),
        Some(
            "noon\tdebug\taccess\tconnection opened\tsrc.addr=10.0.0.2:40000 src.workload=\"client-1\" \
             dst.addr=10.0.1.3:15008 dst.hbone_addr=10.0.1.3:8080 dst.workload=\"web-1\" direction=\"outbound\""
        )
    );
}

#[test]
fn json_access_log_line() {
    let line = logged(Form::Json, "info", || {
        carry(tunnelled(Reporter::Destination), failure(Flag::Connect, "refused"));
    });
    assert_eq!(
        line,
        "{\"level\":\"error\",\"time\":\"noon\",\"scope\":\"access\",\"message\":\"connection complete\",\
         \"src.addr\":\"10.0.0.2:40000\",\"src.workload\":\"client-1\",\"src.namespace\":\"client\",\
         \"src.identity\":\"spiffe://td/ns/client/sa/client-sa\",\"src.cluster\":\"Kubernetes\",\
         \"dst.addr\":\"10.0.1.3:15008\",\"dst.hbone_addr\":\"10.0.1.3:8080\",\"dst.service\":\"web.example\",\
         \"dst.workload\":\"web-1\",\"dst.namespace\":\"web\",\"dst.identity\":\"spiffe://td/ns/web/sa/web-sa\",\
         \"dst.cluster\":\"Kubernetes\",\"direction\":\"inbound\",\"mode\":\"mtls\",\"bytes_sent\":2000,\"bytes_recv\":100,\
         \"duration\":\"Nms\",\"policy\":\"web/only-client\",\"rtt\":\"183us\",\"retrans\":2,\"close\":\"fin\",\
         \"error\":\"refused\"}\n"
    );
}

const KNOWN: &str = "source_workload=\"client-deployment\",source_canonical_service=\"client-app\",\
    source_canonical_revision=\"v2\",source_workload_namespace=\"client\",\
    source_principal=\"spiffe://td/ns/client/sa/client-sa\",source_app=\"client-app\",source_version=\"v2\",\
    source_cluster=\"Kubernetes\",source_region=\"r\",source_zone=\"z\",\
    destination_service=\"web.example\",destination_service_namespace=\"web\",destination_service_name=\"web\",\
    destination_workload=\"web-deployment\",destination_canonical_service=\"web-app\",\
    destination_canonical_revision=\"v2\",destination_workload_namespace=\"web\",\
    destination_principal=\"spiffe://td/ns/web/sa/web-sa\",destination_app=\"web-app\",destination_version=\"v2\",\
    destination_cluster=\"Kubernetes\",destination_region=\"r\",destination_zone=\"z\",request_protocol=\"tcp\"";

const UNKNOWN: &str = "source_workload=\"client-deployment\",source_canonical_service=\"client-app\",\
    source_canonical_revision=\"v2\",source_workload_namespace=\"client\",source_principal=\"unknown\",\
    source_app=\"client-app\",source_version=\"v2\",source_cluster=\"Kubernetes\",source_region=\"r\",source_zone=\"z\",\
    destination_service=\"unknown\",destination_service_namespace=\"unknown\",destination_service_name=\"unknown\",\
    destination_workload=\"unknown\",destination_canonical_service=\"unknown\",\
    destination_canonical_revision=\"unknown\",destination_workload_namespace=\"unknown\",\
    destination_principal=\"unknown\",destination_app=\"unknown\",destination_version=\"unknown\",\
    destination_cluster=\"unknown\",destination_region=\"unknown\",destination_zone=\"unknown\",request_protocol=\"tcp\"";

#[test]
fn metrics_of_a_day() {
    let metrics = Metrics::new("test");
    let books = books(&metrics);
    for (ends, outcome) in [
        (tunnelled(Reporter::Source), SUCCESS),
        (tunnelled(Reporter::Source), failure(Flag::NetworkPolicy, "timed out")),
        (passed_on(), SUCCESS),
    ] {
        let record = Record::open(&books, ends);
        record.received(3);
        record.sent(50);
        record.finish(outcome);
        // A late or second end changes nothing.
        record.finish(failure(Flag::Deny, "late"));
    }
    let open = Record::open(&books, tunnelled(Reporter::Source));
    open.received(1);
    let page = metrics.page(None).body;
    let tls = |flags: &str| {
        format!("reporter=\"source\",{KNOWN},response_flags=\"{flags}\",connection_security_policy=\"mutual_tls\"")
    };
    let plain = format!("reporter=\"source\",{UNKNOWN},response_flags=\"-\",connection_security_policy=\"unknown\"");
    let mut expected = vec![
        format!("istio_tcp_connections_opened_total{{{}}} 3", tls("-")),
        format!("istio_tcp_connections_opened_total{{{plain}}} 1"),
        format!("istio_tcp_received_bytes_total{{{}}} 7", tls("-")),
        format!("istio_tcp_received_bytes_total{{{plain}}} 3"),
        format!("istio_tcp_sent_bytes_total{{{}}} 100", tls("-")),
        format!("istio_tcp_sent_bytes_total{{{plain}}} 50"),
        format!("istio_tcp_connections_closed_total{{{}}} 1", tls("-")),
        format!("istio_tcp_connections_closed_total{{{}}} 1", tls("NETWORK_POLICY")),
        format!("istio_tcp_connections_closed_total{{{plain}}} 1"),
        format!("istio_tcp_connections_failed_total{{{}}} 1", tls("NETWORK_POLICY")),
        "istio_tcp_sockets_open{reporter=\"destination\"} 0".to_owned(),
        "istio_tcp_sockets_open{reporter=\"source\"} 1".to_owned(),
    ];
    let mut got: Vec<&str> = page.lines().filter(|line| line.starts_with("istio_tcp_")).collect();
    got.sort_unstable();
    expected.sort_unstable();
    assert_eq!(got, expected, "\n{}", got.join("\n"));
}

#[test]
fn live_flows() {
    let metrics = Metrics::new("test");
    let books = books(&metrics);
    let records: Vec<_> = (0..5).map(|_| Record::open(&books, tunnelled(Reporter::Destination))).collect();
    let numbers = || -> Vec<u64> {
        let mut numbers: Vec<_> = documents(&[books.snapshot()], None).iter().map(|flow| flow.number).collect();
        numbers.sort_unstable();
        numbers
    };
    assert_eq!(numbers(), [0, 1, 2, 3, 4]);
    // Out of order, twice, by being dropped, first and last of the table.
    records[1].finish(SUCCESS);
    records[0].finish(SUCCESS);
    records[0].finish(SUCCESS);
    assert_eq!(numbers(), [2, 3, 4]);
    let mut records = records;
    drop(records.pop());
    assert_eq!(numbers(), [2, 3]);
    records[3].received(5);
    records[3].sent(6);
    records[3].allowed_by(Some(&PolicyName { namespace: "web".into(), name: "p".into() }));
    records[3].application_socket(address("10.0.1.3:8080"), Some(address("10.0.0.2:40000")));
    records[2].finish(SUCCESS);
    let snapshot = books.snapshot();
    assert_eq!(books.counts(), (0, 1));
    let flows = documents(&[snapshot], Some(&Kernel));
    let [flow] = flows.as_slice() else { panic!("{flows:?}") };
    assert_eq!((flow.shard, flow.number, flow.to_server, flow.to_client), (3, 3, 5, 6));
    assert_eq!((flow.direction, flow.policy.as_deref()), (Direction::Inbound, Some("web/p")));
    assert_eq!(flow.rtt_us, None, "the kernel does not know this socket");
    assert_eq!(flow.service.as_deref(), Some("web.example"));
    assert_eq!(flow.source.identity.as_deref(), Some("spiffe://td/ns/client/sa/client-sa"));
    records[3].application_socket(address("10.0.0.2:40000"), Some(address("10.96.0.10:80")));
    assert_eq!(documents(&[books.snapshot()], Some(&Kernel))[0].rtt_us, Some(183));
    drop(records);
    assert!(numbers().is_empty());
}
