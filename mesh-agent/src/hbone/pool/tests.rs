//! Which tunnels are shared, and how long they are kept.

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::task::{LocalSet, spawn_local};
use tokio_util::sync::CancellationToken;

use super::{Pool, SEVERAL};
use crate::hbone::client::{self, Tunnel};
use crate::hbone::head::Connect;
use crate::hbone::stream::Stream;
use crate::hbone::{Settings, server};
use crate::task::Lane;

type Tunnels = Pool<&'static str, usize, &'static str>;

/// Dials, and what each comes to: a tunnel that knows its number, or a failure.
#[derive(Clone)]
struct Dialer {
    dials: Rc<RefCell<usize>>,
    fails: fn(usize) -> bool,
    leaving: CancellationToken,
}

impl Dialer {
    fn new(fails: fn(usize) -> bool) -> Self {
        Self { dials: Rc::default(), fails, leaving: CancellationToken::new() }
    }

    fn dials(&self) -> usize {
        *self.dials.borrow()
    }

    fn dial(&self) -> impl Future<Output = Result<Tunnel<usize>, &'static str>> + 'static {
        let nth = self.dials.replace_with(|dials| *dials + 1);
        let this = self.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            if (this.fails)(nth) {
                return Err("no way");
            }
            let (near, far) = tokio::io::duplex(1 << 16);
            spawn_local(async move {
                let kept = RefCell::new(Vec::new());
                let keep = |incoming: server::Incoming| kept.borrow_mut().push(incoming.accept(None).unwrap());
                server::serve(server::start(far, &Settings::default()).await?, this.leaving, &Lane::none(), keep).await
            });
            let (tunnel, driver) = client::start(near, nth, &Settings::default()).await.unwrap();
            spawn_local(async move { driver.run(&Lane::none()).await });
            Ok(tunnel)
        }
    }
}

/// The number of the tunnel that the pool gives, or why there is none.
async fn number(pool: &Tunnels, dialer: &Dialer, key: &'static str) -> Result<usize, &'static str> {
    pool.tunnel(&key, || dialer.dial()).await.map(|tunnel| tunnel.peer).map_err(|error| *error)
}

async fn stream(tunnel: &Tunnel<usize>) -> Stream {
    let connect = Connect {
        authority: "10.0.0.1:80".to_owned(),
        client: "10.0.0.2:4000".parse().unwrap(),
        service_host: None,
        baggage: None,
        network: None,
    };
    tunnel.open(connect.request().unwrap()).await.unwrap().0
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let timed = async { tokio::time::timeout(Duration::from_secs(20), test).await.expect("nothing hangs") };
    LocalSet::new().block_on(&runtime, timed);
}

#[test]
fn trap_19_one_key_shares_and_two_never_do() {
    run(async {
        let (pool, dialer) = (Tunnels::default(), Dialer::new(|_| false));
        let keys = ["a", "b", "a", "b", "a"];
        let got = join_all(keys.map(|key| number(&pool, &dialer, key))).await;
        assert_eq!(got, [0, 1, 0, 1, 0].map(Ok));
        assert_eq!(number(&pool, &dialer, "a").await, Ok(0), "it is kept");
        assert_eq!((dialer.dials(), pool.len()), (2, 2));
    });
}

#[test]
fn a_failure_is_shared_by_those_who_wait_and_not_kept() {
    run(async {
        let (pool, dialer) = (Tunnels::default(), Dialer::new(|nth| nth == 0));
        let got = join_all((0..5).map(|_| number(&pool, &dialer, "a"))).await;
        assert_eq!(got, [Err("no way"); 5]);
        assert_eq!((dialer.dials(), pool.len()), (1, 0));
        assert_eq!(number(&pool, &dialer, "a").await, Ok(1), "the next one dials again");
    });
}

/// The first of those who wait goes away: the others must not wait for ever.
#[test]
fn whoever_gives_up_takes_nothing_with_it() {
    run(async {
        let (pool, dialer) = (Rc::new(Tunnels::default()), Dialer::new(|_| false));
        let tasks: Vec<_> = (0..3)
            .map(|_| {
                let (pool, dialer) = (Rc::clone(&pool), dialer.clone());
                spawn_local(async move { number(&pool, &dialer, "a").await })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(5)).await;
        for (nth, task) in tasks.into_iter().enumerate() {
            if nth == 0 {
                task.abort();
            } else {
                assert_eq!(task.await.unwrap(), Ok(0), "waiter {nth}");
            }
        }
        assert_eq!((dialer.dials(), pool.len()), (1, 1));
        // All of them: what they waited for is finished by whoever comes next.
        let last = spawn_local({
            let (pool, dialer) = (Rc::clone(&pool), dialer.clone());
            async move { number(&pool, &dialer, "b").await }
        });
        tokio::time::sleep(Duration::from_millis(5)).await;
        last.abort();
        assert_eq!(number(&pool, &dialer, "b").await, Ok(1));
        assert_eq!(dialer.dials(), 2);
    });
}

#[test]
fn tunnels_that_cannot_be_used_are_replaced() {
    run(async {
        let (pool, dialer) = (Tunnels::default(), Dialer::new(|_| false));
        let tunnel = pool.tunnel(&"a", || dialer.dial()).await.unwrap();
        let old = stream(&tunnel).await;
        tunnel.abandon();
        assert_eq!(number(&pool, &dialer, "a").await, Ok(1), "abandoned");
        assert_eq!(tunnel.streams(), 1, "its streams go on");
        drop(old);
        dialer.leaving.cancel();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let fresh = Dialer { leaving: CancellationToken::new(), ..dialer };
        assert_eq!(number(&pool, &fresh, "a").await, Ok(2), "the peer has left");
    });
}

#[test]
fn new_streams_do_not_wait_behind_what_a_laden_tunnel_carries() {
    run(async {
        let (pool, dialer) = (Tunnels::default(), Dialer::new(|nth| nth >= SEVERAL));
        let tunnel = async || pool.tunnel(&"a", || dialer.dial()).await.unwrap();
        let mut streams = Vec::new();
        for nth in 0..SEVERAL {
            let tunnel = tunnel().await;
            assert_eq!(tunnel.peer, nth, "those before are laden");
            assert_eq!(number(&pool, &dialer, "a").await, Ok(nth), "this one is not");
            for _ in 0..SEVERAL - nth {
                streams.push(stream(&tunnel).await);
            }
            tunnel.lade();
        }
        assert_eq!(tunnel().await.peer, SEVERAL - 1, "there are several: the one with the fewest streams");
        assert_eq!(dialer.dials(), SEVERAL);
        tokio::time::sleep(Duration::from_millis(1100)).await;
        assert_eq!(tunnel().await.peer, 0, "none carries much any more");
    });
}

#[test]
fn a_laden_tunnel_is_better_than_none() {
    run(async {
        let (pool, dialer) = (Tunnels::default(), Dialer::new(|nth| nth > 0));
        pool.tunnel(&"a", || dialer.dial()).await.unwrap().lade();
        assert_eq!(number(&pool, &dialer, "a").await, Ok(0));
        assert_eq!(dialer.dials(), 2);
    });
}

#[test]
fn one_idle_tunnel_is_enough() {
    run(async {
        let (pool, dialer) = (Tunnels::default(), Dialer::new(|_| false));
        let mut busy = None;
        for nth in 0..3 {
            let tunnel = pool.tunnel(&"a", || dialer.dial()).await.unwrap();
            if nth == 1 {
                busy = Some(stream(&tunnel).await);
            }
            tunnel.lade();
        }
        assert_eq!(pool.len(), 3);
        pool.sweep(Duration::from_secs(10));
        assert_eq!(pool.len(), 2, "the busy one and one more");
        drop(busy);
        pool.sweep(Duration::from_secs(10));
        assert_eq!(pool.len(), 1);
    });
}

#[test]
fn what_is_busy_is_not_swept() {
    run(async {
        let (pool, dialer) = (Tunnels::default(), Dialer::new(|_| false));
        let tunnel = pool.tunnel(&"busy", || dialer.dial()).await.unwrap();
        let busy = stream(&tunnel).await;
        number(&pool, &dialer, "idle").await.unwrap();
        pool.sweep(Duration::from_secs(10));
        assert_eq!(pool.len(), 2, "not idle for long enough");
        pool.sweep(Duration::ZERO);
        assert_eq!(pool.len(), 1);
        assert_eq!(number(&pool, &dialer, "busy").await, Ok(0));
        drop(busy);
        pool.sweep(Duration::ZERO);
        assert!(pool.is_empty());
    });
}
