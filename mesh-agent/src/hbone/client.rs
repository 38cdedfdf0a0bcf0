//! The client end of a tunnel: one HTTP/2 connection, many CONNECT streams.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::{Builder, Connection, SendRequest};
use http::{HeaderMap, Request, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};

use super::load::Load;
use super::stream::Stream;
use super::{CLIENT_HEADER_LIST, DATA_FRAME_BUDGET, REMEMBERED_RESETS, SEND_BUFFER, Settings, server::keep_alive};
use crate::task::{Errand, Lane, Place};

/// An open tunnel. It stays usable until [`Tunnel::usable`] says otherwise; streams outlive that. `P` is what the caller
/// knows of the peer.
#[derive(Debug)]
pub struct Tunnel<P> {
    pub peer: P,
    requests: SendRequest<Bytes>,
    /// Most streams at once.
    streams: usize,
    /// When it stops taking new streams.
    ends: Cell<Option<Instant>>,
    state: Arc<State>,
}

/// Read on the shard of the tunnel; some of its streams are on the lane.
#[derive(Debug, Default)]
struct State {
    streams: AtomicUsize,
    ended: AtomicBool,
    /// A peer that has answered speaks HTTP/2.
    answered: AtomicBool,
    load: Arc<Load>,
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

/// What drives a tunnel's connection.
#[derive(Debug)]
pub struct Driver<T>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    connection: Connection<T, Bytes>,
    state: Arc<State>,
}

/// Starts HTTP/2 on `io`, which is past its TLS handshake.
pub async fn start<T, P>(io: T, peer: P, settings: &Settings) -> Result<(Tunnel<P>, Driver<T>), h2::Error>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (requests, connection) = builder(settings).handshake::<_, Bytes>(io).await?;
    let state = Arc::new(State::default());
    let tunnel = Tunnel { peer, requests, streams: settings.streams, ends: Cell::new(None), state: Arc::clone(&state) };
    Ok((tunnel, Driver { connection, state }))
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

impl<T> Driver<T>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    /// Drives the connection, here or on the lane; ends when the connection does. Given up, it ends the connection.
    pub async fn run(mut self, lane: &Lane) -> Result<(), h2::Error> {
        let _end = End(Arc::clone(&self.state));
        let pings = keep_alive(self.connection.ping_pong());
        tokio::select! {
            result = lane.run(Box::new(self), || ()) => result,
            () = pings => Ok(()),
        }
    }
}

impl<T> Errand for Driver<T>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Outcome = Result<(), h2::Error>;

    async fn go_on(&mut self, place: Place) -> Option<Self::Outcome> {
        tokio::select! {
            biased;
            () = self.state.load.calls_away_from(place) => None,
            result = &mut self.connection => Some(result),
        }
    }
}

/// Takes a tunnel out of use when its connection is dropped.
struct End(Arc<State>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.ended.store(true, Relaxed);
    }
}

impl<P> Tunnel<P> {
    /// Whether a new stream may be opened on it.
    pub fn usable(&self) -> bool {
        self.lasts() && self.state.streams.load(Relaxed) < self.cap()
    }

    /// Whether whoever is new would wait behind what others send, or are sent.
    pub fn laden(&self) -> bool {
        self.state.load.is_heavy()
    }

    /// No new streams from then on: the proof that it rests on ends.
    pub fn end_at(&self, ends: Instant) {
        self.ends.set(Some(ends));
    }

    /// Whether it may ever take a stream again.
    pub fn lasts(&self) -> bool {
        !self.state.ended.load(Relaxed) && self.ends.get().is_none_or(|ends| Instant::now() < ends)
    }

    /// As if much had been carried.
    #[cfg(test)]
    pub(super) fn lade(&self) {
        (0..2).for_each(|_| self.state.load.add(4 << 20));
    }

    /// Whether the connection is gone.
    pub fn ended(&self) -> bool {
        self.state.ended.load(Relaxed)
    }

    /// Takes the tunnel out of use for new streams.
    pub fn abandon(&self) {
        self.state.ended.store(true, Relaxed);
    }

    /// Streams open now.
    pub fn streams(&self) -> usize {
        self.state.streams.load(Relaxed)
    }

    fn failed(&self, error: h2::Error, kind: fn(h2::Error) -> OpenError) -> OpenError {
        let foreign = !self.state.answered.load(Relaxed) && !error.is_remote() && !error.is_io();
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
        self.state.answered.store(true, Relaxed);
        let (head, receive) = response.into_parts();
        if head.status != StatusCode::OK {
            return Err(OpenError::Status(head.status));
        }
        Ok((Stream::new(send, receive, &self.state.load, Some(slot)), head.headers))
    }
}

/// RFC 9113, sections 6.8 and 8.7: a refused stream, or one past the last id of a GOAWAY, was not processed.
fn never_processed(error: &h2::Error) -> bool {
    error.reason() == Some(h2::Reason::REFUSED_STREAM) || (error.is_go_away() && error.is_remote())
}

/// One stream's place on its tunnel.
#[derive(Debug)]
pub(super) struct Slot {
    state: Arc<State>,
}

impl Slot {
    fn take(state: &Arc<State>) -> Self {
        state.streams.fetch_add(1, Relaxed);
        Self { state: Arc::clone(state) }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.state.streams.fetch_sub(1, Relaxed);
    }
}
