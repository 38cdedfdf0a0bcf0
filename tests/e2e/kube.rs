//! A real Kubernetes cluster of two nodes, with kubelets, containers and kube-proxies.
//!
//! | file | what |
//! |---|---|
//! | [`ground`] | that it is one, before there is a mesh in it |
//! | [`mesh`] | a namespace's life in the mesh; uninstalling |
//! | [`load`] | labelled and un-labelled while its pods are busy |
//! | [`burst`] | many pods at once |
//! | [`probes`] | the kubelet's probes |
//! | [`failures`] | what goes away and comes back |
//! | [`tampering`] | what others change on a node |
//! | [`services`] | services, node ports, a pod that calls itself; with and without kube-proxy |
//! | [`access`] | what the agent may do with the API server |

mod access;
mod burst;
mod failures;
mod ground;
mod load;
mod mesh;
mod probes;
mod services;
mod support;
mod tampering;

use crate::runner::Case;

pub(crate) const CASES: &[Case] = &[
    Case::cluster("pods_on_both_nodes_and_a_service", ground::pods_and_service),
    Case::cluster("pods_call_the_api_server", ground::api_from_a_pod),
    Case::cluster("pods_that_are_deleted_leave_nothing", ground::deletion),
    Case::cluster("a_node_that_reboots", ground::reboot),
    Case::cluster("mesh_shop", mesh::shop),
    Case::cluster("mesh_labelled_under_load", load::labelled).limit(300),
    Case::cluster("mesh_probes_stay_green", probes::stay_green).limit(300),
    Case::cluster("mesh_services_as_before", services::as_before),
    Case::alone("mesh_services_without_kube_proxy", services::without_kube_proxy).limit(300),
    Case::cluster("mesh_agent_deleted", failures::agent_deleted),
    Case::cluster("mesh_network_rewritten", failures::network_rewritten),
    Case::cluster("mesh_pod_that_was_not_announced", tampering::missed),
    Case::cluster("mesh_stale_pins", tampering::stale_pins),
    Case::cluster("mesh_node_reboots", failures::reboot).limit(300),
    Case::cluster("mesh_api_away", failures::api_away_for_a_while).limit(400),
    Case::cluster("mesh_api_away_for_five_minutes", failures::api_away_for_five_minutes).limit(900).only_when_named(),
    Case::cluster("mesh_permissions", access::each_is_needed).limit(900),
    Case::cluster("mesh_burst_of_pods", burst::burst).limit(900),
    Case::cluster("mesh_uninstalled", mesh::uninstalled).limit(300),
    Case::alone("a_cluster_that_is_removed_leaves_nothing", ground::removal).limit(300),
];
