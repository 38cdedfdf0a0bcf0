//! Where connections are put.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::{Count, HEAVY, Moving, Placement, Seats, Weight};
use crate::sys::cores::{Homes, usable};
use crate::task::Lane;

#[derive(Debug, Default)]
struct Sum(Cell<u64>);

impl Count for Sum {
    fn received(&self, bytes: u64) {
        self.0.set(self.0.get() + bytes);
    }

    fn sent(&self, bytes: u64) {
        self.received(bytes);
    }
}

fn shards(count: usize) -> (Arc<Seats>, Vec<Placement>) {
    let seats = Arc::new(Seats::new(count));
    let homes = Homes::new(count, &[]);
    let all = (0..count)
        .map(|own| Placement::new(Arc::clone(&seats), own, Some((usable().unwrap()[0], homes.clone())), Lane::none()))
        .collect();
    (seats, all)
}

#[test]
fn connections_stay_where_they_come_up() {
    let (seats, shards) = shards(3);
    let placed: Vec<_> = shards.iter().map(|shard| shard.place("10.0.0.1:80".parse().unwrap()).shard).collect();
    assert_eq!((placed, seats.moves().placed), (vec![0, 1, 2], 0));
}

#[test]
fn heavy_ones_are_spread_as_soon_as_they_are_known() {
    let (seats, shards) = shards(3);
    let (bulk, chat) = ("10.0.0.1:5201".parse().unwrap(), "10.0.0.1:80".parse().unwrap());
    let sum = Sum::default();
    let watched = shards[1].watch(&sum, Some(bulk));
    watched.received(HEAVY / 2);
    assert_eq!(shards[1].place(bulk).shard, 1, "half as much is not heavy");
    watched.sent(HEAVY / 2);
    assert_eq!(sum.0.get(), HEAVY);
    let placed: Vec<_> = (0..6).map(|_| shards[1].place(bulk)).collect();
    assert_eq!(placed.iter().map(|placed| placed.shard).collect::<Vec<_>>(), [1, 2, 0, 1, 2, 0]);
    assert_eq!(shards[1].place(chat).shard, 1, "others are not meant");
    drop(placed);
    assert_eq!((shards[2].place(bulk).shard, seats.moves().placed), (2, 4), "those that have ended weigh nothing");
}

#[test]
fn a_connection_that_turns_takes_its_weight_along() {
    let (seats, _) = shards(2);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let client = listener.local_addr().unwrap();
    let tcp = std::net::TcpStream::connect(client).unwrap();
    let moving = Moving { tcp, client, weight: Some(Weight::on(&seats, 1)), busy: crate::task::Tasks::new().busy() };
    let heavy = || [0, 1].map(|shard: usize| seats.seats[shard].heavy.load(Relaxed));
    assert_eq!(heavy(), [0, 1]);
    let moving = moving.turned_to(0);
    assert_eq!(heavy(), [1, 0]);
    drop(moving);
    assert_eq!(heavy(), [0, 0]);
}

#[test]
fn without_homes_the_kernel_spreads_them() {
    let (seats, _) = shards(2);
    let bulk = "[fd00::1]:5201".parse().unwrap();
    seats.remember(bulk);
    let shard = Placement::new(Arc::clone(&seats), 1, None, Lane::none());
    assert!((0..4).all(|_| shard.place(bulk).shard == 1));
}

#[test]
fn a_thread_that_works_is_busy() {
    let seats = Seats::new(1);
    seats.take(0);
    let before = seats.busy(0).unwrap();
    let start = std::time::Instant::now();
    while start.elapsed() < Duration::from_millis(30) {
        std::hint::black_box(start);
    }
    let busy = seats.busy(0).unwrap() - before;
    assert!(busy >= 15_000_000, "{busy} ns");
}
