//! What the picture of the mesh lacks, asked for when a connection needs it (protocol note, section 1.8).
//!
//! An istiod that is asked on demand tells nothing by itself but this node's own workloads and all policies. Whoever needs
//! more waits here until it is answered, and then looks at the picture anew. A wait has an end: what is still unknown then
//! is not taken for something outside of the mesh, which would be told in the clear.

use std::cell::RefCell;
use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::error::Error;
use crate::model::gateway::{GatewayAddress, GatewayPlace};
use crate::model::{Workload, World};
use crate::xds::Demand;

/// How long a connection waits for what only the labels of its record need.
const LABELS: Duration = Duration::from_millis(250);

/// Addresses of services that a shard remembers to have asked for. To ask again is only a detour.
const REMEMBERED: usize = 16_384;

/// Where a shard asks.
#[derive(Debug)]
pub(super) struct Asker {
    demand: Demand,
    /// The pictures as they are published, not the shard's own copy: an answer is in them before its waiter is woken.
    worlds: watch::Receiver<Arc<World>>,
    answered: RefCell<HashSet<String>>,
}

impl Asker {
    pub(super) fn new(demand: Demand, worlds: watch::Receiver<Arc<World>>) -> Self {
        Self { demand, worlds, answered: RefCell::default() }
    }

    pub(super) fn world(&self) -> Arc<World> {
        Arc::clone(&self.worlds.borrow())
    }

    /// Has everything that is to be known of an address in the picture. A service that is there may have come along with
    /// one of its workloads, without the others: only an answer about the address itself is complete.
    pub(super) async fn address(&self, network: &str, ip: IpAddr) -> Result<(), Error> {
        let (world, key) = (self.world(), format!("{network}/{ip}"));
        let complete = world.is_virtual(network, ip) && self.answered.borrow().contains(&key);
        if complete || world.workload_at(network, ip).is_some() {
            return Ok(());
        }
        self.wanted(&key).await?;
        let mut answered = self.answered.borrow_mut();
        if answered.len() >= REMEMBERED {
            answered.clear();
        }
        answered.insert(key);
        Ok(())
    }

    /// The same for a waypoint or a gateway of a network.
    pub(super) async fn gateway(&self, gateway: &GatewayAddress) -> Result<(), Error> {
        match &gateway.place {
            GatewayPlace::Hostname(key) => self.wanted(&key.to_string()).await,
            GatewayPlace::Address(at) => self.wanted(&format!("{}/{}", at.network, at.ip)).await,
        }
    }

    /// The services of a local workload, which name its ports.
    pub(super) async fn services(&self, workload: &Workload) -> Result<(), Error> {
        for key in workload.services.keys() {
            if self.world().service(key).is_none() {
                self.wanted(&key.to_string()).await?;
            }
        }
        Ok(())
    }

    /// What the record of an inbound connection tells of its ends. It is done without if it takes long.
    pub(super) async fn labels(&self, network: &str, client: IpAddr, workload: &Workload) {
        let both = async {
            // What is not answered is not told.
            self.address(network, client).await.ok();
            self.services(workload).await.ok();
        };
        tokio::time::timeout(LABELS, both).await.ok();
    }

    async fn wanted(&self, key: &str) -> Result<(), Error> {
        self.demand.wanted(key).await.map_err(|cause| Error::NotAnswered { key: key.to_owned(), cause })
    }
}

#[cfg(test)]
mod tests;
