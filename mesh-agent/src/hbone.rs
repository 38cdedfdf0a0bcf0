//! HBONE: one user connection is one HTTP/2 CONNECT stream inside mutual TLS (protocol note, section 5).
//!
//! [`client`] opens streams, [`server`] takes them, [`pool`] keeps tunnels, [`head`] reads and writes the CONNECT head,
//! [`stream`] moves bytes, in [`buffer`]s, [`io`] makes a stream a transport for another tunnel. Nothing here knows the mesh model, policies or sockets: any reliable byte stream will do.

pub mod buffer;
pub mod client;
pub mod head;
pub mod io;
pub mod load;
pub mod pool;
pub mod server;
pub mod stream;

pub use h2::Error as Http2Error;

use std::time::Duration;

/// What may be chosen of the two ends of tunnels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Receive windows of a stream and of a connection, bytes.
    pub stream_window: u32,
    pub connection_window: u32,
    /// Largest frame we accept, bytes.
    pub frame_size: u32,
    /// Streams the client puts on one connection before it opens another.
    pub streams: usize,
    /// How long a tunnel without streams is kept.
    pub idle: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            stream_window: STREAM_WINDOW,
            connection_window: CONNECTION_WINDOW,
            frame_size: MAX_FRAME,
            streams: STREAMS_PER_TUNNEL,
            idle: Duration::from_secs(300),
        }
    }
}

/// Receive window of one stream, in bytes: what one stalled reader can make us hold.
pub const STREAM_WINDOW: u32 = 2 << 20;

/// Streams the client puts on one connection before it opens another.
pub const STREAMS_PER_TUNNEL: usize = 100;

/// Receive window of a connection. It has room for every stream's full window, so that readers that stopped cannot use
/// up the connection's window and with it stop their neighbours.
pub const CONNECTION_WINDOW: u32 = STREAM_WINDOW * SERVER_MAX_STREAMS;

/// Streams that a server takes on one connection.
pub const SERVER_MAX_STREAMS: u32 = 200;

/// Largest frame we accept.
const MAX_FRAME: u32 = 1 << 20;

/// Bytes of one stream that may wait for the wire.
const SEND_BUFFER: usize = 1 << 20;

const CLIENT_HEADER_LIST: u32 = 16 << 10;
const SERVER_HEADER_LIST: u32 = 64 << 10;

/// h2's allowance for small DATA frames that nobody has read yet; past it h2 closes the connection. One-byte writes are
/// ordinary traffic for a tunnel, and the receiving side gathers them without waiting for the application
/// (`proxy::copy`), so this only has to cover what arrives between two turns of one stream's task.
const DATA_FRAME_BUDGET: usize = 64 << 20;

/// Streams that were reset lately and whose last frames are expected. h2 remembers few by default, answers what comes for
/// forgotten ones with resets of its own, and closes the connection after a number of those in its whole life; on a
/// tunnel that lives for days, applications that reset their connections would end everybody's.
const REMEMBERED_RESETS: usize = 1024;

/// A ping goes out this often, and the peer has [`PING_TIMEOUT`] to answer it.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests;
