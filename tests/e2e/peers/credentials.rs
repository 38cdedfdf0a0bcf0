//! Certificates of every kind, made here with the lab's root or another, and those that `control issue` makes.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use mesh_e2e::{Lab, authority};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme};
use rustls::{SupportedProtocolVersion, version};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};

const HOUR: Duration = Duration::from_secs(3600);

/// A certificate chain with its key.
#[derive(Debug)]
pub(crate) struct Credentials {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

/// Who signs what is made here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Root {
    /// The lab's, which everybody trusts.
    Lab,
    /// Another one with the same name.
    Namesake,
    /// Another one with another name.
    Stranger,
}

impl Root {
    fn issuer(self, lab: &Lab) -> Result<Issuer<'static, KeyPair>> {
        let directory = lab.directory().join("authority");
        let (pem, key) = match self {
            Self::Lab => (directory.join("root.pem"), directory.join("root.key")),
            Self::Namesake => {
                let files = (directory.join("namesake.pem"), directory.join("namesake.key"));
                authority::write_root(&files.0, &files.1)?;
                files
            }
            Self::Stranger => {
                let mut params = CertificateParams::default();
                params.distinguished_name.push(DnType::OrganizationName, "somebody else");
                params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
                return Ok(Issuer::new(params, KeyPair::generate()?));
            }
        };
        let key = KeyPair::from_pem(&fs::read_to_string(key)?)?;
        Ok(Issuer::from_ca_cert_pem(&fs::read_to_string(pem)?, key)?)
    }
}

/// What a certificate is to say.
#[derive(Clone, Debug)]
pub(crate) struct Wish<'a> {
    pub(crate) root: Root,
    /// URI names.
    pub(crate) names: &'a [&'a str],
    pub(crate) usages: Vec<ExtendedKeyUsagePurpose>,
    pub(crate) valid: Valid,
}

/// When a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Valid {
    Past,
    Now,
    Future,
}

impl<'a> Wish<'a> {
    /// A certificate in order, with these names.
    pub(crate) fn of(names: &'a [&'a str]) -> Self {
        let usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        Self { root: Root::Lab, names, usages, valid: Valid::Now }
    }
}

/// A certificate of the lab's authority for `identity`, as `mesh-agent control issue` makes them. A negative `lifetime`
/// makes one that has expired.
pub(crate) fn issued(lab: &Lab, identity: &str, lifetime: &str) -> Result<Credentials> {
    let issued = lab.authority().issue("foreign", identity, lifetime)?;
    let chain = CertificateDer::pem_file_iter(&issued.certificate)?.collect::<Result<_, _>>()?;
    Ok(Credentials { chain, key: PrivateKeyDer::from_pem_file(&issued.key)? })
}

/// Makes a certificate.
pub(crate) fn made(lab: &Lab, wish: &Wish<'_>) -> Result<Credentials> {
    let root = wish.root.issuer(lab)?;
    let mut params = CertificateParams::default();
    let uri = |name: &&str| Ok(SanType::URI((*name).try_into()?));
    params.subject_alt_names = wish.names.iter().map(uri).collect::<Result<_>>()?;
    params.extended_key_usages.clone_from(&wish.usages);
    params.use_authority_key_identifier_extension = true;
    let now = SystemTime::now();
    let (from, to) = match wish.valid {
        Valid::Past => (now - 2 * HOUR, now - HOUR),
        Valid::Now => (now - HOUR, now + HOUR),
        Valid::Future => (now + HOUR, now + 2 * HOUR),
    };
    (params.not_before, params.not_after) = (from.into(), to.into());
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &root)?;
    let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    Ok(Credentials { chain: vec![certificate.der().clone()], key })
}

/// The configuration of a client that takes any server, for one TLS version and with these protocols on offer.
pub(crate) fn client(
    credentials: Option<Credentials>,
    version: &'static SupportedProtocolVersion,
    protocols: &[&str],
) -> Result<Arc<ClientConfig>> {
    let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[version])?;
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody));
    let mut config = match credentials {
        Some(Credentials { chain, key }) => builder.with_client_auth_cert(chain, key)?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    config.enable_sni = false;
    Ok(Arc::new(config))
}

/// The configuration of a well-behaved client.
pub(crate) fn good_client(lab: &Lab, identity: &str) -> Result<Arc<ClientConfig>> {
    client(Some(made(lab, &Wish::of(&[identity]))?), &version::TLS13, &["h2"])
}

/// The configuration of a server that takes any client with a certificate.
pub(crate) fn server(credentials: Credentials, protocols: &[&str]) -> Result<Arc<ServerConfig>> {
    let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&version::TLS13])?;
    let mut config = builder
        .with_client_cert_verifier(Arc::new(Anybody))
        .with_single_cert(credentials.chain, credentials.key)
        .context("the server's certificate")?;
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(Arc::new(config))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Believes every certificate whose key the other side holds: the agent is the one who must be careful here.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Anybody {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
