//! Name servers of paper, on loopback.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record, RecordType};

use super::{Failure, Outlet, forward};
use crate::dns::query::tests::{message, with_edns};
use crate::dns::query::{Query, Transport};
use crate::sys::thread::spawn;

/// This test's own namespace, without a mark, which takes no privilege.
struct Here;

impl Outlet for Here {
    fn datagrams(&self, server: SocketAddr) -> io::Result<UdpSocket> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.connect(server)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }

    fn stream(&self, server: SocketAddr) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(server)?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    }
}

/// What a server says to a query, in order.
type Say = fn(&Message) -> Vec<Message>;

/// A server on one port, and how often it was asked over UDP and TCP.
struct Server {
    address: SocketAddr,
    asked: [Arc<AtomicUsize>; 2],
}

impl Server {
    /// Its threads end with the process.
    fn start(udp: Say, tcp: Say) -> Self {
        let (listener, socket) = loop {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            if let Ok(socket) = UdpSocket::bind(listener.local_addr().unwrap()) {
                break (listener, socket);
            }
        };
        let server = Self { address: listener.local_addr().unwrap(), asked: Default::default() };
        let [by_udp, by_tcp] = server.asked.clone();
        drop(spawn("udp", move || {
            let mut buffer = [0; 2000];
            while let Ok((length, client)) = socket.recv_from(&mut buffer) {
                by_udp.fetch_add(1, Ordering::Relaxed);
                for answer in udp(&Message::from_vec(&buffer[..length]).unwrap()) {
                    socket.send_to(&answer.to_vec().unwrap(), client).unwrap();
                }
            }
        }));
        drop(spawn("tcp", move || {
            for stream in listener.incoming() {
                by_tcp.fetch_add(1, Ordering::Relaxed);
                let mut stream = stream.unwrap();
                let mut length = [0; 2];
                stream.read_exact(&mut length).unwrap();
                let mut asked = vec![0; usize::from(u16::from_be_bytes(length))];
                stream.read_exact(&mut asked).unwrap();
                for answer in tcp(&Message::from_vec(&asked).unwrap()) {
                    let answer = answer.to_vec().unwrap();
                    stream.write_all(&u16::try_from(answer.len()).unwrap().to_be_bytes()).unwrap();
                    stream.write_all(&answer).unwrap();
                }
            }
        }));
        server
    }

    fn asked(&self) -> [usize; 2] {
        [0, 1].map(|at| self.asked[at].load(Ordering::Relaxed))
    }
}

fn answer(asked: &Message, addresses: u8) -> Message {
    let mut answer = asked.clone().into_response();
    let record = |last| Record::from_rdata(asked.queries[0].name.clone(), 60, RData::A(A::new(10, 0, 0, last)));
    answer.answers = (0..addresses).map(record).collect();
    answer.edns = None;
    answer
}

fn plain(asked: &Message) -> Vec<Message> {
    vec![answer(asked, 1)]
}

fn cut_off(asked: &Message) -> Vec<Message> {
    let mut answer = answer(asked, 0);
    answer.metadata.truncation = true;
    vec![answer]
}

fn long(asked: &Message) -> Vec<Message> {
    vec![answer(asked, 60)]
}

fn nothing(_: &Message) -> Vec<Message> {
    Vec::new()
}

/// An address where nobody listens.
fn closed() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

async fn ask(servers: &[SocketAddr], payload: Option<u16>, transport: Transport) -> Result<Message, Failure> {
    let plain = message("www.example.org", RecordType::A);
    let asked = payload.map_or(plain.clone(), |payload| with_edns(plain, payload));
    let bytes = asked.to_vec().unwrap();
    let query = Query::read(&bytes, transport).unwrap();
    let answer = forward(&Here, servers, &query, &bytes).await?;
    let answer = Message::from_vec(&answer).unwrap();
    assert_eq!(answer.metadata.id, asked.metadata.id);
    assert!(answer.metadata.recursion_available);
    Ok(answer)
}

#[tokio::test]
async fn an_answer_over_udp() {
    let server = Server::start(plain, nothing);
    let answer = ask(&[server.address], None, Transport::Udp).await.unwrap();
    assert_eq!((answer.answers.len(), server.asked()), (1, [1, 0]));
}

#[tokio::test]
async fn a_failure_is_passed_on() {
    let server = Server::start(
        |asked| {
            let mut answer = answer(asked, 0);
            answer.metadata.response_code = ResponseCode::NXDomain;
            vec![answer]
        },
        nothing,
    );
    let answer = ask(&[server.address], None, Transport::Udp).await.unwrap();
    assert_eq!((answer.metadata.response_code, server.asked()), (ResponseCode::NXDomain, [1, 0]));
}

#[tokio::test]
async fn guesses_are_passed_over() {
    let server = Server::start(
        |asked| {
            let mut guess = answer(asked, 5);
            guess.metadata.id ^= 0x55;
            let mut other = answer(asked, 6);
            other.queries[0].query_type = RecordType::AAAA;
            vec![guess, asked.clone(), other, answer(asked, 1)]
        },
        nothing,
    );
    let answer = ask(&[server.address], None, Transport::Udp).await.unwrap();
    assert_eq!(answer.answers.len(), 1);
}

#[tokio::test]
async fn what_is_cut_off_is_asked_again_over_tcp() {
    let server = Server::start(cut_off, long);
    let answer = ask(&[server.address], Some(1232), Transport::Udp).await.unwrap();
    assert_eq!((answer.answers.len(), answer.metadata.truncation, server.asked()), (60, false, [1, 1]));
    // A client that takes no more than that asks over TCP itself.
    let answer = ask(&[server.address], None, Transport::Udp).await.unwrap();
    assert_eq!((answer.answers.len(), answer.metadata.truncation, server.asked()), (0, true, [2, 1]));
    let answer = ask(&[server.address], None, Transport::Tcp).await.unwrap();
    assert_eq!((answer.answers.len(), answer.metadata.truncation, server.asked()), (60, false, [2, 2]));
}

#[tokio::test]
async fn the_next_server_is_asked() {
    let server = Server::start(plain, plain);
    for transport in [Transport::Udp, Transport::Tcp] {
        let answer = ask(&[closed(), closed(), server.address], None, transport).await.unwrap();
        assert_eq!(answer.answers.len(), 1);
    }
    assert_eq!(server.asked(), [1, 1]);
}

#[tokio::test]
async fn nobody_listens() {
    for transport in [Transport::Udp, Transport::Tcp] {
        let start = Instant::now();
        let result = ask(&[closed(), closed()], None, transport).await;
        assert!(matches!(result, Err(Failure::Broken { .. })), "{result:?}");
        assert!(start.elapsed() < Duration::from_secs(1));
    }
    assert!(matches!(ask(&[], None, Transport::Udp).await, Err(Failure::NoServer)));
}

#[tokio::test(start_paused = true)]
async fn nobody_answers() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let server = silent.local_addr().unwrap();
    let start = tokio::time::Instant::now();
    let result = ask(&[server], None, Transport::Udp).await;
    assert!(matches!(result, Err(Failure::Silent(of)) if of == server), "{result:?}");
    assert_eq!(start.elapsed(), Duration::from_millis(4500));
    silent.set_nonblocking(true).unwrap();
    let asked = std::iter::from_fn(|| silent.recv(&mut [0; 512]).ok()).count();
    assert_eq!(asked, 3);
}

#[tokio::test(start_paused = true)]
async fn nobody_answers_over_tcp() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let start = tokio::time::Instant::now();
    let result = ask(&[silent.local_addr().unwrap(); 3], None, Transport::Tcp).await;
    assert!(matches!(result, Err(Failure::Silent(_))), "{result:?}");
    assert!(start.elapsed() <= Duration::from_secs(9), "{:?}", start.elapsed());
}
