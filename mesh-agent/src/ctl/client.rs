//! One HTTP request over the admin socket, and what to tell a person when there is no answer.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::PATIENCE;

/// The longest document that is read, in bytes: some hundred thousand flows.
const LONGEST: usize = 256 << 20;

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
pub(super) enum CtlError {
    #[error("no agent runs with this socket: {} does not exist{hint}", path.display())]
    NoSocket { path: PathBuf, hint: String },
    #[error("nobody answers on {}: the agent that made it is gone", .0.display())]
    Gone(PathBuf),
    #[error("{} may only be used by the user that the agent runs as; try again as root", .0.display())]
    Forbidden(PathBuf),
    #[error("cannot use {}: {cause}", path.display())]
    Socket { path: PathBuf, cause: io::Error },
    #[error("the agent did not answer within {} seconds; it may be overloaded or stopped", PATIENCE.as_secs())]
    Silent,
    #[error("the agent broke off: {0}")]
    Http(#[from] hyper::Error),
    #[error("the agent's answer cannot be read: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    #[error("the agent refuses ({status}): {text}")]
    Refused { status: StatusCode, text: String },
    #[error("the agent's document has another form; are ctl and the agent of the same version? ({0})")]
    Document(serde_json::Error),
    #[error("bad request: {0}")]
    Request(#[from] http::Error),
    #[error("cannot write the output: {0}")]
    Output(io::Error),
    #[error("{0}")]
    Arguments(String),
    #[error("{wrong} of {all} findings {} wrong", if *wrong == 1 { "is" } else { "are" })]
    Wrong { wrong: usize, all: usize },
}

/// The admin socket of one agent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Socket<'a> {
    path: &'a Path,
}

impl<'a> Socket<'a> {
    pub(super) fn new(path: &'a Path) -> Self {
        Self { path }
    }

    pub(super) async fn get<D: DeserializeOwned>(&self, page: &str) -> Result<D, CtlError> {
        self.request(Method::GET, page).await
    }

    pub(super) async fn post<D: DeserializeOwned>(&self, page: &str) -> Result<D, CtlError> {
        self.request(Method::POST, page).await
    }

    async fn request<D: DeserializeOwned>(&self, method: Method, page: &str) -> Result<D, CtlError> {
        let request = Request::builder().method(method).uri(page).header("host", "mesh-agent").body(Empty::new())?;
        let body = tokio::time::timeout(PATIENCE, self.exchange(request)).await.map_err(|_| CtlError::Silent)??;
        serde_json::from_slice(&body).map_err(CtlError::Document)
    }

    async fn exchange(&self, request: Request<Empty<Bytes>>) -> Result<Bytes, CtlError> {
        let stream = UnixStream::connect(self.path).await.map_err(|cause| self.unreachable(cause))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let answer = async {
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), LONGEST).collect().await.map_err(CtlError::Body)?.to_bytes();
            // The connection ends when its sender does.
            drop(sender);
            match status {
                StatusCode::OK => Ok(body),
                _ => Err(CtlError::Refused { status, text: String::from_utf8_lossy(&body).into_owned() }),
            }
        };
        let (answer, _) = tokio::join!(answer, connection);
        answer
    }

    fn unreachable(&self, cause: io::Error) -> CtlError {
        let path = self.path.to_owned();
        #[expect(clippy::wildcard_enum_match_arm, reason = "an open set; these have a likely cause")]
        match cause.kind() {
            io::ErrorKind::NotFound => CtlError::NoSocket { hint: others(self.path), path },
            io::ErrorKind::ConnectionRefused => CtlError::Gone(path),
            io::ErrorKind::PermissionDenied => CtlError::Forbidden(path),
            _ => CtlError::Socket { path, cause },
        }
    }
}

/// Names the sockets of agents whose `run_dir` is one below: the likely mistake on a machine with several nodes.
fn others(path: &Path) -> String {
    let Some((directory, name)) = path.parent().zip(path.file_name()) else {
        return String::new();
    };
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries.map(|entry| entry.path().join(name)).filter(|path| path.exists()).collect();
    found.sort();
    let found: Vec<_> = found.iter().map(|path| format!("--socket {}", path.display())).collect();
    if found.is_empty() { String::new() } else { format!("; there is {}", found.join(" and ")) }
}

/// Encodes a value for a query.
pub(super) fn encode(value: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b',' | b'=' | b':' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    value.bytes().map(byte).collect()
}
