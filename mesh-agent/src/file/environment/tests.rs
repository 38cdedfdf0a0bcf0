//! Variables, and the document that they make.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Machine, Written, config, read};
use crate::file::problem::Problems;

fn machine() -> Machine {
    Machine { cpus: 16, run_dir: "/run/x".into(), mesh_config: None }
}

fn variables(text: &[(&str, &str)]) -> BTreeMap<String, String> {
    text.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn of(text: &[(&str, &str)]) -> Result<Written, Problems> {
    let mut all = variables(text);
    all.entry("NODE_NAME".to_owned()).or_insert_with(|| "n1".to_owned());
    read(&all, &machine())
}

/// A field of the document, by its path below `node`.
fn field(text: &[(&str, &str)], path: &str) -> Value {
    let written = of(text).unwrap();
    config(&written).unwrap_or_else(|problems| panic!("{text:?}: {problems}"));
    path.split('/').fold(written.document["node"].clone(), |value, name| value[name].clone())
}

/// What Istio's chart gives its DaemonSet, with its default values.
const CHART: [(&str, &str); 15] = [
    ("CA_ADDRESS", "istiod.istio-system.svc:15012"),
    ("XDS_ADDRESS", "istiod.istio-system.svc:15012"),
    ("RUST_LOG", "info"),
    ("RUST_BACKTRACE", "1"),
    ("ISTIO_META_CLUSTER_ID", "Kubernetes"),
    ("INPOD_ENABLED", "true"),
    ("TERMINATION_GRACE_PERIOD_SECONDS", "30"),
    ("POD_NAME", "ztunnel-abcde"),
    ("POD_NAMESPACE", "istio-system"),
    ("NODE_NAME", "worker-1"),
    ("INSTANCE_IP", "10.244.1.7"),
    ("SERVICE_ACCOUNT", "ztunnel"),
    ("ISTIO_META_DNS_CAPTURE", "true"),
    ("ZTUNNEL_CPU_LIMIT", "16"),
    ("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
];

#[test]
fn istios_daemonset() {
    let written = of(&CHART).unwrap();
    let expected = json!({"node": {
        "name": "worker-1",
        "cluster": "Kubernetes",
        "shards": 4,
        "run_dir": "/run/x",
        "drain": "25s",
        "metrics": "[::]:15020",
        "readiness": "[::]:15021",
        "zds": {},
        "dns": {"capture": true},
        "tunnels": {},
        "keepalive": {},
        "ca": {
            "address": "https://istiod.istio-system.svc:15012",
            "root": "./var/run/secrets/istio/root-cert.pem",
            "token": "./var/run/secrets/tokens/istio-token",
            "headers": {},
        },
        "xds": {
            "address": "https://istiod.istio-system.svc:15012",
            "root": "./var/run/secrets/istio/root-cert.pem",
            "pod": "ztunnel-abcde",
            "namespace": "istio-system",
            "ip": "10.244.1.7",
            "metadata": {"CLUSTER_ID": "Kubernetes", "DNS_CAPTURE": "true"},
            "headers": {},
        },
    }});
    assert_eq!(written.document, expected);
    assert_eq!(
        (written.log.as_str(), written.json, written.unused),
        ("info", false, vec!["SERVICE_ACCOUNT".to_owned()])
    );
    let config = config(&of(&CHART).unwrap()).unwrap();
    assert_eq!(config.node.zds.unwrap().socket.display().to_string(), "/var/run/ztunnel/ztunnel.sock");
}

/// Trap 30 of the protocol note, section 16: the spelling is as it is.
#[test]
fn trap_30_the_preferred_namespace_is_spelled_with_one_r() {
    let path = "dns/preferred_namespace";
    assert_eq!(field(&[("PREFERED_SERVICE_NAMESPACE", "shop")], path), "shop");
    assert_eq!(field(&[("PREFERRED_SERVICE_NAMESPACE", "shop")], path), Value::Null);
}

#[test]
fn every_variable_has_its_field() {
    let rows: &[(&str, &str, &str, Value)] = &[
        ("NODE_NAME", "n2", "name", json!("n2")),
        ("NETWORK", "east", "network", json!("east")),
        ("CLUSTER_ID", "west", "cluster", json!("west")),
        ("TRUST_DOMAIN", "td", "trust_domain", json!("td")),
        ("CLUSTER_DOMAIN", "c.local", "dns/domain", json!("c.local")),
        ("CA_ADDRESS", "https://ca:1", "ca/address", json!("https://ca:1")),
        ("CA_ADDRESS", "ca:1", "ca/address", json!("https://ca:1")),
        ("CA_ROOT_CA", "/r.pem", "ca/root", json!("/r.pem")),
        ("CA_ROOT_CA", "SYSTEM", "ca/root", json!("/etc/ssl/certs/ca-certificates.crt")),
        ("ALT_CA_HOSTNAME", "a", "ca/server_name", json!("a")),
        ("CA_HEADER_X-A", "b", "ca/headers", json!({"X-A": "b"})),
        ("SECRET_TTL", "1h", "ca/certificate_ttl", json!("1h")),
        ("CRL_PATH", "/crl.pem", "ca/crl", json!("/crl.pem")),
        ("AUTH_TOKEN", "/t", "ca/token", json!("/t")),
        ("AUTH_TOKEN", "./var/t", "ca/token", json!("./var/t")),
        ("XDS_ADDRESS", "http://x:15010", "xds/plaintext", json!(true)),
        ("XDS_ADDRESS", "x:15012", "xds/plaintext", Value::Null),
        ("XDS_ROOT_CA", "/x.pem", "xds/root", json!("/x.pem")),
        ("ALT_XDS_HOSTNAME", "b", "xds/server_name", json!("b")),
        ("XDS_HEADER_y", "z", "xds/headers", json!({"y": "z"})),
        ("POD_NAME", "p", "xds/pod", json!("p")),
        ("POD_NAMESPACE", "ns", "xds/namespace", json!("ns")),
        ("INSTANCE_IP", "10.0.0.1", "xds/ip", json!("10.0.0.1")),
        ("ISTIO_META_A", "1", "xds/metadata", json!({"A": "1"})),
        ("ISTIO_METAJSON_L", r#"{"a":[1]}"#, "xds/metadata", json!({"L": {"a": [1]}})),
        ("INPOD_UDS", "/u.sock", "zds/socket", json!("/u.sock")),
        ("IPV6_ENABLED", "false", "dns/ipv6", json!("off")),
        ("IPV6_ENABLED", "false", "metrics", json!("0.0.0.0:15020")),
        ("HTTP2_STREAM_WINDOW_SIZE", "4194304", "tunnels/stream_window", json!(4_194_304)),
        ("HTTP2_CONNECTION_WINDOW_SIZE", "16777216", "tunnels/connection_window", json!(16_777_216)),
        ("HTTP2_FRAME_SIZE", "1048576", "tunnels/frame_size", json!(1_048_576)),
        ("POOL_MAX_STREAMS_PER_CONNECTION", "7", "tunnels/streams", json!(7)),
        ("POOL_UNUSED_RELEASE_TIMEOUT", "1m", "tunnels/idle", json!("1m")),
        ("ENABLE_RESPONSE_BAGGAGE", "false", "tunnels/response_baggage", json!(false)),
        ("LOCALHOST_APP_TUNNEL", "false", "tunnels/applications", json!("address")),
        ("KEEPALIVE_ENABLED", "false", "keepalive/enabled", json!(false)),
        ("KEEPALIVE_TIME", "60s", "keepalive/time", json!("60s")),
        ("KEEPALIVE_INTERVAL", "5s", "keepalive/interval", json!("5s")),
        ("KEEPALIVE_RETRIES", "3", "keepalive/retries", json!(3)),
        ("DNS_CAPTURE", "false", "dns/capture", json!(false)),
        ("ISTIO_META_DNS_CAPTURE", "no", "dns/capture", json!(false)),
        ("ISTIO_META_DNS_CAPTURE", "TRUE", "dns/capture", json!(true)),
        ("ISTIO_META_CLUSTER_ID", "m", "cluster", json!("m")),
    ];
    for (name, value, path, expected) in rows {
        assert_eq!(field(&[(name, value)], path), *expected, "{name}={value}: {path}");
        if !expected.is_null() && *expected != json!(true) {
            assert_ne!(field(&[], path), *expected, "{path} is so anyway: {name} proves nothing");
        }
    }
}

#[test]
fn threads() {
    let of = |text: &[(&str, &str)]| field(text, "shards");
    let rows: [(&[(&str, &str)], usize); 11] = [
        (&[], 4),
        (&[("ZTUNNEL_CPU_LIMIT", "2")], 2),
        (&[("ZTUNNEL_CPU_LIMIT", "33")], 9),
        (&[("ZTUNNEL_RESOURCE_CPU_REQUEST", "6")], 6),
        (&[("ZTUNNEL_RESOURCE_CPU_LIMIT", "1"), ("ZTUNNEL_RESOURCE_CPU_REQUEST", "6")], 1),
        (&[("ZTUNNEL_WORKER_THREADS", "3"), ("ZTUNNEL_RESOURCE_CPU_LIMIT", "1")], 3),
        (&[("ZTUNNEL_WORKER_THREADS", "50%")], 8),
        (&[("ZTUNNEL_WORKER_THREADS", "30%"), ("ZTUNNEL_CPU_LIMIT", "4")], 2),
        (&[("ZTUNNEL_WORKER_THREADS", "0")], 1),
        (&[("PROXY_CONFIG", "concurrency: 5")], 5),
        (&[("PROXY_CONFIG", "concurrency: 5"), ("ZTUNNEL_WORKER_THREADS", "100%")], 16),
    ];
    for (text, expected) in rows {
        assert_eq!(of(text), expected, "{text:?}");
    }
}

#[test]
fn the_end_of_connections() {
    let of = |text: &[(&str, &str)]| field(text, "drain");
    for (grace, expected) in [("30", "25s"), ("11", "6s"), ("10", "9s"), ("2", "1s"), ("0", "1s")] {
        assert_eq!(of(&[("TERMINATION_GRACE_PERIOD_SECONDS", grace)]), expected, "{grace}");
    }
    let both = [("CONNECTION_TERMINATION_DEADLINE", "7s"), ("TERMINATION_GRACE_PERIOD_SECONDS", "30")];
    assert_eq!((of(&both), of(&[])), (json!("7s"), Value::Null));
}

#[test]
fn what_goes_before_what() {
    let mesh = "defaultConfig:\n  discoveryAddress: mesh:1\n  statsPort: 1\n  proxyAdminPort: 2\n  concurrency: 9\n  \
                proxyMetadata: {ISTIO_META_A: mesh, B: mesh, DNS_CAPTURE: \"false\"}\nrootNamespace: other\n";
    let machine = Machine { mesh_config: Some(mesh.to_owned()), ..machine() };
    let of = |text: &[(&str, &str)]| {
        let mut all = variables(text);
        all.insert("NODE_NAME".to_owned(), "n1".to_owned());
        read(&all, &machine).unwrap().document["node"].clone()
    };
    let node = of(&[]);
    assert_eq!((&node["xds"]["address"], &node["metrics"]), (&json!("https://mesh:1"), &json!("[::]:1")));
    assert_eq!((&node["admin"], &node["shards"]), (&json!("127.0.0.1:2"), &json!(9)));
    assert_eq!(node["xds"]["metadata"], json!({"A": "mesh", "B": "mesh", "DNS_CAPTURE": "false"}));
    assert_eq!(node["dns"]["capture"], false);
    assert_eq!(node["ca"]["address"], "https://localhost:15012", "of istiod's configuration only");
    let own = ("PROXY_CONFIG", "discoveryAddress: own:1\nstatsPort: 3\nproxyMetadata: {A: own}");
    let node = of(&[own]);
    assert_eq!((&node["xds"]["address"], &node["metrics"]), (&json!("https://own:1"), &json!("[::]:3")));
    assert_eq!(node["admin"], "127.0.0.1:2", "what it does not say is the mesh's");
    assert_eq!(node["xds"]["metadata"], json!({"A": "own", "B": "mesh", "DNS_CAPTURE": "false"}));
    let node = of(&[own, ("XDS_ADDRESS", "var:1"), ("ISTIO_META_A", "var"), ("ISTIO_META_DNS_CAPTURE", "true")]);
    assert_eq!((&node["xds"]["address"], &node["xds"]["metadata"]["A"]), (&json!("https://var:1"), &json!("var")));
    assert_eq!(node["dns"]["capture"], true);
    assert_eq!(of(&[("XDS_ADDRESS", "")])["xds"]["address"], "https://mesh:1", "an empty variable is none");
    let cluster = of(&[("CLUSTER_ID", "a"), ("ISTIO_META_CLUSTER_ID", "b")]);
    assert_eq!(cluster["cluster"], "a");
}

#[test]
fn texts_that_are_no_paths() {
    let pem = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----";
    let written = of(&[("XDS_ROOT_CA", pem), ("AUTH_TOKEN", "eyJh.e30.c2ln")]).unwrap();
    let node = &written.document["node"];
    assert_eq!(node["xds"]["root"], "/run/x/environment/xds-root.pem");
    assert_eq!(node["ca"]["token"], "/run/x/environment/token");
    let files: Vec<_> = written.files.iter().map(|(path, text)| (path.to_str().unwrap(), text.as_str())).collect();
    assert_eq!(files, [("/run/x/environment/token", "eyJh.e30.c2ln"), ("/run/x/environment/xds-root.pem", pem)]);
}

#[test]
fn logs() {
    let of = |text: &[(&str, &str)]| of(text).map(|written| (written.log, written.json)).unwrap();
    assert_eq!(of(&[]), ("info".to_owned(), false));
    assert_eq!(
        of(&[("RUST_LOG", "info,access=debug"), ("LOG_FORMAT", "json")]),
        ("info,access=debug".to_owned(), true)
    );
    assert!(!of(&[("LOG_FORMAT", "plain")]).1);
}

#[test]
fn what_means_nothing_here_is_told() {
    let unused = |text: &[(&str, &str)]| of(text).unwrap().unused;
    let kept =
        [("INPOD_ENABLED", "true"), ("PROXY_MODE", "shared"), ("PACKET_MARK", "1337"), ("TLS12_ENABLED", "false")];
    assert_eq!(unused(&kept), [""; 0], "they ask for what is done anyway");
    let others = [
        ("TLS12_ENABLED", "true"),
        ("FAKE_CA", "true"),
        ("ENABLE_ORIG_SRC", "false"),
        ("HOME", "/"),
        ("LOCAL_XDS", ""),
    ];
    assert_eq!(unused(&others), ["ENABLE_ORIG_SRC", "FAKE_CA", "TLS12_ENABLED"]);
    assert_eq!(unused(&[("DNS_PROXY_ADDR", "127.0.0.1:53")]), ["DNS_PROXY_ADDR"]);
}

#[test]
fn mistakes_name_their_variable() {
    let rows = [
        (("KEEPALIVE_TIME", "soon"), "KEEPALIVE_TIME is \"soon\"; a duration such as 5m is expected"),
        (("HTTP2_FRAME_SIZE", "big"), "HTTP2_FRAME_SIZE is \"big\"; a whole number is expected"),
        (("XDS_ON_DEMAND", "maybe"), "XDS_ON_DEMAND is \"maybe\"; true or false is expected"),
        (("ZTUNNEL_WORKER_THREADS", "x%"), "ZTUNNEL_WORKER_THREADS is \"x%\"; a whole number, or percent"),
        (("ISTIO_METAJSON_L", "{"), "ISTIO_METAJSON_L is not JSON"),
        (("PROXY_CONFIG", "statsPort: many"), "PROXY_CONFIG: "),
        (("PROXY_MODE", "dedicated"), "PROXY_MODE is \"dedicated\"; the agent serves a node's pods"),
        (("COMPLIANCE_POLICY", "pqc"), "COMPLIANCE_POLICY is \"pqc\", which is not kept here"),
        (("PACKET_MARK", "7"), "PACKET_MARK is \"7\""),
    ];
    for (variable, expected) in rows {
        let error = of(&[variable]).unwrap_err().to_string();
        assert!(error.starts_with("environment: ") && error.contains(expected), "{variable:?}: {error}");
    }
    let error = read(&BTreeMap::new(), &machine()).unwrap_err().to_string();
    assert_eq!(error, "environment: NODE_NAME is not set");
    // What a file could not say either is told as a file's mistake is.
    let rows = [
        (("XDS_ON_DEMAND", "true"), "node.xds.mode on_demand needs node.dns.capture false"),
        (("CA_ADDRESS", "http://ca:1"), "is not of the form https://host:port"),
        (("HTTP2_FRAME_SIZE", "1"), "1 is not between 16384 and 16777215"),
        (("INSTANCE_IP", "here"), "environment"),
    ];
    for (variable, expected) in rows {
        let error = config(&of(&[variable]).unwrap()).unwrap_err().to_string();
        assert!(error.contains(expected), "{variable:?}: {error}");
    }
    let on_demand = of(&[("XDS_ON_DEMAND", "true"), ("DNS_CAPTURE", "false")]).unwrap();
    assert!(config(&on_demand).is_ok());
}
