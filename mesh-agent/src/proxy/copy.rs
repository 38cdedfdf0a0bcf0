//! Moves the bytes of one connection, faithfully: half close, back-pressure and resets go through in both directions.
//!
//! Both directions are polled by one task. A direction holds no buffer while it is quiet. Towards the application, small
//! frames are gathered into one buffer instead of piling up inside HTTP/2; the stream's window bounds how much waits,
//! because window is given back only for what the application's socket has taken.
//!
//! A connection that carries much goes on on the lane beside the shard (`crate::task::lane`), so that little things do not
//! wait behind it.

use std::io;
use std::time::Duration;

use tokio::net::TcpStream;

use super::record::Record;
use crate::hbone::stream::StreamError;

mod down;
mod pace;
mod relay;
mod socket;
mod tally;
mod tunnel;
mod up;

pub(super) use relay::relay;
pub(super) use socket::{Socket, reset_on_close};
pub(super) use tunnel::tunnel;

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

fn fault_of(tcp: &TcpStream) -> io::Error {
    tcp.take_error().ok().flatten().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into())
}

impl Role {
    fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
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
