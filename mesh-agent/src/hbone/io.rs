//! A CONNECT stream as a byte stream, for a tunnel inside a tunnel (protocol note, section 6.1). The bytes of connections go
//! by [`super::stream`] directly; this is for TLS and HTTP/2, which want the traits.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::load::Away;
use super::stream::{Stream, StreamError};
use crate::task::Thread;

/// Most that one write takes: a TLS record and its head.
const PIECE: usize = 17 << 10;

/// See the module. Dropped before its shutdown, it resets the stream.
#[derive(Debug)]
pub struct StreamIo {
    stream: Stream,
    /// Received and not read yet; its window is given back as it is read.
    waiting: Bytes,
    said: Said,
    away: Option<Away>,
}

/// Whether our end of data has been sent.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    NotAll,
    All,
}

impl StreamIo {
    pub fn new(stream: Stream) -> Self {
        Self { stream, waiting: Bytes::new(), said: Said::NotAll, away: None }
    }

    /// The tunnel inside is driven where it is called for; the outer one follows.
    fn follow(&mut self) {
        let away = Thread::current() == Thread::Lane;
        if away != self.away.is_some() {
            self.away = away.then(|| self.stream.away());
        }
    }
}

impl AsyncRead for StreamIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.follow();
        while self.waiting.is_empty() {
            match ready!(self.stream.receive.poll_data(cx)).map_err(broken)? {
                Some(data) => self.waiting = data,
                None => return Poll::Ready(Ok(())),
            }
        }
        let count = self.waiting.len().min(buf.remaining());
        buf.put_slice(&self.waiting[..count]);
        self.waiting.advance(count);
        self.stream.receive.release(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for StreamIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let room = ready!(self.stream.send.poll_room(cx, buf.len().min(PIECE))).map_err(broken)?;
        self.stream.send.send(BytesMut::from(&buf[..room])).map_err(broken)?;
        Poll::Ready(Ok(room))
    }

    /// What was written is on its way as soon as the outer tunnel's driver runs.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Done when the peer has ended, too: a stream that is let go before is cancelled, and a gateway then throws away what
    /// it has not passed on yet. For a peer that does not end, the pings of the tunnel inside are not answered any more.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.said == Said::NotAll {
            self.said = Said::All;
            self.stream.send.finish().map_err(broken)?;
        }
        loop {
            match ready!(self.stream.receive.poll_data(cx)) {
                Ok(Some(data)) => self.stream.receive.release(data.len()),
                // However it has ended: there is nothing more to be lost.
                Ok(None) | Err(_) => return Poll::Ready(Ok(())),
            }
        }
    }
}

fn broken(error: StreamError) -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, error)
}
