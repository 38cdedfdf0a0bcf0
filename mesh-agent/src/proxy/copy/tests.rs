//! Both ways of carrying bytes, between real sockets, whatever the two applications do.

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, Interest};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::pace::RESTLESS;
use super::{Broken, Count, LARGEST, Role, SMALLEST, Socket, next_size, relay, tunnel};
use crate::hbone::client::{self, Tunnel};
use crate::hbone::head::Connect;
use crate::hbone::{STREAM_WINDOW, Settings, server};
use crate::task::Lane;

/// Buffers of the kernel, in each direction of each socket; it doubles them for its own needs.
const KERNEL: u32 = 64 << 10;
/// Machines may be busy.
const SOON: Duration = Duration::from_secs(30);

/// How the bytes are carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Two agents with HTTP/2 between them.
    Tunnel,
    /// One agent between two sockets.
    Relay,
    /// As [`Way::Tunnel`], and every piece is carried on another thread than the one before.
    RestlessTunnel,
    RestlessRelay,
}

const WAYS: [Way; 4] = [Way::Tunnel, Way::Relay, Way::RestlessTunnel, Way::RestlessRelay];

impl Way {
    fn lane(self) -> Lane {
        let restless = matches!(self, Self::RestlessTunnel | Self::RestlessRelay);
        RESTLESS.set(restless);
        if !restless {
            return Lane::none();
        }
        Lane::start("restless", Arc::default(), || RESTLESS.set(true)).unwrap()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Client,
    Server,
}

const ENDS: [End; 2] = [End::Client, End::Server];

#[derive(Debug, Default, PartialEq, Eq)]
struct Counter {
    received: Cell<u64>,
    sent: Cell<u64>,
}

impl Count for Counter {
    fn received(&self, bytes: u64) {
        self.received.set(self.received.get() + bytes);
    }

    fn sent(&self, bytes: u64) {
        self.sent.set(self.sent.get() + bytes);
    }
}

/// An agent at work, and its books.
struct Agent {
    work: JoinHandle<Result<(), Broken>>,
    count: Rc<Counter>,
}

impl Agent {
    fn start<F: Future<Output = Result<(), Broken>>>(work: impl FnOnce(Rc<Counter>) -> F + 'static) -> Self {
        let count = Rc::new(Counter::default());
        let counted = Rc::clone(&count);
        Self { work: spawn_local(async move { work(counted).await }), count }
    }

    /// How it ended, in a word.
    async fn result(self) -> &'static str {
        match timeout(SOON, self.work).await.expect("the agent comes to an end").unwrap() {
            Ok(()) => "ok",
            Err(Broken::Local(_)) => "local",
            Err(Broken::Remote(_)) => "remote",
            Err(Broken::Onward(_)) => "onward",
        }
    }
}

/// Two applications and what is between them.
struct Path {
    client: TcpStream,
    server: TcpStream,
    /// From the client to the server.
    agents: Vec<Agent>,
}

impl Path {
    async fn new(way: Way) -> Self {
        let (client, near) = sockets().await;
        let (server, far) = sockets().await;
        let agents = match way {
            Way::Relay | Way::RestlessRelay => vec![Agent::start(move |count| async move {
                relay(Socket::new(near), Socket::new(far), &*count, &way.lane()).await
            })],
            Way::Tunnel | Way::RestlessTunnel => {
                let (give, mut take) = mpsc::unbounded_channel();
                let (here, there) = tokio::io::duplex(64 << 10);
                spawn_local(async move {
                    let accept = |incoming: server::Incoming| give.send(incoming.accept(None).unwrap()).unwrap();
                    let started = server::start(there, &Settings::default()).await.unwrap();
                    server::serve(started, CancellationToken::new(), &way.lane(), accept).await
                });
                let onward = carry(way, near, here).await;
                let stream = take.recv().await.unwrap();
                let inward = Agent::start(move |count| async move {
                    tunnel((Socket::new(far), stream), Role::Server, &*count, &way.lane()).await
                });
                vec![onward, inward]
            }
        };
        Self { client, server, agents }
    }

    /// The application at an end, and the other one.
    fn facing(&mut self, end: End) -> (&mut TcpStream, &mut TcpStream) {
        match end {
            End::Client => (&mut self.client, &mut self.server),
            End::Server => (&mut self.server, &mut self.client),
        }
    }

    /// Takes the two applications, the one at `end` first.
    fn split(self, end: End) -> (TcpStream, TcpStream, Vec<Agent>) {
        match end {
            End::Client => (self.client, self.server, self.agents),
            End::Server => (self.server, self.client, self.agents),
        }
    }
}

/// The client's agent, with a tunnel of its own over `io`.
async fn carry(way: Way, tcp: TcpStream, io: DuplexStream) -> Agent {
    let (tunnel_, driver): (Tunnel<()>, _) = client::start(io, (), &Settings::default()).await.unwrap();
    spawn_local(async move { driver.run(&way.lane()).await });
    let connect = Connect {
        authority: "10.0.0.1:80".to_owned(),
        client: "10.0.0.2:4000".parse().unwrap(),
        service_host: None,
        baggage: None,
        network: None,
    };
    let (stream, _) = tunnel_.open(connect.request().unwrap()).await.unwrap();
    Agent::start(move |count| async move {
        let _open = tunnel_;
        tunnel((Socket::new(tcp), stream), Role::Client, &*count, &way.lane()).await
    })
}

/// A connection: the application's end and the agent's.
async fn sockets() -> (TcpStream, TcpStream) {
    let socket = || {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_send_buffer_size(KERNEL).unwrap();
        socket.set_recv_buffer_size(KERNEL).unwrap();
        socket
    };
    let listener = socket();
    listener.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = listener.listen(1).unwrap();
    let (application, agent) = tokio::join!(socket().connect(listener.local_addr().unwrap()), listener.accept());
    let (application, agent) = (application.unwrap(), agent.unwrap().0);
    application.set_nodelay(true).unwrap();
    agent.set_nodelay(true).unwrap();
    (application, agent)
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let timed = async { timeout(Duration::from_secs(300), test).await.expect("nothing hangs") };
    LocalSet::new().block_on(&runtime, timed);
}

/// Bytes in which a piece that is lost, doubled or moved shows.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i ^ (i >> 8).wrapping_mul(31) ^ (i >> 16).wrapping_mul(17)) as u8).collect()
}

async fn read_all(socket: &mut TcpStream) -> Vec<u8> {
    let mut got = Vec::new();
    timeout(SOON, socket.read_to_end(&mut got)).await.expect("the end of data comes").unwrap();
    got
}

async fn read_exactly(socket: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut got = vec![0; length];
    timeout(SOON, socket.read_exact(&mut got)).await.expect("the bytes come").unwrap();
    got
}

/// Ends the connection with RST.
fn reset(socket: TcpStream) {
    SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap();
}

fn equal(case: impl fmt::Debug, got: &[u8], expected: &[u8]) {
    let differs = got.iter().zip(expected).position(|(got, expected)| got != expected);
    assert_eq!((got.len(), differs), (expected.len(), None), "{case:?}");
}

/// Every agent has counted so many bytes from the client, and so many from the server; what another thread has carried is
/// counted soon.
async fn counted(case: impl fmt::Debug, agents: &[Agent], received: usize, sent: usize) {
    let expected = (received as u64, sent as u64);
    for agent in agents {
        let got = || (agent.count.received.get(), agent.count.sent.get());
        let told = async {
            while got() != expected {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(SOON, told).await.unwrap_or_else(|_| panic!("{case:?}: {:?} instead of {expected:?}", got()));
    }
}

#[test]
fn both_directions_at_once() {
    run(async {
        for way in WAYS {
            let mut path = Path::new(way).await;
            let (up, down) = (pattern(3_000_001), pattern(5_000_003));
            let talk = |mut socket: TcpStream, words: Vec<u8>, step: usize| async move {
                let (mut read, mut write) = socket.split();
                let speak = async {
                    let (mut at, mut size) = (0, 1);
                    while at < words.len() {
                        let end = words.len().min(at + size);
                        write.write_all(&words[at..end]).await.unwrap();
                        (at, size) = (end, (size * 5 + step) % 200_003 + 1);
                    }
                    write.shutdown().await.unwrap();
                };
                let mut heard = Vec::new();
                let (_, result) = tokio::join!(speak, read.read_to_end(&mut heard));
                result.unwrap();
                heard
            };
            let agents = std::mem::take(&mut path.agents);
            let (heard_by_client, heard_by_server) =
                tokio::join!(talk(path.client, up.clone(), 7), talk(path.server, down.clone(), 4099));
            equal((way, "up"), &heard_by_server, &up);
            equal((way, "down"), &heard_by_client, &down);
            counted(way, &agents, up.len(), down.len()).await;
            for agent in agents {
                assert_eq!(agent.result().await, "ok", "{way:?}");
            }
        }
    });
}

#[test]
fn single_bytes() {
    run(async {
        for way in WAYS {
            let mut path = Path::new(way).await;
            for turn in 0..300 {
                path.client.write_u8(turn as u8).await.unwrap();
                assert_eq!(read_exactly(&mut path.server, 1).await, [turn as u8], "{way:?}: asked");
                path.server.write_u8(!turn as u8).await.unwrap();
                assert_eq!(read_exactly(&mut path.client, 1).await, [!turn as u8], "{way:?}: answered");
            }
            let words = pattern(30_000);
            for end in ENDS {
                let (from, to) = path.facing(end);
                // Nobody reads until all is written.
                for byte in &words {
                    from.write_u8(*byte).await.unwrap();
                }
                equal((way, end), &read_exactly(to, words.len()).await, &words);
            }
            counted(way, &path.agents, 30_300, 30_300).await;
        }
    });
}

#[test]
fn a_half_close_leaves_the_other_direction_open() {
    run(async {
        for (way, first) in WAYS.into_iter().flat_map(|way| ENDS.map(|end| (way, end))) {
            let (mut first_to_end, mut last, agents) = Path::new(way).await.split(first);
            first_to_end.write_all(b"question").await.unwrap();
            first_to_end.shutdown().await.unwrap();
            assert_eq!(read_all(&mut last).await, b"question", "{way:?} {first:?}");
            let answer = pattern(1_000_000);
            for part in answer.chunks(100_000) {
                tokio::time::sleep(Duration::from_millis(2)).await;
                let (_, got) = tokio::join!(last.write_all(part), read_exactly(&mut first_to_end, part.len()));
                equal((way, first), &got, part);
            }
            last.shutdown().await.unwrap();
            assert_eq!(read_all(&mut first_to_end).await, b"", "{way:?} {first:?}");
            let (question, answer) = (b"question".len(), answer.len());
            let (received, sent) = if first == End::Client { (question, answer) } else { (answer, question) };
            counted((way, first), &agents, received, sent).await;
            for agent in agents {
                assert_eq!(agent.result().await, "ok", "{way:?} {first:?}");
            }
        }
    });
}

/// Waits until the socket is told of a reset, without reading or writing: either would find out by itself.
async fn told_of_reset(case: impl fmt::Debug, socket: &TcpStream) {
    let told = timeout(SOON, socket.ready(Interest::ERROR)).await;
    told.unwrap_or_else(|_| panic!("{case:?}: the reset does not get through")).unwrap();
    let error = socket.take_error().unwrap().map(|error| error.kind());
    // EPIPE is what a socket gets that has seen the end of data already.
    assert!(
        matches!(error, Some(io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)),
        "{case:?}: {error:?} instead of a reset"
    );
}

#[test]
fn resets_get_through_also_after_a_half_close() {
    run(async {
        for (way, by) in WAYS.into_iter().flat_map(|way| ENDS.map(|end| (way, end))) {
            for half_closed in [None, Some(End::Client), Some(End::Server)] {
                let case = (way, by, half_closed);
                let mut path = Path::new(way).await;
                for end in ENDS {
                    let (from, to) = path.facing(end);
                    from.write_all(b"x").await.unwrap();
                    read_exactly(to, 1).await;
                }
                if let Some(end) = half_closed {
                    let (from, to) = path.facing(end);
                    from.shutdown().await.unwrap();
                    assert_eq!(read_all(to).await, b"", "{case:?}");
                }
                let (broken, whole, agents) = path.split(by);
                reset(broken);
                told_of_reset(case, &whole).await;
                let expected: &[&str] = match (way, by) {
                    (Way::Tunnel | Way::RestlessTunnel, End::Client) => &["local", "remote"],
                    (Way::Tunnel | Way::RestlessTunnel, End::Server) => &["remote", "local"],
                    (Way::Relay | Way::RestlessRelay, End::Client) => &["local"],
                    (Way::Relay | Way::RestlessRelay, End::Server) => &["onward"],
                };
                for (agent, expected) in agents.into_iter().zip(expected) {
                    assert_eq!(agent.result().await, *expected, "{case:?}");
                }
            }
        }
    });
}

#[test]
fn what_was_written_before_a_reset_arrives_before_it() {
    run(async {
        let words = pattern(20_000);
        for (way, by) in WAYS.into_iter().flat_map(|way| ENDS.map(|end| (way, end))) {
            for round in 0..20 {
                let (mut broken, mut whole, _agents) = Path::new(way).await.split(by);
                broken.write_all(&words).await.unwrap();
                reset(broken);
                equal((way, by, round), &read_exactly(&mut whole, words.len()).await, &words);
                let end = timeout(SOON, whole.read_u8()).await.expect("the reset comes").unwrap_err();
                assert_eq!(end.kind(), io::ErrorKind::ConnectionReset, "{way:?} {by:?} {round}");
            }
        }
    });
}

/// An agent that is cut must not leave its peer's application with the belief that it has got everything.
#[test]
fn a_cut_is_a_reset_and_no_end_of_data() {
    run(async {
        for (way, at) in [(Way::Tunnel, End::Client), (Way::Tunnel, End::Server)] {
            let (_near, mut other, mut agents) = Path::new(way).await.split(at);
            let cut = agents.remove(if at == End::Client { 0 } else { 1 });
            cut.work.abort();
            let end = timeout(SOON, other.read_u8()).await.expect("something comes").unwrap_err();
            assert_eq!(end.kind(), io::ErrorKind::ConnectionReset, "cut at the {at:?}: {end}");
            assert_eq!(agents.remove(0).result().await, "remote", "cut at the {at:?}");
        }
    });
}

/// Writes until nobody takes any more, and tells how much was taken.
async fn write_until_stopped(socket: &mut TcpStream, words: &[u8]) -> usize {
    let mut written = 0;
    while written < words.len() {
        match timeout(Duration::from_millis(300), socket.write(&words[written..])).await {
            Ok(result) => written += result.unwrap(),
            Err(_) => return written,
        }
    }
    written
}

#[test]
fn a_reader_that_stopped_stops_the_writer() {
    run(async {
        let words = pattern(16 << 20);
        for (way, end) in WAYS.into_iter().flat_map(|way| ENDS.map(|end| (way, end))) {
            let mut path = Path::new(way).await;
            let (writer, reader) = path.facing(end);
            let written = write_until_stopped(writer, &words).await;
            // The sockets' own buffers, four of them; buffers of the agents.
            let beside = 4 * 2 * KERNEL as usize + (1 << 19);
            let most = match way {
                Way::Relay | Way::RestlessRelay => beside,
                // The stream's window at the receiver, and what may wait for the wire at the sender.
                Way::Tunnel | Way::RestlessTunnel => beside + STREAM_WINDOW as usize + (1 << 20),
            };
            assert!(written > KERNEL as usize && written < most, "{way:?} from {end:?}: {written}, {most} at most");
            // Nothing is lost by waiting, and it goes on.
            let (_, got) = tokio::join!(writer.write_all(&words[written..]), read_exactly(reader, words.len()));
            equal((way, end), &got, &words);
        }
    });
}

/// The writer's agent has stopped reading, too, and must learn of the reset all the same.
#[test]
fn resets_get_through_when_nobody_reads() {
    run(async {
        let words = pattern(16 << 20);
        for (way, writer) in WAYS.into_iter().flat_map(|way| ENDS.map(|end| (way, end))) {
            for by in ENDS {
                let mut path = Path::new(way).await;
                let (from, _) = path.facing(writer);
                write_until_stopped(from, &words).await;
                let (broken, whole, agents) = path.split(by);
                reset(broken);
                told_of_reset((way, "written by", writer, "reset by", by), &whole).await;
                for agent in agents {
                    assert_ne!(agent.result().await, "ok", "{way:?} {writer:?} {by:?}");
                }
            }
        }
    });
}

/// A peer that has said all and needs no more (RFC 9113, section 8.1), as Envoy does when its server ends first: the
/// application gets all and an end in order, whether it still speaks or not.
#[test]
fn a_peer_that_needs_no_more_is_no_failure() {
    run(async {
        for speaking in [false, true] {
            let (mut application, near) = sockets().await;
            let (here, there) = tokio::io::duplex(64 << 10);
            let answer = pattern(50_000);
            let said = Bytes::from(answer.clone());
            spawn_local(async move {
                let mut connection = h2::server::handshake(there).await.unwrap();
                let (_request, mut respond) = connection.accept().await.unwrap().unwrap();
                let mut send = respond.send_response(Response::new(()), false).unwrap();
                send.send_data(said, true).unwrap();
                spawn_local(async move {
                    // Not before the data has left: h2 would throw it away.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    send.send_reset(h2::Reason::NO_ERROR);
                });
                while connection.accept().await.is_some() {}
            });
            let agent = carry(Way::Tunnel, near, here).await;
            if speaking {
                // More than the peer has room for, and than the kernel keeps: the agent waits for room.
                let words = vec![7; 1 << 20];
                timeout(Duration::from_millis(30), application.write_all(&words)).await.unwrap_err();
            }
            equal(speaking, &read_exactly(&mut application, answer.len()).await, &answer);
            assert_eq!(agent.result().await, "ok", "speaking: {speaking}");
        }
    });
}

/// A peer's reset, by its reason (protocol note, section 5.6).
#[test]
fn reasons_of_a_reset() {
    use h2::Reason;
    run(async {
        let reasons = [
            (Reason::NO_ERROR, "ok"),
            (Reason::CANCEL, "ok"),
            (Reason::CONNECT_ERROR, "remote"),
            (Reason::INTERNAL_ERROR, "remote"),
            (Reason::PROTOCOL_ERROR, "remote"),
        ];
        for (reason, expected) in reasons {
            let (mut application, near) = sockets().await;
            let (here, there) = tokio::io::duplex(64 << 10);
            spawn_local(async move {
                let mut connection = h2::server::handshake(there).await.unwrap();
                let (mut request, mut respond) = connection.accept().await.unwrap().unwrap();
                let mut send = respond.send_response(Response::new(()), false).unwrap();
                send.send_data(Bytes::from_static(b"x"), false).unwrap();
                let ended = async { while request.body_mut().data().await.is_some() {} };
                tokio::select! {
                    _ = connection.accept() => unreachable!("one stream only"),
                    () = ended => {}
                }
                send.send_reset(reason);
                while connection.accept().await.is_some() {}
            });
            let agent = carry(Way::Tunnel, near, here).await;
            assert_eq!(read_exactly(&mut application, 1).await, b"x");
            application.shutdown().await.unwrap();
            let end = timeout(SOON, application.read(&mut [0])).await.expect("the end comes");
            match expected {
                "ok" => assert_eq!(end.unwrap(), 0, "{reason}"),
                _ => assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset, "{reason}"),
            }
            assert_eq!(agent.result().await, expected, "{reason}");
        }
    });
}

#[test]
fn buffers_follow_the_traffic() {
    for (size, read, expected) in [
        (SMALLEST, 1, SMALLEST),
        (SMALLEST, SMALLEST - 1, SMALLEST),
        (SMALLEST, SMALLEST, SMALLEST * 2),
        (LARGEST, LARGEST, LARGEST),
        (LARGEST, LARGEST / 4, LARGEST),
        (LARGEST, LARGEST / 4 - 1, LARGEST / 2),
        (LARGEST, 0, LARGEST / 2),
    ] {
        assert_eq!(next_size(size, read), expected, "{read} of {size}");
    }
}
