//! The server end of a tunnel: takes CONNECT streams until the client leaves or the pod does.

use std::future::{pending, poll_fn};

use bytes::Bytes;
use h2::server::{Builder, Connection, SendResponse};
use h2::{PingPong, Reason, RecvStream};
use http::{HeaderValue, Request, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::head::{Authority, BadHead};
use super::stream::Stream;
use super::{
    DATA_FRAME_BUDGET, PING_INTERVAL, PING_TIMEOUT, REMEMBERED_RESETS, SEND_BUFFER, SERVER_HEADER_LIST,
    SERVER_MAX_STREAMS, Settings,
};

/// A CONNECT that waits for its answer. Dropped without one, it is answered by a reset.
#[derive(Debug)]
pub struct Incoming {
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
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
        Ok(Stream::new((send, None), (self.request.into_body(), None)))
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

/// Serves one connection: `on_stream` gets each CONNECT and must not block. When `leaving` is cancelled the client is told
/// to go elsewhere (GOAWAY) and the connection ends with its last stream.
pub async fn serve<T>(
    mut connection: Started<T>,
    leaving: CancellationToken,
    mut on_stream: impl FnMut(Incoming),
) -> Result<(), h2::Error>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut pings = std::pin::pin!(keep_alive(connection.ping_pong()));
    let mut told = false;
    loop {
        let accepted = tokio::select! {
            accepted = connection.accept() => accepted,
            () = leaving.cancelled(), if !told => {
                told = true;
                connection.graceful_shutdown();
                continue;
            }
            () = &mut pings => {
                connection.abrupt_shutdown(Reason::NO_ERROR);
                return Ok(());
            }
        };
        match accepted {
            Some(Ok((request, respond))) => on_stream(Incoming { request, respond }),
            Some(Err(error)) => return Err(error),
            None => return Ok(()),
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
