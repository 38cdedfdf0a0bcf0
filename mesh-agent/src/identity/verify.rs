//! The judge of peers: chain to our roots, the right key usage, nothing of it revoked, and a SPIFFE identity that is expected
//! here.
//!
//! Names and addresses in certificates are not looked at (protocol note, section 5.1).

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::time::ASN1Time;

use super::renew::Validity;
use super::revocation::Revocations;
use crate::model::Identity;
use crate::telemetry::reporter::Reporter;

/// Whom we expect at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// One of these: the destination we chose.
    OneOf(Arc<[Identity]>),
    /// Anybody of our own trust domain: a client.
    TrustDomain(Arc<str>),
}

/// What is wrong with a certificate that is otherwise in order.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WrongPeer {
    #[error("its certificate carries no identity of the mesh")]
    NoIdentity,
    #[error("it is {got}, which is not of trust domain {wanted}")]
    TrustDomain { got: Identity, wanted: Arc<str> },
    #[error("it is {got}, but {wanted} was expected")]
    NotExpected { got: Identity, wanted: String },
}

/// Verifies peers against the roots of one identity.
#[derive(Debug)]
pub(super) struct Verifier {
    roots: Arc<[TrustAnchor<'static>]>,
    expected: Expected,
    provider: Arc<CryptoProvider>,
    revocations: Revocations,
}

impl Verifier {
    pub(super) fn new(
        roots: Arc<[TrustAnchor<'static>]>,
        expected: Expected,
        provider: Arc<CryptoProvider>,
        revocations: Revocations,
    ) -> Self {
        Self { roots, expected, provider, revocations }
    }

    pub(super) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        side: Reporter,
    ) -> Result<(), rustls::Error> {
        let usage = match side {
            Reporter::Source => KeyUsage::server_auth(),
            Reporter::Destination => KeyUsage::client_auth(),
        };
        let certificate = EndEntityCert::try_from(leaf).map_err(refuse)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        certificate.verify_for_usage(algorithms, &self.roots, intermediates, now, usage, None, None).map_err(refuse)?;
        let chain = std::iter::once(leaf).chain(intermediates);
        let revoked = |_| rustls::Error::InvalidCertificate(CertificateError::Revoked);
        self.revocations.check(side, chain, &self.roots).map_err(revoked)?;
        self.check_identity(leaf)
            .map_err(|wrong| rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(wrong)))))
    }

    fn check_identity(&self, leaf: &CertificateDer<'_>) -> Result<(), WrongPeer> {
        let identities = identities(leaf);
        let got = identities.first().ok_or(WrongPeer::NoIdentity)?;
        match &self.expected {
            // The first, because it is the one that policies will be asked about.
            Expected::TrustDomain(domain) if *got.trust_domain() == **domain => Ok(()),
            Expected::TrustDomain(domain) => {
                Err(WrongPeer::TrustDomain { got: got.clone(), wanted: Arc::clone(domain) })
            }
            Expected::OneOf(accepted) if identities.iter().any(|id| accepted.contains(id)) => Ok(()),
            Expected::OneOf(accepted) => {
                let wanted: Vec<&str> = accepted.iter().map(Identity::uri).collect();
                Err(WrongPeer::NotExpected { got: got.clone(), wanted: wanted.join(" or ") })
            }
        }
    }
}

/// All mesh identities among a certificate's URI names, in order.
fn identities(certificate: &CertificateDer<'_>) -> Vec<Identity> {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    let Ok(Some(names)) = parsed.subject_alternative_name() else { return Vec::new() };
    let uri = |name: &GeneralName<'_>| if let GeneralName::URI(uri) = name { uri.parse().ok() } else { None };
    names.value.general_names.iter().filter_map(uri).collect()
}

/// A certificate's lifetime.
pub(super) fn validity(certificate: &X509Certificate<'_>) -> Validity {
    let at = |time: ASN1Time| {
        SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or_default())
    };
    let written = certificate.validity();
    Validity { not_before: at(written.not_before), not_after: at(written.not_after) }
}

/// When a verified peer's certificate expires.
pub fn peer_expiry(chain: &[CertificateDer<'_>]) -> Option<SystemTime> {
    let (_, parsed) = X509Certificate::from_der(chain.first()?).ok()?;
    Some(validity(&parsed).not_after)
}

/// The identity of a verified peer: the first URI name that is one.
pub fn peer_identity(chain: &[CertificateDer<'_>]) -> Option<Identity> {
    identities(chain.first()?).into_iter().next()
}

fn refuse(error: webpki::Error) -> rustls::Error {
    use webpki::Error as E;
    let kind = if matches!(error, E::CertExpired { .. }) {
        CertificateError::Expired
    } else if matches!(error, E::CertNotValidYet { .. }) {
        CertificateError::NotValidYet
    } else if matches!(error, E::UnknownIssuer | E::InvalidSignatureForPublicKey) {
        // The second: another root under the same name.
        CertificateError::UnknownIssuer
    } else if matches!(error, E::RequiredEkuNotFoundContext(_)) {
        CertificateError::InvalidPurpose
    } else if matches!(error, E::BadDer | E::BadDerTime | E::TrailingData(_)) {
        CertificateError::BadEncoding
    } else {
        CertificateError::Other(OtherError(Arc::new(error)))
    };
    rustls::Error::InvalidCertificate(kind)
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, now, Reporter::Source)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, now, Reporter::Destination)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// What made a handshake fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsKind {
    UntrustedRoot,
    Expired,
    NotYetValid,
    Revoked,
    NoCertificate,
    /// The certificate is good and is somebody else's.
    WrongPeer,
    /// What came is not TLS.
    NotTls,
    /// No common protocol: the peer does not offer h2, or no TLS 1.3.
    NoCommonProtocol,
    /// The peer refused us.
    Refused,
    Timeout,
    /// The connection ended.
    Closed,
    Other,
}

/// A failed handshake, with the sentence for the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct TlsFailure {
    pub kind: TlsKind,
    text: String,
}

impl fmt::Display for TlsFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl TlsFailure {
    /// Classifies the error of a handshake.
    pub fn of(error: &io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(error) => Self::of_tls(error),
            None => Self::new(TlsKind::Closed, format!("the peer closed the connection during the handshake: {error}")),
        }
    }

    /// The handshake took too long.
    pub fn timed_out() -> Self {
        Self::new(TlsKind::Timeout, "the peer did not complete the handshake in time".to_owned())
    }

    fn new(kind: TlsKind, text: String) -> Self {
        Self { kind, text }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "an open set, of which a few mean something here")]
    fn of_tls(error: &rustls::Error) -> Self {
        use rustls::Error as E;
        if let E::InvalidCertificate(reason) = error {
            return Self::of_certificate(reason);
        }
        if let E::AlertReceived(alert) = error {
            return Self::new(TlsKind::Refused, format!("the peer refused our certificate or protocol: {alert:?}"));
        }
        let (kind, text) = match error {
            E::NoCertificatesPresented => (TlsKind::NoCertificate, "the peer presented no certificate".to_owned()),
            E::InvalidMessage(_) | E::InappropriateMessage { .. } => {
                (TlsKind::NotTls, format!("what the peer sent is not TLS: {error}"))
            }
            E::PeerIncompatible(_) | E::NoApplicationProtocol => {
                (TlsKind::NoCommonProtocol, format!("no common protocol, TLS 1.3 with h2 is needed: {error}"))
            }
            other => (TlsKind::Other, other.to_string()),
        };
        Self::new(kind, text)
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "an open set, of which a few mean something here")]
    fn of_certificate(reason: &CertificateError) -> Self {
        use CertificateError as C;
        if let C::Other(OtherError(wrong)) = reason
            && let Some(wrong) = wrong.downcast_ref::<WrongPeer>()
        {
            return Self::new(TlsKind::WrongPeer, format!("not the expected peer: {wrong}"));
        }
        let (kind, text) = match reason {
            C::Expired | C::ExpiredContext { .. } => {
                (TlsKind::Expired, "the peer's certificate has expired".to_owned())
            }
            C::NotValidYet | C::NotValidYetContext { .. } => {
                (TlsKind::NotYetValid, "the peer's certificate is not valid yet, maybe a clock is wrong".to_owned())
            }
            C::Revoked => (TlsKind::Revoked, "the peer's certificate was revoked by its authority".to_owned()),
            C::UnknownIssuer => (
                TlsKind::UntrustedRoot,
                "the peer's certificate is signed by an authority that we do not trust".to_owned(),
            ),
            C::InvalidPurpose | C::InvalidPurposeContext { .. } => (
                TlsKind::Other,
                "the peer's certificate is not acceptable: it is not made for this end of a connection (extended key usage)"
                    .to_owned(),
            ),
            other => (TlsKind::Other, format!("the peer's certificate is not acceptable: {other}")),
        };
        Self::new(kind, text)
    }
}

#[cfg(test)]
mod tests;
