//! Reads ahead of rustls.
//!
//! rustls takes ciphertext from its transport in pieces of a few KiB, one system call each. This adapter reads a large
//! piece at once and hands it out from memory; writes go straight through. A connection has a buffer only while there is
//! something unread in it: the thread's connections hand a few of them on to each other, so that bulk data always meets
//! pages that are there already.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes of a buffer.
const SIZE: usize = 256 << 10;
/// Buffers that wait for the next reader of the thread.
const SPARE: usize = 8;

thread_local! {
    static BUFFERS: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer, whatever is in it.
fn take() -> Box<[u8]> {
    BUFFERS.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; SIZE].into())
}

fn give_back(buffer: Box<[u8]>) {
    BUFFERS.with_borrow_mut(|spare| {
        if spare.len() < SPARE {
            spare.push(buffer);
        }
    });
}

/// A transport with a read buffer in front.
#[derive(Debug)]
pub struct ReadAhead<T> {
    inner: T,
    /// What was read and not taken yet.
    unread: Option<Unread>,
}

#[derive(Debug)]
struct Unread {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl<T> ReadAhead<T> {
    pub fn new(inner: T) -> Self {
        Self { inner, unread: None }
    }

    pub fn inner(&self) -> &T {
        &self.inner
    }
}

impl<T: AsyncRead + Unpin> ReadAhead<T> {
    /// Reads into a buffer; none at the end.
    fn fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Unread>>> {
        let mut buffer = take();
        let mut space = ReadBuf::new(&mut buffer);
        let result = Pin::new(&mut self.inner).poll_read(cx, &mut space);
        let end = space.filled().len();
        if end > 0 {
            return Poll::Ready(Ok(Some(Unread { buffer, start: 0, end })));
        }
        give_back(buffer);
        result.map_ok(|()| None)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for ReadAhead<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut unread = match self.unread.take() {
            Some(unread) => unread,
            None => match ready!(self.fill(cx))? {
                Some(unread) => unread,
                None => return Poll::Ready(Ok(())),
            },
        };
        let take = out.remaining().min(unread.end - unread.start);
        out.put_slice(&unread.buffer[unread.start..unread.start + take]);
        unread.start += take;
        if unread.start == unread.end {
            give_back(unread.buffer);
        } else {
            self.unread = Some(unread);
        }
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

    use super::{BUFFERS, ReadAhead, SIZE};

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
                    assert!(near.unread.is_none());
                    return got;
                }
                got.extend_from_slice(&piece[..n]);
                size = size * 3 % 5003 + 1;
            }
        };
        let ((), got) = tokio::join!(writer, reader);
        assert_eq!(got, expected);
        BUFFERS
            .with_borrow(|spare| assert!(spare.len() == 1 && spare[0].len() == SIZE, "one is enough for one reader"));
    }
}
