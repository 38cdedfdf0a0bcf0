//! The agent's end of the plugin's socket: takes questions, and gives each its answer whenever that comes.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::geteuid;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use super::wire::{self, Answer, LONGEST, Request};
use crate::admin::server::{Listener, bind_socket};
use crate::task::Tasks;

/// Connections at a time; others wait to be accepted. A kubelet starts some ten pods at once, a runtime all it finds.
const MOST_CONNECTIONS: usize = 256;
/// Questions that nobody has taken up yet; more wait in their connections.
const WAITING: usize = 16;
/// How long sending a question, or taking its answer, may take.
const TRANSFER: Duration = Duration::from_secs(5);

/// A question of the plugin, to be answered once. When the asker has gone, the reply is closed.
#[derive(Debug)]
pub struct Asked {
    pub request: Request,
    pub reply: oneshot::Sender<Answer>,
}

/// Listens on `socket`, which only root may use, and gives the questions. Ends with `tasks`.
pub fn serve(socket: &Path, tasks: &Tasks) -> io::Result<mpsc::Receiver<Asked>> {
    let Listener::Unix(listener) = bind_socket(socket).map_err(io::Error::other)? else {
        return Err(io::Error::other("a socket in the file system is a Unix socket"));
    };
    let (door, questions) = mpsc::channel(WAITING);
    tasks.spawn(accept(listener, door, tasks.clone()));
    Ok(questions)
}

async fn accept(listener: UnixListener, door: mpsc::Sender<Asked>, tasks: Tasks) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let door = door.clone();
                tasks.spawn(async move {
                    if let Err(error) = converse(stream, &door).await {
                        tracing::debug!(%error, "a question of the CNI plugin ended without an answer");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                // Out of descriptors, or a plugin that left already; neither is a reason to spin or to end.
                tracing::warn!(%error, "connection of the CNI plugin not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// One question and its answer.
async fn converse(stream: UnixStream, door: &mpsc::Sender<Asked>) -> io::Result<()> {
    let peer = stream.peer_cred()?.uid();
    if !trusted(peer) {
        tracing::warn!(
            user = peer,
            "a question on the CNI plugin's socket from another user than root is not answered"
        );
        return Ok(());
    }
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    let mut limited = (&mut stream).take(LONGEST as u64 + 1);
    timeout(TRANSFER, limited.read_until(b'\n', &mut line)).await??;
    let answer = match wire::decode(&line) {
        Ok(request) => match answer(request, door, &mut stream).await {
            Some(answer) => answer,
            None => return Ok(()),
        },
        Err(error) => Answer::Refused(error.to_string()),
    };
    let line = wire::encode(&answer.shortened()).map_err(io::Error::other)?;
    timeout(TRANSFER, stream.write_all(&line)).await?
}

/// The answer, when it comes; none when the asker has gone before.
async fn answer(request: Request, door: &mpsc::Sender<Asked>, stream: &mut BufReader<UnixStream>) -> Option<Answer> {
    let (reply, answer) = oneshot::channel();
    let asked = async {
        door.send(Asked { request, reply }).await.ok()?;
        answer.await.ok()
    };
    // Whoever asks says nothing more; what can be read now is the end.
    tokio::select! {
        answer = asked => Some(answer.unwrap_or_else(|| Answer::Refused("the agent is stopping".to_owned()))),
        _ = stream.fill_buf() => None,
    }
}

/// Root, which is who the agent runs as.
fn trusted(user: u32) -> bool {
    user == 0 || user == geteuid().as_raw()
}

#[cfg(test)]
mod tests;
