//! DNS over TCP: many queries on one connection, each after its length, answered as the answers come (RFC 7766).

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::codec::{Framed, LengthDelimitedCodec};
use tokio_util::sync::CancellationToken;

use super::lookup::Directory;
use super::pod::{Pod, Step};
use super::query::Transport;
use super::server::Life;

/// How long a client may take for its next query, and for taking an answer.
const REQUEST: Duration = Duration::from_secs(5);

/// Queries of one connection that may wait for their answers; more are read when there are less.
const PIPELINE: usize = 16;

/// Connections of one pod at once, on one shard; more are closed.
const MOST_CONNECTIONS: usize = 256;

/// How long to wait when no connection can be accepted.
const EXHAUSTED: Duration = Duration::from_millis(50);

/// Accepts until the pod's life ends.
pub(super) async fn serve<D: Directory + 'static>(pod: Rc<Pod<D>>, listener: TcpListener, life: Life) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = life.stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
                let (pod, life) = (Rc::clone(&pod), life.clone());
                life.tasks.clone().spawn_local(async move {
                    let _place = place;
                    let conversation = connection(&pod, stream, &life.stop);
                    // How it ended is the client's business.
                    drop(life.cut.run_until_cancelled(conversation).await);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "accepting DNS over TCP failed");
                tokio::time::sleep(EXHAUSTED).await;
            }
        }
    }
}

async fn connection<D: Directory>(pod: &Pod<D>, stream: TcpStream, stop: &CancellationToken) -> io::Result<()> {
    // With transparent capture the socket's own address is the one that the client wanted.
    let local = stream.local_addr()?;
    let to = SocketAddr::new(local.ip().to_canonical(), local.port());
    if !Pod::<D>::serves(to) {
        return Ok(());
    }
    converse(pod, stream, to, stop).await
}

/// Answers queries until the client has no more, or takes too long.
async fn converse<D: Directory>(
    pod: &Pod<D>,
    stream: impl AsyncRead + AsyncWrite + Unpin,
    to: SocketAddr,
    stop: &CancellationToken,
) -> io::Result<()> {
    let codec =
        LengthDelimitedCodec::builder().length_field_type::<u16>().max_frame_length(usize::from(u16::MAX)).new_codec();
    let mut frames = Framed::new(stream, codec);
    let mut waiting = FuturesUnordered::new();
    let mut reading = true;
    while reading || !waiting.is_empty() {
        let answer = tokio::select! {
            Some(answer) = waiting.next() => answer,
            query = timeout(REQUEST, frames.next()), if reading && waiting.len() < PIPELINE => match query {
                Ok(Some(Ok(query))) => match pod.begin(&query, Transport::Tcp, to) {
                    Step::Answer(answer) => Some(answer),
                    Step::Silence => None,
                    Step::Later(pending) => {
                        waiting.push(pod.finish(pending));
                        None
                    }
                },
                // The end, half a message, or nothing for too long.
                Ok(None | Some(Err(_))) | Err(_) => {
                    reading = false;
                    None
                }
            },
            () = stop.cancelled(), if reading => {
                reading = false;
                None
            }
        };
        if let Some(answer) = answer {
            timeout(REQUEST, frames.send(Bytes::from(answer))).await??;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
