//! Who gets a certificate, and for whom.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prost_types::value::Kind;
use prost_types::{Struct, Value};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::sync::watch;
use tonic::{Code, Request, Status};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Api, Authority, authenticate, equal};
use crate::control::config::{ControlFile, Node};
use crate::control::issuer::Issuer;
use crate::identity::{csr, peer_identity};
use crate::model::Identity;
use crate::proto::ca::IstioCertificateRequest;

const TTL: Duration = Duration::from_secs(3600);

fn account(name: &str) -> Identity {
    Identity::new("cluster.local", "shop", name).unwrap()
}

/// Two nodes with tokens, and two that have none: an empty file, and no file.
fn file(directory: &Path) -> ControlFile {
    let node = |name: &str, text: Option<&str>, account_: &str| {
        let token_file = directory.join(name);
        if let Some(text) = text {
            std::fs::write(&token_file, text).unwrap();
        }
        Node { name: name.to_owned(), token_file, identities: vec![account(account_)] }
    };
    ControlFile {
        listen: "127.0.0.1:0".parse().unwrap(),
        trust_domain: "cluster.local".to_owned(),
        root: None,
        publish_root: directory.join("root.pem"),
        names: Vec::new(),
        certificate_ttl: TTL,
        nodes: vec![
            node("empty", Some("\n"), "admin"),
            node("missing", None, "admin"),
            node("n1", Some("token-1\n"), "web"),
            node("n2", Some("token-2"), "db"),
        ],
    }
}

fn with_header<T>(message: T, header: Option<&str>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(header) = header {
        request.metadata_mut().insert("authorization", header.parse().unwrap());
    }
    request
}

#[test]
fn tokens() {
    let directory = tempfile::tempdir().unwrap();
    let file = file(directory.path());
    let cases = [
        (Some("Bearer token-1"), Ok("n1")),
        (Some("Bearer token-2"), Ok("n2")),
        (None, Err("no bearer token")),
        (Some(""), Err("no bearer token")),
        (Some("Bearer "), Err("no bearer token")),
        (Some("token-1"), Err("no bearer token")),
        (Some("Basic token-1"), Err("no bearer token")),
        (Some("Bearer token-3"), Err("unknown token")),
        (Some("Bearer token-"), Err("unknown token")),
        (Some("Bearer token-11"), Err("unknown token")),
        (Some("Bearer TOKEN-1"), Err("unknown token")),
        (Some("Bearer  "), Err("unknown token")),
    ];
    for (header, expected) in cases {
        let request = with_header((), header);
        let got = authenticate(&file, request.metadata()).map(|node| node.name.as_str());
        let got = got.map_err(|status| (status.code(), status.message().to_owned()));
        assert_eq!(got, expected.map_err(|text| (Code::Unauthenticated, text.to_owned())), "{header:?}");
    }
}

#[test]
fn texts_are_equal_or_not() {
    for (a, b, expected) in
        [("", "", true), ("a", "a", true), ("a", "b", false), ("a", "aa", false), ("ab", "ba", false)]
    {
        assert_eq!(equal(a.as_bytes(), b.as_bytes()), expected, "{a:?} {b:?}");
    }
}

/// A request for a certificate of `identity`.
fn message(identity: &str) -> IstioCertificateRequest {
    IstioCertificateRequest {
        csr: csr::request(&account("web")).unwrap().csr,
        validity_duration: 0,
        metadata: Some(impersonating(Kind::StringValue(identity.to_owned()))),
    }
}

fn impersonating(kind: Kind) -> Struct {
    Struct { fields: [("ImpersonatedIdentity".to_owned(), Value { kind: Some(kind) })].into() }
}

fn authority(directory: &Path) -> (Authority, watch::Sender<Arc<ControlFile>>) {
    let file = file(directory);
    let issuer = Arc::new(Issuer::new(&file).unwrap());
    let (writer, file) = watch::channel(Arc::new(file));
    (Authority { issuer, file }, writer)
}

async fn ask(authority: &Authority, token: &str, message: IstioCertificateRequest) -> Result<Vec<String>, Status> {
    let request = with_header(message, Some(&format!("Bearer {token}")));
    Ok(authority.create_certificate(request).await?.into_inner().cert_chain)
}

#[tokio::test]
async fn requests() {
    let directory = tempfile::tempdir().unwrap();
    let (authority, _writer) = authority(directory.path());
    let (web, db) = (account("web"), account("db"));
    let cases = [
        ("own account", "token-1", message(web.uri()), Ok("web")),
        // The key's owner is whoever sends the request; its names say nothing.
        ("own account, a request with other names", "token-2", message(db.uri()), Ok("db")),
        (
            "another node's account",
            "token-1",
            message(db.uri()),
            Err((Code::Unauthenticated, "node n1 may not ask for spiffe://cluster.local/ns/shop/sa/db")),
        ),
        (
            "a node without a token",
            "",
            message(account("admin").uri()),
            Err((Code::Unauthenticated, "no bearer token")),
        ),
        ("an unknown token", "x", message(web.uri()), Err((Code::Unauthenticated, "unknown token"))),
        (
            "no identity",
            "token-1",
            message("web"),
            Err((Code::InvalidArgument, "ImpersonatedIdentity: \"web\" is not")),
        ),
        (
            "no metadata",
            "token-1",
            IstioCertificateRequest { metadata: None, ..message(web.uri()) },
            Err((Code::InvalidArgument, "metadata ImpersonatedIdentity is missing")),
        ),
        (
            "an identity that is no text",
            "token-1",
            IstioCertificateRequest { metadata: Some(impersonating(Kind::BoolValue(true))), ..message(web.uri()) },
            Err((Code::InvalidArgument, "metadata ImpersonatedIdentity is missing")),
        ),
        (
            "no request",
            "token-1",
            IstioCertificateRequest { csr: "junk".to_owned(), ..message(web.uri()) },
            Err((Code::InvalidArgument, "the request is no valid, self-signed PKCS #10 request")),
        ),
    ];
    for (case, token, message, expected) in cases {
        match (ask(&authority, token, message).await, expected) {
            (Ok(chain), Ok(account)) => {
                let leaf = CertificateDer::from_pem_slice(chain[0].as_bytes()).unwrap();
                let identity = peer_identity(&[leaf]).unwrap();
                assert_eq!(identity.service_account(), account, "{case}");
            }
            (Err(status), Err((code, text))) => {
                assert_eq!(status.code(), code, "{case}");
                assert!(status.message().starts_with(text), "{case}: {}", status.message());
            }
            (got, expected) => panic!("{case}: {got:?}, not {expected:?}"),
        }
    }
}

#[tokio::test]
async fn lifetimes_are_as_asked_for_up_to_the_longest() {
    let directory = tempfile::tempdir().unwrap();
    let (authority, _writer) = authority(directory.path());
    for (asked, expected) in [(0, TTL), (600, TTL / 6), (3600, TTL), (3601, TTL), (i64::MAX, TTL), (-1, TTL)] {
        let message = IstioCertificateRequest { validity_duration: asked, ..message(account("web").uri()) };
        let chain = ask(&authority, "token-1", message).await.unwrap();
        let leaf = CertificateDer::from_pem_slice(chain[0].as_bytes()).unwrap();
        let end = X509Certificate::from_der(&leaf).unwrap().1.validity().not_after.timestamp();
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(end).unwrap());
        let left = end.duration_since(SystemTime::now()).unwrap();
        assert!(left <= expected && left > expected - Duration::from_secs(30), "{asked}: {left:?}");
    }
}

#[tokio::test]
async fn edits_of_the_file_and_of_tokens_count_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let (authority, writer) = authority(directory.path());
    let web = || message(account("web").uri());
    assert!(ask(&authority, "token-1", web()).await.is_ok());
    std::fs::write(directory.path().join("n1"), "fresh").unwrap();
    assert!(ask(&authority, "token-1", web()).await.is_err(), "tokens are read anew");
    assert!(ask(&authority, "fresh", web()).await.is_ok());
    let mut edited = file(directory.path());
    std::fs::write(directory.path().join("n1"), "fresh").unwrap();
    edited.nodes.retain(|node| node.name != "n1");
    writer.send_replace(Arc::new(edited));
    assert!(ask(&authority, "fresh", web()).await.is_err(), "the node is gone");
}
