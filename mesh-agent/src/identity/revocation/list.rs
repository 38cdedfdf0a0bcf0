//! What a revocation list says (RFC 5280, section 5): which serial numbers of which authority are no longer good.
//!
//! A list counts for a certificate if it bears the name of the certificate's issuer and the signature of its key. Names
//! alone do not tell authorities apart: a root that was rotated often keeps its name. When a list should have been
//! replaced by the next is not looked at, nor whether its issuer's certificate says that it may sign lists (protocol
//! note, section 5.9).

use std::sync::{Mutex, PoisonError};

use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, TrustAnchor};
use webpki::{BorrowedCertRevocationList, CertRevocationList, EndEntityCert};
use x509_parser::asn1_rs::{Any, FromDer};

/// Keys of which a list remembers whether it bears their signature. An authority has one or two.
const KEYS: usize = 16;

/// The lists of one file.
#[derive(Debug, Default)]
pub struct Lists {
    lists: Vec<List>,
    entries: usize,
}

/// Why a file is no revocation list that can be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadList {
    #[error("it has neither a PEM block `X509 CRL` nor is it DER")]
    None,
    #[error("it is not PEM: {0}")]
    Pem(String),
    #[error("list {number} of it cannot be used: {reason}")]
    List { number: usize, reason: String },
}

/// One authority's list.
struct List {
    revoked: CertRevocationList<'static>,
    der: Vec<u8>,
    /// Keys that were tried on the signature, and what came of it. Locked when a serial number of the list is met.
    keys: Mutex<Vec<(Vec<u8>, bool)>>,
}

impl std::fmt::Debug for List {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("List").field("bytes", &self.der.len()).finish_non_exhaustive()
    }
}

impl Lists {
    /// Reads a file: PEM with one or several blocks, or one list as DER.
    pub fn parse(file: &[u8]) -> Result<Self, BadList> {
        let pem = file.windows(11).any(|window| window == b"-----BEGIN ");
        let ders: Vec<Vec<u8>> = if pem {
            let blocks = CertificateRevocationListDer::pem_slice_iter(file).map(|block| block.map(|der| der.to_vec()));
            blocks.collect::<Result<_, _>>().map_err(|error| BadList::Pem(error.to_string()))?
        } else if file.first() == Some(&0x30) {
            vec![file.to_vec()]
        } else {
            Vec::new()
        };
        if ders.is_empty() {
            return Err(BadList::None);
        }
        let mut all = Self::default();
        for (index, der) in ders.into_iter().enumerate() {
            let bad = |reason| BadList::List { number: index + 1, reason };
            let (list, entries) = List::new(der).map_err(bad)?;
            all.lists.push(list);
            all.entries += entries;
        }
        Ok(all)
    }

    /// Revoked serial numbers.
    pub fn entries(&self) -> usize {
        self.entries
    }

    /// The first certificate of a verified chain (leaf first) that is revoked, by its serial number in hexadecimal. `roots`
    /// are those that the chain was verified against.
    pub fn revoked<'a>(
        &self,
        chain: impl IntoIterator<Item = &'a CertificateDer<'a>>,
        roots: &[TrustAnchor<'_>],
    ) -> Option<String> {
        if self.entries == 0 {
            return None;
        }
        // What cannot be parsed is no part of what was verified.
        let chain: Vec<_> = chain.into_iter().filter_map(|der| EndEntityCert::try_from(der).ok()).collect();
        let revoked = chain.iter().find(|certificate| {
            let mut lists = self.lists.iter().filter(|list| list.names(certificate.issuer(), certificate.serial()));
            lists.any(|list| issuers(certificate, &chain, roots).any(|key| list.is_of(key)))
        })?;
        Some(revoked.serial().iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":"))
    }
}

/// The key that has signed a certificate (the contents of its subjectPublicKeyInfo), found among those of its issuer's name.
fn issuers<'a>(
    certificate: &'a EndEntityCert<'_>,
    chain: &'a [EndEntityCert<'_>],
    roots: &'a [TrustAnchor<'_>],
) -> impl Iterator<Item = Vec<u8>> + 'a {
    let roots = roots.iter().filter(|root| *root.subject == *certificate.issuer());
    let others = chain.iter().filter(|other| other.subject() == certificate.issuer());
    let keys = roots.map(|root| root.subject_public_key_info.to_vec());
    let keys = keys.chain(others.filter_map(|other| Some(contents(&other.subject_public_key_info())?.to_vec())));
    let der = certificate.der();
    keys.filter(move |key| Signed::of(&der).is_some_and(|signed| signed.by(key)))
}

impl List {
    fn new(der: Vec<u8>) -> Result<(Self, usize), String> {
        let known = BorrowedCertRevocationList::from_der(&der).map_err(|error| error.to_string())?;
        let entries = known.into_iter().collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?.len();
        let known = BorrowedCertRevocationList::from_der(&der).map_err(|error| error.to_string())?;
        let revoked = known.to_owned().map_err(|error| error.to_string())?.into();
        let signed = Signed::of(&der).ok_or("its signature cannot be read")?;
        if !algorithms().all.iter().any(|one| *one.signature_alg_id() == *signed.algorithm) {
            return Err("it is signed by an algorithm that is not known here".to_owned());
        }
        Ok((Self { revoked, der, keys: Mutex::default() }, entries))
    }

    /// Whether it lists the serial number, and has the name of the one who gave it.
    fn names(&self, issuer: &[u8], serial: &[u8]) -> bool {
        self.revoked.issuer() == issuer && matches!(self.revoked.find_serial(serial), Ok(Some(_)))
    }

    /// Whether it bears the signature of `key` (the contents of a subjectPublicKeyInfo).
    fn is_of(&self, key: Vec<u8>) -> bool {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, is)) = keys.iter().find(|(tried, _)| *tried == key) {
            return *is;
        }
        let is = Signed::of(&self.der).is_some_and(|signed| signed.by(&key));
        if keys.len() < KEYS {
            keys.push((key, is));
        }
        is
    }
}

/// What is signed, and how.
struct Signed<'a> {
    message: &'a [u8],
    /// The contents of an AlgorithmIdentifier.
    algorithm: &'a [u8],
    signature: &'a [u8],
}

impl<'a> Signed<'a> {
    /// The three parts of a signed structure (RFC 5280, section 5.1.1).
    fn of(der: &'a [u8]) -> Option<Self> {
        let inside = contents(der)?;
        let (rest, _) = Any::from_der(inside).ok()?;
        let message = &inside[..inside.len() - rest.len()];
        let (rest, algorithm) = Any::from_der(rest).ok()?;
        Some(Self { message, algorithm: algorithm.data, signature: bits(rest)? })
    }

    fn by(&self, key: &[u8]) -> bool {
        let Ok((rest, kind)) = Any::from_der(key) else { return false };
        let Some(key) = bits(rest) else { return false };
        let mut fitting = algorithms()
            .all
            .iter()
            .filter(|one| *one.signature_alg_id() == *self.algorithm && *one.public_key_alg_id() == *kind.data);
        fitting.any(|one| one.verify_signature(key, self.message, self.signature).is_ok())
    }
}

/// The contents of a DER value.
fn contents(der: &[u8]) -> Option<&[u8]> {
    Some(Any::from_der(der).ok()?.1.data)
}

/// The bytes of a bit string without unused bits.
fn bits(der: &[u8]) -> Option<&[u8]> {
    contents(der)?.strip_prefix(&[0])
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    aws_lc_rs::default_provider().signature_verification_algorithms
}

#[cfg(test)]
mod tests;
