//! Whether an inbound connection may reach its application (protocol note, section 8.4).
//!
//! The only way to open the socket towards the application is to hold the [`Permit`] made here. Where the reference
//! skips a policy that a workload lists and nobody has sent, this denies: unknown policy denies.

use std::net::SocketAddr;
use std::sync::Arc;

use super::World;
use super::addr::Peer;
use super::policy::{Action, Enforcement, Policy, PolicyName};
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
    if let Some(unknown) = workload.policies.iter().find(|name| world.policy(name).is_none()) {
        return Err(Denied::UnknownPolicy(unknown.clone()));
    }
    if let Some(policy) = applying(world, workload).find(|policy| policy.enforcement == Enforcement::Unreadable) {
        return Err(Denied::UnreadablePolicy(policy.name.clone()));
    }
    let enforced = || applying(world, workload).filter(|policy| policy.enforcement == Enforcement::Enforced);
    let of = |action: Action| enforced().filter(move |policy| policy.action == action);
    if let Some(policy) = of(Action::Deny).find(|policy| policy.matches(peer, target)) {
        return Err(Denied::ByPolicy(policy.name.clone()));
    }
    if of(Action::Allow).next().is_none() {
        return Ok(Permit { target, policy: None });
    }
    match of(Action::Allow).find(|policy| policy.matches(peer, target)) {
        Some(policy) => Ok(Permit { target, policy: Some(policy.name.clone()) }),
        None => Err(Denied::NotAllowed),
    }
}

/// The dry-run policies that match: what they would do is for the log.
pub fn dry_run<'a>(
    world: &'a World,
    workload: &'a Workload,
    peer: &'a Peer,
    target: SocketAddr,
) -> impl Iterator<Item = &'a Policy> {
    let tried = applying(world, workload).filter(|policy| policy.enforcement == Enforcement::DryRun);
    tried.filter(move |policy| policy.matches(peer, target)).map(|policy| &**policy)
}

/// Global policies, those of the workload's namespace, and those that select it.
fn applying<'a>(world: &'a World, workload: &'a Workload) -> impl Iterator<Item = &'a Arc<Policy>> {
    let selected = workload.policies.iter().filter_map(|name| world.policy(name));
    world.policies_of(workload.namespace()).chain(selected)
}

#[cfg(test)]
#[path = "authorize/tests.rs"]
mod tests;
