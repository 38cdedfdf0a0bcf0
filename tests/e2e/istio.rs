//! A real istiod: what it says of the lab's pods, services and policies, and the certificates that it issues.
//!
//! | file | what |
//! |---|---|
//! | [`certificates`] | who gets a certificate for whom; agents with istiod's certificates |
//! | [`echo`] | Istio's echo client and server as foreign ends of a tunnel |
//! | [`cni`] | Istio's CNI agent hands the pods over |
//! | [`discovery`] | Kubernetes objects become resources, and cease to be |
//! | [`mesh`] | agents whose mesh is istiod's: objects take effect in traffic |
//! | [`endpoints`] | machines outside Kubernetes; pods that are deleted |
//! | [`away`] | istiod is not there for a while |
//! | [`networks`] | tunnels in tunnels to another network, as istiod tells of it |
//! | [`rotation`] | another root of trust |
//! | [`statuses`] | every status of a CONNECT, as foreign clients see it |
//! | [`xds`], [`csr`], [`grpc`] | small clients that are not the agent's |
//! | [`support`] | changes and their effect, and a load that must not fail |

mod away;
mod certificates;
mod cni;
mod csr;
mod discovery;
mod echo;
mod endpoints;
mod grpc;
mod mesh;
mod networks;
mod rotation;
mod statuses;
mod support;
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
    Case::shared("mesh_pods_talk", &MESH, mesh::pods_talk).limit(LIMIT),
    Case::shared("mesh_policies", &MESH, mesh::policies).limit(LIMIT),
    Case::shared("mesh_services", &MESH, mesh::services).limit(LIMIT),
    Case::shared("mesh_trap_13_waypoint_that_is_not_there", &MESH, mesh::waypoint_that_is_not_there).limit(LIMIT),
    Case::shared("mesh_config_dump", &MESH, mesh::config_dump).limit(LIMIT),
    Case::shared("mesh_virtual_machine", &MESH, endpoints::virtual_machine).limit(LIMIT),
    Case::fresh("mesh_pods_deleted", twins, endpoints::pods_deleted).limit(LIMIT),
    Case::fresh("mesh_istiod_away_under_load", renewing, away::half_a_minute).limit(LIMIT),
    Case::fresh("mesh_istiod_away_for_ten_minutes", renewing_seldom, away::ten_minutes).limit(1200).only_when_named(),
    Case::fresh("mesh_root_rotation", plugged_in, rotation::without_a_break).limit(LIMIT),
    Case::shared("foreign_clients_see_every_status", &SANDWICH, statuses::all).limit(LIMIT),
    Case::shared("istios_server_ends_our_tunnel", &SANDWICH, echo::native).limit(LIMIT),
    Case::shared("foreign_client_no_address_to_announce", &SANDWICH, statuses::no_address_to_announce).limit(LIMIT),
    Case::shared("foreign_client_unknown_workload", &SANDWICH, statuses::unknown_workload).limit(LIMIT),
    Case::shared("mesh_another_network", &NETWORKS, networks::another).limit(LIMIT),
    Case::shared("istios_client_through_a_gateway", &NETWORKS, networks::istios_client).limit(LIMIT),
    Case::fresh("cni_agent_hands_pods_over", cni::pair, cni::by_iptables).limit(LIMIT),
    Case::fresh("cni_agent_with_nftables", cni::pair, cni::by_nftables).limit(LIMIT),
    Case::fresh("cni_and_an_agent_that_comes_back", cni::pair, cni::agent_restarts).limit(LIMIT),
    Case::fresh("cni_agent_that_comes_back", cni::pair, cni::cni_restarts).limit(LIMIT),
    Case::fresh("cni_plugin_and_a_pod_deleted", cni::pair, cni::pod_by_plugin).limit(LIMIT),
    Case::fresh("cni_and_labels", cni::pair, cni::labels).limit(LIMIT),
    Case::fresh("another_network", two_networks, discovery::another_network).limit(LIMIT),
    Case::fresh("istiod_away", topology, certificates::istiod_away).limit(LIMIT),
];

/// The same, and the agents' mesh is what istiod says.
static MESH: Fixture = Fixture { name: "mesh of istiod", topology: of_istiod };

/// A network of istiod's, and another one.
static NETWORKS: Fixture = Fixture { name: "networks of istiod", topology: east_and_west };

/// And a pod that a Gateway makes a waypoint behind the agent.
static SANDWICH: Fixture = Fixture { name: "sandwich of istiod", topology: sandwiched };

fn of_istiod() -> Topology {
    pods().kubernetes(kube::Settings::new().mesh_from_istiod())
}

/// The same with certificates that are renewed 16 to 20 seconds after they were issued.
fn renewing() -> Topology {
    of_istiod().certificate_ttl("40s")
}

/// And 7 to 9 minutes after; connections are not logged, which would fill the memory.
fn renewing_seldom() -> Topology {
    of_istiod().certificate_ttl("18m").log("info,access=off")
}

/// The same with an authority of the operator's own and certificates that are renewed every few seconds.
fn plugged_in() -> Topology {
    pods().certificate_ttl("20s").kubernetes(kube::Settings::new().mesh_from_istiod().plugged_in("first root"))
}

fn topology() -> Topology {
    pods().kubernetes(kube::Settings::new())
}

/// A service with two pods.
fn twins() -> Topology {
    let twin = |name| Pod::new(name, "n2").namespace("shop").label("app", "twin");
    Topology::new()
        .pod(Pod::new("client", "n1"))
        .pod(twin("first"))
        .pod(twin("second"))
        .service(Service::new("twins").namespace("shop").port(80, 8080).selects("app", "twin"))
        .kubernetes(kube::Settings::new().mesh_from_istiod())
}

/// Two nodes, pods of every kind, a machine outside Kubernetes, and a service.
fn pods() -> Topology {
    Topology::new()
        .pod(Pod::new("client", "n1").label("app", "client"))
        .pod(Pod::new("plain", "n1").plain())
        .pod(Pod::new("stranger", "n1").unknown())
        .pod(Pod::new("machine", "n2").namespace("shop").unknown())
        .pod(Pod::new("server", "n2").namespace("shop").label("app", "server").label("version", "v2"))
        .service(Service::new("web").namespace("shop").port(80, 8080).selects("app", "server"))
}

/// The pod `sandwich` with the Service that its Gateway would have, and one that has no address; the pod `native` ends its
/// tunnels itself.
fn sandwiched() -> Topology {
    let (key, name) = ("gateway.networking.k8s.io/gateway-name", "sandwich");
    of_istiod()
        .pod(Pod::new(name, "n2").namespace("shop").label(key, name).label("app", name))
        .service(Service::new(name).namespace("shop").port(15088, 15088).selects(key, name))
        .pod(Pod::new("native", "n2").namespace("shop").plain().label("networking.istio.io/tunnel", "http"))
        .service(Service::new("bare").namespace("shop").port(80, 8080).headless().selects("app", name))
}

/// `n1` is on istiod's own network, `east`. `n2` stands for a cluster on the network `west`: its control plane is its file, and
/// its pods are known to Kubernetes for their certificates alone, since both clusters have one root of trust.
fn east_and_west() -> Topology {
    let gateway = Pod::new("gateway", "n2").namespace("istio-system").service_account("west-istio-remote");
    Topology::new()
        .network("n1", "east")
        .network("n2", "west")
        .pod(Pod::new("client", "n1"))
        .pod(Pod::new("plain", "n1").plain())
        .pod(Pod::new("far", "n2").namespace("shop").service_account("server"))
        .pod(gateway.plain())
        .service(Service::new("web").namespace("shop").port(80, 8080).selects("app", "server"))
        .kubernetes(kube::Settings::new().network("east").mesh_from_istiod_for("n1"))
}

/// The same on a network that has a name, and may know of others.
fn two_networks() -> Topology {
    topology().kubernetes(kube::Settings::new().network("east"))
}
