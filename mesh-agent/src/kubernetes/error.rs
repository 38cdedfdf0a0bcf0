//! What goes wrong with the API server, in sentences that name the likely cause.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use hyper_util::client::legacy;
use kube::core::Status;
use kube::runtime::watcher;
use rustls::CertificateError;

use super::Settings;
use super::connect::LIMIT;
use super::connector::Unconnected;
use crate::telemetry::causes::with_sources;

/// As much of a server's message as is told, in bytes.
const MESSAGE: usize = 400;

/// What was asked of the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Action {
    /// As permissions name it.
    pub verb: &'static str,
    pub resource: &'static str,
}

/// What is wrong with a file of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadFile {
    #[error("{}: {cause}", path.display())]
    Unreadable { path: PathBuf, cause: String },
    #[error("{} has no certificate in it", .0.display())]
    NoRoot(PathBuf),
    #[error("the token in {} is not printable text", .0.display())]
    Token(PathBuf),
}

/// Why the API server did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("{0:?} is no address of an API server: expected https://host:port")]
    Address(String),
    #[error(transparent)]
    File(#[from] BadFile),
    #[error("cannot reach the API server at {address}: {cause}{hint}")]
    Unreachable { address: String, cause: String, hint: &'static str },
    #[error("the API server at {address} shows a certificate that {} does not vouch for: {cause}{hint}", root.display())]
    Untrusted { address: String, root: PathBuf, cause: String, hint: &'static str },
    #[error("the API server at {address} did not answer within {LIMIT:?}; it may be overloaded")]
    Silent { address: String },
    #[error("the connection to the API server broke: {0}")]
    Broken(String),
    #[error(
        "the API server does not accept the token in {} (401: {message}); it may have expired, or be of another cluster",
        token.display()
    )]
    Unauthorized { token: PathBuf, message: String },
    #[error("the service account may not {action}: see deploy/kubernetes for its permissions (403: {message})")]
    Forbidden { action: Action, message: String },
    #[error(
        "there is nothing to {action} at {address} (404: {message}); maybe no API server of Kubernetes answers there"
    )]
    NotFound { action: Action, address: String, message: String },
    #[error("the API server refuses to {action} ({code}: {message})")]
    Refused { action: Action, code: u16, message: String },
    #[error("the API server's answer cannot be read: {0}")]
    Answer(String),
}

impl BadFile {
    pub(super) fn unreadable(path: &Path, cause: &io::Error) -> Self {
        Self::Unreadable { path: path.to_owned(), cause: cause.to_string() }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)
    }
}

impl ApiError {
    /// What the library says went wrong with `action`.
    pub(super) fn of(error: kube::Error, action: Action, settings: &Settings) -> Self {
        #[expect(clippy::wildcard_enum_match_arm, reason = "the others are of what the agent does not use")]
        match error {
            kube::Error::Api(status) => Self::of_status(&status, action, settings),
            // What our own service says comes back as it was.
            kube::Error::Service(error) => match error.downcast::<Self>() {
                Ok(error) => *error,
                Err(error) => Self::broken(&*error),
            },
            kube::Error::HyperError(error) => Self::broken(&error),
            kube::Error::ReadEvents(error) => Self::broken(&error),
            other => Self::Answer(whole(&other)),
        }
    }

    /// What the library says went wrong while it watched `resource`.
    pub(super) fn of_watch(error: watcher::Error, resource: &'static str, settings: &Settings) -> Self {
        let (list, watch) = (Action { verb: "list", resource }, Action { verb: "watch", resource });
        match error {
            watcher::Error::InitialListFailed(error) => Self::of(error, list, settings),
            watcher::Error::WatchStartFailed(error) | watcher::Error::WatchFailed(error) => {
                Self::of(error, watch, settings)
            }
            watcher::Error::WatchError(status) => Self::of_status(&status, watch, settings),
            watcher::Error::NoResourceVersion => Self::Answer(format!("{resource} without a resourceVersion")),
        }
    }

    /// What is above the cause says only where it came through.
    pub(super) fn broken(error: &(dyn Error + 'static)) -> Self {
        let mut cause = error;
        loop {
            let io = cause.downcast_ref().or_else(|| cause.downcast_ref::<h2::Error>().and_then(h2::Error::get_io));
            if io.is_some_and(|error: &io::Error| without_a_word(error.kind())) {
                return Self::Broken("it ended without a word, maybe the API server is restarting".to_owned());
            }
            let Some(deeper) = cause.source() else { return Self::Broken(cut(&cause.to_string())) };
            cause = deeper;
        }
    }

    fn of_status(status: &Status, action: Action, settings: &Settings) -> Self {
        let message = cut(if status.message.is_empty() { &status.reason } else { &status.message });
        match status.code {
            401 => Self::Unauthorized { token: settings.token.clone(), message },
            403 => Self::Forbidden { action, message },
            404 => Self::NotFound { action, address: settings.address.clone(), message },
            code => Self::Refused { action, code, message },
        }
    }

    /// Why there is no connection, or why it broke.
    pub(super) fn of_http(error: &legacy::Error, settings: &Settings) -> Self {
        let address = || settings.address.clone();
        match find::<Unconnected>(error) {
            Some(Unconnected::File(bad)) => Self::File(bad.clone()),
            Some(Unconnected::Tls(cause)) if certificate(cause).is_some() => Self::Untrusted {
                address: address(),
                root: settings.root.clone(),
                cause: cause.to_string(),
                hint: certificate(cause).map_or("", of_certificate),
            },
            Some(cause) => Self::Unreachable { address: address(), cause: whole(cause), hint: of_connection(cause) },
            None if error.is_connect() => Self::Unreachable { address: address(), cause: whole(error), hint: "" },
            None => Self::broken(error),
        }
    }
}

/// Whether the API server no longer has the history that a watch was to go on with.
pub(super) fn is_gone(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchError(status) => status.code == 410,
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.code == 410,
        watcher::Error::WatchStartFailed(_)
        | watcher::Error::InitialListFailed(_)
        | watcher::Error::WatchFailed(_)
        | watcher::Error::NoResourceVersion => false,
    }
}

/// The error or one of its sources, if it is of this type.
fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// What is wrong with the server's certificate, if that is what failed.
fn certificate(error: &io::Error) -> Option<&CertificateError> {
    let tls = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    if let rustls::Error::InvalidCertificate(cause) = tls { Some(cause) } else { None }
}

/// Also a server that no longer answers pings ends so.
fn without_a_word(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

fn of_certificate(error: &CertificateError) -> &'static str {
    #[expect(clippy::wildcard_enum_match_arm, reason = "only some have a likely cause")]
    match error {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => "; maybe the file is of another cluster",
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "; maybe another server answers there, or the API server is known by another name"
        }
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => "; maybe this node's clock is wrong",
        _ => "",
    }
}

fn of_connection(error: &Unconnected) -> &'static str {
    if let Unconnected::Tls(_) = error {
        return "; maybe that port speaks no TLS 1.3";
    }
    if whole(error).contains("dns error") {
        return "; a pod that uses the node's own network looks names up as the node does, unless its dnsPolicy is \
                ClusterFirstWithHostNet";
    }
    match find::<io::Error>(error).map(io::Error::kind) {
        Some(io::ErrorKind::ConnectionRefused) => "; nothing listens there, maybe the API server is restarting",
        Some(io::ErrorKind::TimedOut) => "; maybe packets to it are dropped on the way",
        _ => "",
    }
}

/// All that an error says, as far as a reader wants it.
fn whole(error: &dyn Error) -> String {
    cut(&with_sources(error.to_string(), error))
}

/// At most [`MESSAGE`] bytes, whole characters.
fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(MESSAGE)].to_owned()
}
