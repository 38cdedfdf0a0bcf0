//! The record of one connection: opened when its destination is known, added to while bytes move, finished once.
//!
//! Every pipeline holds exactly one [`Record`] per connection. It is the only source of the traffic metrics, of the
//! access log and of the table of live flows. Labels are resolved when it opens; after that a byte count is two integer
//! additions. What is dropped without [`Record::finish`] was cancelled, and its books are closed as a failure.
//!
//! All of a shard's records share its [`Books`] and never leave its thread; [`Books::snapshot`] copies what a reader of
//! another thread needs. A failure before the destination is known has no record, only a log line: [`refuse`].

mod access;
mod flows;
pub(super) mod labels;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Instant;

use crate::model::{Identity, PolicyName, Service, Workload};
pub use crate::telemetry::reporter::Reporter;
pub use crate::telemetry::traffic::Flag;
use crate::telemetry::traffic::{Key, Set, Table};

pub use access::refuse;
pub use flows::{Snapshot, documents};

/// What proves the ends to each other, and protects what is between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// The live TLS session.
    MutualTls,
    /// Both ends are pods of this node, and have shown their certificates to each other in this process: there is no wire.
    Local,
    /// As [`Security::Local`], and the kernel carries the packets from one to the other.
    Direct,
    Plain,
}

/// Everything that is known of a connection when it opens.
#[derive(Clone, Debug)]
pub struct Ends {
    pub reporter: Reporter,
    pub src_addr: SocketAddr,
    /// Source: the next hop. Destination: the address that was dialled.
    pub dst_addr: SocketAddr,
    /// The authority of the HBONE request.
    pub hbone_addr: Option<String>,
    /// Where the application wanted to go.
    pub original: SocketAddr,
    pub source: Option<Arc<Workload>>,
    /// Not shown and not counted under [`Security::Plain`], like `destination_identity`.
    pub source_identity: Option<Identity>,
    pub destination: Option<Arc<Workload>>,
    pub destination_identity: Option<Identity>,
    pub service: Option<Arc<Service>>,
    pub security: Security,
    /// The ALLOW policy that matched, if that is known already.
    pub policy: Option<PolicyName>,
    /// The namespace that the application's socket is in.
    pub netns_cookie: u64,
    /// The application's socket as the application sees it: its own address, then its peer's.
    pub app_socket: Option<(SocketAddr, SocketAddr)>,
}

/// How a connection ended. `error` is a text for people; without one it was a success.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub flag: Flag,
    pub error: Option<String>,
}

/// The kernel's own view of an application's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Smoothed round-trip time, microseconds.
    pub srtt_us: u32,
    pub retransmits: u32,
    pub bytes_acked: u64,
    pub bytes_received: u64,
    /// Who closed it and how.
    pub close: &'static str,
}

/// Where kernel facts come from; implemented over the maps of the sockops program.
pub trait KernelFacts: Send + Sync {
    /// The facts of the socket with these addresses in the namespace with this cookie.
    fn read(&self, cookie: u64, local: SocketAddr, remote: SocketAddr) -> Option<Facts>;
}

/// What the records of one shard share.
pub struct Books {
    shard: u32,
    table: Table,
    facts: Option<Arc<dyn KernelFacts>>,
    /// Every live record; a record knows its own place.
    live: RefCell<Vec<Weak<Record>>>,
    opened: Cell<u64>,
    key: RefCell<Key>,
}

impl Books {
    pub fn new(shard: usize, table: Table, facts: Option<Arc<dyn KernelFacts>>) -> Self {
        Self {
            shard: u32::try_from(shard).unwrap_or(u32::MAX),
            table,
            facts,
            live: RefCell::default(),
            opened: Cell::new(0),
            key: RefCell::default(),
        }
    }

    fn remove(&self, place: usize) {
        let mut live = self.live.borrow_mut();
        live.swap_remove(place);
        if let Some(moved) = live.get(place).and_then(Weak::upgrade) {
            moved.place.set(place);
        }
    }
}

impl fmt::Debug for Books {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let live = self.live.borrow().len();
        f.debug_struct("Books").field("shard", &self.shard).field("live", &live).finish_non_exhaustive()
    }
}

/// The record of one connection.
#[derive(Debug)]
pub struct Record {
    books: Rc<Books>,
    /// Shared with snapshots, which other threads read.
    ends: Arc<Ends>,
    counters: Arc<Set>,
    number: u64,
    opened: Instant,
    received: Cell<u64>,
    sent: Cell<u64>,
    policy: RefCell<Option<PolicyName>>,
    app_socket: Cell<Option<(SocketAddr, SocketAddr)>>,
    place: Cell<usize>,
    phase: Cell<Phase>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Live,
    Finished,
}

impl Record {
    /// Opens a record and counts the connection.
    pub fn open(books: &Rc<Books>, ends: Ends) -> Rc<Self> {
        let counters = {
            let mut key = books.key.borrow_mut();
            labels::write(&mut key, &ends);
            books.table.open(&key)
        };
        let number = books.opened.get();
        books.opened.set(number + 1);
        let mut live = books.live.borrow_mut();
        let record = Rc::new(Self {
            books: Rc::clone(books),
            counters,
            number,
            opened: Instant::now(),
            received: Cell::new(0),
            sent: Cell::new(0),
            policy: RefCell::new(ends.policy.clone()),
            app_socket: Cell::new(ends.app_socket),
            ends: Arc::new(ends),
            place: Cell::new(live.len()),
            phase: Cell::new(Phase::Live),
        });
        live.push(Rc::downgrade(&record));
        access::opened(&record);
        record
    }

    /// Counts bytes from the client to the server.
    pub fn received(&self, bytes: u64) {
        self.received.set(self.received.get() + bytes);
        self.counters.received(bytes);
    }

    /// Counts bytes from the server to the client.
    pub fn sent(&self, bytes: u64) {
        self.sent.set(self.sent.get() + bytes);
        self.counters.sent(bytes);
    }

    /// Notes the policy that allowed the connection.
    pub fn allowed_by(&self, policy: Option<&PolicyName>) {
        *self.policy.borrow_mut() = policy.cloned();
    }

    /// Notes the application's socket: its own address and the one it sees as its peer's.
    pub fn application_socket(&self, local: SocketAddr, remote: Option<SocketAddr>) {
        self.app_socket.set(remote.map(|remote| (local, remote)));
    }

    /// Closes the books: counters, access log, table of live flows. Only the first call counts.
    pub fn finish(&self, outcome: Outcome) {
        if self.phase.replace(Phase::Finished) == Phase::Finished {
            return;
        }
        self.books.table.close(&self.counters, outcome.flag);
        self.books.remove(self.place.get());
        access::complete(self, outcome.error.as_deref());
    }

    fn facts(&self) -> Option<Facts> {
        let (local, remote) = self.app_socket.get()?;
        self.books.facts.as_ref()?.read(self.ends.netns_cookie, local, remote)
    }
}

impl Ends {
    /// The identities that certificates proved; a plain connection has none, whatever its addresses suggest.
    fn proven(&self) -> (Option<&Identity>, Option<&Identity>) {
        match self.security {
            Security::MutualTls | Security::Local | Security::Direct => {
                (self.source_identity.as_ref(), self.destination_identity.as_ref())
            }
            Security::Plain => (None, None),
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.finish(Outcome { flag: Flag::Connect, error: Some("cancelled".to_owned()) });
    }
}

#[cfg(test)]
mod tests;
