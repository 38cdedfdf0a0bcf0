//! Between two sockets, where no tunnel is involved: destinations outside the mesh, and plaintext inbound.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::{AsyncRead, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::ReadHalf;

use super::pace::Pace;
use super::tally::{Clerk, Tally};
use super::{Broken, Count, Role, SMALLEST, Socket, fault_of, next_size};
use crate::task::{Errand, Lane, Place, Turn};

/// Copies between the client's socket and the server's until both directions are done, here or on the lane. On an error, and
/// if this is given up, both are reset.
pub(in crate::proxy) fn relay<C: Count>(
    client: Socket,
    server: Socket,
    count: &C,
    lane: &Lane,
) -> impl Future<Output = Result<(), Broken>> {
    let clerk = Clerk::new(count);
    let (forth, back, tally) = (Direction::new(), Direction::new(), clerk.tally());
    // Made here, so that nothing of it has a second place in the future.
    let copy = Box::new(Copy { client, server, forth, back, tally });
    async move { lane.run(copy, || clerk.write()).await }
}

/// The connection, as it goes from place to place.
#[derive(Debug)]
struct Copy {
    client: Socket,
    server: Socket,
    forth: Direction,
    back: Direction,
    tally: Arc<Tally>,
}

impl Errand for Copy {
    type Outcome = Result<(), Broken>;

    async fn go_on(&mut self, place: Place) -> Option<Self::Outcome> {
        match self.copy(place).await {
            Ok(None) => None,
            Ok(Some(())) => {
                self.client.ended();
                self.server.ended();
                Some(Ok(()))
            }
            Err(broken) => Some(Err(broken)),
        }
    }
}

impl Copy {
    /// None if it should be at the other place.
    async fn copy(&mut self, place: Place) -> Result<Option<()>, Broken> {
        let mut pace = Pace::at(place, self.tally.all());
        let Self { client, server, forth, back, tally } = self;
        let (mut from_client, client) = client.here().map_err(Broken::Local)?;
        let (mut from_server, server) = server.here().map_err(Broken::Onward)?;
        let mut client_fault = std::pin::pin!(client.ready(Interest::ERROR));
        let mut server_fault = std::pin::pin!(server.ready(Interest::ERROR));
        let (client, server) = (client.as_ref(), server.as_ref());
        let mut poll = |cx: &mut Context<'_>| -> Poll<Result<(), Broken>> {
            let to_server =
                forth.poll(cx, &mut from_client, server, |n| tally.add(Role::Client, n)).map_err(Fault::at_client)?;
            let to_client =
                back.poll(cx, &mut from_server, client, |n| tally.add(Role::Server, n)).map_err(Fault::at_server)?;
            if to_server.is_ready() && to_client.is_ready() {
                return Poll::Ready(Ok(()));
            }
            // A socket is not read while its data waits for the other, or when it has ended; that it is reset must be noticed
            // all the same.
            if !forth.reads() && client_fault.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(Broken::Local(fault_of(client))));
            }
            if !back.reads() && server_fault.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(Broken::Onward(fault_of(server))));
            }
            Poll::Pending
        };
        poll_fn(|cx| match poll(cx) {
            Poll::Ready(result) => Poll::Ready(result.map(Some)),
            Poll::Pending => pace.poll_leave(cx, tally.all()).map(|()| Ok(None)),
        })
        .await
    }
}

/// Which socket of a direction failed.
#[derive(Debug)]
enum Fault {
    Reading(io::Error),
    Writing(io::Error),
}

impl Fault {
    fn at_client(self) -> Broken {
        match self {
            Self::Reading(error) => Broken::Local(error),
            Self::Writing(error) => Broken::Onward(error),
        }
    }

    fn at_server(self) -> Broken {
        match self {
            Self::Reading(error) => Broken::Onward(error),
            Self::Writing(error) => Broken::Local(error),
        }
    }
}

#[derive(Debug)]
struct Direction {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    size: usize,
    state: State,
    turn: Turn,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Open,
    Done,
}

impl Direction {
    fn new() -> Self {
        Self { buffer: Vec::new(), start: 0, end: 0, size: SMALLEST, state: State::Open, turn: Turn::default() }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut ReadHalf<'_>,
        to: &TcpStream,
        count: impl Fn(usize),
    ) -> Poll<Result<(), Fault>> {
        while self.state == State::Open {
            if self.start < self.end {
                let written = ready!(self.write(cx, to)).map_err(Fault::Writing)?;
                self.start += written;
                count(written);
            } else if ready!(self.read(cx, from)).map_err(Fault::Reading)? == 0 {
                SockRef::from(to).shutdown(std::net::Shutdown::Write).map_err(Fault::Writing)?;
                self.state = State::Done;
                self.buffer = Vec::new();
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Whether it waits for its source.
    fn reads(&self) -> bool {
        self.state == State::Open && self.start == self.end
    }

    fn read(&mut self, cx: &mut Context<'_>, from: &mut ReadHalf<'_>) -> Poll<io::Result<usize>> {
        ready!(self.turn.poll(cx));
        // A quiet direction needs no buffer to find out that it is.
        let readable = from.as_ref().poll_read_ready(cx)?;
        let read = if readable.is_ready() { self.fill(cx, from) } else { Poll::Pending };
        if read.is_pending() {
            self.turn.begin();
            self.fall_quiet();
        }
        let n = ready!(read)?;
        (self.start, self.end) = (0, n);
        self.size = next_size(self.size, n);
        self.turn.moved(n);
        Poll::Ready(Ok(n))
    }

    /// Pending only after the kernel has said so, and a read that does not fill the buffer counts as that.
    fn fill(&mut self, cx: &mut Context<'_>, from: &mut ReadHalf<'_>) -> Poll<io::Result<usize>> {
        if self.buffer.len() != self.size {
            self.buffer = vec![0; self.size];
        }
        let mut buffer = ReadBuf::new(&mut self.buffer);
        ready!(Pin::new(from).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// An idle direction keeps at most a small buffer.
    fn fall_quiet(&mut self) {
        if self.buffer.len() > SMALLEST {
            self.buffer = Vec::new();
        }
    }

    fn write(&self, cx: &mut Context<'_>, to: &TcpStream) -> Poll<io::Result<usize>> {
        loop {
            ready!(to.poll_write_ready(cx))?;
            match to.try_write(&self.buffer[self.start..self.end]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }
}
