//! On which shard an outbound connection lives.
//!
//! The kernel gives it to the shard whose home is the core that it comes up on: what the application writes is then in that
//! core's cache, and waking the shard needs no word to another core. Two things speak for another shard: connections to the
//! same destination have carried much before, so this one will be worth a core; and this shard has more to do than it gets done.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::hash::BuildHasher;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use foldhash::fast::FixedState;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::copy::Count;

/// A connection is heavy that carries this much...
const HEAVY: u64 = 64 << 20;
/// ... within this time.
const AT_ONCE: Duration = Duration::from_secs(2);
/// How long it is remembered of a destination.
const REMEMBERED: u32 = 600;
/// Destinations are remembered by their hashes: what is mistaken for another one is placed as well as before.
const PLACES: usize = 4096;

/// How often it is looked how much there is to do.
const GLANCE: Duration = Duration::from_millis(10);
/// How old a glance may be that another one is compared to.
const LATEST: Duration = Duration::from_millis(100);
/// Shards that are looked at besides the own one.
const NEIGHBOURS: usize = 8;
/// A shard is strained that is running or waiting for its core so much of the time...
const STRAINED: f64 = 0.5;
/// ... and another one is calm with so much less.
const CALMER: f64 = 0.25;

/// What the shards know of each other.
#[derive(Debug)]
pub(super) struct Seats {
    seats: Box<[Seat]>,
    start: Instant,
    /// Until when destinations are remembered, in seconds since the start.
    heavy: Box<[AtomicU32]>,
    moved: AtomicU64,
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
        }
    }

    /// This thread is the shard. Without its schedule it is never strained.
    pub(super) fn take(&self, shard: usize) {
        if let (Some(seat), Ok(file)) = (self.seats.get(shard), File::open("/proc/thread-self/schedstat")) {
            seat.schedule.set(file).ok();
        }
    }

    /// Connections that live elsewhere than they came up.
    pub(super) fn moved(&self) -> u64 {
        self.moved.load(Relaxed)
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
    /// Whether connections come up where they are at home.
    at_home: Home,
    glance: RefCell<Glance>,
    /// Of a strained shard's connections every second one goes.
    turn: Cell<u32>,
}

/// Whether a shard has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Home {
    Core,
    None,
}

#[derive(Debug)]
struct Glance {
    at: Instant,
    busy: Vec<Option<u64>>,
    calm: Option<usize>,
}

impl Placement {
    pub(super) fn new(seats: Arc<Seats>, own: usize, at_home: Home) -> Self {
        let glance = RefCell::new(Glance { at: Instant::now(), busy: Vec::new(), calm: None });
        Self { seats, own, at_home, glance, turn: Cell::new(0) }
    }

    /// Whether connections may live elsewhere than they come up.
    pub(super) fn moves(&self) -> bool {
        self.at_home == Home::Core && self.seats.seats.len() > 1
    }

    /// Where a connection that came up here should live, if they move.
    pub(super) fn place(&self, destination: SocketAddr) -> Placed {
        let here = Placed { shard: self.own, weight: None };
        if !self.moves() {
            return here;
        }
        let placed = if self.seats.is_heavy(destination) {
            let shard = self.seats.lightest(self.own);
            Placed { shard, weight: Some(Weight::on(&self.seats, shard)) }
        } else {
            self.calm().map_or(here, |shard| Placed { shard, weight: None })
        };
        if placed.shard != self.own {
            self.seats.moved.fetch_add(1, Relaxed);
        }
        placed
    }

    /// Watches what a connection carries.
    pub(super) fn watch<'a, C: Count>(&'a self, count: &'a C, destination: SocketAddr) -> Watched<'a, C> {
        Watched { count, seats: &self.seats, destination, bytes: Cell::new(0), since: Cell::new(Instant::now()) }
    }

    /// A calm shard, if this one is strained and it is the turn of one that is.
    fn calm(&self) -> Option<usize> {
        let mut glance = self.glance.borrow_mut();
        let passed = glance.at.elapsed();
        if passed >= GLANCE {
            let busy = self.look();
            // What was long ago says nothing of now.
            let fresh = if passed <= LATEST { &glance.busy[..] } else { &[] };
            glance.calm = calmer(fresh, &busy, passed).map(|neighbour| self.neighbour(neighbour));
            (glance.at, glance.busy) = (Instant::now(), busy);
        }
        self.turn.set(self.turn.get().wrapping_add(1));
        glance.calm.filter(|_| self.turn.get().is_multiple_of(2))
    }

    /// How busy this shard and its neighbours have been since they began.
    fn look(&self) -> Vec<Option<u64>> {
        let shards = self.seats.seats.len().min(NEIGHBOURS + 1);
        (0..shards).map(|neighbour| self.seats.busy(self.neighbour(neighbour))).collect()
    }

    fn neighbour(&self, neighbour: usize) -> usize {
        (self.own + neighbour) % self.seats.seats.len()
    }
}

/// The calmest of those that follow the first one, if that is strained and they are not. Told are nanoseconds at two times.
fn calmer(before: &[Option<u64>], now: &[Option<u64>], passed: Duration) -> Option<usize> {
    let share = |(before, now): (&Option<u64>, &Option<u64>)| -> Option<f64> {
        Some((*now)?.checked_sub((*before)?)? as f64 / passed.as_nanos() as f64)
    };
    let shares: Vec<_> = before.iter().zip(now).map(share).collect();
    let (own, others) = shares.split_first()?;
    let own = (*own).filter(|own| *own >= STRAINED)?;
    let others = others.iter().enumerate().filter_map(|(at, share)| Some((at + 1, (*share)?)));
    let (at, share) = others.min_by(|a, b| a.1.total_cmp(&b.1))?;
    (share + CALMER <= own).then_some(at)
}

/// Counts what a connection carries, and remembers its destination if that is much.
#[derive(Debug)]
pub(super) struct Watched<'a, C> {
    count: &'a C,
    seats: &'a Seats,
    destination: SocketAddr,
    /// Since it was looked how long they took.
    bytes: Cell<u64>,
    since: Cell<Instant>,
}

impl<C> Watched<'_, C> {
    fn add(&self, bytes: u64) {
        self.bytes.set(self.bytes.get() + bytes);
        if self.bytes.get() >= HEAVY {
            if self.since.get().elapsed() <= AT_ONCE {
                self.seats.remember(self.destination);
            }
            self.bytes.set(0);
            self.since.set(Instant::now());
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
