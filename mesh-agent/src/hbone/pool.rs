//! Tunnels kept for reuse (protocol note, section 5.7). One pool belongs to one pod on one shard.
//!
//! The key must hold everything that makes two tunnels different: they are never shared across keys. Several
//! connections that need a new tunnel at once share one dial.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{LocalBoxFuture, Shared};

use super::client::Tunnel;

/// So many tunnels of one key that all are laden get more streams all the same.
const SEVERAL: usize = 4;

type Dial<P, E> = Shared<LocalBoxFuture<'static, Result<Rc<Tunnel<P>>, Rc<E>>>>;

/// The tunnels of one pod on one shard.
#[derive(Debug)]
pub struct Pool<K, P, E> {
    lanes: RefCell<HashMap<K, Lane<P, E>>>,
}

#[derive(Debug)]
struct Lane<P, E> {
    tunnels: Vec<Rc<Tunnel<P>>>,
    dial: Option<Dial<P, E>>,
    used: Instant,
}

impl<P, E> Lane<P, E> {
    /// Of the tunnels that take a stream the first that is not laden, or else the one with the fewest streams.
    fn lightest(&self) -> Option<Rc<Tunnel<P>>> {
        let found = self.usable().find(|tunnel| !tunnel.laden());
        found.or_else(|| self.usable().min_by_key(|tunnel| tunnel.streams())).map(Rc::clone)
    }

    fn usable(&self) -> impl Iterator<Item = &Rc<Tunnel<P>>> {
        self.tunnels.iter().filter(|tunnel| tunnel.usable())
    }
}

impl<K, P, E> Default for Pool<K, P, E> {
    fn default() -> Self {
        Self { lanes: RefCell::new(HashMap::new()) }
    }
}

impl<K: Hash + Eq + Clone, P: 'static, E: 'static> Pool<K, P, E> {
    /// A tunnel with room for a stream: one that is open and not laden, or the one that `dial` makes; if that fails, or there
    /// are several already, a laden one. The caller opens its stream before it next waits for anything else.
    pub async fn tunnel<F>(&self, key: &K, dial: impl Fn() -> F) -> Result<Rc<Tunnel<P>>, Rc<E>>
    where
        F: Future<Output = Result<Tunnel<P>, E>> + 'static,
    {
        loop {
            let pending = match self.ready_or_pending(key, &dial) {
                Ok(tunnel) => return Ok(tunnel),
                Err(pending) => pending,
            };
            let result = pending.clone().await;
            self.settle(key, &pending, &result);
            // Others that waited for the same dial may have taken all its streams: look again.
            match result {
                Ok(tunnel) if tunnel.usable() => return Ok(tunnel),
                Ok(_) => {}
                Err(error) => return self.lightest(key).ok_or(error),
            }
        }
    }

    fn ready_or_pending<F>(&self, key: &K, dial: &impl Fn() -> F) -> Result<Rc<Tunnel<P>>, Dial<P, E>>
    where
        F: Future<Output = Result<Tunnel<P>, E>> + 'static,
    {
        let mut lanes = self.lanes.borrow_mut();
        let lane =
            lanes.entry(key.clone()).or_insert_with(|| Lane { tunnels: Vec::new(), dial: None, used: Instant::now() });
        lane.used = Instant::now();
        lane.tunnels.retain(|tunnel| tunnel.lasts());
        if let Some(tunnel) = lane.lightest().filter(|tunnel| !tunnel.laden() || lane.usable().count() >= SEVERAL) {
            return Ok(tunnel);
        }
        let pending = lane.dial.get_or_insert_with(|| {
            let dial = dial();
            async move { dial.await.map(Rc::new).map_err(Rc::new) }.boxed_local().shared()
        });
        Err(pending.clone())
    }

    fn lightest(&self, key: &K) -> Option<Rc<Tunnel<P>>> {
        self.lanes.borrow().get(key)?.lightest()
    }

    /// The first of the waiters to get here files the result.
    fn settle(&self, key: &K, pending: &Dial<P, E>, result: &Result<Rc<Tunnel<P>>, Rc<E>>) {
        let mut lanes = self.lanes.borrow_mut();
        let Some(lane) = lanes.get_mut(key) else { return };
        if lane.dial.as_ref().is_some_and(|dial| dial.ptr_eq(pending)) {
            lane.dial = None;
            if let Ok(tunnel) = result {
                lane.tunnels.push(Rc::clone(tunnel));
            }
        }
    }

    /// Drops lanes whose tunnels carry nothing and were not asked for since `idle`, and of other lanes the tunnels that carry
    /// nothing, but for one.
    pub fn sweep(&self, idle: Duration) {
        self.lanes.borrow_mut().retain(|_, lane| {
            let mut spare = false;
            lane.tunnels
                .retain(|tunnel| !tunnel.ended() && (tunnel.streams() > 0 || !std::mem::replace(&mut spare, true)));
            let busy = lane.dial.is_some() || lane.tunnels.iter().any(|tunnel| tunnel.streams() > 0);
            busy || lane.used.elapsed() < idle
        });
    }

    /// Open tunnels.
    pub fn len(&self) -> usize {
        self.lanes.borrow().values().map(|lane| lane.tunnels.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets all tunnels; those with streams live until the streams end.
    pub fn clear(&self) {
        self.lanes.borrow_mut().clear();
    }
}

#[cfg(test)]
mod tests;
