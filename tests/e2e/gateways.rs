//! Ways through others: waypoints and gateways of networks, both run by a real Envoy; what the agent does where it is
//! itself behind one; and the choice of endpoints by place.
//!
//! | file | what |
//! |---|---|
//! | [`waypoint`] | Envoy as a waypoint: what is addressed to it goes through it, and never past it |
//! | [`sandwich`] | a waypoint whose tunnels the agent ends: application tunnels |
//! | [`inbound`] | which CONNECTs a pod answers for |
//! | [`networks`] | tunnels in tunnels, through Envoy as the gateway of another network |
//! | [`layers`] | bytes and ends through both layers |
//! | [`places`] | endpoints by locality and by name, and addresses that are no endpoints |
//! | [`support`] | Envoys as the cases want them |

mod inbound;
mod layers;
mod networks;
mod places;
mod sandwich;
mod support;
mod waypoint;

use mesh_e2e::{Pod, Service, Topology};
use serde_json::json;

use crate::runner::{Case, Fixture};

pub(crate) const CASES: &[&[Case]] =
    &[waypoint::CASES, sandwich::CASES, inbound::CASES, places::CASES, networks::CASES, layers::CASES];

/// Port that applications listen on.
const APP: u16 = 8080;
/// Port of services, which leads to [`APP`].
const PORT: u16 = 80;
const HBONE: u16 = 15008;
/// Port of the application behind an application tunnel.
const BEHIND: u16 = 15088;

/// One shard, so that all connections of a pod to another share tunnels.
static WAYPOINTS: Fixture = Fixture { name: "waypoints", topology: waypoints };
static JOINED: Fixture = Fixture { name: "joined waypoints", topology: || waypoints().same_node("local") };
static NETWORKS: Fixture = Fixture { name: "networks", topology: networks };

/// | node | pods |
/// |---|---|
/// | `n1` | `client`, `near` |
/// | `n2` | `server`; `guarded`, which has a waypoint of its own; the waypoints: `waypoint` and `canary`, for Envoys that end their tunnels, and `sandwich`, `ported` and `bare`, whose tunnels the agent ends; `alien`, which the mesh does not know |
fn waypoints() -> Topology {
    let waypoint = |name: &str| format!("default/{name}.default.svc.cluster.local");
    let both = |name| Service::new(name).port(PORT, APP).endpoint("default/near").endpoint("default/server");
    Topology::new()
        .node_setting("shards", 1)
        .pod(Pod::new("client", "n1"))
        .pod(Pod::new("near", "n1"))
        .pod(Pod::new("server", "n2").label("app", "server"))
        .pod(Pod::new("guarded", "n2").with("waypoint", waypoint("waypoint")))
        .pod(Pod::new("behind", "n2").with("waypoint", waypoint("sandwich")))
        .pod(Pod::new("waypoint", "n2").gateway())
        .pod(Pod::new("canary", "n2").gateway())
        .pod(Pod::new("sandwich", "n2").with("application_tunnel", json!({"protocol": "PROXY", "port": BEHIND})))
        .pod(Pod::new("ported", "n2").with("application_tunnel", json!({"port": BEHIND})))
        .pod(Pod::new("bare", "n2"))
        .pod(Pod::new("alien", "n2").unknown())
        .service(Service::new("waypoint").port(HBONE, HBONE).endpoint("default/waypoint"))
        .service(Service::new("canary").port(HBONE, HBONE).endpoint("default/canary"))
        .service(Service::new("sandwich").endpoint("default/sandwich"))
        .service(Service::new("bare").port(HBONE, HBONE).endpoint("default/bare"))
        .service(Service::new("web").port(PORT, APP).selects("app", "server").with("waypoint", waypoint("waypoint")))
        .service(Service::new("split").port(PORT, APP).selects("app", "server").with(
            "weighted_waypoints",
            json!([
                {"waypoint": waypoint("waypoint"), "weight": 3},
                {"waypoint": waypoint("canary"), "weight": 1},
            ]),
        ))
        .service(
            Service::new("wrapped").port(PORT, APP).endpoint("default/behind").with("waypoint", waypoint("sandwich")),
        )
        .service(Service::new("fronted").port(APP, APP).selects("app", "server").with("waypoint", waypoint("bare")))
        .service(both("local").with("traffic", json!({"mode": "strict", "prefer": ["node"]})))
        .service(both("closest").with("traffic", json!({"mode": "failover", "prefer": ["node"]})))
        .service(both("open").with("traffic", json!({"mode": "passthrough"})))
}

/// `n1` is on the network `here`, `n2` on the network `there`. From `here`, two workloads stand for all that is `there`.
///
/// | node | pods |
/// |---|---|
/// | `n1` | `client` |
/// | `n2` | `server`; `native`, an Envoy that ends its own tunnels; `gateway`, the entrance |
fn networks() -> Topology {
    Topology::new()
        .node_setting("shards", 1)
        .node_setting("unknown_destinations", "refuse")
        .network("n1", "here")
        .network("n2", "there")
        .pod(Pod::new("client", "n1"))
        .pod(Pod::new("server", "n2").label("app", "server").with("workload_name", "server-owner"))
        .pod(Pod::new("native", "n2").label("app", "native").gateway())
        .pod(Pod::new("gateway", "n2").gateway())
        .service(service("web", "server"))
        .service(service("native", "native"))
}

fn service(name: &str, app: &str) -> Service {
    let identity = format!("spiffe://cluster.local/ns/default/sa/{app}");
    Service::new(name).port(PORT, APP).selects("app", app).with("subject_alt_names", json!([identity]))
}
