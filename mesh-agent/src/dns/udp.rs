//! DNS over UDP: each datagram is a query, each answer goes out in the name of the server that was asked.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::lookup::Directory;
use super::pod::{Pod, Step};
use super::query::Transport;
use super::server::{Life, Shard};
use crate::sys::datagram::{Answers, receive};

/// Datagrams that are taken before others on the shard have their turn.
const BATCH: usize = 64;

/// Datagrams that are still taken when the pod's life ends.
const LAST_ONES: usize = 1024;

/// How long to wait when a socket cannot be read.
const BROKEN: Duration = Duration::from_millis(50);

/// The sockets of one pod, family by family.
pub(super) struct Desk<D> {
    pub(super) shard: Rc<Shard>,
    pub(super) pod: Rc<Pod<D>>,
    pub(super) answers: Answers,
    pub(super) life: Life,
}

/// Answers what comes in, until the pod's life ends.
pub(super) async fn serve<D: Directory + 'static>(desk: Rc<Desk<D>>, socket: UdpSocket) {
    loop {
        let ready = tokio::select! {
            ready = socket.readable() => ready,
            () = desk.life.stop.cancelled() => {
                // What has come to us already will not be answered by anybody else.
                let mut left = LAST_ONES;
                while left > 0 && desk.take(socket.as_fd()).is_ok() {
                    left -= 1;
                }
                return;
            }
        };
        let mut taken = ready;
        for _ in 0..BATCH {
            if taken.is_err() {
                break;
            }
            taken = socket.try_io(Interest::READABLE, || desk.take(socket.as_fd()));
        }
        match taken {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                tracing::warn!(%error, "reading DNS over UDP failed");
                tokio::time::sleep(BROKEN).await;
            }
            Ok(()) | Err(_) => tokio::task::yield_now().await,
        }
    }
}

impl<D: Directory + 'static> Desk<D> {
    /// Takes one datagram and does with it what can be done at once.
    fn take(self: &Rc<Self>, socket: BorrowedFd<'_>) -> io::Result<()> {
        let mut scratch = self.shard.scratch.borrow_mut();
        let received = receive(socket, &mut scratch)?;
        let (client, server) = (received.from, received.to);
        let message = scratch.get(..received.length).unwrap_or_default();
        if !Pod::<D>::serves(server) {
            return Ok(());
        }
        match self.pod.begin(message, Transport::Udp, server) {
            Step::Answer(answer) => self.send(server, client, &answer),
            Step::Silence => {}
            Step::Later(pending) => {
                let desk = Rc::clone(self);
                self.life.tasks.spawn_local(async move {
                    let answer = desk.life.cut.run_until_cancelled(desk.pod.finish(pending)).await;
                    if let Some(answer) = answer.flatten() {
                        desk.send(server, client, &answer);
                    }
                });
            }
        }
        Ok(())
    }

    /// An answer that cannot be sent is lost, as any datagram may be: the client asks again.
    fn send(&self, server: SocketAddr, client: SocketAddr, answer: &[u8]) {
        if let Err(error) = self.answers.send(server, client, answer) {
            tracing::debug!(%server, %client, %error, "an answer is not sent");
        }
    }
}
