//! Which files are lists, and which certificates they take back.

use rcgen::{CertificateParams, Issuer as Signer, KeyPair, SerialNumber};
use rustls_pki_types::CertificateDer;

use super::{BadList, Lists};
use crate::identity::tests::{Authority, account, authority, leaf, revoking};

fn numbered(serial: &[u8]) -> CertificateParams {
    let mut params = leaf(&[account("web").uri()]);
    params.serial_number = Some(SerialNumber::from_slice(serial));
    params
}

/// A chain of two below `root`: the leaf has `serial`, the intermediate `above`.
fn chain(root: &Authority, serial: &[u8], above: &[u8]) -> (Vec<CertificateDer<'static>>, Signer<'static, KeyPair>) {
    let key = KeyPair::generate().unwrap();
    let mut params = authority("intermediate");
    params.serial_number = Some(SerialNumber::from_slice(above));
    let intermediate = params.signed_by(&key, &root.signer).unwrap();
    let signer = Signer::new(params, key);
    let own = KeyPair::generate().unwrap();
    let card = numbered(serial).signed_by(&own, &signer).unwrap();
    (vec![card.into(), intermediate.into()], signer)
}

#[test]
fn files() {
    let root = Authority::new("root");
    let one = revoking(&root.signer, &[&[1], &[2]]);
    let two = revoking(&Authority::new("other").signer, &[&[3]]);
    let (der, pem) = (one.der().to_vec(), one.pem().unwrap());
    let both = format!("of the root:\n{pem}\nof the other:\n{}", two.pem().unwrap());
    let empty = revoking(&root.signer, &[]).pem().unwrap();
    let entries = |file: &[u8]| Lists::parse(file).map(|lists| lists.entries());
    assert_eq!(entries(&der), Ok(2));
    assert_eq!(entries(pem.as_bytes()), Ok(2));
    assert_eq!(entries(both.as_bytes()), Ok(3), "several blocks");
    assert_eq!(entries(empty.as_bytes()), Ok(0), "a list may revoke nothing");
    for nothing in [&b""[..], b"\n", b"junk", root.issuer.root().as_bytes()] {
        assert_eq!(entries(nothing), Err(BadList::None), "{:?}", String::from_utf8_lossy(nothing));
    }
    let half = &both[..both.len() - 60];
    for (case, broken) in [("DER", &der[..der.len() - 9]), ("PEM", &pem.as_bytes()[..200]), ("2nd", half.as_bytes())] {
        assert!(entries(broken).is_err(), "{case} that is still being written");
    }
    let mut signed_otherwise = der;
    // The last arc of ecdsa-with-SHA256 (1.2.840.10045.4.3.2), inside the signature and outside of it.
    let name = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
    for at in 0..signed_otherwise.len() - name.len() {
        if signed_otherwise[at..].starts_with(&name) {
            signed_otherwise[at + 7] = 0x70;
        }
    }
    let error = entries(&signed_otherwise).unwrap_err().to_string();
    assert!(error.contains("list 1 of it cannot be used"), "{error}");
}

#[test]
fn every_prefix_and_every_flipped_byte_is_survived() {
    let der = revoking(&Authority::new("root").signer, &[&[1]]).der().to_vec();
    for end in 0..der.len() {
        assert!(Lists::parse(&der[..end]).is_err());
        let mut changed = der.clone();
        changed[end] ^= 0x55;
        drop(Lists::parse(&changed));
    }
}

#[test]
fn certificates() {
    let (root, namesake, other) = (Authority::new("root"), Authority::new("root"), Authority::new("other"));
    let (below, intermediate) = chain(&root, &[7], &[8]);
    let direct = root.signed(&numbered(&[7])).chain;
    let lists = |list: &rcgen::CertificateRevocationList| Lists::parse(list.der()).unwrap();
    let roots = [root.anchor(), namesake.anchor(), other.anchor()];
    let row = |signer, serial: u8| lists(&revoking(signer, &[&[serial]]));
    type Row<'a> = (&'a str, Lists, &'a [CertificateDer<'static>], Option<&'a str>);
    let rows: [Row<'_>; 9] = [
        ("listed", row(&root.signer, 7), &direct, Some("07")),
        ("another is listed", row(&root.signer, 9), &direct, None),
        ("by another authority", row(&other.signer, 7), &direct, None),
        ("by an authority of the same name", row(&namesake.signer, 7), &direct, None),
        ("nobody is listed", lists(&revoking(&root.signer, &[])), &direct, None),
        ("below an intermediate", row(&intermediate, 7), &below, Some("07")),
        ("below, but by the root", row(&root.signer, 7), &below, None),
        ("the intermediate", row(&root.signer, 8), &below, Some("08")),
        ("the intermediate, by itself", row(&intermediate, 8), &below, None),
    ];
    for (case, lists, chain, expected) in rows {
        // Twice: the second time it is known whose the list is.
        for _ in 0..2 {
            assert_eq!(lists.revoked(chain, &roots).as_deref(), expected, "{case}");
        }
    }
    // Among several lists of one name, the one with the right key counts.
    let pems = [&namesake, &other, &root].map(|signer| revoking(&signer.signer, &[&[7]]).pem().unwrap());
    assert!(Lists::parse(pems.concat().as_bytes()).unwrap().revoked(&direct, &roots).is_some());
    assert!(Lists::parse(pems[..2].concat().as_bytes()).unwrap().revoked(&direct, &roots).is_none());
    let mut junk = direct;
    junk.push(CertificateDer::from(b"junk".to_vec()));
    assert!(row(&root.signer, 7).revoked(&junk, &roots).is_some(), "what is no certificate is passed over");
}

#[test]
fn an_issuer_need_not_say_that_it_may_sign_lists() {
    let key = KeyPair::generate().unwrap();
    let mut params = authority("root");
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    let anchor = params.self_signed(&key).unwrap();
    let anchor = webpki::anchor_from_trusted_cert(anchor.der()).unwrap().to_owned();
    let card = numbered(&[7]).signed_by(&KeyPair::generate().unwrap(), &Signer::new(params, &key)).unwrap();
    let list = revoking(&Signer::new(authority("root"), key), &[&[7]]);
    assert!(Lists::parse(list.der()).unwrap().revoked(&[card.into()], &[anchor]).is_some());
}
