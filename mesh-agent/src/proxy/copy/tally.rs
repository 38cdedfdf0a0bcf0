//! What a connection has carried, told from the thread that carries it to the one that has its books.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{Count, Role};

/// Bytes of each direction. Only the connection's task writes them.
#[derive(Debug, Default)]
pub(super) struct Tally {
    received: AtomicU64,
    sent: AtomicU64,
}

impl Tally {
    /// `from` has sent so much.
    pub(super) fn add(&self, from: Role, bytes: usize) {
        let direction = match from {
            Role::Client => &self.received,
            Role::Server => &self.sent,
        };
        direction.store(direction.load(Relaxed) + bytes as u64, Relaxed);
    }

    /// Of both directions.
    pub(super) fn all(&self) -> u64 {
        self.received.load(Relaxed) + self.sent.load(Relaxed)
    }
}

/// Writes into the books what a tally says, the last of it when it is dropped.
#[derive(Debug)]
pub(super) struct Clerk<'a, C: Count> {
    tally: Arc<Tally>,
    count: &'a C,
    received: Cell<u64>,
    sent: Cell<u64>,
}

impl<'a, C: Count> Clerk<'a, C> {
    pub(super) fn new(count: &'a C) -> Self {
        Self { tally: Arc::default(), count, received: Cell::new(0), sent: Cell::new(0) }
    }

    pub(super) fn tally(&self) -> Arc<Tally> {
        Arc::clone(&self.tally)
    }

    pub(super) fn write(&self) {
        let received = self.tally.received.load(Relaxed);
        match received - self.received.replace(received) {
            0 => {}
            new => self.count.received(new),
        }
        let sent = self.tally.sent.load(Relaxed);
        match sent - self.sent.replace(sent) {
            0 => {}
            new => self.count.sent(new),
        }
    }
}

impl<C: Count> Drop for Clerk<'_, C> {
    fn drop(&mut self) {
        self.write();
    }
}
