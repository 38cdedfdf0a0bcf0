//! A mesh of 100,000 workloads in one response: how long it takes, and how much memory while it does.
//!
//! Figures of a release build: `cargo test --release -p mesh-agent --lib xds::tests::scale -- --nocapture`.

#![expect(clippy::print_stdout, reason = "the figures are for people, and go from process to process")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use prost::Message;

use super::istiod::{Frame, Istiod};
use super::*;
use crate::proto::discovery::{Any, Resource as Encoded};
use crate::proto::workload::{Address, PortList, Workload, address::Type};

const WORKLOADS: usize = 100_000;
const CHILD: &str = "MESH_XDS_SCALE";

/// A workload as a mesh of many namespaces has it.
fn workload(number: usize) -> Encoded {
    let (namespace, service) = (format!("team-{}", number % 200), format!("backend-{}", number % 10_000));
    let key = format!("{namespace}/{service}.{namespace}.svc.cluster.local");
    let pod = format!("{service}-{:x}-{number}", number.wrapping_mul(2_654_435_761) & 0xff_ffff_ffff);
    let uid = format!("Kubernetes//Pod/{namespace}/{pod}");
    let ip = u32::try_from(number).unwrap() + 0x0a00_0000;
    let workload = Workload {
        uid: uid.clone(),
        name: pod,
        namespace,
        addresses: vec![ip.to_be_bytes().to_vec().into()],
        network: "network-1".into(),
        tunnel_protocol: 1,
        service_account: service.clone(),
        node: format!("node-{}", number % 1000),
        canonical_name: service.clone(),
        canonical_revision: "latest".into(),
        workload_type: 2,
        workload_name: service,
        cluster_id: "Kubernetes".into(),
        services: [(key, PortList { ports: vec![Default::default()] })].into(),
        ..Workload::default()
    };
    let value = Address { r#type: Some(Type::Workload(workload)) }.encode_to_vec().into();
    let aliases = vec![format!("network-1/{}", std::net::Ipv4Addr::from(ip))];
    let version = format!("{:x}", (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    Encoded { version, resource: Some(Any { type_url: Kind::Address.url().to_owned(), value }), name: uid, aliases }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mesh_of_100_000_workloads() {
    let mut istiod = Istiod::new().await;
    let config = istiod.config();
    std::fs::write(istiod.folder().join("address"), &config.address).unwrap();
    let mut message = response(Kind::Address, "n", &[], &[]);
    message.resources = (0..WORKLOADS).map(|number| workload(number).encode_to_vec().into()).collect();
    let size = message.encoded_len();
    let message = Frame::from(message);
    // A process of its own, whose memory is that of the client alone.
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["xds::tests::scale::child", "--exact", "--ignored", "--nocapture"])
        .env(CHILD, istiod.folder())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut call = istiod.call().await;
    call.request().await;
    call.send(message).await;
    call.request().await;
    assert_eq!(timeout(Duration::from_secs(120), call.request()).await.unwrap().error_detail, None);
    // Its second stream asks with as many versions as istiod's limit lets it.
    drop(call);
    let mut call = istiod.call().await;
    let listed = call.request().await.initial_resource_versions.len();
    drop(call);
    let output = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    let mut figures = output.lines().filter_map(|line| line.strip_prefix("figures ")).map(Figures::parse);
    let (before, after) = (figures.next().expect(&output), figures.next().expect(&output));
    let (peak, stays) = (after.peak - before.resident, after.resident.saturating_sub(before.resident));
    let mib = |bytes: usize| bytes >> 20;
    println!(
        "{WORKLOADS} workloads in {} MiB: {} ms to receive and decode, {} ms of it to decode; memory at most {} MiB \
         more, {} MiB more afterwards; {listed} versions listed on the next stream",
        mib(size),
        after.all,
        after.decoding,
        mib(peak),
        mib(stays)
    );
    assert!(peak < size + (32 << 20), "peak {peak} of {size}");
    assert!(stays < 32 << 20, "{stays}");
    assert!((20_000..WORKLOADS).contains(&listed));
}

/// Memory in bytes, times in milliseconds.
struct Figures {
    resident: usize,
    peak: usize,
    all: usize,
    decoding: usize,
}

impl Figures {
    fn parse(line: &str) -> Self {
        let numbers: Vec<usize> = line.split(' ').map(|number| number.parse().unwrap()).collect();
        let [resident, peak, all, decoding] = numbers.try_into().unwrap();
        Self { resident, peak, all, decoding }
    }

    fn print(all: Duration, decoding: Duration) {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let kib = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap()
        };
        println!("figures {} {} {} {}", kib("VmRSS") << 10, kib("VmHWM") << 10, all.as_millis(), decoding.as_millis());
    }
}

/// Decodes every body, and keeps nothing but the time it took.
#[derive(Clone, Default)]
struct Reader(Arc<Mutex<(usize, Duration)>>);

impl Apply for Reader {
    fn apply(&mut self, response: Response<'_>) -> Vec<Rejected> {
        let start = Instant::now();
        let count = response.resources.filter(|resource| Address::decode(resource.body.clone()).is_ok()).count();
        let mut seen = self.0.lock().unwrap();
        *seen = (seen.0 + count, seen.1 + start.elapsed());
        Vec::new()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "the other process of the test above"]
async fn child() {
    let Some(folder) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
    let reader = Reader::default();
    let (client, handle) = Client::new(config(&folder), reader.clone()).unwrap();
    Figures::print(Duration::ZERO, Duration::ZERO);
    let start = Instant::now();
    let owner = Owner(Tasks::new());
    owner.0.spawn(client.run());
    let mut status = handle.status;
    let limit = Duration::from_secs(120);
    timeout(limit, status.wait_for(|status| status.kinds.of(Kind::Address).responses == 1)).await.unwrap().unwrap();
    let all = start.elapsed();
    let (count, decoding) = *reader.0.lock().unwrap();
    assert_eq!(count, WORKLOADS);
    Figures::print(all, decoding);
    timeout(limit, status.wait_for(|status| status.last_error.is_some())).await.unwrap().unwrap();
    sleep(Duration::from_secs(1)).await;
}

fn config(folder: &Path) -> Config {
    let node = Node {
        ip: None,
        pod: "p".into(),
        namespace: "n".into(),
        node: "x".into(),
        cluster: "c".into(),
        metadata: [].into(),
    };
    Config {
        address: std::fs::read_to_string(folder.join("address")).unwrap(),
        security: Security::Tls { root: folder.join("root.pem"), server_name: None },
        token: Some(folder.join("token")),
        headers: Vec::new(),
        node,
        addresses: Mode::Wildcard,
        patience: Duration::from_secs(1),
    }
}
