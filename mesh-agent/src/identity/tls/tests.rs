//! Which answers of an authority are taken.

use std::time::{Duration, SystemTime};

use rcgen::KeyPair;
use rustls_pki_types::PrivateKeyDer;

use super::Credentials;
use crate::control::issuer::Lifetime;
use crate::identity::csr;
use crate::identity::revocation::Revocations;
use crate::identity::tests::{Authority, HOUR, account, leaf, private};

/// What becomes of an answer: its parts, made into one by `change`.
fn take(authority: &Authority, change: impl FnOnce(&mut Vec<String>)) -> Result<Credentials, String> {
    let request = csr::request(&account("web")).unwrap();
    let mut chain = authority.issuer.sign(&account("web"), &request.csr, Lifetime::EndsIn(HOUR)).unwrap();
    change(&mut chain);
    Credentials::new(&account("web"), &chain, request.key(), &Revocations::default()).map_err(|error| error.to_string())
}

/// PEM of something that is no certificate.
const JUNK: &str = "-----BEGIN CERTIFICATE-----\nanVuaw==\n-----END CERTIFICATE-----\n";

#[test]
fn trap_28_answers() {
    let authority = Authority::new("root");
    let foreign = Authority::new("foreign");
    let own = |name: &str| leaf(&[name]).signed_by(&KeyPair::generate().unwrap(), &authority.signer).unwrap().pem();
    let (db, nobody) = (own(account("db").uri()), own("https://example.com"));
    type Change<'a> = Box<dyn FnOnce(&mut Vec<String>) + 'a>;
    let cases: Vec<(&str, Change<'_>, Option<&str>)> = vec![
        ("as it comes", Box::new(|_| {}), None),
        ("two roots", Box::new(|chain| chain[1] += foreign.issuer.root()), None),
        ("an intermediate", Box::new(|chain| chain.insert(1, foreign.issuer.root().to_owned())), None),
        ("text around the blocks", Box::new(|chain| chain[0] = format!("leaf:\n{}\n", chain[0])), None),
        ("nothing", Box::new(Vec::clear), Some("needs a certificate and a root, and has 0 elements")),
        ("no root", Box::new(|chain| drop(chain.pop())), Some("needs a certificate and a root, and has 1 elements")),
        ("no text as root", Box::new(|chain| chain[1].clear()), Some("needs a certificate and a root")),
        (
            "another's certificate",
            Box::new(|chain| chain[0] = db),
            Some("for Some(spiffe://cluster.local/ns/shop/sa/db), not for spiffe://cluster.local/ns/shop/sa/web"),
        ),
        ("nobody's certificate", Box::new(|chain| chain[0] = nobody), Some("for None, not for spiffe://")),
        ("order reversed", Box::new(|chain| chain.reverse()), Some("for None, not for spiffe://")),
        ("no PEM", Box::new(|chain| chain[0] = "junk".to_owned()), Some("")),
        ("PEM cut short", Box::new(|chain| chain[0].truncate(200)), Some("the answer is not PEM: ")),
        ("PEM of something else", Box::new(|chain| chain[0] = JUNK.to_owned()), Some("")),
        ("a root that is none", Box::new(|chain| chain[1] = JUNK.to_owned()), Some("a root cannot be used: ")),
    ];
    for (case, change, refusal) in cases {
        let got = take(&authority, change).map(|credentials| credentials.identity.clone());
        match (got, refusal) {
            (Ok(identity), None) => assert_eq!(identity, account("web"), "{case}"),
            (Err(error), Some(expected)) => assert!(error.contains(expected), "{case}: {error}"),
            (got, expected) => panic!("{case}: {got:?}, not {expected:?}"),
        }
    }
}

#[test]
fn the_key_must_be_the_certificates() {
    let authority = Authority::new("root");
    let request = csr::request(&account("web")).unwrap();
    let chain = authority.issuer.sign(&account("web"), &request.csr, Lifetime::EndsIn(HOUR)).unwrap();
    let junk = PrivateKeyDer::Pkcs8(b"junk".to_vec().into());
    for (case, key) in [("no key", junk), ("another's", private(&KeyPair::generate().unwrap()))] {
        assert!(Credentials::new(&account("web"), &chain, key, &Revocations::default()).is_err(), "{case}");
    }
}

#[test]
fn lifetime_and_serial_are_the_leafs() {
    let authority = Authority::new("root");
    let mut credentials = take(&authority, |_| {}).unwrap();
    let now = SystemTime::now();
    let (before, after) = (credentials.validity.not_before, credentials.validity.not_after);
    let left = after.duration_since(now).unwrap();
    assert!(left <= HOUR && left > HOUR - Duration::from_secs(60), "{left:?}");
    assert!(before < now && now.duration_since(before).unwrap() < Duration::from_secs(180), "clocks may differ");
    let hexadecimal = |c: char| c.is_ascii_hexdigit() || c == ':';
    assert!(!credentials.serial.is_empty() && credentials.serial.chars().all(hexadecimal), "{}", credentials.serial);
    assert_ne!(credentials.serial, take(&authority, |_| {}).unwrap().serial);
    assert!(credentials.valid_at(now));
    credentials.validity.not_after = now;
    assert!(!credentials.valid_at(now) && credentials.valid_at(now - Duration::from_millis(1)));
}
