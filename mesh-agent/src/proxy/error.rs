//! Why a connection failed: on which side, and what kind of failure, with one classification for metrics.

use std::io;
use std::rc::Rc;

use super::copy::Broken;
use super::record::{Flag, Outcome};
use crate::hbone::Http2Error;
use crate::hbone::client::OpenError;
use crate::hbone::head::BadHead;
use crate::identity::{CertError, TlsFailure, TlsKind};
use crate::model::{Denied, NoRoute};
use crate::xds::NotAnswered;

/// A failed connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("{0} is a port of the agent itself")]
    SelfCall(std::net::SocketAddr),
    #[error("the pod's own workload is not in the configuration")]
    UnknownWorkload,
    #[error(transparent)]
    NoRoute(#[from] NoRoute),
    #[error("asking for {key}: {cause}")]
    NotAnswered { key: String, cause: NotAnswered },
    #[error("looking up {host}: {cause}")]
    Name { host: std::sync::Arc<str>, cause: io::Error },
    #[error(transparent)]
    Certificate(#[from] CertError),
    #[error("cannot connect to {to}: {cause}{hint}")]
    Connect { to: std::net::SocketAddr, cause: io::Error, hint: &'static str },
    #[error("connecting to {to} timed out{hint}")]
    ConnectTimeout { to: std::net::SocketAddr, hint: &'static str },
    #[error("tls: {0}")]
    Tls(TlsFailure),
    #[error("http2: {0}")]
    Http2(Http2Error),
    /// A dial that several connections waited for.
    #[error(transparent)]
    Dial(Rc<Error>),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Head(#[from] BadHead),
    #[error("CONNECT to {0}, which is not an address of this pod")]
    ForeignTarget(String),
    #[error("no service {0} with that port on this workload")]
    UnknownService(String),
    #[error("{0} has no virtual address that a PROXY header could name")]
    NoProxyDestination(String),
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error("closed by a policy change: {0}")]
    Revoked(Denied),
    /// While it was open.
    #[error("closed by a revocation: the peer's certificate was revoked by its authority")]
    PeerRevoked,
    #[error(transparent)]
    Broken(#[from] Broken),
    #[error(transparent)]
    Http(#[from] http::Error),
    /// Of the destination, which is a pod of this node.
    #[error("the destination refused it: {0}")]
    Declined(String),
    #[error("the peer gave up before the application was reached")]
    Abandoned,
    #[error("the agent is shutting down")]
    Cut,
}

/// What a connection to another node's HBONE port that never answers most likely means.
pub(super) const HBONE_HINT: &str = ", maybe a NetworkPolicy or firewall blocks HBONE port 15008";

impl Error {
    fn flag(&self) -> Flag {
        match self {
            Self::Denied(_) | Self::Revoked(_) => Flag::Deny,
            Self::Certificate(_) => Flag::Identity,
            Self::PeerRevoked => Flag::CertRevoked,
            Self::Tls(failure) if failure.kind == TlsKind::Revoked => Flag::CertRevoked,
            Self::Tls(_) => Flag::TlsFailure,
            Self::Http2(_) | Self::Open(OpenError::NotHttp2(_)) => Flag::H2Handshake,
            Self::ConnectTimeout { hint, .. } if !hint.is_empty() => Flag::NetworkPolicy,
            Self::Dial(inner) => inner.flag(),
            Self::SelfCall(_)
            | Self::UnknownWorkload
            | Self::NoRoute(_)
            | Self::Name { .. }
            | Self::NotAnswered { .. }
            | Self::NoProxyDestination(_)
            | Self::Connect { .. }
            | Self::ConnectTimeout { .. }
            | Self::Open(_)
            | Self::Head(_)
            | Self::ForeignTarget(_)
            | Self::UnknownService(_)
            | Self::Broken(_)
            | Self::Http(_)
            | Self::Declined(_)
            | Self::Abandoned
            | Self::Cut => Flag::Connect,
        }
    }
}

/// The outcome that the record of a connection ends with.
pub(super) fn outcome(result: &Result<(), Error>) -> Outcome {
    match result {
        Ok(()) => Outcome { flag: Flag::None, error: None },
        Err(error) => Outcome { flag: error.flag(), error: Some(error.to_string()) },
    }
}
