//! One connection to the API server: TCP, then TLS with the server's certificate only. The token says who we are.

use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower::{BoxError, Service};

use super::error::BadFile;

/// For TCP with all addresses of the name, and for TLS.
const CONNECT: Duration = Duration::from_secs(5);
/// A server that has gone without a word is noticed after a minute, also under HTTP/1.1, which has no pings.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 3;
const H2: &[u8] = b"h2";

/// Makes connections.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    tcp: HttpConnector,
    root: Arc<Path>,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unconnected {
    #[error(transparent)]
    File(#[from] BadFile),
    #[error("{0}")]
    Tcp(#[source] BoxError),
    #[error("{0}")]
    Tls(#[source] io::Error),
    #[error("no TLS within {CONNECT:?}")]
    Late,
    #[error("the host is no name that a certificate can have")]
    Name,
}

impl Connector {
    pub(super) fn new(root: &Path) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT));
        tcp.set_keepalive(Some(KEEPALIVE));
        tcp.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
        tcp.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
        tcp.set_tcp_user_timeout(Some(KEEPALIVE_INTERVAL * KEEPALIVE_RETRIES));
        Self { tcp, root: root.into() }
    }
}

/// The trust anchors, of which there must be one. A bundle may have some that cannot be used beside those that can.
pub(super) fn roots(path: &Path) -> Result<RootCertStore, BadFile> {
    let pem = std::fs::read(path).map_err(|cause| BadFile::unreadable(path, &cause))?;
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok);
    match roots.add_parsable_certificates(certificates) {
        (0, _) => Err(BadFile::NoRoot(path.to_owned())),
        _ => Ok(roots),
    }
}

/// The roots are read for each connection, since Kubernetes rotates them.
fn tls(root: &Path) -> Result<TlsConnector, Unconnected> {
    let roots = roots(root)?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| Unconnected::Tls(io::Error::other(error)))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![H2.to_vec(), b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// The name that the certificate is to have.
fn server_name(uri: &Uri) -> Result<ServerName<'static>, Unconnected> {
    let host = uri.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    ServerName::try_from(host.to_owned()).map_err(|_| Unconnected::Name)
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Secured>;
    type Error = Unconnected;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Unconnected>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Unconnected>> {
        self.tcp.poll_ready(cx).map_err(|error| Unconnected::Tcp(error.into()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let name = server_name(&uri);
        let connecting = self.tcp.call(uri);
        let root = Arc::clone(&self.root);
        Box::pin(async move {
            let (name, tls) = (name?, tls(&root)?);
            let tcp = connecting.await.map_err(|error| Unconnected::Tcp(error.into()))?.into_inner();
            let secured = timeout(CONNECT, tls.connect(name, tcp)).await.map_err(|_| Unconnected::Late)?;
            Ok(TokioIo::new(Secured(secured.map_err(Unconnected::Tls)?)))
        })
    }
}

/// A connection that says which HTTP was agreed on.
#[derive(Debug)]
pub(super) struct Secured(TlsStream<TcpStream>);

impl Connection for Secured {
    fn connected(&self) -> Connected {
        let (tcp, tls) = self.0.get_ref();
        let connected = tcp.connected();
        if tls.alpn_protocol() == Some(H2) { connected.negotiated_h2() } else { connected }
    }
}

impl AsyncRead for Secured {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Secured {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
