//! A shard's home: the core that it stays on, and whose connections it takes, for as long as it gets its work done there.
//!
//! What keeps a shard from that may be its own connections, another shard, of a neighbour's agent, or an application. It then
//! goes where the scheduler finds it time, and what comes up on its core is anybody's; it comes home when there is less to do.

use std::cell::{Cell, RefCell};
use std::os::fd::AsFd;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::Notify;

use super::{Schedule, Seats};
use crate::sys::cores::{Homes, roam, stay_on};
use crate::sys::socket::set_home;

/// How often it is looked how it is at home.
const GLANCE: Duration = Duration::from_millis(20);
/// How old a glance may be that another one is compared to.
const LATEST: Duration = Duration::from_millis(100);
/// A shard leaves that runs, or waits for its core, for so much of the time...
const MUCH: f64 = 0.6;
/// ... and comes home when it does for so much less,
const LITTLE: f64 = 0.3;
/// which is looked at so often.
const STROLL: Duration = Duration::from_millis(100);

/// Belongs to the shard's thread.
#[derive(Debug)]
pub(super) struct Home {
    core: usize,
    all: Homes,
    shard: usize,
    /// The core that it is on; none while it is away.
    at: Cell<Option<usize>>,
    seen: Cell<(Instant, Option<Schedule>)>,
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
            at: Cell::new(Some(core)),
            seen: Cell::new((Instant::now(), None)),
            left: Notify::new(),
            listeners: RefCell::default(),
        }
    }

    /// A listener that takes what comes up on the core.
    pub(super) fn opened(&self, listener: &Rc<TcpListener>) {
        if self.is_away() {
            self.tell(listener);
        }
        let mut listeners = self.listeners.borrow_mut();
        listeners.retain(|listener| listener.strong_count() > 0);
        listeners.push(Rc::downgrade(listener));
    }

    /// Leaves it if there is much to do. To be asked where there is something.
    pub(super) fn glance(&self, seats: &Seats) {
        let (at, before) = self.seen.get();
        let passed = at.elapsed();
        if passed < GLANCE || self.is_away() {
            return;
        }
        let now = seats.schedule(self.shard);
        self.seen.set((Instant::now(), now));
        // What was long ago says nothing of now.
        let Some((before, now)) = before.zip(now).filter(|_| passed <= LATEST) else { return };
        if now.busy_since(before) as f64 >= MUCH * passed.as_nanos() as f64 && roam(&self.all).is_ok() {
            self.turn(None);
            seats.left_home();
            self.left.notify_one();
        }
    }

    /// Comes home when there is less to do.
    pub(super) async fn keep(&self, seats: &Seats) {
        loop {
            self.left.notified().await;
            while self.is_away() {
                let (start, before) = (Instant::now(), seats.schedule(self.shard));
                tokio::time::sleep(STROLL).await;
                let busy = before.zip(seats.schedule(self.shard)).map_or(0, |(before, now)| now.busy_since(before));
                if (busy as f64) < LITTLE * start.elapsed().as_nanos() as f64 {
                    // A core that was taken from the process meanwhile: it stays where the scheduler puts it.
                    stay_on(self.core).ok();
                    self.turn(Some(self.core));
                }
            }
        }
    }

    fn is_away(&self) -> bool {
        self.at.get().is_none()
    }

    fn turn(&self, at: Option<usize>) {
        self.at.set(at);
        self.listeners.borrow().iter().filter_map(Weak::upgrade).for_each(|listener| self.tell(&listener));
    }

    /// Where it does not work, connections come as before.
    fn tell(&self, listener: &TcpListener) {
        set_home(listener.as_fd(), self.at.get()).ok();
    }
}

#[cfg(test)]
mod tests;
