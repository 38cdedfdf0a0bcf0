//! A gRPC server with TLS whose streams are given to the test, which says what is sent on them.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut, Bytes};
use futures_util::{Stream, stream};
use prost::Message;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::body::Body;
use tonic::codec::{Codec, EncodeBuf, Encoder};
use tonic::codegen::Service;
use tonic::metadata::MetadataMap;
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Status, Streaming};
use tonic_prost::ProstDecoder;

use super::{Config, Kind, LIMIT, Mode, Node, Security};
use crate::proto::discovery::aggregated_discovery_service_server::SERVICE_NAME;
use crate::proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use crate::task::Tasks;
use crate::xds::session::tests::encoded;

/// One stream.
pub(super) struct Call {
    pub(super) headers: MetadataMap,
    pub(super) requests: Streaming<DeltaDiscoveryRequest>,
    pub(super) responses: mpsc::Sender<Result<Frame, Status>>,
}

/// A message, encoded.
pub(super) struct Frame(Bytes);

impl From<DeltaDiscoveryResponse> for Frame {
    fn from(response: DeltaDiscoveryResponse) -> Self {
        Self(response.encode_to_vec().into())
    }
}

/// `name=version=body`.
pub(super) fn response(kind: Kind, nonce: &str, resources: &[&str], removed: &[&str]) -> DeltaDiscoveryResponse {
    let parts = resources.iter().map(|text| text.splitn(3, '=').collect::<Vec<_>>());
    DeltaDiscoveryResponse {
        type_url: kind.url().to_owned(),
        nonce: nonce.to_owned(),
        resources: parts.map(|parts| encoded(kind, parts[0], parts[1], parts[2], &[])).collect(),
        removed_resources: removed.iter().map(ToString::to_string).collect(),
        ..DeltaDiscoveryResponse::default()
    }
}

/// The next request, in time.
pub(super) async fn next(requests: &mut Streaming<DeltaDiscoveryRequest>) -> DeltaDiscoveryRequest {
    let message = timeout(LIMIT, requests.message()).await.expect("a request in time");
    message.expect("no error").expect("a request before the end")
}

impl Call {
    pub(super) async fn request(&mut self) -> DeltaDiscoveryRequest {
        next(&mut self.requests).await
    }

    pub(super) async fn send(&self, response: impl Into<Frame>) {
        self.responses.send(Ok(response.into())).await.unwrap();
    }

    pub(super) async fn send_raw(&self, message: Vec<u8>) {
        self.responses.send(Ok(Frame(message.into()))).await.unwrap();
    }

    pub(super) async fn fail(self, status: Status) {
        self.responses.send(Err(status)).await.unwrap();
    }
}

/// The server, with its root's certificate and a node's token in a folder.
pub(super) struct Istiod {
    folder: TempDir,
    /// Where it listens, and where clients are to connect to.
    listens: SocketAddr,
    address: SocketAddr,
    security: Security,
    calls: mpsc::Receiver<Call>,
    tasks: Tasks,
}

impl Drop for Istiod {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

impl Istiod {
    pub(super) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (signer, root) = authority();
        let key = KeyPair::generate().unwrap();
        let names = ["127.0.0.1", "localhost", "istiod.alt.test"].map(String::from).to_vec();
        let leaf = CertificateParams::new(names).unwrap().signed_by(&key, &signer).unwrap();
        std::fs::write(folder.path().join("root.pem"), root).unwrap();
        let identity = Identity::from_pem(leaf.pem(), key.serialize_pem());
        let security = Security::Tls { root: folder.path().join("root.pem"), server_name: None };
        Self::start(folder, security, Some(ServerTlsConfig::new().identity(identity))).await
    }

    pub(super) async fn plain() -> Self {
        Self::start(tempfile::tempdir().unwrap(), Security::Plaintext, None).await
    }

    async fn start(folder: TempDir, security: Security, tls: Option<ServerTlsConfig>) -> Self {
        for (name, text) in [("token", "token-1\n"), ("wrong", "other"), ("binary", "a\u{1}b")] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listens = listener.local_addr().unwrap();
        let (door, calls) = mpsc::channel(16);
        let mut server = Server::builder();
        if let Some(tls) = tls {
            server = server.tls_config(tls).unwrap();
        }
        let door = Door { calls: door, token: Arc::from(folder.path().join("token")) };
        let serving = server.add_service(door).serve_with_incoming(TcpIncoming::from(listener));
        let tasks = Tasks::new();
        tasks.spawn(async move { serving.await.unwrap() });
        Self { folder, listens, address: listens, security, calls, tasks }
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn config(&self) -> Config {
        let scheme = if self.security == Security::Plaintext { "http" } else { "https" };
        Config {
            address: format!("{scheme}://{}", self.address),
            security: self.security.clone(),
            token: Some(self.folder().join("token")),
            headers: Vec::new(),
            node: Node {
                ip: Some("10.0.0.1".parse().unwrap()),
                pod: "agent".into(),
                namespace: "istio-system".into(),
                node: "n1".into(),
                cluster: "west".into(),
                metadata: [].into(),
            },
            addresses: Mode::Wildcard,
            patience: Duration::from_secs(1),
        }
    }

    /// Gives the node another token; the old one is not accepted any more.
    pub(super) fn rotate(&self, token: &str) {
        std::fs::write(self.folder().join("token"), token).unwrap();
    }

    /// The next stream that a client opens.
    pub(super) async fn call(&mut self) -> Call {
        timeout(LIMIT, self.calls.recv()).await.expect("a stream in time").unwrap()
    }

    pub(super) fn calls_waiting(&self) -> usize {
        self.calls.len()
    }

    /// Puts a wire that can be cut between the clients to come and the server.
    pub(super) async fn behind_a_wire(&mut self) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.address = listener.local_addr().unwrap();
        let wire = Wire { left: Arc::new(AtomicUsize::new(usize::MAX)), hushed: Arc::default() };
        let (ours, listens, tasks) = (wire.clone(), self.listens, self.tasks.clone());
        self.tasks.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (wire, server) = (ours.clone(), TcpStream::connect(listens).await.unwrap());
                tasks.spawn(async move { wire.carry(client, server).await });
            }
        });
        wire
    }
}

/// A wire that goes dead after so many bytes to the client.
#[derive(Clone)]
pub(super) struct Wire {
    left: Arc<AtomicUsize>,
    hushed: Arc<AtomicBool>,
}

impl Wire {
    pub(super) fn after(&self, bytes: usize) {
        self.left.store(bytes, Ordering::SeqCst);
    }

    /// Nothing gets through any more, and nothing says so.
    pub(super) fn hush(&self) {
        self.hushed.store(true, Ordering::SeqCst);
    }

    async fn carry(&self, mut client: TcpStream, mut server: TcpStream) {
        let (mut up, mut down) = (vec![0; 4096], vec![0; 4096]);
        loop {
            tokio::select! {
                count = client.read(&mut up) => match count {
                    Ok(count) if count > 0 => server.write_all(&up[..count]).await.unwrap(),
                    _ => return,
                },
                count = server.read(&mut down) => match count {
                    Ok(count) if count > 0 => {
                        if self.hushed.load(Ordering::SeqCst) {
                            continue;
                        }
                        let left = self.left.load(Ordering::SeqCst);
                        if left < count || client.write_all(&down[..count]).await.is_err() {
                            return;
                        }
                        if left < usize::MAX {
                            self.left.store(left - count, Ordering::SeqCst);
                        }
                    }
                    _ => return,
                },
            }
        }
    }
}

fn authority() -> (Issuer<'static, KeyPair>, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = params.self_signed(&key).unwrap().pem();
    (Issuer::new(params, key), root)
}

/// A root that has signed nothing.
pub(super) fn another_root() -> String {
    authority().1
}

/// Where streams come in. Made by hand rather than from the generated trait, so that what is sent need not be a response.
#[derive(Clone)]
struct Door {
    calls: mpsc::Sender<Call>,
    token: Arc<Path>,
}

impl NamedService for Door {
    const NAME: &'static str = SERVICE_NAME;
}

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl Service<http::Request<Body>> for Door {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Boxed<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        assert_eq!(request.uri().path(), format!("/{SERVICE_NAME}/DeltaAggregatedResources"));
        let door = self.clone();
        Box::pin(async move { Ok(Grpc::new(Frames).streaming(door, request).await) })
    }
}

impl StreamingService<DeltaDiscoveryRequest> for Door {
    type Response = Frame;
    type ResponseStream = Pin<Box<dyn Stream<Item = Result<Frame, Status>> + Send>>;
    type Future = Boxed<Result<tonic::Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: tonic::Request<Streaming<DeltaDiscoveryRequest>>) -> Self::Future {
        let door = self.clone();
        Box::pin(async move {
            let (headers, _, requests) = request.into_parts();
            let expected = format!("Bearer {}", std::fs::read_to_string(&door.token).unwrap().trim());
            if headers.get("authorization").is_some_and(|token| token.as_bytes() != expected.as_bytes()) {
                return Err(Status::unauthenticated("unknown token"));
            }
            let (responses, mut queue) = mpsc::channel(4);
            door.calls.send(Call { headers, requests, responses }).await.map_err(|_| Status::unavailable("over"))?;
            let stream: Self::ResponseStream = Box::pin(stream::poll_fn(move |cx| queue.poll_recv(cx)));
            Ok(tonic::Response::new(stream))
        })
    }
}

#[derive(Clone, Default)]
struct Frames;

impl Codec for Frames {
    type Encode = Frame;
    type Decode = DeltaDiscoveryRequest;
    type Encoder = Self;
    type Decoder = ProstDecoder<DeltaDiscoveryRequest>;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::default()
    }
}

impl Encoder for Frames {
    type Item = Frame;
    type Error = Status;

    fn encode(&mut self, Frame(bytes): Frame, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(bytes);
        Ok(())
    }
}
