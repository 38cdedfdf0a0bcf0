//! An authority for the tests of this module: it signs what a real one signs, and what a real one never would.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationList, CertificateRevocationListParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer as Signer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SanType, SerialNumber,
};
use rustls::crypto::aws_lc_rs;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, TrustAnchor};

use super::csr;
use super::revocation::Revocations;
use super::tls::Credentials;
use super::verify::{Expected, Verifier};
use crate::control::config::{ControlFile, Root};
use crate::control::issuer::{Issuer, Lifetime};
use crate::model::Identity;

pub(super) const HOUR: Duration = Duration::from_secs(3600);

/// A service account of our trust domain.
pub(super) fn account(name: &str) -> Identity {
    Identity::new("cluster.local", "shop", name).unwrap()
}

/// `control`'s issuer, and its key in the hands of the tests.
pub(super) struct Authority {
    pub(super) issuer: Issuer,
    pub(super) signer: Signer<'static, KeyPair>,
}

impl Authority {
    /// `name` is the root's; two roots of one name are what a restart of an authority without a mounted root gives.
    pub(super) fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = authority(name);
        let directory = tempfile::tempdir().unwrap();
        let mounted = Root { cert: directory.path().join("root.pem"), key: directory.path().join("key.pem") };
        std::fs::write(&mounted.cert, params.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(&mounted.key, key.serialize_pem()).unwrap();
        let file = ControlFile {
            listen: "127.0.0.1:0".parse().unwrap(),
            trust_domain: "cluster.local".to_owned(),
            root: Some(mounted),
            publish_root: directory.path().join("published.pem"),
            names: Vec::new(),
            certificate_ttl: HOUR,
            nodes: Vec::new(),
        };
        Self { issuer: Issuer::new(&file).unwrap(), signer: Signer::new(params, key) }
    }

    pub(super) fn root(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.issuer.root().as_bytes()).unwrap()
    }

    pub(super) fn anchor(&self) -> TrustAnchor<'static> {
        webpki::anchor_from_trusted_cert(&self.root()).unwrap().to_owned()
    }

    /// Credentials as the node gets them: by a request of its own, with the answer of `control`.
    pub(super) fn credentials(&self, identity: &Identity) -> Credentials {
        self.wary(identity, &Revocations::default())
    }

    /// The same, with an eye on revocation lists.
    pub(super) fn wary(&self, identity: &Identity, revocations: &Revocations) -> Credentials {
        let request = csr::request(identity).unwrap();
        let chain = self.issuer.sign(identity, &request.csr, Lifetime::EndsIn(HOUR)).unwrap();
        Credentials::new(identity, &chain, request.key(), revocations).unwrap()
    }

    /// What `control` issues, for a peer of any kind.
    pub(super) fn issued(&self, identity: &Identity, lifetime: Lifetime) -> Card {
        let request = csr::request(identity).unwrap();
        let chain = self.issuer.sign(identity, &request.csr, lifetime).unwrap();
        Card { chain: vec![CertificateDer::from_pem_slice(chain[0].as_bytes()).unwrap()], key: request.key() }
    }

    /// A certificate with these contents, whatever they are.
    pub(super) fn signed(&self, params: &CertificateParams) -> Card {
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.signer).unwrap();
        Card { chain: vec![leaf.into()], key: private(&key) }
    }

    /// A judge that trusts this authority.
    pub(super) fn verifier(&self, expected: Expected) -> Arc<Verifier> {
        let anchor = self.anchor();
        let provider = Arc::new(aws_lc_rs::default_provider());
        Arc::new(Verifier::new([anchor].into(), expected, provider, Revocations::default()))
    }
}

/// A list of `signer`'s that revokes these serial numbers, DER. It should have been replaced long ago.
pub(super) fn revoking(signer: &Signer<'_, KeyPair>, serials: &[&[u8]]) -> CertificateRevocationList {
    let then = SystemTime::now() - 1000 * HOUR;
    let revoked = |serial: &&[u8]| RevokedCertParams {
        serial_number: SerialNumber::from_slice(serial),
        revocation_time: then.into(),
        reason_code: None,
        invalidity_date: None,
    };
    let params = CertificateRevocationListParams {
        this_update: then.into(),
        next_update: (then + HOUR).into(),
        crl_number: SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: serials.iter().map(revoked).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(signer).unwrap()
}

/// The contents of an authority's certificate.
pub(super) fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// The contents of a good leaf, but for what `names` are.
pub(super) fn leaf(names: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = names.iter().map(|name| SanType::URI((*name).try_into().unwrap())).collect();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

pub(super) fn private(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivatePkcs8KeyDer::from(key.serialize_der()).into()
}

/// What a peer shows of itself: certificates, and the key that it signs with.
pub(super) struct Card {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
}

impl Card {
    /// Unchecked: the key may be another's.
    pub(super) fn certified(self) -> Arc<SingleCertAndKey> {
        let key = aws_lc_rs::default_provider().key_provider.load_private_key(self.key).unwrap();
        Arc::new(SingleCertAndKey::from(CertifiedKey::new(self.chain, key)))
    }
}
