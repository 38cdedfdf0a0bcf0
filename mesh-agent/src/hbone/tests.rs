//! Client and server against each other in memory.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use tokio::io::DuplexStream;
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;

use super::client::{self, OpenError, Tunnel};
use super::head::Connect;
use super::pool::Pool;
use super::server::{self, Incoming};
use super::stream::{Stream, StreamError};
use super::{STREAM_WINDOW, STREAMS_PER_TUNNEL, Settings};
use crate::task::Lane;

fn connect() -> http::Request<()> {
    let connect = Connect {
        authority: "10.0.0.1:80".to_owned(),
        client: "10.0.0.2:4000".parse().unwrap(),
        service_host: None,
        baggage: None,
        network: None,
    };
    connect.request().unwrap()
}

/// A tunnel whose server gives every CONNECT to `serve`.
async fn pair(leaving: CancellationToken, serve: impl FnMut(Incoming) + 'static) -> Tunnel<()> {
    let (near, far): (DuplexStream, DuplexStream) = tokio::io::duplex(1 << 20);
    tokio::task::spawn_local(async move {
        server::serve(server::start(far, &Settings::default()).await?, leaving, &Lane::none(), serve).await
    });
    let (tunnel, driver) = client::start(near, (), &Settings::default()).await.unwrap();
    tokio::task::spawn_local(async move { driver.run(&Lane::none()).await });
    tunnel
}

async fn write(stream: &mut Stream, mut data: Bytes) -> Result<(), StreamError> {
    while !data.is_empty() {
        let room = poll_fn(|cx| stream.send.poll_room(cx, data.len())).await?;
        stream.send.send(data.split_to(room).into())?;
    }
    Ok(())
}

async fn read(stream: &mut Stream) -> Result<Option<Bytes>, StreamError> {
    let data = poll_fn(|cx| stream.receive.poll_data(cx)).await?;
    if let Some(data) = &data {
        stream.receive.release(data.len());
    }
    Ok(data)
}

async fn echo(incoming: Incoming) {
    let mut stream = incoming.accept(None).unwrap();
    while let Ok(Some(data)) = read(&mut stream).await {
        write(&mut stream, data).await.unwrap();
    }
    stream.send.finish().unwrap();
}

fn on_local_set(test: impl Future<Output = ()> + 'static) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, test);
}

#[test]
fn bytes_come_back_and_half_close_is_carried() {
    on_local_set(async {
        let tunnel = pair(CancellationToken::new(), |incoming| drop(tokio::task::spawn_local(echo(incoming)))).await;
        let (mut stream, _) = tunnel.open(connect()).await.unwrap();
        for _ in 0..1000 {
            write(&mut stream, Bytes::from_static(b"x")).await.unwrap();
        }
        stream.send.finish().unwrap();
        let mut got = 0;
        while let Some(data) = read(&mut stream).await.unwrap() {
            got += data.len();
        }
        assert_eq!(got, 1000);
        drop(stream);
        assert_eq!(tunnel.streams(), 0);
    });
}

#[test]
fn a_refusal_is_its_status() {
    on_local_set(async {
        let tunnel = pair(CancellationToken::new(), |incoming| incoming.refuse(StatusCode::UNAUTHORIZED)).await;
        let error = tunnel.open(connect()).await.unwrap_err();
        assert!(matches!(error, OpenError::Status(StatusCode::UNAUTHORIZED)), "{error}");
        assert_eq!(error.to_string(), "http status: 401");
    });
}

#[test]
fn resets_reach_the_other_side() {
    on_local_set(async {
        let kept = Rc::new(RefCell::new(None));
        let keep = Rc::clone(&kept);
        let serve = move |incoming: Incoming| *keep.borrow_mut() = Some(incoming.accept(None).unwrap());
        let tunnel = pair(CancellationToken::new(), serve).await;
        let (mut stream, _) = tunnel.open(connect()).await.unwrap();
        let mut far = kept.borrow_mut().take().unwrap();
        stream.send.reset();
        let error = read(&mut far).await.unwrap_err();
        assert!(matches!(error, StreamError::Reset(h2::Reason::CONNECT_ERROR)), "{error}");
    });
}

#[test]
fn readers_that_stopped_do_not_stop_their_neighbours() {
    on_local_set(async {
        let stalled = Rc::new(RefCell::new(Vec::new()));
        let keep = Rc::clone(&stalled);
        let mut taken = 0;
        let serve = move |incoming: Incoming| {
            taken += 1;
            if taken < STREAMS_PER_TUNNEL {
                keep.borrow_mut().push(incoming.accept(None).unwrap());
            } else {
                drop(tokio::task::spawn_local(echo(incoming)));
            }
        };
        let tunnel = pair(CancellationToken::new(), serve).await;
        let mut full = Vec::new();
        for _ in 1..STREAMS_PER_TUNNEL {
            let (mut stream, _) = tunnel.open(connect()).await.unwrap();
            write(&mut stream, Bytes::from(vec![0; STREAM_WINDOW as usize])).await.unwrap();
            full.push(stream);
        }
        let (mut stream, _) = tunnel.open(connect()).await.unwrap();
        let exchange = async {
            write(&mut stream, Bytes::from_static(b"ping")).await.unwrap();
            read(&mut stream).await.unwrap()
        };
        let answer = tokio::time::timeout(Duration::from_secs(5), exchange).await;
        assert_eq!(answer.unwrap().unwrap(), "ping");
        assert!(!tunnel.usable(), "a full tunnel takes no more streams");
    });
}

#[test]
fn a_leaving_server_ends_what_it_began_and_takes_nothing_new() {
    on_local_set(async {
        let leaving = CancellationToken::new();
        let tunnel = pair(leaving.clone(), |incoming| drop(tokio::task::spawn_local(echo(incoming)))).await;
        let (mut stream, _) = tunnel.open(connect()).await.unwrap();
        leaving.cancel();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(matches!(tunnel.open(connect()).await.unwrap_err(), OpenError::GoingAway(_)));
        write(&mut stream, Bytes::from_static(b"still here")).await.unwrap();
        assert_eq!(read(&mut stream).await.unwrap().unwrap(), "still here");
    });
}

#[test]
fn many_at_once_share_dials_and_no_tunnel_is_overfull() {
    on_local_set(async {
        let pool: Rc<Pool<u8, (), h2::Error>> = Rc::default();
        let dials = Rc::new(RefCell::new(0));
        let mut tasks = Vec::new();
        for _ in 0..STREAMS_PER_TUNNEL * 3 {
            let (pool, dials) = (Rc::clone(&pool), Rc::clone(&dials));
            tasks.push(tokio::task::spawn_local(async move {
                let dial = || {
                    *dials.borrow_mut() += 1;
                    async { Ok(pair(CancellationToken::new(), |i| drop(tokio::task::spawn_local(echo(i)))).await) }
                };
                let tunnel = pool.tunnel(&1, dial).await.unwrap();
                let (stream, _) = tunnel.open(connect()).await.unwrap();
                assert!(tunnel.streams() <= STREAMS_PER_TUNNEL);
                tokio::time::sleep(Duration::from_millis(200)).await;
                drop(stream);
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*dials.borrow(), 3);
        assert_eq!(pool.len(), 3);
        pool.sweep(Duration::ZERO);
        assert!(pool.is_empty());
    });
}

#[test]
fn a_tunnel_takes_no_streams_past_its_end() {
    on_local_set(async {
        let tunnel = pair(CancellationToken::new(), |_| {}).await;
        assert!(tunnel.usable() && tunnel.lasts());
        tunnel.end_at(std::time::Instant::now() + Duration::from_secs(60));
        assert!(tunnel.usable());
        tunnel.end_at(std::time::Instant::now());
        assert!(!tunnel.usable() && !tunnel.lasts() && !tunnel.ended());
    });
}
