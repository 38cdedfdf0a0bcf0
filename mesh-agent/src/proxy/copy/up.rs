//! From the local socket into the stream.

use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, BytesMut};
use tokio::net::tcp::ReadHalf;
use tokio_util::io::poll_read_buf;

use super::{Broken, SMALLEST, next_size};
use crate::hbone::buffer::{give_back, lend};
use crate::hbone::stream::Sender;
use crate::task::Turn;

/// One direction; ready when the local end of data has been passed on, or the peer needs no more.
#[derive(Debug)]
pub(super) struct Up {
    buffer: BytesMut,
    size: usize,
    done: Done,
    waits: Waits,
    turn: Turn,
}

/// What it waits for when it is pending.
#[derive(Debug, PartialEq, Eq)]
enum Waits {
    ForData,
    ForRoom,
}

#[derive(Debug, PartialEq, Eq)]
enum Done {
    No,
    Yes,
}

impl Up {
    pub(super) fn new() -> Self {
        Self { buffer: BytesMut::new(), size: SMALLEST, done: Done::No, waits: Waits::ForData, turn: Turn::default() }
    }

    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        tcp: &mut ReadHalf<'_>,
        sender: &mut Sender,
        count: impl Fn(usize),
    ) -> Poll<Result<(), Broken>> {
        while self.done == Done::No {
            ready!(self.turn.poll(cx));
            // Readable first, room second: a quiet stream must not sit on window that others could use.
            if tcp.as_ref().poll_read_ready(cx).map_err(Broken::Local)?.is_pending() {
                self.turn.begin();
                self.fall_quiet(sender);
                return Poll::Pending;
            }
            self.waits = Waits::ForRoom;
            let room = match ready!(sender.poll_room(cx, self.size.min(self.turn.left()))) {
                Err(enough) if enough.is_polite() => {
                    self.done = Done::Yes;
                    break;
                }
                room => room?,
            };
            self.waits = Waits::ForData;
            self.make_space();
            // What does not fill the buffer is all that there was: the kernel is not asked again, before it has told of more.
            let Poll::Ready(read) = poll_read_buf(Pin::new(tcp), cx, &mut (&mut self.buffer).limit(room)) else {
                continue;
            };
            match read.map_err(Broken::Local)? {
                0 => {
                    sender.finish()?;
                    self.done = Done::Yes;
                }
                n => {
                    sender.send(self.take())?;
                    self.size = next_size(self.size, n);
                    self.turn.moved(n);
                    count(n);
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Whether the peer takes no more for now, so that the socket is not read.
    pub(super) fn waits_for_room(&self) -> bool {
        self.waits == Waits::ForRoom
    }

    fn make_space(&mut self) {
        if self.buffer.capacity() < self.size {
            give_back(mem::replace(&mut self.buffer, lend(self.size)));
        }
    }

    /// What was read. Little data is copied, so that what waits for the wire holds no buffer many times its size.
    fn take(&mut self) -> BytesMut {
        if self.buffer.len() * 4 < self.buffer.capacity() {
            let data = BytesMut::from(&self.buffer[..]);
            self.buffer.clear();
            return data;
        }
        mem::take(&mut self.buffer)
    }

    fn fall_quiet(&mut self, sender: &mut Sender) {
        sender.give_back_room();
        give_back(mem::take(&mut self.buffer));
    }
}
