//! Opening a stream to istiod: TCP, TLS with the server's certificate only, HTTP/2, the call (protocol note, section 1.1).

use std::error::Error;
use std::future::{Future, poll_fn};
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use rustls::CertificateError;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::Status;
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::codec::EncodeBody;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic_prost::ProstEncoder;

use super::config::{Config, Security};
use super::frames::Messages;
use crate::proto::discovery::DeltaDiscoveryRequest;
use crate::telemetry::causes::with_sources;

const METHOD: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// For TCP, for TLS, and for all of it with the look-up of the name.
const CONNECT: Duration = Duration::from_secs(5);
const SETUP: Duration = Duration::from_secs(12);
/// How much may be under way: what istiod has sent and we have not read.
const WINDOW: u32 = 1 << 20;

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("{}: {cause}", path.display())]
    File { path: PathBuf, cause: io::Error },
    #[error("{} has no certificate in it", .0.display())]
    NoRoot(PathBuf),
    #[error("the token in {} is not printable text", .0.display())]
    Token(PathBuf),
    #[error("cannot reach istiod at {address}{trusting}: {}{}", with_sources(cause.to_string(), cause), hint(cause))]
    Unreachable { address: String, trusting: String, cause: tonic::transport::Error },
    #[error("cannot reach istiod at {address}: no connection within {SETUP:?}")]
    InTime { address: String },
}

/// What istiod sends on one stream.
pub(super) enum Incoming {
    /// istiod's answer has not begun; a server may wait for the first request before it does.
    Called {
        answer: Answer,
        channel: Channel,
    },
    Open {
        messages: Messages,
        _channel: Channel,
    },
}

type Answer = Pin<Box<dyn Future<Output = Result<http::Response<Body>, tonic::transport::Error>> + Send>>;

/// Connects, and calls with the requests of `requests`. The answer begins later.
pub(super) async fn open(
    config: &Config,
    requests: mpsc::Receiver<DeltaDiscoveryRequest>,
) -> Result<Incoming, ConnectError> {
    let request = request(config, requests)?;
    let endpoint = endpoint(config)?;
    let connecting = async {
        let mut channel = endpoint.connect().await?;
        poll_fn(|cx| GrpcService::<Body>::poll_ready(&mut channel, cx)).await?;
        let answer: Answer = Box::pin(GrpcService::call(&mut channel, request));
        Ok(Incoming::Called { answer, channel })
    };
    let limited = timeout(SETUP, connecting).await;
    limited
        .map_err(|_| ConnectError::InTime { address: config.address.clone() })?
        .map_err(|cause| unreachable(config, cause))
}

fn unreachable(config: &Config, cause: tonic::transport::Error) -> ConnectError {
    let trusting = match &config.security {
        Security::Tls { root, .. } => format!(" (trusting {})", root.display()),
        Security::Plaintext => String::new(),
    };
    ConnectError::Unreachable { address: config.address.clone(), trusting, cause }
}

fn endpoint(config: &Config) -> Result<Endpoint, ConnectError> {
    let endpoint = Endpoint::from_shared(config.address.clone())
        .map_err(|cause| unreachable(config, cause))?
        .connect_timeout(CONNECT)
        .tcp_keepalive(Some(Duration::from_secs(300)))
        .tcp_keepalive_interval(Some(Duration::from_secs(75)))
        .tcp_keepalive_retries(Some(9))
        .http2_keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(10))
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW);
    let Security::Tls { root, server_name } = &config.security else { return Ok(endpoint) };
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(anchors(root)?)).timeout(CONNECT);
    if let Some(name) = server_name {
        tls = tls.domain_name(name);
    }
    endpoint.tls_config(tls).map_err(|cause| unreachable(config, cause))
}

/// The trust anchors, of which there must be one: with none, every server would be untrusted for a reason nobody sees.
fn anchors(path: &Path) -> Result<Vec<u8>, ConnectError> {
    let pem = std::fs::read(path).map_err(|cause| ConnectError::File { path: path.to_owned(), cause })?;
    match CertificateDer::pem_slice_iter(&pem).next() {
        Some(Ok(_)) => Ok(pem),
        _ => Err(ConnectError::NoRoot(path.to_owned())),
    }
}

fn request(
    config: &Config,
    mut requests: mpsc::Receiver<DeltaDiscoveryRequest>,
) -> Result<Request<Body>, ConnectError> {
    let source = stream::poll_fn(move |cx| requests.poll_recv(cx)).map(Ok::<_, Status>);
    let mut request = Request::new(Body::new(EncodeBody::new_client(ProstEncoder::default(), source, None, None)));
    *request.method_mut() = http::Method::POST;
    *request.version_mut() = http::Version::HTTP_2;
    *request.uri_mut() = http::Uri::from_static(METHOD);
    *request.headers_mut() = headers(config)?;
    Ok(request)
}

fn headers(config: &Config) -> Result<HeaderMap, ConnectError> {
    let mut headers = HeaderMap::new();
    // The names and values of the configuration were checked when the client was made.
    for (name, value) in &config.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            headers.insert(name, value);
        }
    }
    if let Ok(cluster) = HeaderValue::try_from(&config.node.cluster) {
        headers.insert("clusterid", cluster);
    }
    if let Some(path) = &config.token {
        let token = std::fs::read_to_string(path).map_err(|cause| ConnectError::File { path: path.clone(), cause })?;
        let bearer = HeaderValue::try_from(format!("Bearer {}", token.trim()));
        let mut bearer = bearer.map_err(|_| ConnectError::Token(path.clone()))?;
        bearer.set_sensitive(true);
        headers.insert(http::header::AUTHORIZATION, bearer);
    }
    headers.insert(http::header::TE, HeaderValue::from_static("trailers"));
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    Ok(headers)
}

impl Incoming {
    /// The next message; none when istiod ended the stream without an error. May be cancelled.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            match self {
                Self::Called { answer, channel } => {
                    let response = answer.await.map_err(|error| Status::from_error(error.into()))?;
                    *self = Self::Open { messages: Messages::of(response)?, _channel: channel.clone() };
                }
                Self::Open { messages, .. } => return messages.next().await,
            }
        }
    }
}

/// The likely cause, where the error does not name it.
fn hint(error: &(dyn Error + 'static)) -> &'static str {
    let mut next = Some(error);
    while let Some(error) = next {
        let io = error.downcast_ref::<io::Error>();
        let inner = io.and_then(|io| io.get_ref()).and_then(|inner| inner.downcast_ref::<rustls::Error>());
        if let Some(tls) = error.downcast_ref::<rustls::Error>().or(inner) {
            return of_tls(tls);
        }
        if io.is_some_and(|io| io.kind() == io::ErrorKind::ConnectionRefused) {
            return "; nothing listens there, maybe istiod is restarting";
        }
        next = error.source();
    }
    ""
}

fn of_tls(error: &rustls::Error) -> &'static str {
    #[expect(clippy::wildcard_enum_match_arm, reason = "only some have a likely cause")]
    match error {
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            "; maybe istiod has another root by now, or the root file is of another mesh"
        }
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "; its certificate has another name, which can be set as the server name to expect",
        rustls::Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        ) => "; maybe this node's clock is wrong",
        rustls::Error::InvalidMessage(_) => "; maybe that port speaks no TLS",
        _ => "",
    }
}
