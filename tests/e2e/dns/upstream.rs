//! A name server with a few names, which remembers who asked.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, TXT};
use hickory_proto::rr::{RData, Record, RecordType};
use mesh_e2e::{Namespace, Server};

use super::PORT;
use super::client::Over;

/// How many addresses `long.example.org` has.
pub(super) const MANY: u8 = 60;
/// Between two looks whether the server is to end.
const LOOK: Duration = Duration::from_millis(50);

/// One query, as the server saw it.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) name: String,
    pub(super) client: SocketAddr,
    pub(super) over: Over,
}

type Log = Arc<Mutex<Vec<Asked>>>;

/// A running server, for both families, UDP and TCP. Dropping it ends it.
pub(super) struct Upstream {
    asked: Log,
    ending: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    _tcp: Server,
}

impl Upstream {
    pub(super) fn start(place: &Namespace) -> Result<Self> {
        let (asked, ending) = (Log::default(), Arc::new(AtomicBool::new(false)));
        let sockets = place.run(|| -> io::Result<_> {
            let v4 = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
            let v6 = rustix::net::socket(rustix::net::AddressFamily::INET6, rustix::net::SocketType::DGRAM, None)?;
            rustix::net::sockopt::set_ipv6_v6only(&v6, true)?;
            rustix::net::bind(&v6, &SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT)))?;
            Ok([v4, UdpSocket::from(v6)])
        });
        let threads = sockets.context("a name server's sockets")?.into_iter().map(|socket| {
            socket.set_read_timeout(Some(LOOK))?;
            let (asked, ending) = (Arc::clone(&asked), Arc::clone(&ending));
            let serve = move || datagrams(&socket, &asked, &ending);
            Ok(Builder::new().name("name server".to_owned()).spawn(serve)?)
        });
        let threads = threads.collect::<Result<_>>()?;
        let listener: TcpListener = place.listen(PORT)?;
        let log = Arc::clone(&asked);
        let tcp = Server::start(listener, move |stream, client| streams(stream, client, &log))?;
        Ok(Self { asked, ending, threads, _tcp: tcp })
    }

    /// What was asked since this was asked last.
    pub(super) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

fn datagrams(socket: &UdpSocket, asked: &Log, ending: &AtomicBool) {
    let mut buffer = vec![0; 1 << 16];
    while !ending.load(Ordering::Relaxed) {
        let Ok((length, client)) = socket.recv_from(&mut buffer) else { continue };
        let Ok(query) = Message::from_vec(&buffer[..length]) else { continue };
        if let Some(answer) = answer(&query, client, Over::Udp, asked) {
            // Whoever asked may be gone.
            socket.send_to(&answer, client).ok();
        }
    }
}

fn streams(mut stream: &TcpStream, client: SocketAddr, asked: &Log) -> io::Result<()> {
    loop {
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut query)?;
        let query = Message::from_vec(&query).map_err(io::Error::other)?;
        if let Some(answer) = answer(&query, client, Over::Tcp, asked) {
            let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
            stream.write_all(&[&length.to_be_bytes(), &answer[..]].concat())?;
        }
    }
}

/// | name | what is said |
/// |---|---|
/// | `www.example.org` | an address of each family, a text |
/// | `long.example.org` | many addresses; truncated where they do not fit |
/// | `silent.example.org` | nothing |
/// | `broken.example.org` | SERVFAIL |
/// | any other | NXDOMAIN |
fn answer(query: &Message, client: SocketAddr, over: Over, asked: &Log) -> Option<Vec<u8>> {
    let question = query.queries.first()?;
    let name = question.name().to_ascii().to_ascii_lowercase();
    let client = SocketAddr::new(client.ip().to_canonical(), client.port());
    asked.lock().unwrap_or_else(PoisonError::into_inner).push(Asked { name: name.clone(), client, over });
    let mut answer = query.clone().into_response();
    answer.metadata.recursion_available = true;
    let mut add = |data| {
        answer.add_answer(Record::from_rdata(question.name().clone(), 300, data));
    };
    match (name.trim_end_matches('.'), question.query_type()) {
        ("www.example.org", RecordType::A) => add(RData::A(A::new(192, 0, 2, 80))),
        ("www.example.org", RecordType::AAAA) => add(RData::AAAA(AAAA::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x80))),
        ("www.example.org", RecordType::TXT) => add(RData::TXT(TXT::new(vec!["some text".to_owned()]))),
        ("www.example.org", _) => {}
        ("long.example.org", RecordType::A) => (0..MANY).for_each(|last| add(RData::A(A::new(192, 0, 2, last)))),
        ("silent.example.org", _) => return None,
        ("broken.example.org", _) => answer.metadata.response_code = ResponseCode::ServFail,
        _ => answer.metadata.response_code = ResponseCode::NXDomain,
    }
    let whole = answer.to_vec().ok()?;
    let room = if over == Over::Tcp { usize::from(u16::MAX) } else { usize::from(query.max_payload()).min(1000) };
    if whole.len() <= room { Some(whole) } else { answer.truncate().to_vec().ok() }
}
