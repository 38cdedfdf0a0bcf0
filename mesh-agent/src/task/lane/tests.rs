//! Errands between two threads.

use std::future::pending;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use super::{Errand, Lane, Place, Thread};
use crate::task::Roaming;

fn lane() -> (Lane, Arc<AtomicU64>) {
    let taken = Arc::default();
    (Lane::start("test", Arc::clone(&taken), || ()).unwrap(), taken)
}

/// Goes back and forth so often, and writes down where it was.
struct Wanderer {
    ways: usize,
    seen: Vec<(Place, Thread)>,
}

impl Errand for Wanderer {
    type Outcome = Vec<(Place, Thread)>;

    async fn go_on(&mut self, place: Place) -> Option<Self::Outcome> {
        sleep(Duration::from_millis(1)).await;
        self.seen.push((place, Thread::current()));
        (self.seen.len() > self.ways).then(|| std::mem::take(&mut self.seen))
    }
}

#[tokio::test]
async fn an_errand_goes_back_and_forth() {
    let (lane, taken) = lane();
    let (here, there) = ((Place::Shard, Thread::Shard), (Place::Lane, Thread::Lane));
    for (ways, expected) in [(0, vec![here]), (1, vec![here, there]), (3, vec![here, there, here, there])] {
        let seen = lane.run(Box::new(Wanderer { ways, seen: Vec::new() }), || ()).await;
        assert_eq!(seen, expected);
    }
    assert_eq!(taken.load(Relaxed), 3);
    let alone = Lane::none().run(Box::new(Wanderer { ways: 1, seen: Vec::new() }), || ()).await;
    assert_eq!(alone, [(Place::Only, Thread::Shard); 2]);
}

/// Does something once it is on the lane.
struct Once<F>(Option<F>);

impl<F: Future<Output = ()> + Send + 'static> Errand for Once<F> {
    type Outcome = ();

    async fn go_on(&mut self, place: Place) -> Option<()> {
        if place == Place::Shard {
            return None;
        }
        if let Some(work) = self.0.take() {
            work.await;
        }
        Some(())
    }
}

#[tokio::test]
async fn who_waits_sees_it_come_further() {
    let (lane, _) = lane();
    let (done, looks) = (Arc::new(AtomicU64::new(0)), AtomicU64::new(0));
    let worker = Arc::clone(&done);
    let work = async move {
        for _ in 0..5 {
            worker.fetch_add(1, Relaxed);
            sleep(Duration::from_millis(100)).await;
        }
        worker.fetch_add(1, Relaxed);
    };
    let last = AtomicU64::new(0);
    let seen = || {
        looks.fetch_add(1, Relaxed);
        last.store(done.load(Relaxed), Relaxed);
    };
    lane.run(Box::new(Once(Some(work))), seen).await;
    assert!(looks.load(Relaxed) >= 3, "{looks:?}");
    assert_eq!(last.load(Relaxed), 6, "the last look is after the end");
}

#[tokio::test]
async fn given_up_it_is_dropped_there() {
    let (lane, _) = lane();
    let guard = Arc::new(());
    let held = Arc::clone(&guard);
    let work = async move {
        let _held = held;
        pending::<()>().await;
    };
    assert!(timeout(Duration::from_millis(50), lane.run(Box::new(Once(Some(work))), || ())).await.is_err());
    let gone = async {
        while Arc::strong_count(&guard) > 1 {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(10), gone).await.expect("it is dropped");
}

#[tokio::test]
async fn a_panic_there_is_one_here() {
    let (lane, _) = lane();
    let work = Once(Some(async { panic!("there") }));
    let result = AssertUnwindSafe(lane.run(Box::new(work), || ())).catch_unwind().await;
    assert_eq!(result.unwrap_err().downcast_ref::<&str>(), Some(&"there"));
    lane.run(Box::new(Once(Some(async {}))), || ()).await;
}

#[tokio::test]
async fn with_its_lane_an_errand_ends() {
    let (lane, _) = lane();
    let guard = Arc::new(());
    let held = Arc::clone(&guard);
    let work = Once(Some(async move {
        let _held = held;
        pending::<()>().await;
    }));
    let mut running = Box::pin(lane.run(Box::new(work), || ()));
    assert!(timeout(Duration::from_millis(50), &mut running).await.is_err());
    drop(running);
    drop(lane);
    assert_eq!(Arc::strong_count(&guard), 1, "the thread has ended");
}

/// Sends back what it gets, a piece here and a piece there.
struct Echo {
    tcp: Roaming,
    pieces: usize,
}

impl Errand for Echo {
    type Outcome = ();

    async fn go_on(&mut self, _: Place) -> Option<()> {
        let mut piece = [0; 4];
        self.tcp.read_exact(&mut piece).await.unwrap();
        self.tcp.write_all(&piece).await.unwrap();
        self.pieces -= 1;
        (self.pieces == 0).then_some(())
    }
}

#[tokio::test]
async fn a_connection_goes_with_its_errand() {
    let (lane, taken) = lane();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let tcp = Roaming::new(listener.accept().await.unwrap().0);
    let talk = async {
        for number in 0..100_u32 {
            client.write_all(&number.to_be_bytes()).await.unwrap();
            assert_eq!(client.read_u32().await.unwrap(), number);
        }
    };
    let both = async { tokio::join!(lane.run(Box::new(Echo { tcp, pieces: 100 }), || ()), talk) };
    timeout(Duration::from_secs(30), both).await.expect("every piece comes back");
    assert_eq!(taken.load(Relaxed), 50);
}
