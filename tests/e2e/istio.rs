//! A real istiod: what it says of the lab's pods, services and policies, and the certificates that it issues.
//!
//! | file | what |
//! |---|---|
//! | [`certificates`] | who gets a certificate for whom; agents with istiod's certificates |
//! | [`echo`] | Istio's echo client and server as foreign ends of a tunnel |
//! | [`discovery`] | Kubernetes objects become resources, and cease to be |
//! | [`xds`], [`csr`], [`grpc`] | small clients that are not the agent's |

mod certificates;
mod csr;
mod discovery;
mod echo;
mod grpc;
mod xds;

use mesh_e2e::{Pod, Service, Topology, kube};

use crate::runner::{Case, Fixture};

/// Starting a Kubernetes takes its time, and every case may be the first.
const LIMIT: u64 = 180;

static LAB: Fixture = Fixture { name: "istio", topology };

pub(crate) const CASES: &[Case] = &[
    Case::shared("certificates_by_impersonation", &LAB, certificates::by_impersonation).limit(LIMIT),
    Case::shared("certificates_refused", &LAB, certificates::refused).limit(LIMIT),
    Case::shared("agents_take_istiods_certificates", &LAB, certificates::of_agents).limit(LIMIT),
    Case::shared("istios_client_through_our_15008", &LAB, echo::through_15008).limit(LIMIT),
    Case::shared("pods_become_workloads", &LAB, discovery::workloads).limit(LIMIT),
    Case::shared("services_and_their_endpoints", &LAB, discovery::services).limit(LIMIT),
    Case::shared("pods_come_and_go", &LAB, discovery::life).limit(LIMIT),
    Case::shared("policies_become_authorizations", &LAB, discovery::policies).limit(LIMIT),
    Case::shared("a_gateway_becomes_a_waypoint", &LAB, discovery::waypoint).limit(LIMIT),
    Case::fresh("another_network", two_networks, discovery::another_network).limit(LIMIT),
    Case::fresh("istiod_away", topology, certificates::istiod_away).limit(LIMIT),
];

/// Two nodes, pods of every kind, and a service.
fn topology() -> Topology {
    Topology::new()
        .pod(Pod::new("client", "n1").label("app", "client"))
        .pod(Pod::new("plain", "n1").plain())
        .pod(Pod::new("stranger", "n1").unknown())
        .pod(Pod::new("server", "n2").namespace("shop").label("app", "server").label("version", "v2"))
        .service(Service::new("web").namespace("shop").port(80, 8080).selects("app", "server"))
        .kubernetes(kube::Settings::new())
}

/// The same on a network that has a name, and may know of others.
fn two_networks() -> Topology {
    topology().kubernetes(kube::Settings::new().network("east"))
}
