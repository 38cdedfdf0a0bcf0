//! Whether an inbound connection may reach its application (protocol note, section 8.4).
//!
//! The only way to open the socket towards the application is to hold the [`Permit`] made here. Where the reference
//! skips a policy that a workload lists and nobody has sent, this denies: unknown policy denies.

use std::net::SocketAddr;
use std::sync::Arc;

use super::World;
use super::addr::Peer;
use super::policy::{Policy, PolicyName};
use super::rules::Question;
use super::ruling::{Ruling, Selected};
use super::workload::Workload;

/// Leave to dial `target`. It can only be made by [`authorize`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permit {
    target: SocketAddr,
    policy: Option<PolicyName>,
}

impl Permit {
    /// The application's address that may be dialled.
    pub fn target(&self) -> SocketAddr {
        self.target
    }

    /// The ALLOW policy that matched; none when no ALLOW policy applies to the workload.
    pub fn policy(&self) -> Option<&PolicyName> {
        self.policy.as_ref()
    }
}

/// Why a connection is refused. The text is for logs: it names the policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error("policy {0} denies it")]
    ByPolicy(PolicyName),
    #[error("ALLOW policies apply to the workload and none of them allows it")]
    NotAllowed,
    #[error("policy {0} applies to the workload but is not known: unknown policy denies")]
    UnknownPolicy(PolicyName),
    #[error("policy {0} applies to the workload but could not be read: unknown policy denies")]
    UnreadablePolicy(PolicyName),
}

/// Decides for `peer` wanting `target` on `workload` (the local destination), with the policies of `world`.
pub fn authorize(world: &World, workload: &Workload, peer: &Peer, target: SocketAddr) -> Result<Permit, Denied> {
    let selected = world.selected_for(workload);
    let selected = selected.as_deref();
    if let Some(unknown) = selected.and_then(|selected| selected.unknown.as_ref()) {
        return Err(Denied::UnknownPolicy(unknown.clone()));
    }
    let mut rulings = rulings(world, workload, selected);
    if let Some(policy) = rulings.clone().find_map(|ruling| ruling.unreadable()) {
        return Err(Denied::UnreadablePolicy(policy.name.clone()));
    }
    let question = Question { peer, target };
    if let Some(policy) = rulings.clone().find_map(|ruling| ruling.denies(question)) {
        return Err(Denied::ByPolicy(policy.name.clone()));
    }
    if !rulings.clone().any(|ruling| ruling.demands_leave()) {
        return Ok(Permit { target, policy: None });
    }
    match rulings.find_map(|ruling| ruling.allows(question)) {
        Some(policy) => Ok(Permit { target, policy: Some(policy.name.clone()) }),
        None => Err(Denied::NotAllowed),
    }
}

/// The dry-run policies that match: what they would do is for the log.
pub fn dry_run(world: &World, workload: &Workload, peer: &Peer, target: SocketAddr) -> Vec<Arc<Policy>> {
    let selected = world.selected_for(workload);
    let on_trial = rulings(world, workload, selected.as_deref()).flat_map(Ruling::on_trial);
    on_trial.filter(|policy| policy.matches(peer, target)).map(Arc::clone).collect()
}

/// What applies to the workload: global policies, those of its namespace, and those that select it, in this order.
fn rulings<'a>(
    world: &'a World,
    workload: &Workload,
    selected: Option<&'a Selected>,
) -> impl Iterator<Item = &'a Ruling> + Clone + use<'a> {
    let [global, own] = world.rulings_of(workload.namespace());
    [global, own, selected.map(|selected| &*selected.ruling)].into_iter().flatten()
}

#[cfg(test)]
#[path = "authorize/tests.rs"]
mod tests;
