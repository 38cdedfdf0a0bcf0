//! A real Kubernetes cluster of two nodes, with kubelets, containers and kube-proxies.
//!
//! | file | what |
//! |---|---|
//! | [`ground`] | that it is one, before there is a mesh in it |

mod ground;

use crate::runner::Case;

pub(crate) const CASES: &[Case] = &[
    Case::cluster("pods_on_both_nodes_and_a_service", ground::pods_and_service),
    Case::cluster("pods_call_the_api_server", ground::api_from_a_pod),
    Case::cluster("pods_that_are_deleted_leave_nothing", ground::deletion),
    Case::cluster("a_node_that_reboots", ground::reboot),
    Case::alone("a_cluster_that_is_removed_leaves_nothing", ground::removal).limit(300),
];
