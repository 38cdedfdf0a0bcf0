//! Keys and certificate signing requests (protocol note, section 4.2): a new P-256 key each time, an empty subject, the
//! SPIFFE id as the only subject alternative name.

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::model::Identity;

/// The key or the request could not be made.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct NoRequest(#[from] rcgen::Error);

/// A key and the request that goes with it.
pub struct Request {
    key: KeyPair,
    /// PEM.
    pub csr: String,
}

impl Request {
    /// The key, for rustls.
    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialize_der()).into()
    }

    /// The key as PEM (PKCS #8).
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }
}

impl std::fmt::Debug for Request {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request").field("csr", &self.csr).finish_non_exhaustive()
    }
}

/// Makes a key and a request for `identity`.
pub fn request(identity: &Identity) -> Result<Request, NoRequest> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(identity.uri().try_into().map_err(NoRequest)?)];
    let csr = params.serialize_request(&key)?.pem()?;
    Ok(Request { key, csr })
}
