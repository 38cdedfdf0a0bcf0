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

mod denial;
mod matchers;
mod matrix;
mod meaning;
mod mutual_tls;
mod revocation;

use crate::runner::{Case, Fixture};
use matrix::topology;

static LAB: Fixture = Fixture { name: "policy", topology };

pub(crate) const CASES: &[Case] = &[
    Case::shared("principals", &LAB, matchers::principals),
    Case::shared("namespaces and service accounts", &LAB, matchers::namespaces),
    Case::shared("addresses and ports", &LAB, matchers::addresses),
    Case::shared("conditions", &LAB, matchers::conditions),
    Case::shared("fields combined", &LAB, matchers::combined),
    Case::shared("empty policies, rules and matches", &LAB, meaning::empty),
    Case::shared("deny goes before allow", &LAB, meaning::precedence),
    Case::shared("scopes", &LAB, meaning::scopes),
    Case::shared("dry run only logs", &LAB, meaning::dry_run),
    Case::shared("layer 7 fields at layer 4", &LAB, meaning::layer_7),
    Case::shared("peer authentication", &LAB, mutual_tls::modes),
    Case::shared("peer authentication by port", &LAB, mutual_tls::ports),
    Case::shared("a denied tunnel is told on both sides", &LAB, denial::tunnelled),
    Case::shared("a denied plain connection is told", &LAB, denial::plain),
    Case::shared("a policy that nobody understands changes nothing", &LAB, denial::not_understood),
    Case::shared("a policy change closes open connections", &LAB, revocation::closes),
    Case::shared("a lost allowance closes open connections", &LAB, revocation::lost),
    Case::shared("a connection under load is closed as well", &LAB, revocation::under_load),
    Case::shared("strict mode closes plain connections only", &LAB, revocation::strict),
    Case::shared("changed labels bring a policy to open connections", &LAB, revocation::relabelled),
    Case::shared("a change that still allows closes nothing", &LAB, revocation::harmless),
];
