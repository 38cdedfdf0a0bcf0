//! The signing key and what it signs.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer as Signer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData,
    SanType,
};

use super::config::ControlFile;
use crate::model::Identity;

/// Clocks of nodes may be behind by this much.
const BACKDATE: Duration = Duration::from_secs(120);
/// Lifetime of a self-signed root and of the endpoint's own certificate.
const ROOT_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Why the authority cannot be set up or a request cannot be signed.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    #[error("{path}: {cause}")]
    File { path: String, cause: io::Error },
    #[error("the request is no valid, self-signed PKCS #10 request: {0}")]
    Request(rcgen::Error),
    #[error("the mounted key is not the key of the mounted root certificate")]
    OtherKey,
    #[error("{0}")]
    Certificate(#[from] rcgen::Error),
}

/// How long a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    EndsIn(Duration),
    EndedAgo(Duration),
}

/// The authority's key and root certificate.
pub struct Issuer {
    signer: Signer<'static, KeyPair>,
    root: String,
}

impl std::fmt::Debug for Issuer {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issuer").finish_non_exhaustive()
    }
}

impl Issuer {
    /// Loads the mounted root, or makes one.
    pub fn new(file: &ControlFile) -> Result<Self, IssueError> {
        let Some(mounted) = &file.root else { return Self::self_signed(&file.trust_domain) };
        let read = |path: &Path| {
            fs::read_to_string(path).map_err(|cause| IssueError::File { path: path.display().to_string(), cause })
        };
        let (root, key) = (read(&mounted.cert)?, KeyPair::from_pem(&read(&mounted.key)?)?);
        if !holds(&root, &key) {
            return Err(IssueError::OtherKey);
        }
        Ok(Self { signer: Signer::from_ca_cert_pem(&root, key)?, root })
    }

    fn self_signed(trust_domain: &str) -> Result<Self, IssueError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, trust_domain);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_validity(&mut params, Lifetime::EndsIn(ROOT_LIFETIME));
        let root = params.self_signed(&key)?.pem();
        Ok(Self { signer: Signer::new(params, key), root })
    }

    /// The root certificate, PEM.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// Writes the root where nodes read it, atomically.
    pub fn publish(&self, path: &Path) -> io::Result<()> {
        let fresh = path.with_extension("new");
        fs::write(&fresh, &self.root)?;
        fs::rename(fresh, path)
    }

    /// Certifies the key of `csr` for `identity`; what else the request says is ignored. Gives leaf and root, PEM.
    pub fn sign(&self, identity: &Identity, csr: &str, lifetime: Lifetime) -> Result<Vec<String>, IssueError> {
        // Parsing checks the request's signature: whoever asks holds the key.
        let mut request = CertificateSigningRequestParams::from_pem(csr).map_err(IssueError::Request)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(identity.uri().try_into()?)];
        usages(&mut params);
        set_validity(&mut params, lifetime);
        request.params = params;
        let leaf = request.signed_by(&self.signer)?.pem();
        Ok(vec![leaf, self.root.clone()])
    }

    /// A key and certificate for the authority's own endpoint, PEM.
    pub fn endpoint(&self, names: Vec<String>) -> Result<(String, String), IssueError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = DistinguishedName::new();
        usages(&mut params);
        set_validity(&mut params, Lifetime::EndsIn(ROOT_LIFETIME));
        let certificate = params.signed_by(&key, &self.signer)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }
}

/// Whether the certificate's public key is the key's. One that cannot be parsed is refused by the signer, with its reason.
fn holds(root: &str, key: &KeyPair) -> bool {
    let parsed = x509_parser::pem::parse_x509_pem(root.as_bytes());
    let Ok((_, pem)) = &parsed else { return true };
    pem.parse_x509().is_ok_and(|certificate| certificate.public_key().raw == key.subject_public_key_info())
}

fn usages(params: &mut CertificateParams) {
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
}

fn set_validity(params: &mut CertificateParams, lifetime: Lifetime) {
    let now = SystemTime::now();
    let (from, to) = match lifetime {
        Lifetime::EndsIn(length) => (now - BACKDATE, now + length),
        Lifetime::EndedAgo(length) => (now - length - BACKDATE, now - length),
    };
    params.not_before = from.into();
    params.not_after = to.into();
}

/// Writes a file that only its owner may read.
pub fn write_private(path: &Path, text: &str) -> io::Result<()> {
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    // The mode above is only for a file that is made.
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests;
