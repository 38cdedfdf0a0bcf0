//! Names: the mesh's are answered in the pod, all others by the name server that was asked, with and without an agent.
//!
//! | file | what |
//! |---|---|
//! | [`answers`] | what the mesh knows |
//! | [`forwarded`] | what name servers are asked |
//! | [`passing`] | what goes its way: without an agent, without capture, to loopback |
//! | [`resolvers`] | resolvers that people use |
//! | [`rules`] | pods that rules redirect |
//! | [`load`] | five thousand queries a second |
//! | [`client`], [`upstream`] | a resolver and a name server of the tests' own |

mod answers;
mod client;
mod forwarded;
mod load;
mod passing;
mod resolvers;
mod rules;
mod upstream;

use std::net::SocketAddr;

use mesh_e2e::{Lab, Pod, Service, Topology};
use serde_json::json;

use crate::runner::{Case, Fixture};

/// Port of name servers.
const PORT: u16 = 53;
/// Where there is nothing: whoever answers in its name is the agent.
const NOWHERE: [&str; 2] = ["10.96.0.10:53", "[fd00:96::10]:53"];

static MESH: Fixture = Fixture { name: "names", topology };

/// | node | pods |
/// |---|---|
/// | `n1` | `client` |
/// | `n2` | `server`, `twin` |
fn topology() -> Topology {
    let mut four = Service::new("four").port(80, 8080).endpoint("default/server");
    four.addresses = vec![[10, 51, 0, 4].into()];
    Topology::new()
        .pod(Pod::new("client", "n1"))
        .pod(Pod::new("server", "n2").label("app", "server"))
        .pod(Pod::new("twin", "n2"))
        .service(Service::new("web").port(80, 8080).selects("app", "server"))
        .service(four)
        .service(Service::new("bare").port(8080, 8080).endpoint("default/server").endpoint("default/twin").headless())
        .service(Service::new("shop").namespace("shop").port(80, 8080).endpoint("default/twin"))
        .service(entry("entry", "api.mesh.example"))
        .service(entry("wild", "*.mesh.example"))
}

/// What a ServiceEntry is to the mesh: a service with a host name of its own.
fn entry(name: &str, hostname: &str) -> Service {
    Service::new(name).with("hostname", hostname).port(443, 8443).endpoint("default/twin")
}

fn uncaptured() -> Topology {
    topology().node_setting("dns", json!({"capture": false}))
}

fn by_the_node() -> Topology {
    topology().node_setting("dns", json!({"upstream": "node", "resolv_conf": forwarded::resolv_conf()}))
}

fn by_clsact() -> Topology {
    topology().node_setting("capture", "clsact")
}

fn without_ipv6() -> Topology {
    topology().node_setting("dns", json!({"ipv6": "off", "domain": "Mesh.Test"}))
}

/// Workloads with the label `app: crowd`, as a YAML list.
fn crowd(count: usize) -> String {
    let one = |at| format!("- {{name: m{at}, addresses: [10.60.0.{at}], protocol: TCP, labels: {{app: crowd}}}}\n");
    (1..=count).map(one).collect()
}

/// The name server outside of the mesh, by both families.
fn outside(lab: &Lab) -> [SocketAddr; 2] {
    lab.outside_addresses().map(|address| SocketAddr::new(address, PORT))
}

pub(crate) const CASES: &[Case] = &[
    Case::shared("every_name", &MESH, answers::every_name),
    Case::shared("over_tcp", &MESH, answers::over_tcp),
    Case::shared("edns", &MESH, answers::edns),
    Case::shared("too_long_for_udp", &MESH, answers::too_long),
    Case::shared("no_queries", &MESH, answers::no_queries),
    Case::shared("changes_take_effect", &MESH, answers::changes),
    Case::shared("resolvers_agree", &MESH, resolvers::agree),
    Case::shared("resolvers_and_long_answers", &MESH, resolvers::long),
    Case::shared("forwarded_trap_22", &MESH, forwarded::once),
    Case::shared("forwarded_failures", &MESH, forwarded::failures),
    Case::shared("forwarded_too_long", &MESH, forwarded::too_long),
    Case::shared("forwarded_to_nobody", &MESH, forwarded::nobody),
    Case::shared("metrics", &MESH, forwarded::metrics),
    Case::fresh("forwarded_to_the_nodes_servers", by_the_node, forwarded::nodes_servers),
    Case::fresh("every_name_by_clsact", by_clsact, answers::by_clsact),
    Case::fresh("other_settings", without_ipv6, answers::other_settings),
    Case::shared("name_server_in_the_mesh", &MESH, passing::name_server_in_the_mesh),
    Case::shared("loopback_is_left_alone", &MESH, passing::loopback),
    Case::shared("other_datagrams_are_left_alone", &MESH, passing::other_datagrams),
    Case::fresh("not_captured", uncaptured, passing::uncaptured),
    Case::fresh("one_pod_is_left_alone", topology, passing::one_pod),
    Case::fresh("redirected_by_rules", rules::topology, rules::redirected),
    Case::fresh("without_an_agent", topology, passing::without_agent),
    Case::fresh("while_a_pod_leaves", topology, passing::leaving),
    Case::shared("five_thousand_a_second", &MESH, load::known_names),
    Case::shared("five_thousand_a_second_forwarded", &MESH, load::forwarded_names),
];
