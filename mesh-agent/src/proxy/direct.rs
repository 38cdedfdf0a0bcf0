//! Connections between two pods of this node that the kernel carries (`same_node: direct`). The agent authorises a client,
//! and a port of a server, when the first connection comes, which it joins itself ([`super::joined`]); the next ones it only
//! hears of. What would have closed a joined connection cuts them, and what would have led a new one another way leaves
//! new ones to the agent again.

mod flows;
mod grant;
pub(super) mod service;

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::hash::Hash;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use mesh_common::direct::{DirectFlow, GrantKey, Served, ServiceKey, Slot};
use mesh_common::maps::{FlowKey, address};

use self::flows::Carried;
use self::grant::{Granted, Pair};
use super::joined::{self, Neighbour};
use super::pod::Pod;
use crate::model::route::{Trip, no_names, route};
use crate::model::{Captured, OrigDst, Route, SameNode, Workload};

/// The kernel's part.
pub trait Kernel: Debug + Send + Sync {
    /// Carries new connections of the key to the namespace `server`; `shard` is to hear of them. None: that is granted
    /// already, or there is no room.
    fn grant(&self, shard: u32, key: &GrantKey, server: u64) -> Option<Slot>;
    /// New connections go to the agent from now on.
    fn withdraw(&self, key: &GrantKey);
    /// From now on no packet of the grant's connections is let through.
    fn cut(&self, slot: Slot);
    /// Nothing refers to the slot any more.
    fn free(&self, slot: Slot);
    /// Whether clients of services can be given an endpoint.
    fn translates(&self) -> bool;
    /// Has clients get these endpoints, unless somebody else has said which: false.
    fn serve(&self, key: &ServiceKey, served: &Served) -> bool;
    /// Other ones from now on.
    fn serve_now(&self, key: &ServiceKey, served: &Served);
    /// None any more.
    fn unserve(&self, key: &ServiceKey);
    fn flow(&self, flow: &FlowKey) -> Option<DirectFlow>;
    fn forget(&self, flow: &FlowKey, opened: u64);
    /// Whether what one pod sends to another one's address, by the routes of the node, does not leave it.
    fn stays(&self, ip: IpAddr) -> bool;
}

/// What a shard knows of such connections.
#[derive(Debug)]
pub(super) struct Shortcuts {
    kernel: Option<Arc<dyn Kernel>>,
    shard: u32,
    /// By the index of their slot.
    grants: RefCell<HashMap<u32, Rc<Granted>>>,
    /// What is granted, or is about to be, or cannot be.
    asked: Rc<RefCell<HashSet<GrantKey>>>,
    services: Rc<RefCell<HashSet<ServiceKey>>>,
    flows: RefCell<HashMap<FlowKey, Carried>>,
    /// Connections that have ended, the oldest first: their last packets may be sent again.
    ended: RefCell<std::collections::VecDeque<flows::Ended>>,
}

impl Shortcuts {
    pub(super) fn new(kernel: Option<Arc<dyn Kernel>>, shard: u32) -> Rc<Self> {
        Rc::new(Self {
            kernel,
            shard,
            grants: RefCell::default(),
            asked: Rc::default(),
            services: Rc::default(),
            flows: RefCell::default(),
            ended: RefCell::default(),
        })
    }
}

/// Has the kernel carry the next connections to the same place, if that may be.
pub(super) fn offer(pod: &Rc<Pod>, source: &Arc<Workload>, to: &Neighbour) {
    let (SameNode::Direct, Some(kernel)) = (to.mode, &pod.shortcuts.kernel) else { return };
    if !by_programs(pod) || !by_programs(&to.pod) {
        return;
    }
    let key = GrantKey {
        client: pod.netns_cookie,
        source: address(to.client.ip()),
        destination: address(to.target.ip()),
        port: to.target.port(),
        reserved: [0; 3],
    };
    let Some(asked) = Asked::first(&pod.shortcuts.asked, key) else { return };
    if let Some((route, to)) = straight(pod, source, to) {
        let pair = Pair { kernel: Arc::clone(kernel), client: Rc::clone(pod), source: Arc::clone(source), route, to };
        pod.tasks.spawn_local(grant::keep(pair, asked));
    }
}

fn by_programs(pod: &Pod) -> bool {
    matches!(pod.local.spec.captured, Captured::ByPrograms(_))
}

/// The way to the same neighbour by its own address, which is all that the kernel will see: none if that leads elsewhere.
fn straight(pod: &Pod, source: &Workload, to: &Neighbour) -> Option<(Route, Neighbour)> {
    let trip = Trip { source, to: OrigDst(to.target), draw: 0, names: &no_names };
    let route = route(&pod.world(), &trip).ok()?;
    let found = joined::neighbour(pod, (source, to.client), &route)?;
    // What is behind an application tunnel gets connections at one port, and with a header.
    let same = found.workload.app_tunnel.is_none()
        && Rc::ptr_eq(&found.pod, &to.pod)
        && (found.target, found.client, found.mode) == (to.target, to.client, SameNode::Direct);
    same.then_some((route, found))
}

/// A question that is not asked twice.
struct Asked<K: Hash + Eq> {
    all: Rc<RefCell<HashSet<K>>>,
    key: K,
}

impl<K: Hash + Eq + Copy> Asked<K> {
    /// None if it is being asked already.
    fn first(all: &Rc<RefCell<HashSet<K>>>, key: K) -> Option<Self> {
        all.borrow_mut().insert(key).then(|| Self { all: Rc::clone(all), key })
    }
}

impl<K: Hash + Eq> Drop for Asked<K> {
    fn drop(&mut self) {
        self.all.borrow_mut().remove(&self.key);
    }
}
