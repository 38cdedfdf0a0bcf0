//! A permit is good until the configuration says otherwise: the same question is asked again after every change.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::watch;

use crate::model::authorize::{authorize, dry_run};
use crate::model::{Denied, Peer, Permit, World};

/// What an inbound connection was authorised for.
#[derive(Debug)]
pub(super) struct Question {
    /// The local destination.
    pub(super) workload: Arc<str>,
    pub(super) peer: Peer,
    pub(super) target: SocketAddr,
}

impl Question {
    /// Asks `world`. A workload that is gone from it has no policies that could allow anything.
    pub(super) fn ask(&self, world: &World) -> Result<Permit, Denied> {
        let Some(workload) = world.workload_by_uid(&self.workload) else { return Err(Denied::NotAllowed) };
        authorize(world, workload, &self.peer, self.target)
    }

    /// Tells which policies on trial match: they decide nothing.
    pub(super) fn try_out(&self, world: &World) {
        let Some(workload) = world.workload_by_uid(&self.workload) else { return };
        for policy in dry_run(world, workload, &self.peer, self.target) {
            tracing::info!(
                policy = %policy.name,
                action = policy.action.as_str(),
                src.addr = %self.peer.address,
                src.identity = self.peer.identity.as_ref().map(|identity| identity.uri()),
                dst.addr = %self.target,
                "dry run: the policy matches"
            );
        }
    }

    /// Waits until the answer is a denial. The workload is taken as it is then, not as it was at connect time.
    pub(super) async fn until_denied(&self, worlds: &mut watch::Receiver<Arc<World>>) -> Denied {
        loop {
            let world = Arc::clone(&worlds.borrow_and_update());
            // A workload's removal alone does not close its connections (protocol note, section 8.5).
            if world.workload_by_uid(&self.workload).is_some()
                && let Err(denied) = self.ask(&world)
            {
                return denied;
            }
            if worlds.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}

#[cfg(test)]
mod tests;
