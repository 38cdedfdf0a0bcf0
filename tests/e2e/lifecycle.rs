//! Enrolment and its end, restarts, crashes, idling.
//!
//! | file | what |
//! |---|---|
//! | [`enrolment`] | enrolling pods that have connections |
//! | [`traceless`], [`traces`] | what is left of an enrolment that has ended |
//! | [`draining`] | open connections of pods that leave |
//! | [`restart`] | agents that end in order and come back |
//! | [`crash`] | agents that are killed, and pods without an agent |
//! | [`refusal`] | pods that cannot be enrolled |
//! | [`check`] | what `ctl check` says of all that |
//! | [`idle`] | an agent that has nothing to do |
//! | [`many`] | a full node; pods that come and go |
//! | [`talk`] | what the cases say over a connection |

mod check;
mod crash;
mod draining;
mod enrolment;
mod idle;
mod many;
mod refusal;
mod restart;
pub(crate) mod talk;
mod traceless;
pub(crate) mod traces;

use crate::runner::Case;

pub(crate) const CASES: &[Case] = &[
    Case::fresh("older_connections_survive_the_enrolment", enrolment::not_yet, enrolment::survived),
    Case::fresh("nobody_notices_an_enrolment", enrolment::not_yet, enrolment::unnoticed),
    Case::fresh("unenrolled_without_a_trace", traceless::from_nothing, traceless::unenrolled),
    Case::fresh("unenrolled_without_a_trace_clsact", traceless::by_clsact, traceless::unenrolled),
    Case::fresh("unenrolled_while_the_agent_was_dead", traceless::from_nothing, traceless::while_dead),
    Case::fresh("unenrolled_while_the_agent_was_dead_clsact", traceless::by_clsact, traceless::while_dead),
    Case::fresh("withdrawn_on_shutdown", traceless::withdrawing, traceless::withdrawn),
    Case::fresh("withdrawn_on_shutdown_clsact", traceless::withdrawing_clsact, traceless::withdrawn),
    Case::fresh("open_connections_end_in_peace", draining::patient, draining::in_peace),
    Case::fresh("a_leaving_pod_comes_back", draining::unhurried, draining::comes_back),
    Case::fresh("trap_25_pods_are_counted", draining::patient, draining::trap_25_pods_are_counted),
    Case::fresh("stubborn_connections_are_cut", draining::patient, draining::cut),
    Case::fresh("a_leaving_pod_holds_up_nobody", draining::patient, draining::nobody_waits),
    Case::fresh("pods_leave_together", draining::crowded, draining::together),
    Case::fresh("stopped_and_taken_over", restart::keeping, restart::keeps),
    Case::fresh("stopping_cuts_what_does_not_end", restart::keeping, restart::cuts),
    Case::fresh("a_second_agent_is_refused", restart::keeping, restart::second),
    Case::fresh("ten_restarts_add_nothing", restart::keeping, restart::ten_times).limit(180),
    Case::fresh("killed_under_load", crash::closed, crash::killed),
    Case::fresh("refused_while_down", crash::closed, crash::refuses),
    Case::fresh("passed_while_down", crash::open_topology, crash::passes),
    Case::fresh("what_passed_while_down_lives_on", crash::open_topology, crash::passed_lives_on),
    Case::fresh("pods_that_cannot_be_enrolled", refusal::pair, refusal::entries),
    Case::fresh("a_change_that_cannot_be_made", refusal::pair, refusal::unchangeable),
    Case::fresh("pods_that_use_the_agents_ports", refusal::ports, refusal::taken),
    Case::fresh("a_pod_that_vanishes", refusal::pair, refusal::vanished),
    Case::fresh("check_before_an_agent", check::before, check::beforehand),
    Case::fresh("check_an_agent", check::before, check::afterwards),
    Case::fresh("idle", idle::ten_pods, idle::little),
    Case::fresh("a_full_node", many::full, many::enrolled).limit(180),
    Case::fresh("a_thousand_pods_come_and_go", many::one, many::come_and_go).limit(1200).only_when_named(),
];
