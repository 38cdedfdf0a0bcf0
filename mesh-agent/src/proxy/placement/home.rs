//! A shard's home: the core that it stays on, and whose connections it takes, for as long as it gets its work done there.
//!
//! What keeps a shard from that may be its own connections, another shard, of a neighbour's agent, or an application. It then
//! goes where the scheduler finds it time. If it is new connections that are many, what comes up on its core is anybody's: these
//! are not taken as a rule, since where a connection lives is for all its life. It comes home when there is less to do.

use std::cell::{Cell, RefCell};
use std::os::fd::AsFd;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::Notify;

use super::Seats;
use crate::sys::cores::{Homes, roam, stay_on};
use crate::sys::socket::set_home;

/// How often it is looked how it is at home.
const GLANCE: Duration = Duration::from_millis(20);
/// How old a glance may be that another one is compared to.
const LATEST: Duration = Duration::from_millis(100);
/// A shard leaves that runs, or waits for its core, for so much of the time...
const MUCH: f64 = 0.7;
/// ... and comes home when it does for so much less,
const LITTLE: f64 = 0.5;
/// which is looked at so often.
const STROLL: Duration = Duration::from_millis(100);
/// New connections of one glance to the next that are many.
const MANY: u32 = 10;

/// Where a shard is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Home,
    Away,
    /// Away, and what comes up on its core is anybody's.
    AwayForAll,
}

/// Belongs to the shard's thread.
#[derive(Debug)]
pub(super) struct Home {
    core: usize,
    all: Homes,
    shard: usize,
    at: Cell<At>,
    /// New connections since the last glance.
    new: Cell<u32>,
    /// When it was looked, and how busy the shard had been by then.
    seen: Cell<(Instant, Option<u64>)>,
    left: Notify,
    /// Those of the pods that are served.
    listeners: RefCell<Vec<Weak<TcpListener>>>,
}

impl Home {
    pub(super) fn new(core: usize, all: Homes, shard: usize) -> Self {
        Self {
            core,
            all,
            shard,
            at: Cell::new(At::Home),
            new: Cell::new(0),
            seen: Cell::new((Instant::now(), None)),
            left: Notify::new(),
            listeners: RefCell::default(),
        }
    }

    /// A listener that takes what comes up on the core.
    pub(super) fn opened(&self, listener: &Rc<TcpListener>) {
        if self.at.get() == At::AwayForAll {
            self.tell(listener);
        }
        let mut listeners = self.listeners.borrow_mut();
        listeners.retain(|listener| listener.strong_count() > 0);
        listeners.push(Rc::downgrade(listener));
    }

    /// A connection has come.
    pub(super) fn welcome(&self, seats: &Seats) {
        self.new.set(self.new.get().saturating_add(1));
        self.glance(seats);
    }

    /// Leaves it if there is much to do. To be asked where there is something.
    pub(super) fn glance(&self, seats: &Seats) {
        let (at, before) = self.seen.get();
        let passed = at.elapsed();
        if passed < GLANCE || self.at.get() == At::AwayForAll {
            return;
        }
        let (now, new) = (seats.busy(self.shard), self.new.take());
        self.seen.set((Instant::now(), now));
        // What was long ago says nothing of now.
        let Some((before, now)) = before.zip(now).filter(|_| passed <= LATEST) else { return };
        if now.saturating_sub(before) as f64 >= MUCH * passed.as_nanos() as f64 {
            self.leave(if new >= MANY { At::AwayForAll } else { At::Away }, seats);
        }
    }

    fn leave(&self, to: At, seats: &Seats) {
        if self.at.get() == At::Home {
            if roam(&self.all).is_err() {
                return;
            }
            seats.left_home();
            self.left.notify_one();
        }
        self.turn(to);
    }

    /// Comes home when there is less to do.
    pub(super) async fn keep(&self, seats: &Seats) {
        loop {
            self.left.notified().await;
            while self.at.get() != At::Home {
                let (start, before) = (Instant::now(), seats.busy(self.shard));
                tokio::time::sleep(STROLL).await;
                let busy = before.zip(seats.busy(self.shard)).map_or(0, |(before, now)| now.saturating_sub(before));
                if (busy as f64) < LITTLE * start.elapsed().as_nanos() as f64 {
                    // A core that was taken from the process meanwhile: it stays where the scheduler puts it.
                    stay_on(self.core).ok();
                    self.new.set(0);
                    self.turn(At::Home);
                }
            }
        }
    }

    fn turn(&self, at: At) {
        let was = self.at.replace(at);
        if (was == At::AwayForAll) != (at == At::AwayForAll) {
            self.listeners.borrow().iter().filter_map(Weak::upgrade).for_each(|listener| self.tell(&listener));
        }
    }

    /// Where it does not work, connections come as before.
    fn tell(&self, listener: &TcpListener) {
        set_home(listener.as_fd(), (self.at.get() != At::AwayForAll).then_some(self.core)).ok();
    }
}

#[cfg(test)]
mod tests;
