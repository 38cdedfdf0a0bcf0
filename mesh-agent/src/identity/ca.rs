//! Asking the certificate authority (protocol note, section 4): Istio's CSR API over TLS with the node's bearer token.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tonic::metadata::MetadataValue;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

use super::csr;
use super::revocation::Revocations;
use super::tls::{BadChain, Credentials};
use crate::model::Identity;
use crate::proto::ca::IstioCertificateRequest;
use crate::proto::ca::istio_certificate_service_client::IstioCertificateServiceClient;

/// Where the authority is and how we prove to it that we are this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaConfig {
    /// `https://host:port`.
    pub address: String,
    /// PEM file with the trust anchors of the authority's endpoint.
    pub root: PathBuf,
    /// File with the bearer token; read anew for each request, since Kubernetes rotates it.
    pub token: PathBuf,
    /// Another name than the address's that the endpoint's certificate is to have.
    pub server_name: Option<String>,
    pub cluster: String,
    /// Wanted lifetime of a certificate; the authority may refuse it, or give another.
    pub lifetime: Duration,
}

const TIMEOUT: Duration = Duration::from_secs(10);

/// Why no certificate came.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    #[error("{}: {cause}", path.display())]
    File { path: PathBuf, cause: std::io::Error },
    #[error("the token in {} is not printable text", .0.display())]
    Token(PathBuf),
    #[error("cannot reach the certificate authority at {address} (trusting {}): {}", root.display(), chain(cause))]
    Unreachable { address: String, root: PathBuf, cause: tonic::transport::Error },
    #[error("the certificate authority refuses: {}: {}", .0.code(), .0.message())]
    Refused(Box<tonic::Status>),
    #[error("the certificate authority's answer is not usable: {0}")]
    Answer(#[from] BadChain),
    #[error("making the key: {0}")]
    Key(#[from] csr::NoRequest),
}

/// tonic's errors say what went wrong only in their sources.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let own = cause.to_string();
        // Some texts have their source's in them already.
        if !text.ends_with(&own) {
            text = format!("{text}: {own}");
        }
        source = cause.source();
    }
    text
}

/// Something that certifies identities; the authority, or a fake in tests.
pub trait Certify: Send + Sync + 'static {
    /// Makes a key and has it certified for `identity`.
    fn certify(&self, identity: &Identity) -> impl Future<Output = Result<Credentials, CaError>> + Send;
}

/// The client of a real authority.
#[derive(Clone, Debug)]
pub struct CaClient {
    config: Arc<CaConfig>,
    revocations: Revocations,
}

impl CaClient {
    /// Peers will be looked up in `revocations`.
    pub fn new(config: CaConfig, revocations: Revocations) -> Self {
        Self { config: Arc::new(config), revocations }
    }

    fn read(path: &PathBuf) -> Result<String, CaError> {
        std::fs::read_to_string(path).map_err(|cause| CaError::File { path: path.clone(), cause })
    }

    async fn ask(&self, identity: &Identity, csr: String) -> Result<Vec<String>, CaError> {
        let config = &*self.config;
        let unreachable =
            |cause| CaError::Unreachable { address: config.address.clone(), root: config.root.clone(), cause };
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(Self::read(&config.root)?));
        if let Some(name) = &config.server_name {
            tls = tls.domain_name(name);
        }
        let channel = Endpoint::from_shared(config.address.clone())
            .and_then(|endpoint| endpoint.tls_config(tls))
            .map_err(unreachable)?
            .connect_timeout(TIMEOUT)
            .timeout(TIMEOUT)
            .connect()
            .await
            .map_err(unreachable)?;
        let mut request = tonic::Request::new(IstioCertificateRequest {
            csr,
            validity_duration: i64::try_from(config.lifetime.as_secs()).unwrap_or(i64::MAX),
            metadata: Some(impersonating(identity)),
        });
        let bearer = format!("Bearer {}", Self::read(&config.token)?.trim());
        let bearer = MetadataValue::try_from(bearer).map_err(|_| CaError::Token(config.token.clone()))?;
        request.metadata_mut().insert("authorization", bearer);
        if let Ok(cluster) = MetadataValue::try_from(config.cluster.as_str()) {
            request.metadata_mut().insert("clusterid", cluster);
        }
        let answer = IstioCertificateServiceClient::new(channel).create_certificate(request).await;
        Ok(answer.map_err(|status| CaError::Refused(Box::new(status)))?.into_inner().cert_chain)
    }
}

impl Certify for CaClient {
    async fn certify(&self, identity: &Identity) -> Result<Credentials, CaError> {
        let request = csr::request(identity)?;
        let chain = self.ask(identity, request.csr.clone()).await?;
        Ok(Credentials::new(identity, &chain, request.key(), &self.revocations)?)
    }
}

fn impersonating(identity: &Identity) -> prost_types::Struct {
    let value = prost_types::value::Kind::StringValue(identity.uri().to_owned());
    let value = prost_types::Value { kind: Some(value) };
    prost_types::Struct { fields: [("ImpersonatedIdentity".to_owned(), value)].into() }
}
