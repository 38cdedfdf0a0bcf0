//! Services whose endpoints a client may all talk to directly: the kernel chooses among them when it connects, by the same
//! weights as [`crate::model::route`] does.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use mesh_common::direct::{Column, MAX_COLUMNS, Served, ServiceKey};
use mesh_common::maps::address;

use super::{Asked, Kernel, by_programs, straight};
use crate::model::route::{Trip, no_names, route};
use crate::model::{OrigDst, SameNode};
use crate::proxy::joined;
use crate::proxy::pod::Pod;

/// Has the kernel choose an endpoint for the next connections to this address, if that may be.
pub(in crate::proxy) fn offer(pod: &Rc<Pod>, OrigDst(to): OrigDst) {
    let Some(kernel) = pod.shortcuts.kernel.as_ref().filter(|kernel| kernel.translates() && by_programs(pod)) else {
        return;
    };
    let key = ServiceKey { client: pod.netns_cookie, address: address(to.ip()), port: to.port(), reserved: [0; 3] };
    if let Some(asked) = Asked::first(&pod.shortcuts.services, key) {
        pod.tasks.spawn_local(keep(Rc::clone(pod), Arc::clone(kernel), to, asked));
    }
}

/// Keeps what the kernel knows of the service as the configuration has it, until it has nothing to choose any more.
async fn keep(pod: Rc<Pod>, kernel: Arc<dyn Kernel>, to: SocketAddr, asked: Asked<ServiceKey>) {
    let mut worlds = pod.worlds.clone();
    worlds.borrow_and_update();
    let Some(mut known) = endpoints(&pod, to).filter(|served| kernel.serve(&asked.key, served)) else { return };
    loop {
        tokio::select! {
            changed = worlds.changed() => {
                if changed.is_err() {
                    // Shutting down: what is in force stays so until the pod is left.
                    pod.leaving.cancelled().await;
                    break;
                }
            }
            () = pod.leaving.cancelled() => break,
        }
        worlds.borrow_and_update();
        match endpoints(&pod, to) {
            Some(now) if now == known => {}
            Some(now) => {
                kernel.serve_now(&asked.key, &now);
                known = now;
            }
            None => break,
        }
    }
    kernel.unserve(&asked.key);
}

/// The columns of the draw, if each of them leads to a pod of this node, directly; more than there is room for do not.
fn endpoints(pod: &Pod, to: SocketAddr) -> Option<Served> {
    let (source, world) = (pod.known_workload()?, pod.world());
    let service = world.service_at(&source.network, to.ip(), source.namespace())?;
    let shares = world.endpoints(&service.key)?.shares(to.port(), &source);
    if shares.is_empty() || shares.len() > MAX_COLUMNS {
        return None;
    }
    let client = SocketAddr::new(pod.source_ip(&source, to)?, 0);
    let mut served = Served { count: u32::try_from(shares.len()).ok()?, ..Served::default() };
    for (share, column) in shares.iter().zip(&mut served.columns) {
        let trip = Trip { source: &source, to: OrigDst(to), draw: share.draw, names: &no_names };
        let there = joined::neighbour(pod, (&source, client), &route(&world, &trip).ok()?)?;
        let target = there.target;
        if there.mode != SameNode::Direct || target.is_ipv4() != to.is_ipv4() || !by_programs(&there.pod) {
            return None;
        }
        straight(pod, &source, &there)?;
        let alias = u16::try_from(share.alias).ok()?;
        *column = Column { address: address(target.ip()), port: target.port(), alias, own: share.own };
    }
    Some(served)
}
