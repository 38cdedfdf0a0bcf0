//! Which crates, and which language features, may be used where.

use super::source::Source;
use super::{Finding, Rule};

/// A crate and the folders or files of the agent that may name it; all others may not, but for their tests.
const CRATES: [(&str, &[&str]); 23] = [
    ("aya", &["mesh-agent/src/bpf", "mesh-common/src/maps.rs"]),
    ("aya_log", &["mesh-agent/src/bpf"]),
    ("aya_ebpf", &["mesh-ebpf"]),
    ("netlink_sys", &["mesh-agent/src/sys"]),
    ("netlink_packet_core", &["mesh-agent/src/sys"]),
    ("netlink_packet_route", &["mesh-agent/src/sys"]),
    ("h2", &["mesh-agent/src/hbone", "mesh-agent/src/kubernetes/error.rs"]),
    ("hickory_proto", &["mesh-agent/src/dns"]),
    ("hyper", &["mesh-agent/src/admin", "mesh-agent/src/ctl", "mesh-agent/src/kubernetes/connect.rs"]),
    (
        "tonic",
        &[
            "mesh-agent/src/identity/ca.rs",
            "mesh-agent/src/control/serve.rs",
            "mesh-agent/src/proto",
            "mesh-agent/src/xds",
        ],
    ),
    ("prost", &["mesh-agent/src/proto", "mesh-agent/src/xds", "mesh-agent/src/zds/wire.rs"]),
    ("rcgen", &["mesh-agent/src/identity/csr.rs", "mesh-agent/src/control", "mesh-agent/benches/src/records.rs"]),
    ("criterion", &["mesh-agent/benches/benches"]),
    ("webpki", &["mesh-agent/src/identity"]),
    ("x509_parser", &["mesh-agent/src/identity", "mesh-agent/src/control/issuer.rs"]),
    ("prometheus_client", &["mesh-agent/src/telemetry"]),
    ("tracing_subscriber", &["mesh-agent/src/telemetry"]),
    ("serde_saphyr", &["mesh-agent/src/file"]),
    ("notify", &["mesh-agent/src/file/watch.rs", "mesh-agent/src/cni"]),
    ("comfy_table", &["mesh-agent/src/ctl/text.rs"]),
    ("kube", &["mesh-agent/src/kubernetes"]),
    ("k8s_openapi", &["mesh-agent/src/kubernetes"]),
    ("openssl", &[]),
];
/// The rooms of `unsafe`.
const UNSAFE: [&str; 4] = ["mesh-agent/src/sys", "mesh-agent/src/bpf/maps", "mesh-common/src/maps.rs", "mesh-ebpf"];
/// What a mesh is must not depend on how it runs: no runtime, no I/O, no formats.
const PURE: [&str; 2] = ["mesh-agent/src/model", "mesh-common"];
const IMPURE: [&str; 8] = ["tokio", "serde", "serde_json", "futures_util", "rustix", "libc", "socket2", "tracing"];

pub(super) fn check(source: &Source, findings: &mut Vec<Finding>) {
    let ours = source.path.starts_with("mesh-");
    for (name, rooms) in CRATES.iter().filter(|(_, rooms)| ours && !within(&source.path, rooms)) {
        for at in uses(source, name) {
            let text = match rooms {
                [] => format!("crate {name} is used nowhere"),
                _ => format!("crate {name} is used only in {}", rooms.join(", ")),
            };
            findings.push(Finding::new(source, source.line(at), Rule::Fence, text));
        }
    }
    if within(&source.path, &PURE) {
        for (at, name) in IMPURE.iter().flat_map(|name| uses(source, name).map(move |at| (at, name))) {
            let text = format!("crate {name}: what a mesh is has no runtime, no I/O and no formats");
            findings.push(Finding::new(source, source.line(at), Rule::Fence, text));
        }
    }
    if !within(&source.path, &UNSAFE) {
        for at in source.words("unsafe") {
            let text = format!("unsafe is only in {}", UNSAFE.join(", "));
            findings.push(Finding::new(source, source.line(at), Rule::Fence, text));
        }
    }
}

/// A room is a file, or a module: its file and its folder.
fn within(path: &str, rooms: &[&str]) -> bool {
    rooms.iter().any(|room| {
        path.strip_prefix(room).is_some_and(|rest| rest.is_empty() || rest == ".rs" || rest.starts_with('/'))
    })
}

/// Where a path starts with the crate's name.
fn uses<'a>(source: &'a Source, name: &'a str) -> impl Iterator<Item = usize> + 'a {
    source.words(name).filter(move |at| {
        let (before, after) = (source.code[..*at].trim_end(), source.code[*at + name.len()..].trim_start());
        let inner = before.ends_with("::") && !before.ends_with("use ::") || before.ends_with('.');
        !inner
            && !source.is_test(*at)
            && (after.starts_with("::") || before.ends_with("use") || before.ends_with("extern crate"))
    })
}
