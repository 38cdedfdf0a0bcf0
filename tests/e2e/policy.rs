//! Who is allowed, who is not, and when that changes.
//!
//! | file | what |
//! |---|---|
//! | [`matrix`] | the clients and ports that every table of policies is tried on |
//! | [`matchers`] | each field of a rule, alone and combined, as ALLOW and as DENY |
//! | [`meaning`] | the empty cases, precedence, scopes, dry run, layer 7 fields |
//! | [`mutual_tls`] | PeerAuthentication |
//! | [`denial`] | what a denied connection looks like: to its client, in logs, in metrics |
//! | [`revocation`] | policies that change under open connections |
//! | [`revoked`] | certificates that are taken back under open connections |

mod denial;
mod matchers;
mod matrix;
mod meaning;
mod mutual_tls;
mod revocation;
pub(crate) mod revoked;

use crate::runner::{Case, Fixture};
use matrix::topology;

static LAB: Fixture = Fixture { name: "policy", topology };

/// Without tunnels.
static ONE_NODE: Fixture = Fixture { name: "policy on one node", topology: matrix::one_node };

pub(crate) const CASES: &[Case] = &[
    Case::shared("principals", &LAB, matchers::principals),
    Case::shared("namespaces_and_service_accounts", &LAB, matchers::namespaces),
    Case::shared("addresses_and_ports", &LAB, matchers::addresses),
    Case::shared("conditions", &LAB, matchers::conditions),
    Case::shared("fields_combined", &LAB, matchers::combined),
    Case::shared("empty_policies_rules_and_matches", &LAB, meaning::empty),
    Case::shared("deny_goes_before_allow", &LAB, meaning::precedence),
    Case::shared("scopes", &LAB, meaning::scopes),
    Case::shared("dry_run_only_logs", &LAB, meaning::dry_run),
    Case::shared("layer_7_fields_at_layer_4", &LAB, meaning::layer_7),
    Case::shared("peer_authentication", &LAB, mutual_tls::modes),
    Case::shared("peer_authentication_by_port", &LAB, mutual_tls::ports),
    Case::shared("a_denied_tunnel_is_told_on_both_sides", &LAB, denial::tunnelled),
    Case::shared("a_denied_plain_connection_is_told", &LAB, denial::plain),
    Case::shared("a_policy_that_nobody_understands_changes_nothing", &LAB, denial::not_understood),
    Case::shared("a_policy_change_closes_open_connections", &LAB, revocation::closes),
    Case::shared("a_lost_allowance_closes_open_connections", &LAB, revocation::lost),
    Case::shared("a_connection_under_load_is_closed_as_well", &LAB, revocation::under_load),
    Case::shared("strict_mode_closes_plain_connections_only", &LAB, revocation::strict),
    Case::shared("trap_24_changed_labels_bring_a_policy_to_open_connections", &LAB, revocation::relabelled),
    Case::shared("a_change_that_still_allows_closes_nothing", &LAB, revocation::harmless),
    Case::fresh("a_revoked_certificate_cuts_its_holder_off", revoked::topology, revoked::both_directions),
    Case::shared("joined_principals", &ONE_NODE, matchers::principals),
    Case::shared("joined_namespaces_and_service_accounts", &ONE_NODE, matchers::namespaces),
    Case::shared("joined_addresses_and_ports", &ONE_NODE, matchers::addresses),
    Case::shared("joined_deny_goes_before_allow", &ONE_NODE, meaning::precedence),
    Case::shared("joined_dry_run_only_logs", &ONE_NODE, meaning::dry_run),
    Case::shared("joined_peer_authentication", &ONE_NODE, mutual_tls::modes),
    Case::shared("joined_a_policy_change_closes_open_connections", &ONE_NODE, revocation::closes),
    Case::shared("joined_a_lost_allowance_closes_open_connections", &ONE_NODE, revocation::lost),
    Case::shared("joined_a_connection_under_load_is_closed_as_well", &ONE_NODE, revocation::under_load),
    Case::shared("joined_strict_mode_closes_plain_connections_only", &ONE_NODE, revocation::strict),
    Case::shared("joined_changed_labels_bring_a_policy_to_open_connections", &ONE_NODE, revocation::relabelled),
    Case::shared("joined_a_change_that_still_allows_closes_nothing", &ONE_NODE, revocation::harmless),
    Case::fresh("joined_a_revoked_certificate_cuts_its_holder_off", revoked::one_node, revoked::joined),
];
