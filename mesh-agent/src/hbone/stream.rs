//! The bytes of one CONNECT stream: two independent directions with HTTP/2 flow control.

use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::{Reason, RecvStream, SendStream};

use super::buffer::Pending;
use super::client::Slot;
use super::load::{Away, Load};

/// Both directions of a stream.
#[derive(Debug)]
pub struct Stream {
    pub send: Sender,
    pub receive: Receiver,
}

/// Towards the peer. Dropped before [`Sender::finish`], it resets the stream.
#[derive(Debug)]
pub struct Sender {
    inner: SendStream<Bytes>,
    /// What h2 has not let go of.
    pending: Pending,
    end: End,
    load: Arc<Load>,
    /// On the end that chose the tunnel.
    _slot: Option<Slot>,
}

/// How this direction has ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Open,
    Ended,
}

/// From the peer.
#[derive(Debug)]
pub struct Receiver {
    inner: RecvStream,
    load: Arc<Load>,
}

/// How the peer ended a stream before its end of data.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// Its application reset the connection (RFC 9113, section 8.5), or it had to give up.
    #[error("the peer reset the stream: {0}")]
    Reset(Reason),
    #[error("the tunnel broke: {}", told(.0))]
    Tunnel(h2::Error),
}

impl StreamError {
    /// Whether the peer only says that it needs no more: it had all it wanted (RFC 9113, section 8.1).
    pub fn is_polite(&self) -> bool {
        matches!(self, Self::Reset(Reason::NO_ERROR | Reason::CANCEL))
    }
}

impl Stream {
    pub(super) fn new(send: SendStream<Bytes>, receive: RecvStream, load: &Arc<Load>, slot: Option<Slot>) -> Self {
        let send =
            Sender { inner: send, pending: Pending::default(), end: End::Open, load: Arc::clone(load), _slot: slot };
        Self { send, receive: Receiver { inner: receive, load: Arc::clone(load) } }
    }

    /// It is on the lane for as long as this is held, and its tunnel follows.
    pub fn away(&self) -> Away {
        Away::from(&self.send.load)
    }
}

impl Sender {
    /// Waits until some of `wanted` bytes may be sent, and tells how many.
    pub fn poll_room(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<Result<usize, StreamError>> {
        loop {
            let room = self.inner.capacity().min(wanted);
            if room > 0 {
                return Poll::Ready(Ok(room));
            }
            self.inner.reserve_capacity(wanted);
            if self.inner.capacity() > 0 {
                continue;
            }
            match ready!(self.inner.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(error.into())),
                None => return Poll::Ready(Err(self.why_closed(cx))),
            }
        }
    }

    /// Why a stream that we have not ended takes no more.
    fn why_closed(&mut self, cx: &mut Context<'_>) -> StreamError {
        match self.poll_reset(cx) {
            Poll::Ready(reset) => reset,
            Poll::Pending => StreamError::Reset(Reason::STREAM_CLOSED),
        }
    }

    /// Sends bytes for which [`Sender::poll_room`] made room.
    pub fn send(&mut self, data: BytesMut) -> Result<(), StreamError> {
        self.load.add(data.len());
        self.inner.send_data(self.pending.with(data), false).map_err(StreamError::from)
    }

    /// Gives back room that was asked for and not used, so that quiet streams hold none of the connection's window.
    pub fn give_back_room(&mut self) {
        self.inner.reserve_capacity(0);
    }

    /// Ends this direction in order.
    pub fn finish(&mut self) -> Result<(), StreamError> {
        self.end = End::Ended;
        self.inner.send_data(Bytes::new(), true).map_err(StreamError::from)
    }

    /// Cuts the stream as [`Sender::reset`] does, but not before what was sent has left, or `limit` has passed. (h2
    /// throws away what is queued on a stream that is reset, and says nothing of what has left; but it drops the bytes.)
    pub async fn reset_after_data(&mut self, limit: Duration) {
        let left = async {
            while !self.pending.is_empty() {
                tokio::time::sleep(GLANCE).await;
            }
        };
        // What has not left by then is lost.
        tokio::time::timeout(limit, left).await.ok();
        self.reset();
    }

    /// Cuts the stream: the application on this side reset its connection.
    pub fn reset(&mut self) {
        self.end = End::Ended;
        self.inner.send_reset(Reason::CONNECT_ERROR);
    }

    /// Ready when the peer has reset the stream.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<StreamError> {
        match ready!(self.inner.poll_reset(cx)) {
            Ok(reason) => Poll::Ready(StreamError::Reset(reason)),
            Err(error) => Poll::Ready(error.into()),
        }
    }
}

/// How often it is looked whether bytes have left.
const GLANCE: Duration = Duration::from_millis(1);

impl Drop for Sender {
    /// h2 would say CANCEL, which peers take for an end in order: data cut short would look complete.
    fn drop(&mut self) {
        if self.end == End::Open {
            self.reset();
        }
    }
}

impl Receiver {
    /// The next bytes; none at the end of data. NO_ERROR and CANCEL count as end of data (protocol note, section 5.6).
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamError>> {
        match ready!(self.inner.poll_data(cx)) {
            Some(Ok(data)) => {
                self.load.add(data.len());
                Poll::Ready(Ok(Some(data)))
            }
            Some(Err(error)) => match StreamError::from(error) {
                polite if polite.is_polite() => Poll::Ready(Ok(None)),
                error => Poll::Ready(Err(error)),
            },
            None => Poll::Ready(Ok(None)),
        }
    }

    /// Gives `count` received bytes' worth of window back to the peer.
    pub fn release(&mut self, count: usize) {
        // It fails only for more than was received.
        self.inner.flow_control().release_capacity(count).ok();
    }
}

/// rustls' words for an end without a word are for its own users.
fn told(error: &h2::Error) -> String {
    match error.get_io() {
        Some(cause) if cause.kind() == std::io::ErrorKind::UnexpectedEof => {
            "the peer closed it without a word (no TLS close_notify): its process or node may have died".to_owned()
        }
        Some(_) | None => error.to_string(),
    }
}

impl From<h2::Error> for StreamError {
    fn from(error: h2::Error) -> Self {
        match error.reason() {
            Some(reason) if error.is_reset() => Self::Reset(reason),
            _ => Self::Tunnel(error),
        }
    }
}
