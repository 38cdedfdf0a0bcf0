//! The CSR API: who asks, for whom, and the answer.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::watch;
use tonic::metadata::MetadataMap;
use tonic::transport::{Identity as Endpoint, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

use super::config::{ControlFile, Node};
use super::issuer::{Issuer, Lifetime};
use crate::model::Identity;
use crate::proto::ca::istio_certificate_service_server::{
    IstioCertificateService as Api, IstioCertificateServiceServer as Service,
};
use crate::proto::ca::{IstioCertificateRequest, IstioCertificateResponse};

struct Authority {
    issuer: Arc<Issuer>,
    file: watch::Receiver<Arc<ControlFile>>,
}

/// How long a TLS handshake, and a request, may take.
const LIMIT: Duration = Duration::from_secs(10);
/// How long a connection is kept: a node makes one for each request.
const AGE: Duration = Duration::from_secs(60);

/// Serves until SIGTERM or SIGINT.
pub(super) async fn serve(issuer: Arc<Issuer>, file: watch::Receiver<Arc<ControlFile>>) -> anyhow::Result<()> {
    let config = Arc::clone(&file.borrow());
    let mut names = config.names.clone();
    names.push(config.listen.ip().to_string());
    names.dedup();
    let (certificate, key) = issuer.endpoint(names)?;
    let tls = ServerTlsConfig::new().identity(Endpoint::from_pem(certificate, key)).timeout(LIMIT);
    tracing::info!(listen = %config.listen, nodes = config.nodes.len(), "certificate authority ready");
    Server::builder()
        .tls_config(tls)?
        .timeout(LIMIT)
        .max_connection_age(AGE)
        .concurrency_limit_per_connection(32)
        .add_service(Service::new(Authority { issuer, file }))
        .serve_with_shutdown(config.listen, crate::sys::signal::termination())
        .await
        .with_context(|| format!("serving on {}, maybe the port is taken", config.listen))
}

#[tonic::async_trait]
impl Api for Authority {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let file = Arc::clone(&self.file.borrow());
        let node = authenticate(&file, request.metadata())?;
        let message = request.into_inner();
        let identity = wanted(&message)?;
        if !node.identities.contains(&identity) {
            tracing::warn!(node = node.name, %identity, "refused: the node has no such service account");
            return Err(Status::unauthenticated(format!("node {} may not ask for {identity}", node.name)));
        }
        let seconds = u64::try_from(message.validity_duration).unwrap_or_default();
        let asked = if seconds == 0 { file.certificate_ttl } else { Duration::from_secs(seconds) };
        let lifetime = Lifetime::EndsIn(asked.min(file.certificate_ttl));
        let cert_chain = self
            .issuer
            .sign(&identity, &message.csr, lifetime)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        tracing::info!(node = node.name, %identity, "certificate issued");
        Ok(Response::new(IstioCertificateResponse { cert_chain }))
    }
}

/// The node whose token the request carries.
fn authenticate<'a>(file: &'a ControlFile, metadata: &MetadataMap) -> Result<&'a Node, Status> {
    let header = metadata.get("authorization").and_then(|value| value.to_str().ok());
    let token = header.and_then(|text| text.strip_prefix("Bearer ")).unwrap_or_default();
    if token.is_empty() {
        return Err(Status::unauthenticated("no bearer token"));
    }
    let owns = |node: &&Node| {
        let own = std::fs::read_to_string(&node.token_file).unwrap_or_default();
        !own.trim().is_empty() && equal(own.trim().as_bytes(), token.as_bytes())
    };
    file.nodes.iter().find(owns).ok_or_else(|| {
        tracing::warn!("refused: unknown token");
        Status::unauthenticated("unknown token")
    })
}

/// Compares in a time that does not depend on where the texts differ.
fn equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

/// The identity a node asks for in a pod's place.
fn wanted(message: &IstioCertificateRequest) -> Result<Identity, Status> {
    use prost_types::value::Kind;
    let value = message.metadata.as_ref().and_then(|metadata| metadata.fields.get("ImpersonatedIdentity"));
    match value.and_then(|value| value.kind.as_ref()) {
        Some(Kind::StringValue(text)) => {
            text.parse().map_err(|error| Status::invalid_argument(format!("ImpersonatedIdentity: {error}")))
        }
        _ => Err(Status::invalid_argument("metadata ImpersonatedIdentity is missing")),
    }
}

#[cfg(test)]
mod tests;
