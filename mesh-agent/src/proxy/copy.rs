//! Moves the bytes of one connection, faithfully: half close, back-pressure and resets go through in both directions.
//!
//! Both directions are polled by one task. A direction holds no buffer while it is quiet. Towards the application, small
//! frames are gathered into one buffer instead of piling up inside HTTP/2; the stream's window bounds how much waits,
//! because window is given back only for what the application's socket has taken.

use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::AsFd;
use std::task::Poll;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::record::Record;
use crate::hbone::stream::{Stream, StreamError};

mod down;
mod relay;
mod up;

pub(super) use relay::relay;

/// Sizes between which read buffers move with the traffic.
const SMALLEST: usize = 4 << 10;
const LARGEST: usize = 128 << 10;

/// How long what an application wrote before it reset its connection may take to leave.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Where the bytes are counted.
pub(super) trait Count {
    /// From the client to the server.
    fn received(&self, bytes: u64);
    /// From the server to the client.
    fn sent(&self, bytes: u64);
}

impl Count for Record {
    fn received(&self, bytes: u64) {
        Self::received(self, bytes);
    }

    fn sent(&self, bytes: u64) {
        Self::sent(self, bytes);
    }
}

/// Which end of a connection the local socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The local socket is the client: what it sends flows towards the server.
    Client,
    Server,
}

/// Why a connection ended before both directions were done.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("the application's connection failed: {0}")]
    Local(io::Error),
    #[error("{0}")]
    Remote(#[from] StreamError),
    #[error("the server's connection failed: {0}")]
    Onward(io::Error),
}

/// Copies between a local socket and a stream until both directions are done. On an error the other side is reset.
pub(super) async fn tunnel(tcp: &TcpStream, stream: &mut Stream, role: Role, count: &impl Count) -> Result<(), Broken> {
    let mut up = up::Up::new();
    let mut down = down::Down::new();
    let mut fault = std::pin::pin!(tcp.ready(Interest::ERROR));
    let result = poll_fn(|cx| {
        let mut poll = || -> Poll<Result<(), Broken>> {
            let upward = up.poll(cx, tcp, &mut stream.send, |n| add(count, role, n))?;
            let downward = down.poll(cx, tcp, &mut stream.receive, |n| add(count, role.other(), n))?;
            if upward.is_ready() && downward.is_ready() {
                return Poll::Ready(Ok(()));
            }
            // A direction that is done, or stopped by its far end, does not notice that its near end is gone; all might wait
            // for ever.
            if downward.is_ready()
                && let Poll::Ready(reset) = stream.send.poll_reset(cx)
            {
                // It has said all, and needs no more: both directions are done. Envoy does so whenever its server is the
                // first to end.
                return Poll::Ready(if reset.is_polite() { Ok(()) } else { Err(Broken::Remote(reset)) });
            }
            if (upward.is_ready() || up.waits_for_room()) && fault.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(Broken::Local(fault_of(tcp))));
            }
            Poll::Pending
        };
        poll()
    })
    .await;
    if let Err(broken) = &result {
        match broken {
            Broken::Local(_) => stream.send.reset_after_data(LAST_WORDS).await,
            Broken::Remote(_) | Broken::Onward(_) => reset_on_close(tcp),
        }
    }
    result
}

/// Writes `head` to the application before any of the client's bytes.
pub(super) async fn say_first(tcp: &TcpStream, head: &[u8]) -> Result<(), Broken> {
    let mut left = head;
    while !left.is_empty() {
        tcp.writable().await.map_err(Broken::Local)?;
        match tcp.try_write(left) {
            Ok(written) => left = left.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(Broken::Local(error)),
        }
    }
    Ok(())
}

fn fault_of(tcp: &TcpStream) -> io::Error {
    tcp.take_error().ok().flatten().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into())
}

fn add(count: &impl Count, role: Role, bytes: usize) {
    match role {
        Role::Client => count.received(bytes as u64),
        Role::Server => count.sent(bytes as u64),
    }
}

impl Role {
    fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// Makes the socket's close send RST instead of FIN, so that the application sees an error, not an end of data.
pub(super) fn reset_on_close(tcp: &impl AsFd) {
    // On a socket that is already dead there is nobody to tell.
    SockRef::from(tcp).set_linger(Some(Duration::ZERO)).ok();
}

/// The size of the next read, from what the last one brought.
fn next_size(size: usize, read: usize) -> usize {
    if read >= size {
        (size * 2).min(LARGEST)
    } else if read * 4 < size {
        (size / 2).max(SMALLEST)
    } else {
        size
    }
}

#[cfg(test)]
mod tests;
