//! Responses put into force: decoded one resource at a time into the store, and then published once.
//!
//! All of it happens on the control runtime. What the shards notice is one replaced pointer; and what only an old picture
//! still had is given back here, not by the shard that happens to look away from it last.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use super::decode::{self, Address};
use super::intern::Texts;
use super::kind::Kind;
use super::response::{Apply, Rejected, Resource, Response};
use crate::model::{Policy, Store, World};

/// Writes the mesh's picture from what istiod says.
#[derive(Debug)]
pub struct Mesh {
    store: Store,
    texts: Texts,
    worlds: Publisher,
}

/// Hands pictures to their readers.
#[derive(Debug)]
struct Publisher {
    worlds: watch::Sender<Arc<World>>,
    /// Former pictures that somebody may still look at.
    former: Vec<Arc<World>>,
}

impl Mesh {
    /// Writes to `worlds` what it gets to know; `store` holds what is known already.
    pub fn new(store: Store, worlds: watch::Sender<Arc<World>>) -> Self {
        Self { store, texts: Texts::default(), worlds: Publisher { worlds, former: Vec::new() } }
    }

    fn take(&mut self, kind: Kind, resource: Resource) -> Result<(), Rejected> {
        let Resource { name, body, .. } = resource;
        let unusable = |error: decode::Unusable| Rejected { name: Arc::clone(&name), reason: error.to_string() };
        match kind {
            Kind::Address => match decode::address(body, &mut self.texts).map_err(unusable)? {
                Address::Workload(mut workload) => {
                    if *workload.uid != *name {
                        return Err(Rejected::new(name, format!("its uid is {:?}", workload.uid)));
                    }
                    workload.uid = name;
                    self.store.put_workload(workload);
                }
                Address::Service(service) => self.store.put_service(service),
            },
            Kind::Authorization => {
                let decoded = decode::authorization(body.clone(), &mut self.texts);
                if decoded.is_err() {
                    self.stand_in(&name, body);
                }
                self.store.put_policy(decoded.map_err(unusable)?);
            }
        }
        Ok(())
    }

    /// A policy that cannot be read, and had no former self that stays in force, denies.
    fn stand_in(&mut self, name: &str, body: Bytes) {
        let Ok(name) = decode::policy_name("name", name, &mut self.texts) else { return };
        if !self.store.has_policy(&name) {
            self.store.put_policy(Policy::unreadable(name, decode::scope_or_namespace(body)));
        }
    }

    fn remove(&mut self, kind: Kind, name: &str) {
        match kind {
            Kind::Address => self.store.remove_address(name),
            Kind::Authorization => match decode::policy_name("name", name, &mut self.texts) {
                Ok(name) => self.store.remove_policy(&name),
                Err(error) => tracing::warn!(%error, "removal of a policy that cannot exist"),
            },
        }
    }
}

impl Apply for Mesh {
    fn apply(&mut self, response: Response<'_>) -> Vec<Rejected> {
        let Response { kind, removed, resources, .. } = response;
        removed.iter().for_each(|name| self.remove(kind, name));
        let rejected = resources.filter_map(|resource| self.take(kind, resource).err()).collect();
        self.texts.tidy();
        if self.store.is_changed() {
            let world = self.store.world();
            self.worlds.publish(world);
        }
        rejected
    }
}

impl Publisher {
    fn publish(&mut self, world: World) {
        self.former.push(self.worlds.send_replace(Arc::new(world)));
        self.former.retain(|world| Arc::strong_count(world) > 1);
    }
}
