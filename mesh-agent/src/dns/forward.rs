//! Asking name servers from inside a pod's namespace, with a time limit, a second try and the next server (protocol note,
//! section 9.3).
//!
//! Each question has a socket of its own, so that the kernel draws a new port for it and passes on only what comes from
//! the server. All of them carry the agent's mark: they are not captured again, and network policies see the pod.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::query::{Query, Transport};
use super::upstream::{Reply, Request};
use crate::sys::datagram::connected;
use crate::sys::netns::Netns;
use crate::sys::socket::{Source, start_connect};

/// Where questions are asked from.
pub trait Outlet {
    /// A socket for datagrams to and from this server alone.
    fn datagrams(&self, server: SocketAddr) -> io::Result<std::net::UdpSocket>;
    /// A connection that is being made.
    fn stream(&self, server: SocketAddr) -> io::Result<std::net::TcpStream>;
}

/// From inside the namespace, with the agent's mark.
impl Outlet for Netns {
    fn datagrams(&self, server: SocketAddr) -> io::Result<std::net::UdpSocket> {
        self.run(|| connected(server))?
    }

    fn stream(&self, server: SocketAddr) -> io::Result<std::net::TcpStream> {
        self.run(|| start_connect(Source::Own, server))?
    }
}

/// How long a server may take to answer over UDP before it, or the next one, is asked again. Resolvers give up, or ask
/// again themselves, after 5 s.
const PATIENCE: Duration = Duration::from_millis(1500);
/// How often is asked over UDP in all, at least; each of the servers once, if they are more.
const TRIES: usize = 3;
/// For the whole exchange over TCP.
const CONVERSATION: Duration = Duration::from_secs(4);
/// For all of it.
const ALL: Duration = Duration::from_secs(9);
/// Clients that say so much of themselves have use for an answer that the server cuts off at less.
const SPACIOUS: usize = 1024;
/// Room for what comes over UDP.
const LEAST_BUFFER: usize = 4096;

/// Why no server answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("no name server is known: the application's is a loopback address, and the node's resolv.conf names none")]
    NoServer,
    #[error("name server {server}: {cause}")]
    Broken { server: SocketAddr, cause: io::Error },
    #[error("name server {0} does not answer, maybe a NetworkPolicy forbids it")]
    Silent(SocketAddr),
    #[error("name server {0}: its answer is none to the question")]
    Nonsense(SocketAddr),
}

/// Asks `servers`, the first first; `asked` is the client's message. What it gives is for the client.
pub(super) async fn forward(
    outlet: &dyn Outlet,
    servers: &[SocketAddr],
    query: &Query,
    asked: &[u8],
) -> Result<Vec<u8>, Failure> {
    let Some(first) = servers.first() else { return Err(Failure::NoServer) };
    let exchange = async {
        let (server, reply) = match query.transport {
            Transport::Udp => by_datagrams(outlet, servers, query, asked).await?,
            Transport::Tcp => by_streams(outlet, servers, query, asked).await?,
        };
        // Cut off by the server, though the client could take more.
        let whole = if reply.is_truncated() && query.transport == Transport::Udp && query.limit() >= SPACIOUS {
            by_stream(outlet, server, query, asked).await.ok()
        } else {
            None
        };
        whole.unwrap_or(reply).deliver(query).ok_or(Failure::Nonsense(server))
    };
    timeout(ALL, exchange).await.unwrap_or(Err(Failure::Silent(*first)))
}

async fn by_datagrams(
    outlet: &dyn Outlet,
    servers: &[SocketAddr],
    query: &Query,
    asked: &[u8],
) -> Result<(SocketAddr, Reply), Failure> {
    let mut failure = Failure::NoServer;
    // Servers that say at once that nobody listens; to ask them again is pointless.
    let mut closed = 0;
    for server in servers.iter().cycle().take(TRIES.max(servers.len())) {
        match timeout(PATIENCE, by_datagram(outlet, *server, query, asked)).await {
            Ok(Ok(reply)) => return Ok((*server, reply)),
            Ok(Err(cause)) => {
                failure = Failure::Broken { server: *server, cause };
                closed += 1;
            }
            Err(_) => failure = Failure::Silent(*server),
        }
        if closed >= servers.len() {
            break;
        }
    }
    Err(failure)
}

async fn by_datagram(outlet: &dyn Outlet, server: SocketAddr, query: &Query, asked: &[u8]) -> io::Result<Reply> {
    let socket = UdpSocket::from_std(outlet.datagrams(server)?)?;
    let request = Request::new(asked);
    socket.send(&request.bytes).await?;
    loop {
        // One byte more than the client takes: what is too long for it is seen to be so.
        let mut buffer = Vec::with_capacity(query.limit().max(LEAST_BUFFER) + 1);
        socket.recv_buf(&mut buffer).await?;
        // Whatever else arrives is somebody's who guesses.
        if let Some(reply) = Reply::read(buffer, request.id, &query.question) {
            return Ok(reply);
        }
    }
}

async fn by_streams(
    outlet: &dyn Outlet,
    servers: &[SocketAddr],
    query: &Query,
    asked: &[u8],
) -> Result<(SocketAddr, Reply), Failure> {
    let mut failure = Failure::NoServer;
    for server in servers {
        match by_stream(outlet, *server, query, asked).await {
            Ok(reply) => return Ok((*server, reply)),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

async fn by_stream(outlet: &dyn Outlet, server: SocketAddr, query: &Query, asked: &[u8]) -> Result<Reply, Failure> {
    let request = Request::new(asked);
    match timeout(CONVERSATION, converse(outlet, server, &request.bytes)).await {
        Ok(Ok(bytes)) => Reply::read(bytes, request.id, &query.question).ok_or(Failure::Nonsense(server)),
        Ok(Err(cause)) => Err(Failure::Broken { server, cause }),
        Err(_) => Err(Failure::Silent(server)),
    }
}

/// Over TCP each message follows its length (RFC 1035, section 4.2.2).
async fn converse(outlet: &dyn Outlet, server: SocketAddr, message: &[u8]) -> io::Result<Vec<u8>> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let mut stream = TcpStream::from_std(outlet.stream(server)?)?;
    stream.writable().await?;
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    let framed = [&length.to_be_bytes(), message].concat();
    stream.write_all(&framed).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

#[cfg(test)]
mod tests;
