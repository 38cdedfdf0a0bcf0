//! What a handshake would refuse is refused here.

use std::sync::Arc;

use tokio::sync::watch;

use crate::identity::TlsKind;
use crate::identity::revocation::{Lists, Revocations, State};
use crate::identity::tests::{Authority, account, revoking};
use crate::model::Identity;

#[test]
fn both_prove_who_they_are() {
    let root = Authority::new("root");
    let (web, api) = (root.credentials(&account("web")), root.credentials(&account("api")));
    let server = web.meet_server(&api, &[account("db"), account("api")]).unwrap();
    let client = api.meet_client(&web).unwrap();
    assert_eq!((server.identity, client.identity), (Some(account("api")), Some(account("web"))));
    assert_eq!((server.expires, client.expires), (Some(api.validity.not_after), Some(web.validity.not_after)));
    assert!(server.tracked.is_none() && client.tracked.is_none(), "no lists are kept");
}

#[test]
fn strangers_are_refused() {
    let (root, other) = (Authority::new("root"), Authority::new("root"));
    let (web, api) = (root.credentials(&account("web")), root.credentials(&account("api")));
    let foreign = Identity::new("elsewhere.example", "shop", "web").unwrap();
    let kind = |met: Result<_, crate::identity::TlsFailure>| met.map(drop).unwrap_err().kind;
    assert_eq!(kind(web.meet_server(&api, &[account("db")])), TlsKind::WrongPeer);
    assert_eq!(kind(web.meet_server(&api, &[])), TlsKind::WrongPeer);
    assert_eq!(kind(api.meet_client(&root.credentials(&foreign))), TlsKind::WrongPeer);
    let impostor = other.credentials(&account("web"));
    assert_eq!(kind(api.meet_client(&impostor)), TlsKind::UntrustedRoot);
    assert_eq!(kind(web.meet_server(&other.credentials(&account("api")), &[account("api")])), TlsKind::UntrustedRoot);
}

#[tokio::test]
async fn revoked_ones_are_refused_and_others_are_watched() {
    let root = Authority::new("root");
    let web = root.credentials(&account("web"));
    let bytes: Vec<u8> = web.serial.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    let lists = Lists::parse(revoking(&root.signer, &[&bytes]).der()).unwrap();
    let state = |lists| State { path: "crl.pem".into(), lists: Arc::new(lists), loaded: None, rejected: None };
    let (writer, states) = watch::channel(state(Lists::default()));
    let db = root.wary(&account("db"), &Revocations::of(states));
    let watched = db.meet_client(&web).unwrap().tracked.expect("lists are kept");
    writer.send_replace(state(lists));
    watched.until_revoked().await;
    assert_eq!(db.meet_client(&web).unwrap_err().kind, TlsKind::Revoked);
    assert_eq!(db.meet_server(&web, &[account("web")]).unwrap_err().kind, TlsKind::Revoked);
}
