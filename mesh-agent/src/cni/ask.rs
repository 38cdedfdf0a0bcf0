//! The plugin's end of the socket: one question and its answer, with limits on everything. Without a runtime: the plugin is
//! a process of some milliseconds.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

use super::wire::{self, Answer, LONGEST, Request, WireError};

/// How long an agent may take to take a connection. One that runs takes them at once, unless very many come.
const CONNECT: Duration = Duration::from_secs(1);

/// Why there is no answer. Each begins with what the operator of a node must know.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error(
        "mesh-agent is not running on this node ({}: {}): pods cannot be started until it is; see the DaemonSet mesh-agent",
        socket.display(),
        reason(cause)
    )]
    NotRunning { socket: PathBuf, cause: io::Error },
    #[error("mesh-agent cannot be asked ({}: {})", socket.display(), reason(cause))]
    Unusable { socket: PathBuf, cause: io::Error },
    #[error("mesh-agent has not answered within {limit:?}; it is overloaded, or stuck: see its log")]
    Silent { limit: Duration },
    #[error("mesh-agent has stopped before it had answered")]
    Stopped,
    #[error("mesh-agent and its CNI plugin do not understand each other: {0}")]
    Wire(#[from] WireError),
}

#[expect(clippy::wildcard_enum_match_arm, reason = "an open set; these have a meaning of their own")]
impl AskError {
    fn connecting(socket: &Path, cause: io::Error, limit: Duration) -> Self {
        let socket = socket.to_owned();
        match cause.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => Self::NotRunning { socket, cause },
            ErrorKind::WouldBlock => Self::Silent { limit },
            _ => Self::Unusable { socket, cause },
        }
    }

    fn asking(socket: &Path, cause: io::Error, limit: Duration) -> Self {
        match cause.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Self::Silent { limit },
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof => Self::Stopped,
            _ => Self::Unusable { socket: socket.to_owned(), cause },
        }
    }
}

fn reason(cause: &io::Error) -> String {
    #[expect(clippy::wildcard_enum_match_arm, reason = "an open set; these are the usual ones")]
    match cause.kind() {
        ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        ErrorKind::NotFound => "no such file".to_owned(),
        ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => cause.to_string(),
    }
}

/// Asks the agent at `socket`; `limit` is for all of it.
pub(super) fn ask(socket: &Path, request: &Request, limit: Duration) -> Result<Answer, AskError> {
    let line = wire::encode(request)?;
    let end = Instant::now() + limit;
    let stream = connect(socket, limit.min(CONNECT))?;
    let answer = exchange(&stream, &line, end).map_err(|cause| AskError::asking(socket, cause, limit))?;
    Ok(wire::decode(&answer)?)
}

fn connect(path: &Path, limit: Duration) -> Result<UnixStream, AskError> {
    let try_connect = || -> io::Result<UnixStream> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        // While the agent's queue of connections is full, connecting waits as long as sending may.
        socket.set_write_timeout(Some(limit))?;
        socket.connect(&SockAddr::unix(path)?)?;
        Ok(OwnedFd::from(socket).into())
    };
    try_connect().map_err(|cause| AskError::connecting(path, cause, limit))
}

/// Sends a line and gives the one that comes back.
fn exchange(mut stream: &UnixStream, line: &[u8], end: Instant) -> io::Result<Vec<u8>> {
    stream.set_write_timeout(Some(left(end)?))?;
    stream.write_all(line)?;
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    while !answer.ends_with(b"\n") && answer.len() <= LONGEST {
        stream.set_read_timeout(Some(left(end)?))?;
        match stream.read(&mut part) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(length) => answer.extend_from_slice(&part[..length]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(answer)
}

/// What is left of the time, which is never nothing: that would mean for ever.
fn left(end: Instant) -> io::Result<Duration> {
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
}
