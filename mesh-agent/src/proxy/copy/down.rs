//! From the stream to the local socket.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use socket2::SockRef;
use tokio::net::TcpStream;

use super::Broken;
use crate::hbone::stream::{Receiver, StreamError};

/// Frames smaller than this are copied together.
const SMALL: usize = 2 << 10;
/// Size of a buffer for small frames.
const GATHER: usize = 16 << 10;
/// Pieces given to one `writev`.
const PIECES: usize = 16;
/// Bytes that may wait before the next write is tried.
const BATCH: usize = 512 << 10;

/// One direction; ready when the peer's end of data has been passed on.
#[derive(Debug)]
pub(super) struct Down {
    waiting: VecDeque<Bytes>,
    gathered: BytesMut,
    bytes: usize,
    state: State,
    /// Why no more will come; told once what had come before has been written.
    failure: Option<StreamError>,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Open,
    /// The peer has ended; what waits is still to be written.
    Ended,
    Done,
}

impl Down {
    pub(super) fn new() -> Self {
        Self { waiting: VecDeque::new(), gathered: BytesMut::new(), bytes: 0, state: State::Open, failure: None }
    }

    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        tcp: &TcpStream,
        receiver: &mut Receiver,
        count: impl Fn(usize),
    ) -> Poll<Result<(), Broken>> {
        loop {
            if self.state == State::Done {
                return Poll::Ready(Ok(()));
            }
            let starved = self.fill(cx, receiver).is_pending();
            if self.bytes > 0 {
                // While the socket is full, frames are still taken in (above), up to the stream's window.
                let Poll::Ready(written) = self.write(cx, tcp)? else { return self.blocked() };
                receiver.release(written);
                count(written);
            } else if let Some(failure) = self.failure.take() {
                return Poll::Ready(Err(failure.into()));
            } else if self.state == State::Ended {
                SockRef::from(tcp).shutdown(std::net::Shutdown::Write).map_err(Broken::Local)?;
                self.state = State::Done;
            } else if starved {
                self.fall_quiet();
                return Poll::Pending;
            }
        }
    }

    /// The socket takes no more for now. After a reset it gets no more time: as without a mesh, the application may read
    /// what had arrived, and then learns of the reset.
    fn blocked(&mut self) -> Poll<Result<(), Broken>> {
        match self.failure.take() {
            Some(failure) => Poll::Ready(Err(failure.into())),
            None => Poll::Pending,
        }
    }

    /// Takes in what the stream has; pending when it has no more for now.
    fn fill(&mut self, cx: &mut Context<'_>, receiver: &mut Receiver) -> Poll<()> {
        let mut taken = 0;
        while self.state == State::Open && self.failure.is_none() && taken < BATCH {
            match ready!(receiver.poll_data(cx)) {
                Ok(Some(data)) => {
                    taken += data.len().max(1);
                    self.push(data);
                }
                Ok(None) => self.state = State::Ended,
                Err(failure) => self.failure = Some(failure),
            }
        }
        Poll::Ready(())
    }

    fn push(&mut self, data: Bytes) {
        self.bytes += data.len();
        if data.is_empty() {
            return;
        }
        if data.len() < SMALL && !(self.waiting.is_empty() && self.gathered.is_empty()) {
            if self.gathered.len() + data.len() > self.gathered.capacity() {
                self.seal();
                self.gathered.reserve(GATHER);
            }
            self.gathered.extend_from_slice(&data);
        } else {
            self.seal();
            self.waiting.push_back(data);
        }
    }

    /// Nothing waits: what was needed for that is not kept.
    fn fall_quiet(&mut self) {
        if self.gathered.capacity() > 0 {
            self.gathered = BytesMut::new();
        }
        if self.waiting.capacity() > PIECES {
            self.waiting = VecDeque::new();
        }
    }

    /// Moves gathered small frames into the line.
    fn seal(&mut self) {
        if !self.gathered.is_empty() {
            self.waiting.push_back(self.gathered.split().freeze());
        }
    }

    fn write(&mut self, cx: &mut Context<'_>, tcp: &TcpStream) -> Poll<Result<usize, Broken>> {
        loop {
            ready!(tcp.poll_write_ready(cx)).map_err(Broken::Local)?;
            self.seal();
            let mut pieces = [IoSlice::new(&[]); PIECES];
            let mut used = 0;
            for (slot, piece) in pieces.iter_mut().zip(&self.waiting) {
                *slot = IoSlice::new(piece);
                used += 1;
            }
            match tcp.try_write_vectored(&pieces[..used]) {
                Ok(written) => {
                    self.consume(written);
                    return Poll::Ready(Ok(written));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(Broken::Local(error))),
            }
        }
    }

    fn consume(&mut self, mut written: usize) {
        self.bytes -= written;
        while let Some(first) = self.waiting.front_mut() {
            if written < first.len() {
                first.advance(written);
                return;
            }
            written -= first.len();
            self.waiting.pop_front();
        }
    }
}

#[cfg(test)]
mod tests;
