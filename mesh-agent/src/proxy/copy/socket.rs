//! An application's connection, which ends as it should whatever becomes of its task.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

use super::Broken;
use crate::task::Roaming;

/// Dropped before [`Socket::ended`], its close sends RST instead of FIN, so that the application sees an error, not an end of
/// data. It follows its task from thread to thread.
#[derive(Debug)]
pub(in crate::proxy) struct Socket {
    tcp: Roaming,
    end: End,
}

/// Whether both directions have ended in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Open,
    Ended,
}

impl Socket {
    pub(in crate::proxy) fn new(tcp: TcpStream) -> Self {
        Self { tcp: Roaming::new(tcp), end: End::Open }
    }

    /// The connection's directions, on this thread.
    pub(super) fn here(&mut self) -> io::Result<(ReadHalf<'_>, WriteHalf<'_>)> {
        self.tcp.here().map(TcpStream::split)
    }

    /// Nothing more is to be said, and nothing is missing.
    pub(super) fn ended(&mut self) {
        self.end = End::Ended;
    }

    /// Writes `head` to the application before any of the client's bytes.
    pub(in crate::proxy) async fn say_first(&mut self, head: &[u8]) -> Result<(), Broken> {
        let (_, tcp) = self.here().map_err(Broken::Local)?;
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
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.end == End::Open
            && let Some(socket) = self.tcp.socket()
        {
            reset_on_close(&socket);
        }
    }
}

/// Makes the socket's close send RST instead of FIN.
pub(in crate::proxy) fn reset_on_close(tcp: &impl AsFd) {
    // On a socket that is already dead there is nobody to tell.
    SockRef::from(tcp).set_linger(Some(Duration::ZERO)).ok();
}
