//! On which shard an outbound connection lives.
//!
//! The kernel gives it to the shard whose home is the core that it comes up on: what the application writes is then in that
//! core's cache, and waking the shard needs no word to another core. Two things speak for another shard: connections to the
//! same destination have carried much before, so this one will be worth a core; and the shard has so much to do that its
//! core's connections are anybody's.

use std::fs::File;
use std::hash::BuildHasher;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use foldhash::fast::FixedState;
use tokio::net::TcpListener;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::copy::Count;
use crate::hbone::load::Burst;
use crate::sys::cores::Homes;
use crate::task::Lane;

mod home;

use home::Home;

/// A connection is heavy that carries this much...
const HEAVY: u64 = 64 << 20;
/// ... within this time.
const AT_ONCE: Duration = Duration::from_secs(2);
/// Looked at each time so much more has come; [`HEAVY`] is a multiple.
const MUCH: u64 = 1 << 20;
/// How long it is remembered of a destination.
const REMEMBERED: u32 = 600;
/// Destinations are remembered by their hashes: what is mistaken for another one is placed as well as before.
const PLACES: usize = 4096;

/// What the shards know of each other.
#[derive(Debug)]
pub(super) struct Seats {
    seats: Box<[Seat]>,
    start: Instant,
    /// Until when destinations are remembered, in seconds since the start.
    heavy: Box<[AtomicU32]>,
    moved: AtomicU64,
    /// Times that a shard left its home.
    left: AtomicU64,
    to_lanes: Arc<AtomicU64>,
}

/// What has moved between threads, or cores, since the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moves {
    /// Connections that live on another shard than they came up on.
    pub placed: u64,
    /// Times that a shard left a home that was crowded.
    pub left_home: u64,
    /// Times that a connection or a tunnel went to the lane beside its shard.
    pub to_lanes: u64,
}

/// One shard's, on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Seat {
    /// proc(5), `/proc/pid/schedstat`: nanoseconds on a core, and waiting for one.
    schedule: OnceLock<File>,
    /// Heavy connections that live here.
    heavy: AtomicU32,
}

impl Seats {
    pub(super) fn new(count: usize) -> Self {
        Self {
            seats: (0..count).map(|_| Seat::default()).collect(),
            start: Instant::now(),
            heavy: (0..PLACES).map(|_| AtomicU32::default()).collect(),
            moved: AtomicU64::default(),
            left: AtomicU64::default(),
            to_lanes: Arc::default(),
        }
    }

    /// This thread is the shard. Without its schedule it is never strained.
    pub(super) fn take(&self, shard: usize) {
        if let (Some(seat), Ok(file)) = (self.seats.get(shard), File::open("/proc/thread-self/schedstat")) {
            seat.schedule.set(file).ok();
        }
    }

    pub(super) fn moves(&self) -> Moves {
        Moves {
            placed: self.moved.load(Relaxed),
            left_home: self.left.load(Relaxed),
            to_lanes: self.to_lanes.load(Relaxed),
        }
    }

    /// Where lanes count what comes to them.
    pub(super) fn to_lanes(&self) -> &Arc<AtomicU64> {
        &self.to_lanes
    }

    fn left_home(&self) {
        self.left.fetch_add(1, Relaxed);
    }

    fn seconds(&self) -> u32 {
        u32::try_from(self.start.elapsed().as_secs()).unwrap_or(u32::MAX)
    }

    fn place(&self, destination: SocketAddr) -> &AtomicU32 {
        let hash = FixedState::default().hash_one(destination);
        &self.heavy[hash as usize % PLACES]
    }

    fn is_heavy(&self, destination: SocketAddr) -> bool {
        self.place(destination).load(Relaxed) > self.seconds()
    }

    fn remember(&self, destination: SocketAddr) {
        self.place(destination).store(self.seconds() + REMEMBERED, Relaxed);
    }

    /// The shard with the fewest heavy connections, `own` before others that have as few.
    fn lightest(&self, own: usize) -> usize {
        let count = self.seats.len();
        let heavy = |shard: &usize| self.seats[*shard].heavy.load(Relaxed);
        (own..own + count).map(|shard| shard % count).min_by_key(heavy).unwrap_or(own)
    }

    /// Nanoseconds that a shard has been running or wanted to.
    fn busy(&self, shard: usize) -> Option<u64> {
        let mut text = [0; 64];
        let length = self.seats[shard].schedule.get()?.read_at(&mut text, 0).ok()?;
        let mut numbers = std::str::from_utf8(&text[..length]).ok()?.split_ascii_whitespace();
        Some(numbers.next()?.parse::<u64>().ok()? + numbers.next()?.parse::<u64>().ok()?)
    }
}

/// A heavy connection on a shard, for as long as it is there.
#[derive(Debug)]
pub(super) struct Weight {
    seats: Arc<Seats>,
    shard: usize,
}

impl Weight {
    fn on(seats: &Arc<Seats>, shard: usize) -> Self {
        seats.seats[shard].heavy.fetch_add(1, Relaxed);
        Self { seats: Arc::clone(seats), shard }
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.seats.seats[self.shard].heavy.fetch_sub(1, Relaxed);
    }
}

/// Where a connection should live.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) shard: usize,
    pub(super) weight: Option<Weight>,
}

/// One shard's view.
#[derive(Debug)]
pub(super) struct Placement {
    seats: Arc<Seats>,
    pub(super) own: usize,
    /// Without one, connections live where they come up.
    home: Option<Home>,
    /// Where connections are that carry much.
    lane: Lane,
}

impl Placement {
    /// `home` is the shard's core, among those of all shards.
    pub(super) fn new(seats: Arc<Seats>, own: usize, home: Option<(usize, Homes)>, lane: Lane) -> Self {
        let home = home.map(|(core, all)| Home::new(core, all, own));
        Self { seats, own, home, lane }
    }

    pub(super) fn lane(&self) -> &Lane {
        &self.lane
    }

    /// A listener that takes what comes up on the shard's core.
    pub(super) fn opened(&self, listener: &Rc<TcpListener>) {
        if let Some(home) = &self.home {
            home.opened(listener);
        }
    }

    /// Brings the shard home when there is less to do. Never ends.
    pub(super) async fn keep_home(&self) {
        match &self.home {
            Some(home) => home.keep(&self.seats).await,
            None => std::future::pending().await,
        }
    }

    /// Whether connections may live elsewhere than they come up.
    pub(super) fn moves(&self) -> bool {
        self.home.is_some() && self.seats.seats.len() > 1
    }

    /// Where a connection that came up here should live, if they move.
    pub(super) fn place(&self, destination: SocketAddr) -> Placed {
        let here = Placed { shard: self.own, weight: None };
        if !self.moves() || !self.seats.is_heavy(destination) {
            return here;
        }
        let shard = self.seats.lightest(self.own);
        if shard != self.own {
            self.seats.moved.fetch_add(1, Relaxed);
        }
        Placed { shard, weight: Some(Weight::on(&self.seats, shard)) }
    }

    /// Watches what a connection carries; its destination may be worth remembering.
    pub(super) fn watch<'a, C: Count>(&'a self, count: &'a C, destination: Option<SocketAddr>) -> Watched<'a, C> {
        if let Some(home) = &self.home {
            home.welcome(&self.seats);
        }
        Watched { count, placement: self, destination, burst: Burst::of(HEAVY, AT_ONCE) }
    }
}

/// Counts what a connection carries, and remembers its destination if that is much.
#[derive(Debug)]
pub(super) struct Watched<'a, C> {
    count: &'a C,
    placement: &'a Placement,
    destination: Option<SocketAddr>,
    burst: Burst,
}

impl<C> Watched<'_, C> {
    fn add(&self, bytes: u64) {
        let before = self.burst.bytes();
        let heavy = self.burst.add(bytes);
        let Placement { home: Some(home), seats, .. } = self.placement else { return };
        if before / MUCH != self.burst.bytes() / MUCH {
            home.glance(seats);
        }
        if let Some(destination) = self.destination.filter(|_| heavy) {
            seats.remember(destination);
        }
    }
}

impl<C: Count> Count for Watched<'_, C> {
    fn received(&self, bytes: u64) {
        self.count.received(bytes);
        self.add(bytes);
    }

    fn sent(&self, bytes: u64) {
        self.count.sent(bytes);
        self.add(bytes);
    }
}

/// A connection on its way to another shard.
#[derive(Debug)]
pub(super) struct Moving {
    pub(super) tcp: std::net::TcpStream,
    pub(super) client: SocketAddr,
    pub(super) weight: Option<Weight>,
    /// The pod does not end on the shard that it comes from, before it has arrived.
    pub(super) busy: TaskTrackerToken,
}

impl Moving {
    /// Its way leads to the shard instead.
    pub(super) fn turned_to(self, shard: usize) -> Self {
        let weight = self.weight.as_ref().map(|weight| Weight::on(&weight.seats, shard));
        Self { weight, ..self }
    }
}

#[cfg(test)]
mod tests;
