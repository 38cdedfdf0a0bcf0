//! Pods that a CNI agent redirects and hands over, instead of ours capturing pods of its file (protocol note, sections 10
//! and 11). The CNI agent is [`mesh_e2e::zds`]; to the node's agent it looks like Istio's.
//!
//! | file | what |
//! |---|---|
//! | [`hands`] | the CNI agents of a lab |
//! | [`traffic`] | handed over at the start and later, the pods are in the mesh as others are |
//! | [`ends`] | pods that are taken back, that move, connections to the CNI agent that end |
//! | [`failures`] | pods that cannot be served, and messages that break the protocol |
//! | [`generations`] | agents that come back, two agents at a time, and what an agent of the other kind left |

mod ends;
mod failures;
mod generations;
pub(crate) mod hands;
mod traffic;

use crate::runner::Case;

pub(crate) const CASES: &[Case] = &[
    Case::fresh("handed_over_in_a_snapshot_and_live", hands::pair, traffic::both_ways),
    Case::fresh("trap_22_every_socket_is_marked", hands::pair, traffic::marked),
    Case::fresh("trap_23_nothing_but_listeners", hands::pair, traffic::nothing_else),
    Case::fresh("a_pod_taken_back_is_cut_at_once", hands::patient, ends::taken_back),
    Case::fresh("a_pod_that_moves", hands::movable, ends::moved),
    Case::fresh("a_cni_agent_that_comes_back_keeps_pods", hands::movable, ends::kept),
    Case::fresh("wrong_messages_end_the_connection", hands::pair, failures::wrong),
    Case::fresh("pods_that_cannot_be_served", hands::movable, failures::refused),
    Case::fresh("an_agent_that_comes_back", hands::pair, generations::restarted),
    Case::fresh("trap_26_two_agents_at_a_time", hands::pair, generations::two),
    Case::fresh("from_programs_to_rules", hands::pair, generations::from_programs),
];
