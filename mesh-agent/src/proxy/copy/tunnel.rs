//! Between a local socket and a stream of a tunnel.

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::Interest;

use super::down::Down;
use super::pace::Pace;
use super::tally::{Clerk, Tally};
use super::up::Up;
use super::{Broken, Count, LAST_WORDS, Role, Socket, fault_of};
use crate::hbone::stream::Stream;
use crate::task::{Errand, Lane, Place};

/// Copies between a local socket and a stream until both directions are done, here or on the lane. On an error the other side
/// is reset, and both are if this is given up.
pub(in crate::proxy) fn tunnel<C: Count>(
    (tcp, stream): (Socket, Stream),
    role: Role,
    count: &C,
    lane: &Lane,
) -> impl Future<Output = Result<(), Broken>> {
    let clerk = Clerk::new(count);
    let (up, down, tally) = (Up::new(), Down::new(), clerk.tally());
    // Made here, so that nothing of it has a second place in the future.
    let copy = Box::new(Copy { tcp, stream, role, up, down, tally, ended: false });
    async move { lane.run(copy, || clerk.write()).await }
}

/// The connection, as it goes from place to place.
#[derive(Debug)]
struct Copy {
    tcp: Socket,
    stream: Stream,
    role: Role,
    up: Up,
    down: Down,
    tally: Arc<Tally>,
    /// Whether the stream has ended, in order or not.
    ended: bool,
}

impl Errand for Copy {
    type Outcome = Result<(), Broken>;

    async fn go_on(&mut self, place: Place) -> Option<Self::Outcome> {
        let away = (place == Place::Lane).then(|| self.stream.away());
        let result = match self.copy(place).await {
            Ok(None) => return None,
            Ok(Some(())) => Ok(()),
            Err(broken) => Err(broken),
        };
        match &result {
            Ok(()) => self.tcp.ended(),
            // Boxed: rare, and large.
            Err(Broken::Local(_)) => Box::pin(self.stream.send.reset_after_data(LAST_WORDS)).await,
            Err(Broken::Remote(_) | Broken::Onward(_)) => {}
        }
        self.ended = true;
        drop(away);
        Some(result)
    }
}

impl Copy {
    /// None if it should be at the other place.
    async fn copy(&mut self, place: Place) -> Result<Option<()>, Broken> {
        let mut pace = Pace::at(place, self.tally.all());
        let Self { tcp, stream, role, up, down, tally, .. } = self;
        let (mut read, write) = tcp.here().map_err(Broken::Local)?;
        let mut fault = std::pin::pin!(write.ready(Interest::ERROR));
        let mut poll = |cx: &mut Context<'_>| -> Poll<Result<(), Broken>> {
            let upward = up.poll(cx, &mut read, &mut stream.send, |n| tally.add(*role, n))?;
            let downward = down.poll(cx, write.as_ref(), &mut stream.receive, |n| tally.add(role.other(), n))?;
            if upward.is_ready() && downward.is_ready() {
                return Poll::Ready(Ok(()));
            }
            // A direction that is done, or stopped by its far end, does not notice that its near end is gone; all might wait
            // for ever.
            if downward.is_ready()
                && let Poll::Ready(reset) = stream.send.poll_reset(cx)
            {
                // It has said all, and needs no more: both directions are done. Envoy does so whenever its server is the
                // first to end.
                return Poll::Ready(if reset.is_polite() { Ok(()) } else { Err(Broken::Remote(reset)) });
            }
            if (upward.is_ready() || up.waits_for_room()) && fault.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(Broken::Local(fault_of(write.as_ref()))));
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

impl Drop for Copy {
    fn drop(&mut self) {
        if !self.ended {
            self.stream.send.reset();
        }
    }
}
