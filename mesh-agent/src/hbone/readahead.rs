//! Reads ahead of rustls.
//!
//! rustls takes ciphertext from its transport in pieces of a few KiB, one system call each. This adapter reads a large
//! piece at once and hands it out from memory; writes go straight through. The buffer grows with what one read
//! brings and is given back when the connection falls quiet.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const SMALL: usize = 8 << 10;
const LARGE: usize = 256 << 10;

/// A transport with a read buffer in front.
#[derive(Debug)]
pub struct ReadAhead<T> {
    inner: T,
    buffer: Vec<u8>,
    /// The unread part of `buffer`.
    start: usize,
    end: usize,
    /// Size of the next buffer.
    size: usize,
}

impl<T> ReadAhead<T> {
    pub fn new(inner: T) -> Self {
        Self { inner, buffer: Vec::new(), start: 0, end: 0, size: SMALL }
    }

    pub fn inner(&self) -> &T {
        &self.inner
    }
}

impl<T: AsyncRead + Unpin> ReadAhead<T> {
    fn fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.buffer.len() != self.size {
            self.buffer = vec![0; self.size];
        }
        let mut space = ReadBuf::new(&mut self.buffer);
        match Pin::new(&mut self.inner).poll_read(cx, &mut space) {
            Poll::Ready(result) => {
                result?;
                (self.start, self.end) = (0, space.filled().len());
                if self.end == self.size {
                    self.size = (self.size * 4).min(LARGE);
                }
                Poll::Ready(Ok(()))
            }
            Poll::Pending => {
                // Quiet: an idle connection keeps at most a small buffer.
                if self.size > SMALL && self.end * 4 < self.size {
                    self.size = (self.size / 4).max(SMALL);
                    self.buffer = Vec::new();
                }
                Poll::Pending
            }
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for ReadAhead<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.start == this.end {
            ready!(this.fill(cx))?;
        }
        let take = out.remaining().min(this.end - this.start);
        out.put_slice(&this.buffer[this.start..this.start + take]);
        this.start += take;
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for ReadAhead<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::{LARGE, ReadAhead, SMALL};

    #[tokio::test]
    async fn bytes_arrive_in_order_whatever_the_read_sizes() {
        let (mut far, near) = tokio::io::duplex(64 << 10);
        let sent: Vec<u8> = (0..1_000_000u32).map(|i| (i * 7 + i / 251) as u8).collect();
        let expected = sent.clone();
        let writer = async move {
            far.write_all(&sent).await.unwrap();
        };
        let reader = async move {
            let mut near = ReadAhead::new(near);
            let (mut got, mut size) = (Vec::new(), 1);
            loop {
                let mut piece = vec![0; size];
                let n = near.read(&mut piece).await.unwrap();
                if n == 0 {
                    return (got, near.size);
                }
                got.extend_from_slice(&piece[..n]);
                size = size * 3 % 5003 + 1;
            }
        };
        let ((), (got, size)) = tokio::join!(writer, reader);
        assert_eq!(got, expected);
        assert!((SMALL..=LARGE).contains(&size));
    }
}
