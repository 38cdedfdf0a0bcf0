//! Serves a [`Router`] over HTTP/1.1 on a TCP port or a Unix socket, with a limit on everything a client can do.
//!
//! The caller binds first, so that a port in use stops the start with a sentence, and then owns the accept loop's task.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

use super::router::{Reply, Router};
use crate::task::Tasks;

/// Connections served at once; others wait to be accepted.
const MOST_CONNECTIONS: usize = 64;

/// How long a client may take to send a request's head, and may be idle between requests.
const HEAD_LIMIT: Duration = Duration::from_secs(30);

/// How long a page may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// How long a connection may be open: one that does not read would else hold its place for ever.
const LIFETIME: Duration = Duration::from_secs(120);

/// A connection's read buffer, and so the longest request head, in bytes.
const HEAD_BYTES: usize = 16 * 1024;

/// Pending connections.
const BACKLOG: i32 = 128;

/// A bound listener.
#[derive(Debug)]
pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Why a listener cannot be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("cannot listen on {address} for {purpose}: {cause}{hint}")]
    Port { address: SocketAddr, purpose: &'static str, cause: io::Error, hint: &'static str },
    #[error("cannot listen on {}: {cause}", path.display())]
    Socket { path: PathBuf, cause: io::Error },
    #[error("{} is there and is not a socket; remove it or choose another run_dir", .0.display())]
    NotASocket(PathBuf),
    #[error("another agent answers on {}; stop it first or choose another run_dir", .0.display())]
    Taken(PathBuf),
}

/// Binds a TCP port; `purpose` names it in errors. The unspecified IPv6 address means IPv4 too, and IPv4 alone on a host
/// without IPv6.
pub fn bind(address: SocketAddr, purpose: &'static str) -> Result<Listener, BindError> {
    let result = bind_tcp(address).or_else(|cause| {
        let no_v6 = cause.raw_os_error() == Some(libc::EAFNOSUPPORT) || cause.kind() == io::ErrorKind::AddrNotAvailable;
        if no_v6 && address.is_ipv6() && address.ip().is_unspecified() {
            return bind_tcp(SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())));
        }
        Err(cause)
    });
    result.map(Listener::Tcp).map_err(|cause| BindError::Port { address, purpose, hint: hint(&cause), cause })
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn hint(cause: &io::Error) -> &'static str {
    #[expect(clippy::wildcard_enum_match_arm, reason = "an open set; only these have a likely cause")]
    match cause.kind() {
        io::ErrorKind::AddrInUse => "; another agent or another program holds the port",
        io::ErrorKind::AddrNotAvailable => "; this machine has no such address",
        io::ErrorKind::PermissionDenied => "; ports below 1024 need root",
        _ => "",
    }
}

/// Binds a Unix socket that only the owner may use, in place of one that a dead agent left behind.
pub fn bind_socket(path: &Path) -> Result<Listener, BindError> {
    let failed = |cause| BindError::Socket { path: path.to_owned(), cause };
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(failed)?;
    }
    remove_stale(path)?;
    let listen = || -> io::Result<UnixListener> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SockAddr::unix(path)?)?;
        // Before it listens nobody can connect, so there is no moment at which others may.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        socket.listen(BACKLOG)?;
        UnixListener::from_std(socket.into())
    };
    listen().map(Listener::Unix).map_err(failed)
}

fn remove_stale(path: &Path) -> Result<(), BindError> {
    let failed = |cause| BindError::Socket { path: path.to_owned(), cause };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => Err(BindError::NotASocket(path.to_owned())),
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => Err(BindError::Taken(path.to_owned())),
        Ok(_) => std::fs::remove_file(path).map_err(failed),
    }
}

impl Listener {
    async fn accept(&self) -> io::Result<Stream> {
        Ok(match self {
            Self::Tcp(listener) => Box::pin(listener.accept().await?.0),
            Self::Unix(listener) => Box::pin(listener.accept().await?.0),
        })
    }

    /// The port it listens on, if it is one.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok().map(|address| address.port()),
            Self::Unix(_) => None,
        }
    }
}

/// Serves until the group of tasks is stopped; each connection is a task of the group.
pub async fn serve(listener: Listener, router: Arc<Router>, tasks: Tasks) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        let router = Arc::clone(&router);
        match listener.accept().await {
            Ok(stream) => tasks.spawn(async move {
                connection(stream, router).await;
                drop(place);
            }),
            Err(error) => {
                // Out of descriptors, or a client that left already; neither is a reason to spin or to end.
                tracing::warn!(%error, "admin connection not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

trait Duplex: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send> Duplex for T {}

/// Either kind of connection, so that the HTTP code is compiled once.
type Stream = Pin<Box<dyn Duplex>>;

async fn connection(stream: Stream, router: Arc<Router>) {
    let service = service_fn(move |request| {
        let router = Arc::clone(&router);
        async move { Ok::<_, Infallible>(respond(&router, &request).await) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(LIFETIME, serving).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "admin connection ended"),
        Err(_) => tracing::debug!("admin connection ended: it was open for long enough"),
    }
}

async fn respond(router: &Router, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
    let uri = request.uri();
    let answer = router.answer(request.method(), uri.path(), uri.query(), accept);
    let reply = match tokio::time::timeout(ANSWER_LIMIT, answer).await {
        Ok(reply) => reply,
        Err(_) => Reply::text("the page took too long").with_status(StatusCode::SERVICE_UNAVAILABLE),
    };
    let mut response = Response::new(Full::new(reply.body));
    *response.status_mut() = reply.status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(reply.content_type));
    if let Some(allow) = reply.allow.and_then(|method| HeaderValue::from_str(method.as_str()).ok()) {
        response.headers_mut().insert(ALLOW, allow);
    }
    response
}

#[cfg(test)]
mod tests;
