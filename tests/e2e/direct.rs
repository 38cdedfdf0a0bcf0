//! Connections between pods of a node that the kernel carries: with the records, the policy and the revocation of any
//! other, and never for longer than they may.
//!
//! | file | what |
//! |---|---|
//! | [`carried`] | what applications, records and links see of them; when there is no room |
//! | [`permitted`] | policies, certificates, pods and agents that come and go under them |
//! | [`services`] | connections by the address of a service |
//! | [`talk`] | how the cases get one |

mod carried;
mod permitted;
mod services;
mod talk;

use mesh_e2e::{Pod, Service, Topology};

use crate::policy::revoked;
use crate::runner::{Case, Fixture};

static DIRECT: Fixture = Fixture { name: "direct", topology: served };

pub(crate) const CASES: &[Case] = &[
    Case::shared("carried_ipv4", &DIRECT, |lab| carried::told(lab, lab.pod("server").at4(APP))),
    Case::shared("carried_ipv6", &DIRECT, |lab| carried::told(lab, lab.pod("server").at6(APP))),
    Case::shared("bulk_and_half_close", &DIRECT, carried::bulk),
    Case::shared("nobody_listens", &DIRECT, carried::nobody),
    Case::shared("an_application_that_resets", &DIRECT, carried::reset),
    Case::shared("service_ipv4", &DIRECT, |lab| services::told(lab, lab.vip4("close", 80))),
    Case::shared("service_ipv6", &DIRECT, |lab| services::told(lab, lab.vip6("close", 80))),
    Case::shared("service_of_several_endpoints", &DIRECT, services::several),
    Case::shared("service_with_an_endpoint_elsewhere", &DIRECT, services::mixed),
    Case::shared("service_that_loses_an_endpoint", &DIRECT, services::taken_out),
    Case::shared("only_what_was_granted", &DIRECT, permitted::only),
    Case::shared("a_policy_change_closes_open_connections", &DIRECT, permitted::denied),
    Case::shared("a_lost_allowance_closes_open_connections", &DIRECT, permitted::lost),
    Case::shared("a_listener_outlives_what_it_took", &DIRECT, permitted::half_gone),
    Case::shared("a_stricter_namespace", &DIRECT, permitted::stricter),
    Case::fresh("no_room", narrow, carried::full),
    Case::fresh("a_revoked_certificate_cuts_its_holder_off", certified, permitted::revoked),
    Case::fresh("another_pod_under_the_same_address", topology, permitted::replaced),
    Case::fresh("a_pod_that_leaves", topology, permitted::leaves),
    Case::fresh("an_agent_that_is_killed", topology, permitted::killed),
    Case::fresh("an_agent_that_stops", topology, permitted::stopped),
];

/// Port that applications listen on.
const APP: u16 = 8080;

fn topology() -> Topology {
    ["alice", "bob", "server"]
        .into_iter()
        .fold(Topology::new(), |all, name| all.pod(Pod::new(name, "n1")))
        .pod(Pod::new("strict", "n1").namespace("bank"))
        .pod(Pod::new("far", "n2"))
        .node_setting("same_node", modes(&serde_json::json!({})))
        .node_setting("drain", "3s")
}

fn served() -> Topology {
    topology()
        .pod(Pod::new("heavy", "n1").with("capacity", 3))
        .pod(Pod::new("light", "n1"))
        .service(Service::new("close").port(80, APP).endpoint("default/server"))
        .service(Service::new("pair").port(80, APP).endpoint("default/heavy").endpoint("default/light"))
        .service(Service::new("mixed").port(80, APP).endpoint("default/server").endpoint("default/far"))
}

fn modes(more: &serde_json::Value) -> serde_json::Value {
    let mut modes = serde_json::json!({"mode": "direct", "namespaces": {"bank": "local"}});
    for (name, value) in more.as_object().into_iter().flatten() {
        modes[name] = value.clone();
    }
    modes
}

/// Room for two connections.
fn narrow() -> Topology {
    topology().node_setting("same_node", modes(&serde_json::json!({"direct_connections": 2})))
}

fn certified() -> Topology {
    revoked::one_node().node_setting("same_node", modes(&serde_json::json!({})))
}
