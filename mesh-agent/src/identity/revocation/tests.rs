//! Peers whose certificates are taken back before, and while, they are talked to.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use rustls::Error;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{Lists, Reporter, Revocations, State};
use crate::identity::tests::{Authority, account, revoking};
use crate::identity::tls::Credentials;
use crate::identity::{Proven, TlsFailure, TlsKind};

fn state(lists: Lists) -> State {
    State { path: "crl.pem".into(), lists: Arc::new(lists), loaded: None, rejected: None }
}

/// What takes the certificate of `whom` back.
fn against(root: &Authority, whom: &Credentials) -> Lists {
    let bytes: Vec<u8> = whom.serial.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    Lists::parse(revoking(&root.signer, &[&bytes]).der()).unwrap()
}

type Chain = Option<Vec<CertificateDer<'static>>>;

/// A handshake; gives what the server makes of the client and the client of the server, and each one's error.
async fn shake(client: &Credentials, server: &Credentials) -> (Result<Chain, TlsFailure>, Result<Chain, TlsFailure>) {
    let (near, far) = tokio::io::duplex(1 << 16);
    let name = ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
    let config = client.client_config(std::slice::from_ref(&server.identity)).unwrap();
    let dial = async {
        let mut tls = TlsConnector::from(config).connect(name, near).await?;
        // With TLS 1.3, whether the server takes us is only known from what comes next.
        let mut byte = [0];
        tls.read_exact(&mut byte).await?;
        Ok::<_, std::io::Error>(tls.get_ref().1.peer_certificates().map(<[_]>::to_vec))
    };
    let accept = async {
        let mut tls = TlsAcceptor::from(server.server_config()).accept(far).await?;
        tls.write_all(&[1]).await?;
        Ok::<_, std::io::Error>(tls.get_ref().1.peer_certificates().map(<[_]>::to_vec))
    };
    let (dialled, accepted) = tokio::join!(dial, accept);
    let classify = |error: std::io::Error| TlsFailure::of(&error);
    (accepted.map_err(classify), dialled.map_err(classify))
}

#[tokio::test]
async fn revoked_peers_are_refused_on_both_sides() {
    let root = Authority::new("root");
    let (web, api) = (root.credentials(&account("web")), root.credentials(&account("api")));
    let with = |lists| {
        let (writer, states) = watch::channel(state(lists));
        drop(writer);
        Revocations::of(states)
    };
    let wary = with(against(&root, &web));
    let (client, server) = (root.wary(&account("db"), &wary), root.wary(&account("db"), &wary));
    let (accepted, dialled) = shake(&web, &server).await;
    assert_eq!(accepted.unwrap_err().kind, TlsKind::Revoked);
    let told = dialled.unwrap_err();
    assert!(told.kind == TlsKind::Refused && told.to_string().contains("CertificateRevoked"), "{told}");
    let (_, dialled) = shake(&client, &web).await;
    let refused = dialled.unwrap_err();
    assert_eq!(
        (refused.kind, refused.to_string().as_str()),
        (TlsKind::Revoked, "the peer's certificate was revoked by its authority")
    );
    assert_eq!(Reporter::ALL.map(|side| wary.tally().rejections(side)), [1, 1]);
    for (accepted, dialled) in [shake(&api, &server).await, shake(&client, &api).await] {
        assert!(accepted.is_ok() && dialled.is_ok(), "a neighbour of the revoked one: {accepted:?} {dialled:?}");
    }
    assert_eq!(Reporter::ALL.map(|side| wary.tally().rejections(side)), [1, 1]);
}

#[tokio::test(start_paused = true)]
async fn what_was_proven_is_looked_up_again() {
    let root = Authority::new("root");
    let (web, api) = (root.credentials(&account("web")), root.credentials(&account("api")));
    let (writer, states) = watch::channel(state(Lists::default()));
    let revocations = Revocations::of(states);
    let ours = root.wary(&account("db"), &revocations);
    let chain = shake(&web, &ours).await.0.unwrap();
    let proven = Proven::to(&ours, Reporter::Destination, chain.as_deref());
    assert_eq!(proven.identity, Some(account("web")));
    let mut waiting = Box::pin(proven.tracked.unwrap().until_revoked());
    assert!(waiting.as_mut().now_or_never().is_none());
    writer.send_replace(state(against(&root, &api)));
    assert!(waiting.as_mut().now_or_never().is_none(), "somebody else's");
    writer.send_modify(|state| state.rejected = Some((std::time::SystemTime::now(), "broken".to_owned())));
    assert!(waiting.as_mut().now_or_never().is_none(), "a broken file");
    writer.send_replace(state(against(&root, &web)));
    let revoked = waiting.as_mut().now_or_never().expect("at once");
    assert_eq!(revoked.serial, web.serial.trim_start_matches("00:"));
    assert_eq!(Reporter::ALL.map(|side| revocations.tally().rejections(side)), [0, 1]);
    // Taken back between the handshake and the first look.
    let late = Proven::to(&ours, Reporter::Source, chain.as_deref()).tracked.unwrap();
    assert!(late.until_revoked().now_or_never().is_some());
    // Without a writer nothing changes any more.
    let late = Proven::to(&root.wary(&account("db"), &revocations), Reporter::Source, Some(&[root.root()]));
    drop(writer);
    let waited = tokio::time::timeout(Duration::from_secs(3600), late.tracked.unwrap().until_revoked()).await;
    assert!(waited.is_err());
}

#[test]
fn without_lists_nothing_is_kept_of_a_peer() {
    let root = Authority::new("root");
    let ours = root.credentials(&account("db"));
    assert!(Proven::to(&ours, Reporter::Source, Some(&[root.root()])).tracked.is_none());
    let (_writer, states) = watch::channel(state(Lists::default()));
    let revocations = Revocations::of(states);
    let ours = root.wary(&account("db"), &revocations);
    assert!(Proven::to(&ours, Reporter::Source, None).tracked.is_none());
    assert_eq!(Reporter::ALL.map(|side| revocations.tally().untracked(side)), [1, 0]);
}

/// The other errors of a handshake are not taken for this one.
#[test]
fn kinds() {
    use rustls::CertificateError as C;
    let of = |reason| TlsFailure::of(&std::io::Error::other(Error::InvalidCertificate(reason))).kind;
    assert_eq!([C::Revoked, C::UnknownRevocationStatus].map(of), [TlsKind::Revoked, TlsKind::Other]);
}
