//! `ctl` against a real admin server.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use http::{Method, StatusCode};

use super::{Args, answer, status as screen};
use crate::admin::documents::{
    Certificate, Config, Connections, Counter, Direction, End, Flow, Flows, Istiod, Kubernetes, Logging, Outside, Pod,
    Rejected, Security, Status,
};
use crate::admin::router::{Reply, Router};
use crate::admin::server;
use crate::task::Tasks;

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

fn status() -> Status {
    let pod = Pod {
        namespace: "default".to_owned(),
        name: "web".to_owned(),
        addresses: vec!["10.0.0.2".to_owned(), "fd00::2".to_owned()],
        state: "captured".to_owned(),
        capture: Some("tcx".to_owned()),
        when_down: "refuse".to_owned(),
        listeners: vec![15001, 15006, 15008],
        ..Pod::default()
    };
    let failed = Pod {
        name: "job".to_owned(),
        addresses: Vec::new(),
        state: "failed".to_owned(),
        capture: None,
        listeners: Vec::new(),
        error: Some("no such namespace".to_owned()),
        ..pod.clone()
    };
    let gateway = Pod { name: "gate".to_owned(), bypasses_inbound: true, ..pod.clone() };
    let machine = Pod {
        name: "vm".to_owned(),
        virtual_interfaces: vec!["net1".to_owned(), "br-vm".to_owned()],
        missing_interfaces: vec!["br-vm".to_owned()],
        ..pod.clone()
    };
    let certificate = Certificate {
        identity: "spiffe://cluster.local/ns/default/sa/web".to_owned(),
        state: "valid".to_owned(),
        expires_s: Some(80_000),
        renews_s: Some(-5),
        ..Certificate::default()
    };
    Status {
        node: "n1".to_owned(),
        version: "0.1.0".to_owned(),
        pid: 42,
        uptime_s: 3700,
        shards: 2,
        pending: vec!["pods".to_owned()],
        config: Config {
            file: "/etc/mesh.yaml".to_owned(),
            loaded_s: 61,
            workloads: 5,
            services: 2,
            policies: 1,
            rejected: Some(Rejected { ago_s: 9, line: Some(12), reason: "unknown field `prot`".to_owned() }),
        },
        istiod: None,
        kubernetes: None,
        pods: vec![pod, gateway, machine, failed],
        certificates: vec![certificate],
        revocation: None,
        connections: Connections { outbound: 3, inbound: 1 },
        capture: vec![Counter { name: "egress captured".to_owned(), value: 1234 }],
        log_filter: "info".to_owned(),
    }
}

fn flows() -> Flows {
    let tunnelled = Flow {
        shard: 0,
        number: 7,
        direction: Direction::Outbound,
        source: End {
            address: "10.0.0.2:40000".to_owned(),
            workload: Some("client".to_owned()),
            namespace: Some("default".to_owned()),
            identity: Some("spiffe://cluster.local/ns/default/sa/client".to_owned()),
        },
        destination: End {
            address: "10.0.1.3:15008".to_owned(),
            workload: Some("web".to_owned()),
            namespace: Some("shop".to_owned()),
            identity: Some("spiffe://cluster.local/ns/shop/sa/web".to_owned()),
        },
        original: "10.96.0.10:80".to_owned(),
        hbone: Some("10.0.1.3:8080".to_owned()),
        service: Some("web.shop.svc.cluster.local".to_owned()),
        security: Security::MutualTls,
        policy: Some("shop/only-client".to_owned()),
        age_ms: 4000,
        to_server: 4096,
        to_client: 4 << 20,
        rtt_us: Some(183),
        retransmits: Some(0),
    };
    let unknown = End { address: "203.0.113.9:443".to_owned(), ..End::default() };
    let passed_on = Flow {
        number: 8,
        destination: unknown,
        original: "203.0.113.9:443".to_owned(),
        source: End { identity: None, ..tunnelled.source.clone() },
        hbone: None,
        service: None,
        security: Security::Plain,
        policy: None,
        age_ms: 65_000,
        to_server: 12,
        to_client: 0,
        rtt_us: None,
        retransmits: None,
        ..tunnelled.clone()
    };
    Flows { node: "n1".to_owned(), flows: vec![tunnelled, passed_on] }
}

/// An agent that answers with the documents above.
fn agent(path: &Path, tasks: &Tasks) {
    let logging = |ask: crate::admin::router::Ask| async move {
        match ask.parameter("level").as_deref() {
            Some("loud") => Reply::text("no such level").with_status(StatusCode::BAD_REQUEST),
            Some(filter) => Reply::json(&Logging { filter: filter.to_owned() }),
            None if ask.parameter("reset").is_some() => Reply::json(&Logging { filter: "initial".to_owned() }),
            None => Reply::json(&Logging { filter: "current".to_owned() }),
        }
    };
    let router = Router::new().json("/status", || async { status() }).json("/flows", || async { flows() }).route(
        Method::POST,
        "/logging",
        logging,
    );
    tasks.spawn(server::serve(server::bind_socket(path).unwrap(), Arc::new(router), tasks.clone()));
}

async fn ctl(socket: &Path, line: &str) -> Result<String, String> {
    let words = ["ctl", "--socket", socket.to_str().unwrap()].into_iter().chain(line.split_whitespace());
    let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
    let mut out = Vec::new();
    answer(&cli.args, &mut out).await.map_err(|error| error.to_string())?;
    Ok(String::from_utf8(out).unwrap())
}

const STATUS: &str = "\
node         n1, NOT READY, waiting for pods
agent        0.1.0, pid 42, up 1h 1m
config       /etc/mesh.yaml, loaded 1m 1s ago: 5 workloads, 2 services, 1 policies
             EDIT REJECTED 9s ago, line 12: unknown field `prot`
connections  3 outbound, 1 inbound, on 2 shards
log          info

POD           ADDRESSES          CAPTURE                     LISTENING          WHEN DOWN  STATE
default/web   10.0.0.2, fd00::2  tcx                         15001 15006 15008  refuse     captured
default/gate  10.0.0.2, fd00::2  tcx, outbound only          15001 15006 15008  refuse     captured
default/vm    10.0.0.2, fd00::2  tcx, net1, br-vm (missing)  15001 15006 15008  refuse     captured
default/job   -                  -                           -                  refuse     failed: no such namespace

CERTIFICATE                               EXPIRES     RENEWS  STATE
spiffe://cluster.local/ns/default/sa/web  in 22h 13m  5s ago  valid

CAPTURE          COUNT
egress captured   1234
";

const FLOWS: &str = "\
DIRECTION  SOURCE                              DESTINATION                            TLS    POLICY              AGE  TO SERVER  TO CLIENT       RATE  APP RTT
outbound   cluster.local/ns/default/sa/client  web.shop.svc.cluster.local (shop/web)  mtls   shop/only-client   4.0s    4.0 KiB    4.0 MiB  1.0 MiB/s   0.18ms
outbound   default/client                      203.0.113.9:443                        plain  -                 1m 5s       12 B        0 B      0 B/s        -
";

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_a_person_sees() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("admin.sock");
    let tasks = Tasks::new();
    agent(&socket, &tasks);
    let one_of = |line: usize| FLOWS.lines().nth(line).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    let cases = [
        ("status", STATUS.to_owned()),
        ("flows", FLOWS.to_owned()),
        ("flows --pod other", "no open connections on n1\n".to_owned()),
        ("log", "current\n".to_owned()),
        ("log info,access=off", "info,access=off\n".to_owned()),
        ("log --reset", "initial\n".to_owned()),
        ("log --output json", "{\n  \"filter\": \"current\"\n}\n".to_owned()),
        ("status --output json", serde_json::to_string_pretty(&status()).unwrap() + "\n"),
    ];
    for (line, expected) in cases {
        let got = ctl(&socket, line).await.unwrap();
        assert_eq!(got, expected, "{line}:\n{got}");
    }
    for (pod, lines) in [("web", [1].as_slice()), ("shop/web", &[1]), ("default/web", &[]), ("client", &[1, 2])] {
        let got = ctl(&socket, &format!("flows --pod {pod}")).await.unwrap();
        let shown: Vec<_> = got.lines().skip(1).map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        let expected: Vec<_> = lines.iter().map(|line| one_of(*line)).collect();
        assert_eq!(shown, expected, "{pod}");
    }
    let refused = ctl(&socket, "log loud").await.unwrap_err();
    assert_eq!(refused, "the agent refuses (400 Bad Request): no such level");
    assert!(ctl(&socket, "log info --reset").await.unwrap_err().contains("cannot be used with"));
    tasks.drain(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn nobody_answers() {
    let directory = tempfile::tempdir().unwrap();
    let run = directory.path();
    let other = run.join("n1/admin.sock");
    drop(server::bind_socket(&other).unwrap());
    let cases = [
        (
            run.join("admin.sock"),
            format!(
                "no agent runs with this socket: {}/admin.sock does not exist; there is --socket {}",
                run.display(),
                other.display()
            ),
        ),
        (run.join("n1/x.sock"), format!("no agent runs with this socket: {}/n1/x.sock does not exist", run.display())),
        (other.clone(), format!("nobody answers on {}: the agent that made it is gone", other.display())),
    ];
    for (socket, expected) in cases {
        assert_eq!(ctl(&socket, "status").await.unwrap_err(), expected);
    }
    assert_eq!(std::fs::metadata(&other).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn pods_of_kubernetes() {
    let pod = |name: &str, reason: &str| Outside { namespace: "shop".into(), name: name.into(), reason: reason.into() };
    let kubernetes = Kubernetes {
        address: "https://api:443".into(),
        state: "disconnected".into(),
        since_s: 12,
        error: Some("connection refused".into()),
        plugin: Some("in 10-net.conflist".into()),
        repairs: Some(2),
        outside: vec![pod("db-0", "the pod has the label istio.io/dataplane-mode=none")],
        troubled: vec![pod("web-0", "its network namespace is looked for: no process of it runs yet")],
    };
    let screen = screen::render(&Status { kubernetes: Some(kubernetes), ..Status::default() });
    let lines: Vec<_> = screen.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for expected in [
        "kubernetes disconnected https://api:443 for 12s: connection refused",
        "plugin in 10-net.conflist, put right 2 times",
        "shop/web-0 trouble: its network namespace is looked for: no process of it runs yet",
        "shop/db-0 outside: the pod has the label istio.io/dataplane-mode=none",
    ] {
        assert!(lines.iter().any(|line| line == expected), "{expected:?} is not in\n{screen}");
    }
}

#[test]
fn an_istiod_that_is_away() {
    let istiod = Istiod {
        address: "https://istiod:15012".into(),
        state: "disconnected".into(),
        retry_s: Some(7),
        last_message_s: Some(90),
        error: Some("connection refused".into()),
        rejected: vec!["ns/p: scope has the unknown value 9".into()],
        ..Istiod::default()
    };
    let screen = screen::render(&Status { istiod: Some(istiod), ..Status::default() });
    let expected = "istiod       disconnected https://istiod:15012, last message 1m 30s ago, next try in 7s: connection refused\n             REJECTED ns/p: scope has the unknown value 9\n";
    assert!(screen.contains(expected), "{screen}");
}
