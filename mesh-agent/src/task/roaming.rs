//! A TCP connection that follows its task from thread to thread.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::Thread;

/// Its events are heard of by the thread that uses it: on another one it is registered anew, so that events take no detour.
#[derive(Debug)]
pub struct Roaming {
    /// None after a failure to register it.
    tcp: Option<TcpStream>,
    at: Thread,
}

impl Roaming {
    /// A connection that is registered with this thread.
    pub fn new(tcp: TcpStream) -> Self {
        Self { tcp: Some(tcp), at: Thread::current() }
    }

    /// The connection, registered with this thread.
    pub fn here(&mut self) -> io::Result<&mut TcpStream> {
        let here = Thread::current();
        if self.at != here {
            self.at = here;
            self.tcp = self.tcp.take().map(anew).transpose()?;
        }
        self.tcp.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// The connection, for what needs no events.
    pub fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.tcp.as_ref().map(AsFd::as_fd)
    }

    fn pinned(self: Pin<&mut Self>) -> io::Result<Pin<&mut TcpStream>> {
        self.get_mut().here().map(Pin::new)
    }
}

/// Registers it with this thread. Failing that it is reset: an end in order would say that nothing is missing.
fn anew(tcp: TcpStream) -> io::Result<TcpStream> {
    SockRef::from(&tcp).set_linger(Some(Duration::ZERO))?;
    let tcp = TcpStream::from_std(tcp.into_std()?)?;
    SockRef::from(&tcp).set_linger(None)?;
    Ok(tcp)
}

impl AsyncRead for Roaming {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.pinned()?.poll_read(cx, buf)
    }
}

impl AsyncWrite for Roaming {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.pinned()?.poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.pinned()?.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.pinned()?.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.pinned()?.poll_shutdown(cx)
    }
}
