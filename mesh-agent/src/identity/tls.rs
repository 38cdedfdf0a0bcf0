//! TLS configurations (protocol note, section 5.1): 1.3 only, h2 only, both sides authenticated, no resumption.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, InconsistentKeys, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, TrustAnchor};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::renew::Validity;
use super::revocation::{Revocations, Tracked};
use super::verify::{Expected, Verifier, peer_identity, validity};
use crate::model::Identity;
use crate::telemetry::reporter::Reporter;

/// How long a TLS handshake may take.
pub const TLS_HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

const H2: &[u8] = b"h2";

/// A certificate with its key and the roots that came with it, ready for use. Immutable.
#[derive(Debug)]
pub struct Credentials {
    pub identity: Identity,
    pub validity: Validity,
    /// Hexadecimal.
    pub serial: String,
    /// The leaf and its intermediates, and the roots, for people.
    pub chain: Vec<Described>,
    pub anchors: Vec<Described>,
    provider: Arc<CryptoProvider>,
    roots: Arc<[TrustAnchor<'static>]>,
    revocations: Revocations,
    certificates: Vec<CertificateDer<'static>>,
    certified: Arc<SingleCertAndKey>,
    server: Arc<ServerConfig>,
}

/// A certificate for people who look at the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    pub pem: String,
    /// Hexadecimal.
    pub serial: String,
    pub validity: Validity,
}

/// Why an answer of the authority cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadChain {
    #[error("the answer needs a certificate and a root, and has {0} elements")]
    TooShort(usize),
    #[error("the answer is not PEM: {0}")]
    Pem(#[from] rustls_pki_types::pem::Error),
    #[error("the certificate cannot be parsed: {0}")]
    Certificate(String),
    #[error("the certificate is for {got:?}, not for {wanted}")]
    OtherIdentity { got: Option<Identity>, wanted: Identity },
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    #[error("a root cannot be used: {0}")]
    Root(webpki::Error),
}

impl Credentials {
    /// Takes the authority's answer for `identity`: the leaf, intermediates, and last the roots, all PEM. Peers are looked up
    /// in `revocations`.
    pub fn new(
        identity: &Identity,
        chain: &[String],
        key: PrivateKeyDer<'static>,
        revocations: &Revocations,
    ) -> Result<Self, BadChain> {
        let [certificates @ .., roots] = chain else { return Err(BadChain::TooShort(chain.len())) };
        if certificates.is_empty() {
            return Err(BadChain::TooShort(chain.len()));
        }
        let certificates: Vec<_> = parse(certificates)?;
        let got = peer_identity(&certificates);
        if got.as_ref() != Some(identity) {
            return Err(BadChain::OtherIdentity { got, wanted: identity.clone() });
        }
        let chain = describe(&certificates)?;
        let Described { validity, serial, .. } = chain.first().ok_or(BadChain::TooShort(0))?.clone();
        let roots: Vec<_> = parse(std::slice::from_ref(roots))?;
        let (roots, shown) = (anchors(&roots)?, describe(&roots)?);
        let provider = Arc::new(provider());
        let key = provider.key_provider.load_private_key(key)?;
        let certified = CertifiedKey::new(certificates.clone(), key);
        match certified.keys_match() {
            // A provider that cannot tell is no proof against the pair.
            Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(error) => return Err(error.into()),
        }
        let certified = Arc::new(SingleCertAndKey::from(certified));
        let domain = Expected::TrustDomain(identity.trust_domain().into());
        let verifier = Verifier::new(Arc::clone(&roots), domain, Arc::clone(&provider), revocations.clone());
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::clone(&certified) as Arc<_>);
        server.alpn_protocols = vec![H2.to_vec()];
        server.send_tls13_tickets = 0;
        // Our own records protect what goes through tunnels.
        server.enable_secret_extraction = true;
        Ok(Self {
            identity: identity.clone(),
            validity,
            serial,
            chain,
            anchors: shown,
            provider,
            roots,
            revocations: revocations.clone(),
            certificates,
            certified,
            server: Arc::new(server),
        })
    }

    /// For accepting: any client of our trust domain.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    /// For dialling a peer that must prove one of `accepted`. Made anew for each tunnel, which is rare.
    pub fn client_config(&self, accepted: &[Identity]) -> Result<Arc<ClientConfig>, rustls::Error> {
        let verifier = self.verifier(Expected::OneOf(accepted.into()));
        let mut client = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::clone(&self.certified) as Arc<_>);
        client.alpn_protocols = vec![H2.to_vec()];
        client.enable_sni = false;
        client.resumption = Resumption::disabled();
        client.enable_secret_extraction = true;
        Ok(Arc::new(client))
    }

    pub(super) fn verifier(&self, expected: Expected) -> Verifier {
        Verifier::new(Arc::clone(&self.roots), expected, Arc::clone(&self.provider), self.revocations.clone())
    }

    /// The leaf and its intermediates.
    pub(super) fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// Keeps an eye on a peer that was verified with these credentials.
    pub(super) fn track(&self, side: Reporter, certificates: Option<&[CertificateDer<'_>]>) -> Option<Tracked> {
        self.revocations.track(side, certificates, &self.roots)
    }

    /// Whether the certificate can be used at `now`.
    pub fn valid_at(&self, now: SystemTime) -> bool {
        now < self.validity.not_after
    }
}

/// The one provider: suites and groups in the order of the protocol note, post-quantum key exchange first.
fn provider() -> CryptoProvider {
    use aws_lc_rs::{cipher_suite, kx_group};
    CryptoProvider {
        cipher_suites: vec![cipher_suite::TLS13_AES_256_GCM_SHA384, cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1],
        ..aws_lc_rs::default_provider()
    }
}

fn parse(pems: &[String]) -> Result<Vec<CertificateDer<'static>>, BadChain> {
    let blocks = pems.iter().flat_map(|pem| CertificateDer::pem_slice_iter(pem.as_bytes()));
    Ok(blocks.collect::<Result<_, _>>()?)
}

fn anchors(roots: &[CertificateDer<'static>]) -> Result<Arc<[TrustAnchor<'static>]>, BadChain> {
    if roots.is_empty() {
        return Err(BadChain::TooShort(0));
    }
    let anchor = |root| Ok(webpki::anchor_from_trusted_cert(root).map_err(BadChain::Root)?.to_owned());
    roots.iter().map(anchor).collect()
}

fn describe(certificates: &[CertificateDer<'_>]) -> Result<Vec<Described>, BadChain> {
    let one = |der: &CertificateDer<'_>| {
        let (_, parsed) = X509Certificate::from_der(der).map_err(|error| BadChain::Certificate(error.to_string()))?;
        let (validity, serial) = (validity(&parsed), parsed.raw_serial_as_string());
        Ok(Described { pem: pem(der), serial, validity })
    };
    certificates.iter().map(one).collect()
}

fn pem(der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line)).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests;
