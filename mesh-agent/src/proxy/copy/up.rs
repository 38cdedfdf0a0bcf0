//! From the local socket into the stream.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::net::TcpStream;

use super::{Broken, SMALLEST, next_size};
use crate::hbone::stream::Sender;

/// One direction; ready when the local end of data has been passed on.
#[derive(Debug)]
pub(super) struct Up {
    buffer: BytesMut,
    size: usize,
    done: Done,
}

#[derive(Debug, PartialEq, Eq)]
enum Done {
    No,
    Yes,
}

impl Up {
    pub(super) fn new() -> Self {
        Self { buffer: BytesMut::new(), size: SMALLEST, done: Done::No }
    }

    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        tcp: &TcpStream,
        sender: &mut Sender,
        count: impl Fn(usize),
    ) -> Poll<Result<(), Broken>> {
        while self.done == Done::No {
            // Readable first, room second: a quiet stream must not sit on window that others could use.
            if tcp.poll_read_ready(cx).map_err(Broken::Local)?.is_pending() {
                self.fall_quiet(sender);
                return Poll::Pending;
            }
            let room = ready!(sender.poll_room(cx, self.size))?;
            self.buffer.reserve(self.size);
            match read(tcp, &mut self.buffer, room) {
                Ok(0) => {
                    sender.finish()?;
                    self.done = Done::Yes;
                }
                Ok(n) => {
                    sender.send(self.buffer.split().freeze())?;
                    self.size = next_size(self.size, n);
                    count(n);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(Broken::Local(error))),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn fall_quiet(&mut self, sender: &mut Sender) {
        sender.give_back_room();
        if self.buffer.capacity() > SMALLEST {
            self.buffer = BytesMut::new();
        }
    }
}

/// Reads at most `room` bytes.
fn read(tcp: &TcpStream, buffer: &mut BytesMut, room: usize) -> io::Result<usize> {
    use bytes::BufMut;
    tcp.try_read_buf(&mut buffer.limit(room))
}
