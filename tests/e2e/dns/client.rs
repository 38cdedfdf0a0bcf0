//! A resolver that shows everything.

use std::fmt;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hickory_proto::op::{Edns, Message, MessageType, Query};
use hickory_proto::rr::{Name, RecordType};
use mesh_e2e::Namespace;

/// How long an answer may take. The agent gives up on name servers after 4.5 s.
const PATIENCE: Duration = Duration::from_secs(6);

/// Over what is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    Udp,
    Tcp,
}

/// What came back.
pub(super) struct Answer(pub(super) Message);

pub(super) fn query(name: &str, kind: RecordType) -> Result<Message> {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    let mut name = Name::from_ascii(name)?;
    name.set_fqdn(true);
    message.add_query(Query::query(name, kind));
    Ok(message)
}

/// The query with EDNS.
pub(super) fn with_payload(mut message: Message, payload: u16) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(payload).set_dnssec_ok(true);
    message.set_edns(edns);
    message
}

/// Asks `server` from inside `place`. The answer must come from there: the socket takes no other.
pub(super) fn ask(place: &Namespace, server: SocketAddr, name: &str, kind: RecordType, over: Over) -> Result<Answer> {
    exchange(place, server, &query(name, kind)?, over).with_context(|| format!("{name} {kind} at {server} by {over:?}"))
}

pub(super) fn exchange(place: &Namespace, server: SocketAddr, query: &Message, over: Over) -> Result<Answer> {
    let answer = match over {
        Over::Udp => by_datagram(&connected(place, server)?, &query.to_vec()?)?,
        Over::Tcp => {
            let mut stream = connect(place, server)?;
            send(&mut stream, &[query.to_vec()?])?;
            receive(&mut stream)?
        }
    };
    let answer = Message::from_vec(&answer)?;
    ensure!(answer.metadata.id == query.metadata.id, "it is the answer to another query");
    ensure!(answer.metadata.message_type == MessageType::Response, "it is no answer");
    ensure!(answer.queries == query.queries || answer.queries.is_empty(), "another question: {:?}", answer.queries);
    Ok(Answer(answer))
}

/// A socket of `place` for one server.
pub(super) fn connected(place: &Namespace, server: SocketAddr) -> Result<UdpSocket> {
    let any: SocketAddr =
        if server.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = place.run(|| UdpSocket::bind(any))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

pub(super) fn by_datagram(socket: &UdpSocket, query: &[u8]) -> Result<Vec<u8>> {
    socket.send(query)?;
    let mut buffer = vec![0; 1 << 16];
    let length = socket.recv(&mut buffer).context("no answer")?;
    buffer.truncate(length);
    Ok(buffer)
}

pub(super) fn connect(place: &Namespace, server: SocketAddr) -> Result<TcpStream> {
    let stream = place.connect(server)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Sends all the messages in one piece.
pub(super) fn send(stream: &mut TcpStream, messages: &[Vec<u8>]) -> Result<()> {
    let mut framed = Vec::new();
    for message in messages {
        framed.extend(u16::try_from(message.len())?.to_be_bytes());
        framed.extend(message);
    }
    Ok(stream.write_all(&framed)?)
}

pub(super) fn receive(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).context("no answer")?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message).context("half an answer")?;
    Ok(message)
}

impl Answer {
    /// The records, sorted: the order is drawn.
    pub(super) fn records(&self) -> Vec<String> {
        let mut records: Vec<_> = self.0.answers.iter().map(ToString::to_string).collect();
        records.sort();
        records
    }
}

/// Code, flags and data in one line: `NoError aa 10.0.0.1 10.0.0.2`.
impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = self.0.metadata;
        write!(f, "{:?}", flags.response_code)?;
        for (set, name) in
            [(flags.authoritative, "aa"), (flags.truncation, "tc"), (!flags.recursion_available, "no-ra")]
        {
            if set {
                write!(f, " {name}")?;
            }
        }
        let mut data: Vec<_> = self.0.answers.iter().map(|record| record.data.to_string()).collect();
        data.sort();
        data.iter().try_for_each(|data| write!(f, " {data}"))
    }
}
