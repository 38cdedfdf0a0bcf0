//! The client end of a tunnel: one HTTP/2 connection, many CONNECT streams.

use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::{Builder, Connection, SendRequest};
use http::{HeaderMap, Request, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};

use super::load::Load;
use super::stream::Stream;
use super::{CLIENT_HEADER_LIST, DATA_FRAME_BUDGET, REMEMBERED_RESETS, SEND_BUFFER, Settings, server::keep_alive};

/// An open tunnel. It stays usable until [`Tunnel::usable`] says otherwise; streams outlive that. `P` is what the caller
/// knows of the peer.
#[derive(Debug)]
pub struct Tunnel<P> {
    pub peer: P,
    requests: SendRequest<Bytes>,
    /// Most streams at once.
    streams: usize,
    state: Rc<State>,
}

#[derive(Debug, Default)]
struct State {
    streams: Cell<usize>,
    ended: Cell<bool>,
    /// A peer that has answered speaks HTTP/2.
    answered: Cell<bool>,
    /// When it stops taking new streams.
    ends: Cell<Option<Instant>>,
    load: Load,
}

/// Why a CONNECT did not become a stream.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It ended before its peer has answered anything.
    #[error("the peer speaks no HTTP/2: {0}")]
    NotHttp2(h2::Error),
    /// The peer never saw the request; another tunnel may take it.
    #[error("the tunnel is going away: {0}")]
    GoingAway(h2::Error),
    #[error("the tunnel failed: {0}")]
    Broken(#[from] h2::Error),
    #[error("the peer did not answer the CONNECT within {} seconds", ANSWER_LIMIT.as_secs())]
    Unanswered,
    /// The peer answered with something else than 200; 401 is a denial by policy.
    #[error("http status: {}", .0.as_u16())]
    Status(StatusCode),
}

/// How long the answer to a CONNECT may take; the peer has 10 s for its own connect.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// Starts HTTP/2 on `io`, which is past its TLS handshake. The returned future drives the connection and must be
/// spawned; it ends when the connection does. Dropped, it ends the connection.
pub async fn start<T, P>(
    io: T,
    peer: P,
    settings: &Settings,
) -> Result<(Tunnel<P>, impl Future<Output = Result<(), h2::Error>> + use<T, P>), h2::Error>
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (requests, connection) = builder(settings).handshake::<_, Bytes>(io).await?;
    let state = Rc::new(State::default());
    let tunnel = Tunnel { peer, requests, streams: settings.streams, state: Rc::clone(&state) };
    Ok((tunnel, drive(connection, state)))
}

fn builder(settings: &Settings) -> Builder {
    let mut builder = Builder::new();
    builder
        .initial_window_size(settings.stream_window)
        .initial_connection_window_size(settings.connection_window)
        .max_frame_size(settings.frame_size)
        .max_header_list_size(CLIENT_HEADER_LIST)
        .initial_max_send_streams(settings.streams)
        .max_send_buffer_size(SEND_BUFFER)
        .data_frame_budget(DATA_FRAME_BUDGET)
        .max_concurrent_reset_streams(REMEMBERED_RESETS)
        .max_local_error_reset_streams(None)
        .enable_push(false);
    builder
}

async fn drive<T>(mut connection: Connection<T, Bytes>, state: Rc<State>) -> Result<(), h2::Error>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    // Also when whoever runs this stops doing so.
    let _end = End(state);
    let pings = keep_alive(connection.ping_pong());
    tokio::select! {
        result = connection => result,
        () = pings => Ok(()),
    }
}

/// Takes a tunnel out of use when its connection is dropped.
struct End(Rc<State>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.ended.set(true);
    }
}

impl<P> Tunnel<P> {
    /// Whether a new stream may be opened on it.
    pub fn usable(&self) -> bool {
        self.lasts() && self.state.streams.get() < self.cap()
    }

    /// Whether whoever is new would wait behind what others send, or are sent.
    pub fn laden(&self) -> bool {
        self.state.load.is_heavy()
    }

    /// No new streams from then on: the proof that it rests on ends.
    pub fn end_at(&self, ends: Instant) {
        self.state.ends.set(Some(ends));
    }

    /// Whether it may ever take a stream again.
    pub fn lasts(&self) -> bool {
        !self.state.ended.get() && self.state.ends.get().is_none_or(|ends| Instant::now() < ends)
    }

    /// As if much had been carried.
    #[cfg(test)]
    pub(super) fn lade(&self) {
        (0..2).for_each(|_| self.state.load.add(4 << 20));
    }

    /// Whether the connection is gone.
    pub fn ended(&self) -> bool {
        self.state.ended.get()
    }

    /// Takes the tunnel out of use for new streams.
    pub fn abandon(&self) {
        self.state.ended.set(true);
    }

    /// Streams open now.
    pub fn streams(&self) -> usize {
        self.state.streams.get()
    }

    fn failed(&self, error: h2::Error, kind: fn(h2::Error) -> OpenError) -> OpenError {
        let foreign = !self.state.answered.get() && !error.is_remote() && !error.is_io();
        if foreign { OpenError::NotHttp2(error) } else { kind(error) }
    }

    fn cap(&self) -> usize {
        self.requests.current_max_send_streams().min(self.streams)
    }

    /// Sends a CONNECT and waits for its answer. The stream counts until its sender is dropped.
    pub async fn open(&self, request: Request<()>) -> Result<(Stream, HeaderMap), OpenError> {
        let slot = Slot::take(&self.state);
        let before_sending = |error| self.failed(error, OpenError::GoingAway);
        let mut requests = self.requests.clone().ready().await.map_err(before_sending)?;
        let (response, send) = requests.send_request(request, false).map_err(before_sending)?;
        let response = tokio::time::timeout(ANSWER_LIMIT, response).await.map_err(|_| OpenError::Unanswered)?;
        let response = response.map_err(|error| {
            let kind = if never_processed(&error) { OpenError::GoingAway } else { OpenError::Broken };
            self.failed(error, kind)
        })?;
        self.state.answered.set(true);
        let (head, receive) = response.into_parts();
        if head.status != StatusCode::OK {
            return Err(OpenError::Status(head.status));
        }
        let carried = Carried(Rc::clone(&self.state));
        Ok((Stream::new((send, Some(slot)), (receive, Some(carried))), head.headers))
    }
}

/// RFC 9113, sections 6.8 and 8.7: a refused stream, or one past the last id of a GOAWAY, was not processed.
fn never_processed(error: &h2::Error) -> bool {
    error.reason() == Some(h2::Reason::REFUSED_STREAM) || (error.is_go_away() && error.is_remote())
}

/// One stream's place on its tunnel.
#[derive(Debug)]
pub(super) struct Slot {
    state: Rc<State>,
}

impl Slot {
    fn take(state: &Rc<State>) -> Self {
        state.streams.set(state.streams.get() + 1);
        Self { state: Rc::clone(state) }
    }

    pub(super) fn carried(&self, bytes: usize) {
        self.state.load.add(bytes);
    }
}

/// Where a tunnel's received bytes are counted.
#[derive(Debug)]
pub(super) struct Carried(Rc<State>);

impl Carried {
    pub(super) fn add(&self, bytes: usize) {
        self.0.load.add(bytes);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.state.streams.set(self.state.streams.get() - 1);
    }
}
