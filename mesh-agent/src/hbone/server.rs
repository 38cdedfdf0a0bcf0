//! The server end of a tunnel: takes CONNECT streams until the client leaves or the pod does.

use std::fmt;
use std::future::{pending, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;

use bytes::Bytes;
use h2::server::{Builder, Connection, SendResponse};
use h2::{PingPong, Reason, RecvStream};
use http::{HeaderValue, Request, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::head::{Authority, BadHead};
use super::load::Load;
use super::stream::Stream;
use super::{
    DATA_FRAME_BUDGET, PING_INTERVAL, PING_TIMEOUT, REMEMBERED_RESETS, SEND_BUFFER, SERVER_HEADER_LIST,
    SERVER_MAX_STREAMS, Settings,
};
use crate::task::{Errand, Lane, Place};

/// A CONNECT that waits for its answer. Dropped without one, it is answered by a reset.
#[derive(Debug)]
pub struct Incoming {
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    /// Of its tunnel.
    load: Arc<Load>,
}

impl Incoming {
    /// What is asked for.
    pub fn authority(&self) -> Result<Authority, BadHead> {
        Authority::of(&self.request)
    }

    pub fn headers(&self) -> &http::HeaderMap {
        self.request.headers()
    }

    /// Ready when the client has given up before it got an answer.
    pub async fn abandoned(&mut self) {
        // Whatever the reason or error, nobody waits any more.
        poll_fn(|cx| self.respond.poll_reset(cx)).await.ok();
    }

    /// Answers 200 and hands over the stream. `baggage` describes this end.
    pub fn accept(mut self, baggage: Option<HeaderValue>) -> Result<Stream, h2::Error> {
        let mut response = Response::new(());
        if let Some(baggage) = baggage {
            response.headers_mut().insert("baggage", baggage);
        }
        let send = self.respond.send_response(response, false)?;
        Ok(Stream::new(send, self.request.into_body(), &self.load, None))
    }

    /// Answers with an error status, without a body.
    pub fn refuse(mut self, status: StatusCode) {
        let mut response = Response::new(());
        *response.status_mut() = status;
        // The peer may be gone already; there is nobody else to tell.
        self.respond.send_response(response, true).ok();
    }
}

/// A connection whose client has said its HTTP/2 preface.
pub type Started<T> = Connection<T, Bytes>;

/// Starts HTTP/2 on `io`, which is past its TLS handshake; waits for the client's preface.
pub async fn start<T: AsyncRead + AsyncWrite + Unpin>(io: T, settings: &Settings) -> Result<Started<T>, h2::Error> {
    builder(settings).handshake(io).await
}

/// Serves one connection, here or on the lane: `on_stream` gets each CONNECT, always here, and must not block. When `leaving`
/// is cancelled the client is told to go elsewhere (GOAWAY) and the connection ends with its last stream.
pub async fn serve<T>(
    mut connection: Started<T>,
    leaving: CancellationToken,
    lane: &Lane,
    mut on_stream: impl FnMut(Incoming),
) -> Result<(), h2::Error>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (streams, mut taken) = mpsc::unbounded_channel();
    let pings = Box::pin(keep_alive(connection.ping_pong()));
    let serving = Serving { connection, pings, leaving, told: false, load: Arc::default(), streams };
    let mut serving = pin!(lane.run(Box::new(serving), || ()));
    loop {
        tokio::select! {
            biased;
            result = &mut serving => {
                // A stream that came last is answered, if only by an end.
                while let Ok(incoming) = taken.try_recv() {
                    on_stream(incoming);
                }
                return result;
            }
            Some(incoming) = taken.recv() => on_stream(incoming),
        }
    }
}

/// One connection at work.
struct Serving<T> {
    connection: Started<T>,
    pings: Pin<Box<dyn Future<Output = ()> + Send>>,
    leaving: CancellationToken,
    /// Whether the client knows that it should go elsewhere.
    told: bool,
    load: Arc<Load>,
    streams: mpsc::UnboundedSender<Incoming>,
}

impl<T> fmt::Debug for Serving<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serving").field("told", &self.told).finish_non_exhaustive()
    }
}

impl<T> Errand for Serving<T>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Outcome = Result<(), h2::Error>;

    async fn go_on(&mut self, place: Place) -> Option<Self::Outcome> {
        let Self { connection, pings, leaving, told, load, streams } = self;
        let mut called = pin!(load.calls_away_from(place));
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut called => return None,
                () = leaving.cancelled(), if !*told => {
                    *told = true;
                    connection.graceful_shutdown();
                    continue;
                }
                accepted = connection.accept() => accepted,
                () = pings.as_mut() => {
                    connection.abrupt_shutdown(Reason::NO_ERROR);
                    return Some(Ok(()));
                }
            };
            match accepted {
                Some(Ok((request, respond))) => {
                    // Nobody takes it any more: it is reset.
                    streams.send(Incoming { request, respond, load: Arc::clone(load) }).ok();
                }
                Some(Err(error)) => return Some(Err(error)),
                None => return Some(Ok(())),
            }
        }
    }
}

fn builder(settings: &Settings) -> Builder {
    let mut builder = Builder::new();
    builder
        .initial_window_size(settings.stream_window)
        .initial_connection_window_size(settings.connection_window)
        .max_frame_size(settings.frame_size)
        .max_header_list_size(SERVER_HEADER_LIST)
        .max_concurrent_streams(SERVER_MAX_STREAMS)
        .max_send_buffer_size(SEND_BUFFER)
        .data_frame_budget(DATA_FRAME_BUDGET)
        .max_concurrent_reset_streams(REMEMBERED_RESETS)
        .max_local_error_reset_streams(None)
        .max_pending_accept_reset_streams(SERVER_MAX_STREAMS as usize);
    builder
}

/// Pings the peer for as long as it answers; ends when it does not.
pub(super) async fn keep_alive(pings: Option<PingPong>) {
    let Some(mut pings) = pings else { return pending().await };
    loop {
        tokio::time::sleep(PING_INTERVAL).await;
        let answer = tokio::time::timeout(PING_TIMEOUT, pings.ping(h2::Ping::opaque())).await;
        if !matches!(answer, Ok(Ok(_))) {
            return;
        }
    }
}
