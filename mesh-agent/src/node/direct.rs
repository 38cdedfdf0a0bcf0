//! The kernel's way between pods of this node, for the proxy; and the thread that promises the kernel that the agent lives,
//! and hears from it what it has carried.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use mesh_common::direct::{DirectFlow, GrantKey, Served, ServiceKey, Slot};
use mesh_common::maps::FlowKey;

use crate::bpf::BpfError;
use crate::bpf::direct::Direct;
use crate::bpf::translation::Translation;
pub(super) use crate::proxy::direct::Kernel;
use crate::proxy::shard::Shards;
use crate::sys::netlink::{address, link};
use crate::sys::thread;

/// How often the kernel is looked at while something happens, and otherwise. Each look renews the promise.
const BUSY: Duration = Duration::from_millis(20);
const IDLE: Duration = Duration::from_millis(100);
/// Events of one look.
const BATCH: usize = 2048;

/// Interfaces behind which a pod of this node is, and no wire.
const WITHIN: [&str; 3] = ["veth", "bridge", "netkit"];

/// [`Kernel`] over the maps.
#[derive(Debug)]
pub(super) struct Carrier {
    direct: Arc<Direct>,
    translation: Option<Translation>,
    shards: u32,
}

impl Carrier {
    /// Without a cgroup, services are left to the agent.
    pub(super) fn new(direct: Arc<Direct>, cgroup: Option<&Path>, shards: usize) -> Self {
        let attached = cgroup.map(|cgroup| Translation::attach(cgroup, &direct));
        let translation = match attached.transpose() {
            Ok(translation) => translation,
            Err(error) => {
                tracing::warn!(%error, "connections to services are not direct");
                None
            }
        };
        Self { direct, translation, shards: u32::try_from(shards).unwrap_or(u32::MAX) }
    }
}

impl Kernel for Carrier {
    fn grant(&self, shard: u32, key: &GrantKey, server: u64) -> Option<Slot> {
        self.direct.grant((shard, self.shards), key, server)
    }

    fn withdraw(&self, key: &GrantKey) {
        told(self.direct.withdraw(key));
    }

    fn cut(&self, slot: Slot) {
        told(self.direct.cut(slot));
    }

    fn free(&self, slot: Slot) {
        self.direct.free(slot);
    }

    fn translates(&self) -> bool {
        self.translation.is_some()
    }

    fn serve(&self, key: &ServiceKey, served: &Served) -> bool {
        self.translation.as_ref().is_some_and(|translation| translation.add(key, served))
    }

    fn serve_now(&self, key: &ServiceKey, served: &Served) {
        if let Some(translation) = &self.translation {
            told(translation.change(key, served));
        }
    }

    fn unserve(&self, key: &ServiceKey) {
        if let Some(translation) = &self.translation {
            told(translation.remove(key));
        }
    }

    fn flow(&self, flow: &FlowKey) -> Option<DirectFlow> {
        self.direct.flow(flow)
    }

    fn forget(&self, flow: &FlowKey, opened: u64) {
        self.direct.forget(flow, opened);
    }

    fn stays(&self, ip: IpAddr) -> bool {
        let kind = address::interface_towards(ip).and_then(|index| index.map_or(Ok(None), link::kind));
        kind.is_ok_and(|kind| kind.is_some_and(|kind| WITHIN.contains(&kind.as_str())))
    }
}

fn told(result: Result<(), BpfError>) {
    if let Err(error) = result {
        tracing::error!(%error, "a direct connection may go on for longer than it may");
    }
}

/// Follows the kernel until the shards have ended. The promise is renewed only when all shards have taken what they were told
/// last: one that has died, or is stuck, takes no permission back. What they cannot keep up with stays in the kernel's ring,
/// and a full ring leaves new connections to the agent.
pub(super) fn follow(direct: Arc<Direct>, shards: Shards) -> anyhow::Result<()> {
    direct.renew()?;
    let run = move || {
        let taken = Arc::new(());
        loop {
            let mut wait = BUSY;
            if Arc::strong_count(&taken) == 1 {
                told(direct.renew());
                let events = direct.events(BATCH);
                if events.is_empty() {
                    wait = IDLE;
                }
                if shards.carried(events, &taken).is_err() {
                    return;
                }
            }
            std::thread::sleep(wait);
        }
    };
    thread::spawn("direct", run).map(drop).context("starting the thread of direct connections")
}
