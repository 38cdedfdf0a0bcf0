//! An xDS server for one agent: a stream gets what there is, and then whatever is pushed. Messages are encoded beforehand,
//! so that the agent's work is measured and not this one's.

use std::convert::Infallible;
use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as TaskContext, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::{BufMut, Bytes};
use futures_util::{Stream, stream};
use mesh_e2e::Namespace;
use prost::Message;
use tokio::sync::{mpsc, oneshot};
use tonic::body::Body;
use tonic::codec::{Codec, EncodeBuf, Encoder};
use tonic::codegen::Service;
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::transport::server::TcpIncoming;
use tonic::{Status, Streaming};
use tonic_prost::ProstDecoder;

use mesh_e2e::discovery::{ADDRESS, Request, Resource, Response};

/// How long an agent may take to take a message over.
const PATIENCE: Duration = Duration::from_secs(60);

/// The server, on a thread of its own until it is dropped.
#[derive(Debug)]
pub(super) struct Istiod {
    shared: Arc<Shared>,
    events: Receiver<Event>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    /// What a new stream gets.
    initial: Mutex<Bytes>,
    /// Where the latest stream is to be written to.
    stream: Mutex<Option<mpsc::Sender<Bytes>>>,
    nonce: AtomicU64,
    events: Sender<Event>,
}

/// What the agent has done, and when.
#[derive(Debug)]
struct Event {
    at: Instant,
    /// The nonce of the response that was answered; empty when a stream was opened.
    nonce: String,
    refusal: Option<String>,
}

impl Istiod {
    /// Serves on `address`, which is in `place`, once there is something to serve.
    pub(super) fn start(place: &Namespace, address: SocketAddr) -> Result<Self> {
        let listener = place.run(|| TcpListener::bind(address)).context("the xDS server's port")?;
        listener.set_nonblocking(true)?;
        let (sender, events) = channel();
        let shared =
            Shared { initial: Mutex::default(), stream: Mutex::default(), nonce: AtomicU64::new(0), events: sender };
        let (shared, (stop, stopped)) = (Arc::new(shared), oneshot::channel());
        let door = Door(Arc::clone(&shared));
        let serve = move || drop(serve(listener, door, stopped));
        let thread = std::thread::Builder::new().name("xds".to_owned()).spawn(serve)?;
        Ok(Self { shared, events, stop: Some(stop), thread: Some(thread) })
    }

    /// What streams to come start with.
    pub(super) fn offer(&self, message: &Prepared) {
        *locked(&self.shared.initial) = message.bytes.clone();
    }

    /// A response with a nonce of its own.
    pub(super) fn prepare(&self, resources: Vec<Resource>) -> Prepared {
        let nonce = format!("n{}", self.shared.nonce.fetch_add(1, Ordering::Relaxed));
        let response =
            Response { resources, type_url: ADDRESS.to_owned(), nonce: nonce.clone(), ..Response::default() };
        Prepared { bytes: response.encode_to_vec().into(), nonce }
    }

    /// Sends it on the open stream; tells when that was.
    pub(super) fn push(&self, message: &Prepared) -> Result<Instant> {
        let stream = locked(&self.shared.stream).clone().context("the agent has no stream")?;
        let at = Instant::now();
        stream.blocking_send(message.bytes.clone()).context("the agent's stream has ended")?;
        Ok(at)
    }

    /// When the agent said that it has taken the message over.
    pub(super) fn acknowledged(&self, message: &Prepared) -> Result<Instant> {
        self.event(&message.nonce)
    }

    /// When the next stream was opened.
    pub(super) fn opened(&self) -> Result<Instant> {
        self.event("")
    }

    /// Forgets what was said so far, and the stream of an agent that has ended.
    pub(super) fn forget(&self) {
        *locked(&self.shared.stream) = None;
        self.events.try_iter().for_each(drop);
    }

    fn event(&self, nonce: &str) -> Result<Instant> {
        loop {
            let event = self.events.recv_timeout(PATIENCE).context("the agent does not answer")?;
            match event.refusal {
                Some(refusal) => bail!("the agent refuses {}: {refusal}", event.nonce),
                None if event.nonce == nonce => return Ok(event.at),
                None => {}
            }
        }
    }
}

impl Drop for Istiod {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// An encoded response.
#[derive(Debug)]
pub(super) struct Prepared {
    bytes: Bytes,
    nonce: String,
}

impl Prepared {
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }
}

fn serve(listener: TcpListener, door: Door, stopped: oneshot::Receiver<()>) -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let serving = tonic::transport::Server::builder().add_service(door).serve_with_incoming(incoming);
        tokio::select! {
            served = serving => served.context("the xDS server"),
            _ = stopped => Ok(()),
        }
    })
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where streams come in.
#[derive(Clone)]
struct Door(Arc<Shared>);

impl NamedService for Door {
    const NAME: &'static str = "envoy.service.discovery.v3.AggregatedDiscoveryService";
}

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl Service<http::Request<Body>> for Door {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Boxed<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let door = self.clone();
        Box::pin(async move { Ok(Grpc::new(Encoded).streaming(door, request).await) })
    }
}

impl StreamingService<Request> for Door {
    type Response = Bytes;
    type ResponseStream = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;
    type Future = Boxed<Result<tonic::Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: tonic::Request<Streaming<Request>>) -> Self::Future {
        let shared = Arc::clone(&self.0);
        Box::pin(async move {
            let (sender, mut queue) = mpsc::channel(16);
            *locked(&shared.stream) = Some(sender.clone());
            shared.tell(String::new(), None);
            #[expect(clippy::disallowed_methods, reason = "it ends with the stream, and the runtime with the bench")]
            tokio::spawn(answer(shared, request.into_inner(), sender));
            let stream: Self::ResponseStream =
                Box::pin(stream::poll_fn(move |context| queue.poll_recv(context).map(|bytes| bytes.map(Ok))));
            Ok(tonic::Response::new(stream))
        })
    }
}

/// Answers the first request of each kind, and notes what the agent says of responses.
async fn answer(shared: Arc<Shared>, mut requests: Streaming<Request>, sender: mpsc::Sender<Bytes>) {
    while let Ok(Some(request)) = requests.message().await {
        if !request.response_nonce.is_empty() {
            shared.tell(request.response_nonce, request.error_detail.map(|status| status.message));
            continue;
        }
        let message = if request.type_url == ADDRESS {
            locked(&shared.initial).clone()
        } else {
            let nothing = Response { type_url: request.type_url, nonce: "nothing".to_owned(), ..Response::default() };
            nothing.encode_to_vec().into()
        };
        if sender.send(message).await.is_err() {
            return;
        }
    }
}

impl Shared {
    fn tell(&self, nonce: String, refusal: Option<String>) {
        // Nobody is left to be told when the benchmark ends.
        self.events.send(Event { at: Instant::now(), nonce, refusal }).ok();
    }
}

#[derive(Clone, Default)]
struct Encoded;

impl Codec for Encoded {
    type Encode = Bytes;
    type Decode = Request;
    type Encoder = Self;
    type Decoder = ProstDecoder<Request>;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::default()
    }
}

impl Encoder for Encoded {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, bytes: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(bytes);
        Ok(())
    }
}
