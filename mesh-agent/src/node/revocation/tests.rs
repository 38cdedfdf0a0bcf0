//! The file as it is edited.

use std::path::Path;
use std::time::Duration;

use super::follow;
use crate::identity::Revocations;
use crate::task::Tasks;

/// A list with one entry, and one with two; of a root that nobody trusts (openssl ca -gencrl).
fn lists() -> [String; 2] {
    use rcgen::{CertificateParams, Issuer, KeyPair, RevokedCertParams, SerialNumber};
    let now = std::time::SystemTime::now();
    let signer = Issuer::new(CertificateParams::default(), KeyPair::generate().unwrap());
    [1_u64, 2].map(|count| {
        let revoked = |serial: u64| RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: now.into(),
            reason_code: None,
            invalidity_date: None,
        };
        let params = rcgen::CertificateRevocationListParams {
            this_update: now.into(),
            next_update: (now + Duration::from_secs(60)).into(),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: (1..=count).map(revoked).collect(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        params.signed_by(&signer).unwrap().pem().unwrap()
    })
}

/// Entries, whether one was ever loaded, and what is wrong.
fn seen(revocations: &Revocations) -> (usize, bool, Option<String>) {
    let state = revocations.state().unwrap();
    (state.lists.entries(), state.loaded.is_some(), state.rejected.map(|(_, reason)| reason))
}

async fn until(revocations: &Revocations, wanted: impl Fn(&(usize, bool, Option<String>)) -> bool) {
    let looking = async {
        while !wanted(&seen(revocations)) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(2), looking).await;
    assert!(waited.is_ok(), "still {:?} after two seconds", seen(revocations));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn edits_are_in_force_at_once_and_broken_ones_never() {
    let [one, two] = lists();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("crl.pem");
    let tasks = Tasks::new();
    let revocations = follow(Some(&path), &tasks);
    let (entries, loaded, reason) = seen(&revocations);
    assert!((entries, loaded) == (0, false) && reason.unwrap().starts_with("cannot be read: "));
    std::fs::write(&path, &one).unwrap();
    until(&revocations, |seen| *seen == (1, true, None)).await;
    std::fs::write(&path, &two[..100]).unwrap();
    until(&revocations, |(entries, _, reason)| *entries == 1 && reason.is_some()).await;
    let fresh = directory.path().join("crl.new");
    std::fs::write(&fresh, &two).unwrap();
    std::fs::rename(&fresh, &path).unwrap();
    until(&revocations, |seen| *seen == (2, true, None)).await;
    std::fs::remove_file(&path).unwrap();
    until(&revocations, |(entries, _, reason)| *entries == 2 && reason.is_some()).await;
}

/// As ConfigMaps are mounted: the file is a link through a link, and only the second one is swapped.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_swapped_link_is_an_edit() {
    use std::os::unix::fs::symlink;
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    for (version, text) in ["..1", "..2"].iter().zip(lists()) {
        std::fs::create_dir(at(version)).unwrap();
        std::fs::write(at(version).join("ca-crl.pem"), text).unwrap();
    }
    symlink("..1", at("..data")).unwrap();
    symlink("..data/ca-crl.pem", at("ca-crl.pem")).unwrap();
    let tasks = Tasks::new();
    let revocations = follow(Some(&at("ca-crl.pem")), &tasks);
    assert_eq!(seen(&revocations), (1, true, None));
    symlink("..2", at("..data_tmp")).unwrap();
    std::fs::rename(at("..data_tmp"), at("..data")).unwrap();
    until(&revocations, |seen| *seen == (2, true, None)).await;
}

#[tokio::test]
async fn without_a_file_or_without_its_folder() {
    let tasks = Tasks::new();
    assert!(follow(None, &tasks).state().is_none());
    let nowhere = follow(Some(Path::new("/nowhere/at/all/crl.pem")), &tasks);
    let (entries, loaded, reason) = seen(&nowhere);
    assert!((entries, loaded) == (0, false) && reason.is_some());
}
