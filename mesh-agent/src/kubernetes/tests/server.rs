//! An API server as far as a connection goes: TLS and HTTP are real, and the test says what each request is answered.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tower::BoxError;

use super::super::Settings;
use crate::task::Tasks;

const PATIENCE: Duration = Duration::from_secs(10);

type Body = UnsyncBoxBody<Bytes, BoxError>;

/// A request that waits for its answer.
pub(super) struct Call {
    pub(super) head: Parts,
    pub(super) body: Bytes,
    reply: oneshot::Sender<Response<Body>>,
}

/// A watch that is open. Dropped, it ends as the server ends watches.
pub(super) struct Events(mpsc::Sender<Result<Bytes, BoxError>>);

impl Events {
    pub(super) async fn send(&self, kind: &str, object: Value) {
        let line = format!("{}\n", json!({"type": kind, "object": object}));
        self.0.send(Ok(line.into())).await.unwrap();
    }

    /// The connection, or the stream on it, breaks.
    pub(super) async fn fail(self) {
        self.0.send(Err("broken".into())).await.unwrap();
    }
}

impl Call {
    pub(super) fn header(&self, name: &str) -> &str {
        self.head.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(super) fn query(&self) -> Vec<&str> {
        let mut pairs: Vec<_> = self.head.uri.query().unwrap_or_default().split('&').collect();
        pairs.sort_unstable();
        pairs
    }

    pub(super) fn is_watch(&self) -> bool {
        self.query().contains(&"watch=true")
    }

    fn answer(self, code: u16, body: Body) {
        let response = Response::builder().status(code).header(CONTENT_TYPE, "application/json").body(body).unwrap();
        self.reply.send(response).expect("who asked waits");
    }

    pub(super) fn json(self, value: &Value) {
        self.answer(200, whole(value));
    }

    pub(super) fn list(self, version: &str, items: &[Value]) {
        assert!(!self.is_watch(), "{:?}", self.head.uri);
        self.json(
            &json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": version}, "items": items}),
        );
    }

    /// The object that the API server describes a failure with.
    pub(super) fn refuse(self, code: u16, message: &str, causes: Value) {
        let reasons =
            [(401, "Unauthorized"), (403, "Forbidden"), (404, "NotFound"), (409, "Conflict"), (410, "Expired")];
        let reason = reasons.iter().find(|(of, _)| *of == code).map_or("Invalid", |(_, reason)| reason);
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message,
            "reason": reason, "details": {"causes": causes},
        });
        self.answer(code, whole(&status));
    }

    /// As something before the API server does.
    pub(super) fn refuse_with_text(self, code: u16, text: &'static str) {
        self.answer(code, Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync());
    }

    pub(super) fn events(self, version: &str) -> Events {
        assert!(self.is_watch(), "{:?}", self.head.uri);
        let from = format!("resourceVersion={version}");
        assert!(self.query().contains(&&*from), "{from}: {:?}", self.head.uri);
        let (sender, receiver) = mpsc::channel(16);
        let next = |mut receiver: mpsc::Receiver<_>| async move { Some((receiver.recv().await?, receiver)) };
        let frames = stream::unfold(receiver, next);
        self.answer(200, StreamBody::new(frames.map(|bytes: Result<_, _>| bytes.map(Frame::data))).boxed_unsync());
        Events(sender)
    }
}

fn whole(value: &Value) -> Body {
    Full::new(Bytes::from(value.to_string())).map_err(|never| match never {}).boxed_unsync()
}

/// The server, with its root's certificate and a token in a folder.
pub(super) struct Server {
    folder: TempDir,
    address: SocketAddr,
    tls: TlsAcceptor,
    door: mpsc::Sender<Call>,
    calls: mpsc::Receiver<Call>,
    /// Came while another was looked for.
    passed: Vec<Call>,
    tasks: Tasks,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

impl Server {
    /// Speaks the HTTP of that name in ALPN.
    pub(super) async fn new(protocol: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (signer, root) = authority();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &signer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = builder.with_no_client_auth().with_single_cert(vec![leaf.der().clone()], key).unwrap();
        config.alpn_protocols = vec![protocol.into()];
        let (door, calls) = mpsc::channel(16);
        let address = "127.0.0.1:0".parse().unwrap();
        let tls = TlsAcceptor::from(Arc::new(config));
        let mut server = Self { folder, address, tls, door, calls, passed: Vec::new(), tasks: Tasks::new() };
        server.write("root.pem", &root);
        server.write("token", "token-1\n");
        server.up().await;
        server
    }

    /// Listens, where it did before if it has.
    pub(super) async fn up(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.address = listener.local_addr().unwrap();
        let (tls, door, tasks) = (self.tls.clone(), self.door.clone(), Tasks::new());
        self.tasks = tasks.clone();
        tasks.clone().spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                tasks.spawn(serve(tls.clone(), tcp, door.clone()));
            }
        });
    }

    /// Closes everything.
    pub(super) async fn down(&mut self) {
        self.tasks.drain(PATIENCE).await;
        self.passed.clear();
        while self.calls.try_recv().is_ok() {}
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    pub(super) fn settings(&self) -> Settings {
        Settings {
            address: format!("https://{}", self.address),
            root: self.path("root.pem"),
            token: self.path("token"),
            node: "n1".into(),
            excluded_namespaces: vec!["kube-system".into()],
        }
    }

    /// The next request of this method and path, which comes in time.
    pub(super) async fn call(&mut self, what: &str) -> Call {
        let is = |call: &Call| format!("{} {}", call.head.method, call.head.uri.path()) == what;
        if let Some(place) = self.passed.iter().position(is) {
            return self.passed.remove(place);
        }
        loop {
            let call =
                timeout(PATIENCE, self.calls.recv()).await.unwrap_or_else(|_| panic!("no {what} in time")).unwrap();
            if is(&call) {
                return call;
            }
            self.passed.push(call);
        }
    }
}

/// A root that nobody has asked for.
pub(super) fn another_root() -> String {
    authority().1
}

fn authority() -> (Issuer<'static, KeyPair>, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = params.self_signed(&key).unwrap().pem();
    (Issuer::new(params, key), root)
}

/// One connection. One that does not trust us just ends.
async fn serve(tls: TlsAcceptor, tcp: TcpStream, door: mpsc::Sender<Call>) {
    let Ok(stream) = tls.accept(tcp).await else { return };
    let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let service = service_fn(move |request: Request<Incoming>| ask(request, door.clone()));
    let io = TokioIo::new(stream);
    if h2 {
        http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await.ok();
    } else {
        http1::Builder::new().serve_connection(io, service).await.ok();
    }
}

async fn ask(request: Request<Incoming>, door: mpsc::Sender<Call>) -> Result<Response<Body>, BoxError> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let (reply, answer) = oneshot::channel();
    door.send(Call { head, body, reply }).await?;
    Ok(answer.await?)
}
