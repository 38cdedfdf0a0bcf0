//! Handshakes with all kinds of peers, over a pipe in memory.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer as Signer, KeyPair, KeyUsagePurpose, SanType};
use rustls::crypto::{SupportedKxGroup, aws_lc_rs};
use rustls::version::{TLS12, TLS13};
use rustls::{
    CipherSuite, ClientConfig, CommonState, HandshakeKind, NamedGroup, ProtocolVersion, ServerConfig,
    SupportedProtocolVersion,
};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::{Expected, TlsFailure, TlsKind, peer_identity};
use crate::control::issuer::Lifetime;
use crate::identity::csr;
use crate::identity::revocation::Revocations;
use crate::identity::tests::{Authority, Card, HOUR, account, authority, leaf, private};
use crate::identity::tls::Credentials;
use crate::model::Identity;
use crate::tls::handshake;

static V13: [&SupportedProtocolVersion; 1] = [&TLS13];
static V12: [&SupportedProtocolVersion; 1] = [&TLS12];
static BOTH: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// Somebody else's end of a connection.
enum Peer {
    Tls(Stranger),
    /// Bytes, and then the end.
    Says(&'static [u8]),
}

/// A TLS peer that need not be one of ours. It trusts our authority and finds us as it expects.
struct Stranger {
    card: Option<Card>,
    versions: &'static [&'static SupportedProtocolVersion],
    protocols: &'static [&'static [u8]],
    groups: Vec<&'static dyn SupportedKxGroup>,
}

impl Stranger {
    fn with(card: Option<Card>) -> Self {
        let groups = aws_lc_rs::default_provider().kx_groups;
        Self { card, versions: &V13, protocols: &[b"h2"], groups }
    }

    fn client(self, trusted: &Authority) -> Arc<ClientConfig> {
        let provider = rustls::crypto::CryptoProvider { kx_groups: self.groups, ..aws_lc_rs::default_provider() };
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(self.versions)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(trusted.verifier(Expected::OneOf([account("api")].into())));
        let mut config = match self.card {
            Some(card) => builder.with_client_cert_resolver(card.certified()),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = self.protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Arc::new(config)
    }

    fn server(self, trusted: &Authority) -> Arc<ServerConfig> {
        let provider = rustls::crypto::CryptoProvider { kx_groups: self.groups, ..aws_lc_rs::default_provider() };
        let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(self.versions)
            .unwrap()
            .with_client_cert_verifier(trusted.verifier(Expected::TrustDomain("cluster.local".into())))
            .with_cert_resolver(self.card.unwrap().certified());
        config.alpn_protocols = self.protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Arc::new(config)
    }
}

async fn say(mut far: DuplexStream, words: &[u8]) {
    // Whoever has heard enough may hang up first.
    far.write_all(words).await.ok();
}

/// A name that nobody looks at.
fn name() -> ServerName<'static> {
    ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into())
}

/// We accept; the identity is what the peer proved.
async fn accept(trusted: &Authority, ours: &Credentials, peer: Peer) -> Result<Option<Identity>, TlsFailure> {
    let (near, far) = tokio::io::duplex(1 << 16);
    let accepting = handshake::accept(ours.server_config(), near);
    let accepted = match peer {
        Peer::Tls(stranger) => {
            let connecting = TlsConnector::from(stranger.client(trusted)).connect(name(), far);
            tokio::join!(accepting, connecting).0
        }
        Peer::Says(words) => tokio::join!(accepting, say(far, words)).0,
    };
    let (_, shown) = accepted.map_err(|error| TlsFailure::of(&error))?;
    Ok(shown.certificates.as_deref().and_then(peer_identity))
}

/// We dial and expect one of `expected`.
async fn dial(
    trusted: &Authority,
    ours: &Credentials,
    expected: &[Identity],
    peer: Peer,
) -> Result<Option<Identity>, TlsFailure> {
    let (near, far) = tokio::io::duplex(1 << 16);
    let connecting = handshake::connect(ours.client_config(expected).unwrap(), name(), near);
    let connected = match peer {
        Peer::Tls(stranger) => {
            let accepting = TlsAcceptor::from(stranger.server(trusted)).accept(far);
            tokio::join!(connecting, accepting).0
        }
        Peer::Says(words) => tokio::join!(connecting, say(far, words)).0,
    };
    let (_, shown) = connected.map_err(|error| TlsFailure::of(&error))?;
    Ok(shown.certificates.as_deref().and_then(peer_identity))
}

const NOT_TRUSTED: &str = "signed by an authority that we do not trust";

/// What is expected: whom the handshake proved, or why it failed.
type Expectation = Result<&'static str, (TlsKind, &'static str)>;

fn check(case: &str, got: Result<Option<Identity>, TlsFailure>, expected: Expectation) {
    match (got, expected) {
        (Ok(identity), Ok(expected)) => {
            assert_eq!(identity.as_ref().map(Identity::service_account), Some(expected), "{case}");
        }
        (Err(failure), Err((kind, text))) => {
            assert_eq!(failure.kind, kind, "{case}: {failure}");
            assert!(failure.to_string().contains(text), "{case}: {failure}");
        }
        (got, expected) => panic!("{case}: {got:?}, not {expected:?}"),
    }
}

fn usage(usages: &[ExtendedKeyUsagePurpose]) -> CertificateParams {
    let mut params = leaf(&[account("web").uri()]);
    params.extended_key_usages = usages.to_vec();
    params
}

fn from_tomorrow() -> CertificateParams {
    let mut params = leaf(&[account("web").uri()]);
    params.not_before = (SystemTime::now() + Duration::from_secs(86_400)).into();
    params
}

/// A leaf of an authority below ours, whose certificate says what `params` say.
fn below(ours: &Authority, params: CertificateParams) -> Card {
    let key = KeyPair::generate().unwrap();
    let intermediate = params.signed_by(&key, &ours.signer).unwrap();
    let own = KeyPair::generate().unwrap();
    let card = leaf(&[account("web").uri()]).signed_by(&own, &Signer::new(params, key)).unwrap();
    Card { chain: vec![card.into(), intermediate.into()], key: private(&own) }
}

/// Certificates and what each side must make of them, client or server.
fn cards(ours: &Authority) -> Vec<(&'static str, Card, Expectation)> {
    use TlsKind::{Expired, NotYetValid, Other, UntrustedRoot, WrongPeer};
    let web = account("web");
    let stolen = Card { key: private(&KeyPair::generate().unwrap()), ..ours.signed(&leaf(&[web.uri()])) };
    let own = KeyPair::generate().unwrap();
    let self_made = Card { chain: vec![leaf(&[web.uri()]).self_signed(&own).unwrap().into()], key: private(&own) };
    let mut mixed = leaf(&["https://example.com", web.uri()]);
    mixed.subject_alt_names.insert(0, SanType::DnsName("example.com".try_into().unwrap()));
    let workload = leaf(&[account("db").uri()]);
    let mut signing_workload = workload.clone();
    signing_workload.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let junk = Card { chain: vec![CertificateDer::from(b"junk".to_vec())], key: private(&own) };
    vec![
        ("as issued", ours.issued(&web, Lifetime::EndsIn(HOUR)), Ok("web")),
        ("by hand", ours.signed(&leaf(&[web.uri()])), Ok("web")),
        ("one mesh identity among other names", ours.signed(&mixed), Ok("web")),
        ("no limit of usage", ours.signed(&usage(&[])), Ok("web")),
        ("below ours", below(ours, authority("intermediate")), Ok("web")),
        ("by a workload", below(ours, workload), Err((Other, "not acceptable"))),
        ("by a workload that may sign", below(ours, signing_workload), Err((Other, "not acceptable"))),
        ("another root", Authority::new("other").signed(&leaf(&[web.uri()])), Err((UntrustedRoot, NOT_TRUSTED))),
        ("by itself", self_made, Err((UntrustedRoot, NOT_TRUSTED))),
        ("expired", ours.issued(&web, Lifetime::EndedAgo(HOUR)), Err((Expired, "certificate has expired"))),
        ("not yet valid", ours.signed(&from_tomorrow()), Err((NotYetValid, "not valid yet, maybe a clock is wrong"))),
        (
            "no identity",
            ours.signed(&leaf(&["https://example.com"])),
            Err((WrongPeer, "not the expected peer: its certificate carries no identity of the mesh")),
        ),
        ("no names", ours.signed(&leaf(&[])), Err((WrongPeer, "carries no identity"))),
        (
            "an identity of another form",
            ours.signed(&leaf(&["spiffe://cluster.local/web"])),
            Err((WrongPeer, "carries no identity")),
        ),
        ("without its key", stolen, Err((Other, "not acceptable: BadSignature"))),
        (
            "code signing only",
            ours.signed(&usage(&[ExtendedKeyUsagePurpose::CodeSigning])),
            Err((Other, "not acceptable")),
        ),
        ("no certificate at all", junk, Err((Other, "not acceptable"))),
    ]
}

#[tokio::test]
async fn trap_20_what_clients_show() {
    let authority = Authority::new("root");
    let ours = authority.credentials(&account("api"));
    for (case, card, expected) in cards(&authority) {
        let peer = Peer::Tls(Stranger::with(Some(card)));
        check(case, accept(&authority, &ours, peer).await, expected);
    }
    let cases: [(_, _, Expectation); 4] = [
        ("anybody of our domain", leaf(&[account("db").uri()]), Ok("db")),
        (
            "of another domain",
            leaf(&["spiffe://other.example/ns/shop/sa/web"]),
            Err((
                TlsKind::WrongPeer,
                "not the expected peer: it is spiffe://other.example/ns/shop/sa/web, \
                 which is not of trust domain cluster.local",
            )),
        ),
        ("for clients only", usage(&[ExtendedKeyUsagePurpose::ClientAuth]), Ok("web")),
        ("for servers only", usage(&[ExtendedKeyUsagePurpose::ServerAuth]), Err((TlsKind::Other, "not acceptable"))),
    ];
    for (case, params, expected) in cases {
        let peer = Peer::Tls(Stranger::with(Some(authority.signed(&params))));
        check(case, accept(&authority, &ours, peer).await, expected);
    }
    let nothing = accept(&authority, &ours, Peer::Tls(Stranger::with(None))).await;
    check("nothing", nothing, Err((TlsKind::NoCertificate, "the peer presented no certificate")));
}

#[tokio::test]
async fn what_servers_show() {
    let authority = Authority::new("root");
    let ours = authority.credentials(&account("api"));
    let web = [account("web")];
    for (case, card, expected) in cards(&authority) {
        let peer = Peer::Tls(Stranger::with(Some(card)));
        check(case, dial(&authority, &ours, &web, peer).await, expected);
    }
    let (db, both) = ([account("db")], [account("db"), account("web")]);
    let foreign = leaf(&["spiffe://other.example/ns/shop/sa/web"]);
    let named_twice = leaf(&[account("db").uri(), account("web").uri()]);
    let cases: [(_, &[Identity], _, Expectation); 7] = [
        ("one of those expected", &both, leaf(&[web[0].uri()]), Ok("web")),
        ("expected by its second name", &web, named_twice, Ok("db")),
        (
            "another than expected",
            &db,
            leaf(&[web[0].uri()]),
            Err((
                TlsKind::WrongPeer,
                "it is spiffe://cluster.local/ns/shop/sa/web, but spiffe://cluster.local/ns/shop/sa/db was expected",
            )),
        ),
        ("of another domain", &web, foreign, Err((TlsKind::WrongPeer, "it is spiffe://other.example/ns/shop/sa/web"))),
        ("nobody is expected", &[], leaf(&[web[0].uri()]), Err((TlsKind::WrongPeer, "it is spiffe://cluster.local"))),
        ("for servers only", &web, usage(&[ExtendedKeyUsagePurpose::ServerAuth]), Ok("web")),
        (
            "for clients only",
            &web,
            usage(&[ExtendedKeyUsagePurpose::ClientAuth]),
            Err((TlsKind::Other, "not acceptable")),
        ),
    ];
    for (case, expected, params, outcome) in cases {
        let peer = Peer::Tls(Stranger::with(Some(authority.signed(&params))));
        check(case, dial(&authority, &ours, expected, peer).await, outcome);
    }
}

/// An authority without a mounted root makes one at each start: another key, the same name.
#[tokio::test]
async fn a_new_root_under_the_old_name_is_another_root() {
    let authority = Authority::new("root");
    let ours = authority.credentials(&account("api"));
    let peer = || Peer::Tls(Stranger::with(Some(Authority::new("root").signed(&leaf(&[account("web").uri()])))));
    let expected = Err((TlsKind::UntrustedRoot, NOT_TRUSTED));
    check("client", accept(&authority, &ours, peer()).await, expected);
    check("server", dial(&authority, &ours, &[account("web")], peer()).await, expected);
}

#[tokio::test]
async fn what_peers_speak() {
    use TlsKind::{Closed, NoCommonProtocol, NotTls, Refused};
    const NOTHING_COMMON: Expectation = Err((NoCommonProtocol, "TLS 1.3 with h2 is needed"));
    const REFUSED: &str = "the peer refused our certificate or protocol: ";
    const CLOSED: Expectation = Err((Closed, "the peer closed the connection during the handshake"));
    let authority = Authority::new("root");
    let ours = authority.credentials(&account("api"));
    let web = || Stranger::with(Some(authority.signed(&leaf(&[account("web").uri()]))));
    let speaks = |versions: &'static [_], protocols: &'static [_]| {
        move |stranger: Stranger| Peer::Tls(Stranger { versions, protocols, ..stranger })
    };
    let says = |words| move |_| Peer::Says(words);
    // As a client, and as a server.
    type Make = Box<dyn Fn(Stranger) -> Peer>;
    let cases: Vec<(&str, Make, Expectation, Expectation)> = vec![
        ("all", Box::new(speaks(&BOTH, &[b"http/1.1", b"h2"])), Ok("web"), Ok("web")),
        ("no list of protocols", Box::new(speaks(&V13, &[])), Ok("web"), Ok("web")),
        ("TLS 1.2", Box::new(speaks(&V12, &[b"h2"])), NOTHING_COMMON, Err((Refused, "ProtocolVersion"))),
        ("HTTP/1.1", Box::new(speaks(&V13, &[b"http/1.1"])), NOTHING_COMMON, Err((Refused, "NoApplicationProtocol"))),
        (
            "plain HTTP",
            Box::new(says(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")),
            Err((NotTls, "what the peer sent is not TLS: ")),
            Err((NotTls, "what the peer sent is not TLS: ")),
        ),
        ("SSH", Box::new(says(b"SSH-2.0-OpenSSH_9.6\r\n")), Err((NotTls, "not TLS")), Err((NotTls, "not TLS"))),
        ("zeros", Box::new(says(&[0; 4096])), Err((NotTls, "not TLS")), Err((NotTls, "not TLS"))),
        (
            "an early alert",
            Box::new(says(&[0x15, 3, 3, 0, 2, 2, 40])),
            Err((Refused, REFUSED)),
            Err((Refused, "HandshakeFailure")),
        ),
        ("half a record", Box::new(says(&[0x16, 3, 1, 2, 0, 1])), CLOSED, CLOSED),
        ("nothing", Box::new(says(b"")), CLOSED, CLOSED),
    ];
    for (case, make, as_client, as_server) in cases {
        check(&format!("{case}, client"), accept(&authority, &ours, make(web())).await, as_client);
        let dialled = dial(&authority, &ours, &[account("web")], make(web())).await;
        check(&format!("{case}, server"), dialled, as_server);
    }
}

/// Two of ours, past their handshake.
async fn pair(
    client: &Arc<ClientConfig>,
    server: &Credentials,
) -> (client::TlsStream<DuplexStream>, server::TlsStream<DuplexStream>) {
    let (near, far) = tokio::io::duplex(1 << 16);
    let connecting = TlsConnector::from(Arc::clone(client)).connect(name(), near);
    let accepting = TlsAcceptor::from(server.server_config()).accept(far);
    tokio::try_join!(connecting, accepting).unwrap()
}

/// What both ends must agree on.
fn check_facts(case: &str, session: &CommonState) {
    let group = session.negotiated_key_exchange_group().map(SupportedKxGroup::name);
    assert_eq!(group, Some(NamedGroup::X25519MLKEM768), "{case}");
    let suite = session.negotiated_cipher_suite().map(|suite| suite.suite());
    assert_eq!(suite, Some(CipherSuite::TLS13_AES_256_GCM_SHA384), "{case}");
    assert_eq!(session.protocol_version(), Some(ProtocolVersion::TLSv1_3), "{case}");
    assert_eq!(session.alpn_protocol(), Some(&b"h2"[..]), "{case}");
}

#[tokio::test]
async fn two_of_ours() {
    let authority = Authority::new("root");
    let (api, web) = (authority.credentials(&account("api")), authority.credentials(&account("web")));
    let config = api.client_config(&[account("web")]).unwrap();
    for round in ["first", "second: nothing is resumed"] {
        let (mut near, mut far) = pair(&config, &web).await;
        near.write_all(b"x").await.unwrap();
        near.flush().await.unwrap();
        assert_eq!(far.read_u8().await.unwrap(), b'x');
        far.write_all(b"y").await.unwrap();
        far.flush().await.unwrap();
        assert_eq!(near.read_u8().await.unwrap(), b'y');
        let (client, server) = (near.get_ref().1, far.get_ref().1);
        check_facts(round, client);
        check_facts(round, server);
        assert_eq!(client.handshake_kind(), Some(HandshakeKind::Full), "{round}");
        assert_eq!(client.tls13_tickets_received(), 0, "{round}");
        assert_eq!(server.server_name(), None, "no name is sent");
        assert_eq!(client.peer_certificates().and_then(peer_identity), Some(account("web")));
        assert_eq!(server.peer_certificates().and_then(peer_identity), Some(account("api")));
    }
}

#[tokio::test]
async fn classical_peers_are_met_half_way() {
    use aws_lc_rs::kx_group::{SECP256R1, SECP384R1, X25519, X25519MLKEM768};
    let authority = Authority::new("root");
    let ours = authority.credentials(&account("api"));
    let cases: [(Vec<&'static dyn SupportedKxGroup>, _); 4] = [
        (vec![X25519], NamedGroup::X25519),
        (vec![SECP384R1, SECP256R1], NamedGroup::secp256r1),
        (vec![SECP384R1], NamedGroup::secp384r1),
        (vec![X25519, X25519MLKEM768], NamedGroup::X25519MLKEM768),
    ];
    for (groups, expected) in cases {
        let card = authority.signed(&leaf(&[account("web").uri()]));
        let stranger = Stranger { groups, ..Stranger::with(Some(card)) };
        let (near, far) = tokio::io::duplex(1 << 16);
        let connecting = TlsConnector::from(ours.client_config(&[account("web")]).unwrap()).connect(name(), near);
        let accepting = TlsAcceptor::from(stranger.server(&authority)).accept(far);
        let (tls, _) = tokio::try_join!(connecting, accepting).unwrap();
        let group = tls.get_ref().1.negotiated_key_exchange_group().map(SupportedKxGroup::name);
        assert_eq!(group, Some(expected));
    }
}

/// An authority is replaced by handing out both roots first.
#[tokio::test]
async fn roots_are_changed_without_a_gap() {
    let (old, new) = (Authority::new("root"), Authority::new("root of next year"));
    let between = |signer: &Authority, roots: [&Authority; 2], name: &str| {
        let request = csr::request(&account(name)).unwrap();
        let mut chain = signer.issuer.sign(&account(name), &request.csr, Lifetime::EndsIn(HOUR)).unwrap();
        chain[1] = roots.map(|root| root.issuer.root()).concat();
        Credentials::new(&account(name), &chain, request.key(), &Revocations::default()).unwrap()
    };
    let with_old = between(&old, [&old, &new], "api");
    let with_new = between(&new, [&old, &new], "web");
    pair(&with_old.client_config(&[account("web")]).unwrap(), &with_new).await;
    pair(&with_new.client_config(&[account("api")]).unwrap(), &with_old).await;
}

#[test]
fn a_handshake_without_end_is_a_timeout() {
    let failure = TlsFailure::timed_out();
    assert_eq!(failure.kind, TlsKind::Timeout);
    assert_eq!(failure.to_string(), "the peer did not complete the handshake in time");
}
