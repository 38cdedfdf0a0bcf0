//! What is signed, for whom, and for how long.

use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{IssueError, Issuer, Lifetime, write_private};
use crate::control::config::{ControlFile, Root};
use crate::identity::csr;
use crate::model::Identity;

const HOUR: Duration = Duration::from_secs(3600);

fn web() -> Identity {
    Identity::new("cluster.local", "shop", "web").unwrap()
}

fn file(root: Option<Root>) -> ControlFile {
    ControlFile {
        listen: "127.0.0.1:0".parse().unwrap(),
        trust_domain: "cluster.local".to_owned(),
        root,
        publish_root: "unused".into(),
        names: Vec::new(),
        certificate_ttl: HOUR,
        nodes: Vec::new(),
    }
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

/// Looks at a certificate.
fn read<T>(pem: &str, look: impl FnOnce(&X509Certificate<'_>) -> T) -> T {
    look(&X509Certificate::from_der(&der(pem)).unwrap().1)
}

/// When a certificate is valid.
fn validity(pem: &str) -> (SystemTime, SystemTime) {
    let at = |seconds: i64| SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap());
    read(pem, |parsed| (at(parsed.validity.not_before.timestamp()), at(parsed.validity.not_after.timestamp())))
}

/// Verifies the leaf against the root, as a peer does.
fn verify(leaf: &str, root: &str) -> Result<(), webpki::Error> {
    let (leaf, root) = (der(leaf), der(root));
    let anchor = webpki::anchor_from_trusted_cert(&root).unwrap();
    let leaf = webpki::EndEntityCert::try_from(&leaf).unwrap();
    let algorithms = webpki::ALL_VERIFICATION_ALGS;
    for usage in [webpki::KeyUsage::server_auth(), webpki::KeyUsage::client_auth()] {
        leaf.verify_for_usage(algorithms, std::slice::from_ref(&anchor), &[], UnixTime::now(), usage, None, None)?;
    }
    Ok(())
}

#[test]
fn a_leaf_is_for_both_ends_of_a_connection_and_for_nothing_else() {
    let issuer = Issuer::new(&file(None)).unwrap();
    let request = csr::request(&web()).unwrap();
    let chain = issuer.sign(&web(), &request.csr, Lifetime::EndsIn(HOUR)).unwrap();
    let [leaf, root] = &chain[..] else { panic!("leaf and root: {chain:?}") };
    assert_eq!(root, issuer.root());
    verify(leaf, root).unwrap();
    read(leaf, |parsed| {
        let names = &parsed.subject_alternative_name().unwrap().unwrap();
        assert!(names.critical, "the subject is empty (RFC 5280, section 4.2.1.6)");
        let names: Vec<_> = names.value.general_names.iter().map(ToString::to_string).collect();
        assert_eq!(names, [format!("URI({})", web().uri())]);
        assert_eq!(parsed.subject().iter().count(), 0);
        assert!(!parsed.is_ca());
        let usage = parsed.key_usage().unwrap().unwrap().value;
        assert!(usage.digital_signature() && !usage.key_cert_sign() && !usage.crl_sign());
        let extended = parsed.extended_key_usage().unwrap().unwrap().value;
        assert!(extended.server_auth && extended.client_auth && !extended.any && !extended.code_signing);
        let key = request.key_pem();
        let public = KeyPair::from_pem(&key).unwrap();
        assert!(parsed.public_key().raw.ends_with(public.public_key_raw()), "the key is the request's");
    });
    let again = issuer.sign(&web(), &csr::request(&web()).unwrap().csr, Lifetime::EndsIn(HOUR)).unwrap();
    let serial = |pem: &str| read(pem, |parsed| parsed.raw_serial_as_string());
    assert_ne!(serial(leaf), serial(&again[0]));
}

fn request(params: &CertificateParams) -> String {
    params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
}

/// A request that asks for everything.
fn greedy() -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "root");
    params.subject_alt_names = vec![
        SanType::URI("spiffe://cluster.local/ns/istio-system/sa/admin".try_into().unwrap()),
        SanType::DnsName("authority.example".try_into().unwrap()),
        SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
    ];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any];
    request(&params)
}

#[test]
fn what_else_a_request_says_is_ignored() {
    let issuer = Issuer::new(&file(None)).unwrap();
    let modest = csr::request(&web()).unwrap().csr;
    let extensions = |request: &str| {
        let chain = issuer.sign(&web(), request, Lifetime::EndsIn(HOUR)).unwrap();
        read(&chain[0], |parsed| {
            // The one that names the subject's key would differ, if there were one.
            let of = |e: &x509_parser::extensions::X509Extension<'_>| (e.oid.to_string(), e.critical, e.value.to_vec());
            (parsed.subject().to_string(), parsed.extensions().iter().map(of).collect::<Vec<_>>())
        })
    };
    assert_eq!(extensions(&greedy()), extensions(&modest));
}

#[test]
fn requests_that_prove_no_key_are_refused() {
    let issuer = Issuer::new(&file(None)).unwrap();
    let good = csr::request(&web()).unwrap().csr;
    let mut lines: Vec<_> = good.lines().collect();
    // The last line of data is the end of the signature; the one before it is all signature.
    let at = lines.len() - 3;
    let forged_line: String = lines[at].chars().rev().map(|letter| if letter == 'A' { 'B' } else { letter }).collect();
    lines[at] = &forged_line;
    let forged = lines.join("\n");
    let mut strange = CertificateParams::default();
    strange.custom_extensions = vec![CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999], vec![5, 0])];
    for (case, request) in [
        ("empty", String::new()),
        ("junk", "junk".to_owned()),
        ("a certificate", issuer.root().to_owned()),
        ("cut short", good[..good.len() / 2].to_owned()),
        ("another signature", forged),
        ("an extension that nobody knows", request(&strange)),
    ] {
        let result = issuer.sign(&web(), &request, Lifetime::EndsIn(HOUR));
        assert!(matches!(result, Err(IssueError::Request(_))), "{case}: {result:?}");
    }
}

#[test]
fn lifetimes() {
    let issuer = Issuer::new(&file(None)).unwrap();
    let request = csr::request(&web()).unwrap().csr;
    let now = SystemTime::now();
    let near = |time: SystemTime, expected: SystemTime| {
        let distance = time.duration_since(expected).or_else(|_| expected.duration_since(time)).unwrap();
        distance < Duration::from_secs(30)
    };
    let behind = Duration::from_secs(120);
    for (lifetime, from, to) in [
        (Lifetime::EndsIn(HOUR), now - behind, now + HOUR),
        (Lifetime::EndsIn(Duration::ZERO), now - behind, now),
        (Lifetime::EndedAgo(HOUR), now - HOUR - behind, now - HOUR),
        (Lifetime::EndsIn(HOUR * 24 * 3650), now - behind, now + HOUR * 24 * 3650),
    ] {
        let chain = issuer.sign(&web(), &request, lifetime).unwrap();
        let (before, after) = validity(&chain[0]);
        assert!(near(before, from) && near(after, to), "{lifetime:?}: {before:?} to {after:?}");
    }
    let (before, after) = validity(issuer.root());
    assert!(before < now && after > now + HOUR * 24 * 365, "the root outlives what it signs");
}

fn mount(directory: &Path, key: &KeyPair) -> (Root, String) {
    let root = Root { cert: directory.join("root.pem"), key: directory.join("key.pem") };
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let text = params.self_signed(key).unwrap().pem();
    std::fs::write(&root.cert, &text).unwrap();
    std::fs::write(&root.key, key.serialize_pem()).unwrap();
    (root, text)
}

#[test]
fn a_mounted_root_signs_and_is_published() {
    let directory = tempfile::tempdir().unwrap();
    let (root, text) = mount(directory.path(), &KeyPair::generate().unwrap());
    let issuer = Issuer::new(&file(Some(root.clone()))).unwrap();
    let chain = issuer.sign(&web(), &csr::request(&web()).unwrap().csr, Lifetime::EndsIn(HOUR)).unwrap();
    assert_eq!(chain[1], text);
    verify(&chain[0], &text).unwrap();
    let own = Issuer::new(&file(None)).unwrap();
    assert!(verify(&chain[0], own.root()).is_err(), "each root is another one");
    let published = directory.path().join("roots/published.pem");
    assert!(issuer.publish(&published).is_err(), "its folder is not there");
    std::fs::create_dir(directory.path().join("roots")).unwrap();
    std::fs::write(&published, "old").unwrap();
    issuer.publish(&published).unwrap();
    assert_eq!(std::fs::read_to_string(&published).unwrap(), text);
    let left = std::fs::read_dir(directory.path().join("roots")).unwrap().count();
    assert_eq!(left, 1, "nothing else is left there");
    let missing = Root { cert: directory.path().join("missing.pem"), ..root };
    let error = Issuer::new(&file(Some(missing))).unwrap_err().to_string();
    assert!(error.contains("missing.pem: No such file"), "{error}");
}

/// Everything would be signed, and nothing accepted.
#[test]
fn a_mounted_key_must_be_the_roots() {
    let directory = tempfile::tempdir().unwrap();
    let (root, _) = mount(directory.path(), &KeyPair::generate().unwrap());
    std::fs::write(&root.key, KeyPair::generate().unwrap().serialize_pem()).unwrap();
    assert!(Issuer::new(&file(Some(root))).is_err());
}

#[test]
fn the_endpoint_has_its_names() {
    let issuer = Issuer::new(&file(None)).unwrap();
    let (certificate, key) = issuer.endpoint(vec!["authority.example".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    verify(&certificate, issuer.root()).unwrap();
    KeyPair::from_pem(&key).unwrap();
    let certificate = der(&certificate);
    let parsed = webpki::EndEntityCert::try_from(&certificate).unwrap();
    for (name, expected) in [("authority.example", true), ("127.0.0.1", true), ("other.example", false), ("::1", false)]
    {
        let name = rustls_pki_types::ServerName::try_from(name).unwrap();
        assert_eq!(parsed.verify_is_valid_for_subject_name(&name).is_ok(), expected, "{name:?}");
    }
}

#[test]
fn keys_are_for_their_owner_only() {
    let directory = tempfile::tempdir().unwrap();
    for (case, before) in [("new", None), ("one that others could read", Some(0o644))] {
        let path = directory.path().join(case);
        if let Some(mode) = before {
            std::fs::write(&path, "a longer text that was there before").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        write_private(&path, "key").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "key", "{case}");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{case}");
    }
}

#[test]
fn debug_output_shows_no_key() {
    let issuer = Issuer::new(&file(None)).unwrap();
    let request = csr::request(&web()).unwrap();
    let secret = request.key_pem().lines().nth(1).unwrap().to_owned();
    let shown = format!("{issuer:?} {request:?}");
    assert!(!shown.contains("PRIVATE") && !shown.contains(&secret), "{shown}");
}
