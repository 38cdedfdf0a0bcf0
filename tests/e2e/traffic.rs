//! Bytes get through the mesh, and only through it, as they would without one.
//!
//! No case is content with bytes that arrive: they would arrive without a mesh, too. Each looks at what the agents have
//! recorded, or at the wire between the nodes, or at the counters of the capture.

mod bytes;
mod endings;
mod lanes;
mod long;
mod many;
mod placed;
mod ports;
mod seen;
mod stalls;
pub(crate) mod support;
mod ways;

use mesh_e2e::{Pod, Service, Topology};

use crate::runner::{Case, Fixture};

pub(crate) const CASES: &[&[Case]] = &[
    ways::CASES,
    endings::CASES,
    lanes::CASES,
    seen::CASES,
    bytes::CASES,
    many::CASES,
    ports::CASES,
    stalls::CASES,
    placed::CASES,
];

/// Port that applications listen on.
const APP: u16 = 8080;
/// Port of services, which leads to [`APP`].
const PORT: u16 = 80;
/// Port that the kubelet probes.
const PROBE: u16 = 8088;

/// As users run it: a shard per core.
static MESH: Fixture = Fixture { name: "mesh", topology };
/// Pods of one node are joined.
static JOINED: Fixture = Fixture { name: "mesh of joined pods", topology: joining };
/// Pods of one node talk as those of different nodes do.
static TUNNELS: Fixture = Fixture { name: "mesh of tunnels", topology: || topology().same_node("mtls") };
/// One namespace wants it so.
static STRICTER: Fixture = Fixture {
    name: "mesh with a stricter namespace",
    topology: || topology().node_setting("same_node", serde_json::json!({"namespaces": {"default": "mtls"}})),
};
/// One shard, so that all connections of a pod to another share tunnels.
static ONE_SHARD: Fixture = Fixture { name: "one shard", topology: || topology().node_setting("shards", 1) };

fn joining() -> Topology {
    topology().same_node("local")
}

/// | node | pods |
/// |---|---|
/// | `n1` | `client`, `near` |
/// | `n2` | `server`, `twin`, `plain` (known, outside the mesh), `alien` (not known to it) |
fn topology() -> Topology {
    Topology::new()
        .pod(Pod::new("client", "n1"))
        .pod(Pod::new("near", "n1"))
        .pod(Pod::new("server", "n2").label("app", "server").probe(PROBE).with("capacity", 3))
        .pod(Pod::new("twin", "n2"))
        .pod(Pod::new("plain", "n2").plain())
        .pod(Pod::new("alien", "n2").unknown())
        .service(Service::new("web").port(PORT, APP).selects("app", "server"))
        .service(Service::new("close").port(PORT, APP).endpoint("default/near"))
        .service(Service::new("pair").port(PORT, APP).endpoint("default/server").endpoint("default/twin"))
        .service(Service::new("lone").port(PORT, APP).endpoint("default/twin"))
        .service(Service::new("bare").port(APP, APP).endpoint("default/twin").headless())
}
