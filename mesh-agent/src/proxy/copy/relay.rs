//! Between two sockets, where no tunnel is involved: destinations outside the mesh, and plaintext inbound.

use std::future::{Future, poll_fn};
use std::io;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::{Broken, Count, Role, SMALLEST, add, fault_of, next_size, reset_on_close};

/// Copies between the client's socket and the server's until both directions are done. On an error both are reset.
pub(in crate::proxy) async fn relay(client: &TcpStream, server: &TcpStream, count: &impl Count) -> Result<(), Broken> {
    let mut forth = Direction::new();
    let mut back = Direction::new();
    let mut client_fault = std::pin::pin!(client.ready(Interest::ERROR));
    let mut server_fault = std::pin::pin!(server.ready(Interest::ERROR));
    let result = poll_fn(|cx| {
        let to_server = forth.poll(cx, client, server, |n| add(count, Role::Client, n)).map_err(Fault::at_client)?;
        let to_client = back.poll(cx, server, client, |n| add(count, Role::Server, n)).map_err(Fault::at_server)?;
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
    })
    .await;
    if result.is_err() {
        reset_on_close(client);
        reset_on_close(server);
    }
    result
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
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Open,
    Done,
}

impl Direction {
    fn new() -> Self {
        Self { buffer: Vec::new(), start: 0, end: 0, size: SMALLEST, state: State::Open }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
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

    fn read(&mut self, cx: &mut Context<'_>, from: &TcpStream) -> Poll<io::Result<usize>> {
        loop {
            if from.poll_read_ready(cx)?.is_pending() {
                self.fall_quiet();
                return Poll::Pending;
            }
            if self.buffer.len() != self.size {
                self.buffer = vec![0; self.size];
            }
            match from.try_read(&mut self.buffer) {
                Ok(n) => {
                    (self.start, self.end) = (0, n);
                    self.size = next_size(self.size, n);
                    return Poll::Ready(Ok(n));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
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
