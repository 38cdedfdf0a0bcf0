//! The accept loop.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::model::addr::canonical;
use crate::task::Tasks;

/// How long to wait when the process has no descriptors left.
const EXHAUSTED: Duration = Duration::from_millis(50);

/// Accepts on `listener` and runs `serve` for each connection on this shard, until `stop`.
pub(super) async fn accept<F>(
    listener: Rc<TcpListener>,
    tasks: Tasks,
    stop: CancellationToken,
    serve: impl Fn(TcpStream, SocketAddr) -> F,
) where
    F: Future<Output = ()> + 'static,
{
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, peer)) => tasks.spawn_local(serve(stream, canonical(peer))),
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "accept failed, maybe the limit of open files is reached");
                tokio::time::sleep(EXHAUSTED).await;
            }
        }
    }
}

/// Errors of the connection that was being accepted, not of the listener (accept(2), "Error handling").
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}
