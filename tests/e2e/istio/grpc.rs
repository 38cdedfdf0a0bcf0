//! One gRPC channel to istiod from a node, and the bearer token.

use anyhow::{Context, Result};
use mesh_e2e::Lab;
use mesh_e2e::kube::{Istiod, istiod};
use tonic::Request;
use tonic::metadata::MetadataValue;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

/// Where istiod is and what it is trusted by. Made outside the node, used inside.
#[derive(Clone, Debug)]
pub(super) struct Door {
    address: String,
    root: String,
}

impl Door {
    pub(super) fn of(lab: &Lab) -> Result<Self> {
        let root = std::fs::read_to_string(lab.kube().istiod().root())?;
        Ok(Self { address: format!("https://{}", Istiod::address()), root })
    }

    /// To be called in the namespace from which istiod is to be reached.
    pub(super) async fn connect(&self) -> Result<Channel> {
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&self.root));
        let endpoint = Endpoint::from_shared(self.address.clone())?.tls_config(tls)?;
        endpoint.connect().await.with_context(|| format!("connecting to istiod at {}", self.address))
    }
}

/// A request with the headers that istiod judges by.
pub(super) fn signed<T>(message: T, token: &str) -> Result<Request<T>> {
    let mut request = Request::new(message);
    let bearer = MetadataValue::try_from(format!("Bearer {}", token.trim())).context("a token is text")?;
    request.metadata_mut().insert("authorization", bearer);
    request.metadata_mut().insert("clusterid", MetadataValue::from_static(istiod::CLUSTER));
    Ok(request)
}

/// A runtime for the calling thread, which may be in any namespace.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("a runtime")
}
