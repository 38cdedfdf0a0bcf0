//! The client: one task that keeps a stream to istiod open and lets the session have what comes.

use std::error::Error;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use prost::Message;
use tokio::runtime::{Handle as Runtime, RuntimeFlavor};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tonic::{Code, Status as GrpcStatus};

use super::backoff::Backoff;
use super::config::{BadConfig, Config};
use super::connect::{self, ConnectError};
use super::demand::{Demand, Question, Waiting};
use super::kind::PerKind;
use super::nack;
use super::response::Apply;
use super::session::{Received, Session};
use super::status::{Counters, KindStatus, Link, Refusal, Status, Termination};
use crate::proto::discovery::DeltaDiscoveryResponse;
use crate::sys::thread::nicely;
use crate::telemetry::causes::with_sources;

/// How long the first response of a stream may take. An istiod that starts, or pushes to many, is slow; one that never
/// answers, behind something that does, must not be waited for in vain.
const FIRST_RESPONSE: Duration = Duration::from_secs(300);
/// Answers that wait to be sent, above which nothing more is read.
const UNSENT: usize = 16;
/// Requests under way to the connection.
const QUEUE: usize = 4;
/// A message above this size is applied where it does not keep other tasks of the runtime from running.
const LARGE: usize = 64 << 10;

/// A client that is not connected yet.
#[derive(Debug)]
pub struct Client<A> {
    config: Arc<Config>,
    session: Session,
    apply: A,
    questions: mpsc::Receiver<Question>,
    waiting: Waiting,
    status: watch::Sender<Status>,
    counters: Arc<Counters>,
}

/// What others have of a client.
#[derive(Clone, Debug)]
pub struct Handle {
    pub demand: Demand,
    pub status: watch::Receiver<Status>,
    pub counters: Arc<Counters>,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Unreachable(#[from] ConnectError),
    #[error("{}: {}: {}{}", who(.0), .0.code(), with_sources(nack::cut(.0.message()).to_owned(), .0), hint(.0))]
    Failed(Box<GrpcStatus>),
    #[error("istiod ended the stream, as it does from time to time")]
    Complete,
    #[error("no response within {FIRST_RESPONSE:?}, maybe something between us and istiod answers in its place")]
    Silent,
    #[error("istiod sent what is no response: {0}")]
    Garbage(#[from] prost::DecodeError),
}

impl<A: Apply> Client<A> {
    /// A client, and what others have of it.
    pub fn new(config: Config, apply: A) -> Result<(Self, Handle), BadConfig> {
        config.check()?;
        let session = Session::new(&config.node, config.addresses);
        let synced = PerKind::new(|kind| KindStatus { synced: session.synced(kind), ..KindStatus::default() });
        let (status, reader) = watch::channel(Status::new(config.address.clone(), synced));
        let (demand, questions) = Demand::new(config.addresses, config.patience);
        let counters = Arc::new(Counters::default());
        let handle = Handle { demand, status: reader, counters: Arc::clone(&counters) };
        let waiting = Waiting::default();
        Ok((Self { config: Arc::new(config), session, apply, questions, waiting, status, counters }, handle))
    }

    /// Runs for as long as it is polled. Responses are applied in place, on the runtime's own threads.
    pub async fn run(mut self) {
        let mut backoff = Backoff::default();
        loop {
            let (ended, lasted) = self.stream().await;
            self.session.lost();
            let wait = backoff.ended(ended.termination(), lasted, fastrand::f64());
            self.ended(&ended, wait);
            self.meanwhile(sleep(wait)).await;
        }
    }

    /// Waits for what has to do with no stream. Who asks for what is known already gets the answer all the same.
    async fn meanwhile<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        loop {
            tokio::select! {
                output = &mut future => return output,
                Some(question) = self.questions.recv() => self.ask(question),
            }
        }
    }

    /// One stream: how it ended, and how long after its first response.
    async fn stream(&mut self) -> (Ended, Duration) {
        self.status.send_modify(|status| status.link = Link::Connecting { since: SystemTime::now() });
        let (requests, queue) = mpsc::channel(QUEUE);
        let config = Arc::clone(&self.config);
        let mut incoming = match self.meanwhile(connect::open(&config, queue)).await {
            Ok(incoming) => incoming,
            Err(error) => return (error.into(), Duration::ZERO),
        };
        self.session.opened();
        let deadline = Instant::now() + FIRST_RESPONSE;
        let mut first = None;
        let ended = loop {
            // Closed: nothing more can be sent, and why is about to be read.
            let closed = requests.is_closed();
            tokio::select! {
                permit = requests.reserve(), if !closed && self.session.has_request() => {
                    if let (Ok(permit), Some(request)) = (permit, self.session.next_request()) {
                        permit.send(request);
                    }
                }
                message = incoming.next(), if closed || self.session.unsent() < UNSENT => match message {
                    Ok(Some(message)) => {
                        let (_, since) = *first.get_or_insert_with(|| (Instant::now(), SystemTime::now()));
                        if let Err(ended) = self.receive(message, since) {
                            break ended;
                        }
                    }
                    Ok(None) => break Ended::Complete,
                    Err(status) => break Ended::Failed(Box::new(status)),
                },
                () = sleep_until(deadline), if first.is_none() => break Ended::Silent,
                Some(question) = self.questions.recv() => self.ask(question),
            }
        };
        (ended, first.map(|(first, _)| first.elapsed()).unwrap_or_default())
    }

    /// Takes a question and those behind it, so that they make one request.
    fn ask(&mut self, question: Question) {
        self.waiting.ask(question, &mut self.session);
        for _ in 0..self.questions.len() {
            if let Ok(question) = self.questions.try_recv() {
                self.waiting.ask(question, &mut self.session);
            }
        }
    }

    fn receive(&mut self, message: Bytes, since: SystemTime) -> Result<(), Ended> {
        let bytes = message.len();
        let (session, apply) = (&mut self.session, &mut self.apply);
        let work = || Ok::<_, Ended>(session.receive(DeltaDiscoveryResponse::decode(message)?, apply));
        let many = Runtime::current().runtime_flavor() == RuntimeFlavor::MultiThread;
        let received =
            if many && bytes > LARGE { tokio::task::block_in_place(|| nicely("xds-large", work))? } else { work()? };
        self.counters.received(received.kind, bytes);
        self.waiting.answer(&received.answered);
        self.received(&received, since);
        Ok(())
    }

    /// Says what became of a response.
    fn received(&self, received: &Received, since: SystemTime) {
        let at = SystemTime::now();
        let Received { kind, accepted, removed, rejected, .. } = received;
        tracing::debug!(?kind, accepted, removed, rejected = rejected.len(), "configuration from istiod");
        if !rejected.is_empty() {
            tracing::warn!(?kind, reasons = nack::message(rejected), "istiod sent resources that cannot be used");
        }
        self.status.send_modify(|status| {
            status.link = Link::Connected { since };
            status.last_message = Some(at);
            let Some(kind) = *kind else { return };
            let one = status.kinds.of_mut(kind);
            if !one.synced {
                tracing::info!(?kind, resources = accepted, "first configuration from istiod");
            }
            one.synced = self.session.synced(kind);
            one.resources = self.session.held(kind);
            one.responses += 1;
            one.rejected += rejected.len() as u64;
            for rejected in rejected {
                let (name, reason) = (nack::cut(&rejected.name).to_owned(), nack::cut(&rejected.reason).to_owned());
                status.refused(Refusal { at, kind, name, reason });
            }
        });
    }

    /// Says why a stream ended.
    fn ended(&self, ended: &Ended, wait: Duration) {
        let how = ended.termination();
        self.counters.terminated(how);
        if matches!(how, Termination::Complete | Termination::Reconnect) {
            tracing::info!(reason = %ended, ?wait, "connecting to istiod again");
        } else {
            tracing::warn!(error = %ended, ?wait, "no configuration from istiod, the present one stays in force");
        }
        let now = SystemTime::now();
        self.status.send_modify(|status| {
            status.link = Link::Waiting { until: now + wait };
            status.last_error = Some((now, ended.to_string()));
        });
    }
}

impl Ended {
    fn termination(&self) -> Termination {
        match self {
            Self::Unreachable(_) => Termination::ConnectionError,
            Self::Complete => Termination::Complete,
            Self::Failed(status) if usual(status) => Termination::Reconnect,
            Self::Failed(_) | Self::Silent | Self::Garbage(_) => Termination::Error,
        }
    }
}

/// Whether this is how servers, and proxies before them, end streams in normal operation (protocol note, section 1.12).
fn usual(status: &GrpcStatus) -> bool {
    let text = status.message().to_ascii_lowercase();
    matches!(status.code(), Code::Unknown | Code::Cancelled | Code::DeadlineExceeded)
        || status.code() == Code::Unavailable && (text.contains("transport is closing") || text.contains("goaway"))
}

/// A status that istiod sent has no source.
fn who(status: &GrpcStatus) -> &'static str {
    if status.source().is_some() { "the connection to istiod broke" } else { "istiod ended the stream" }
}

/// The likely cause.
fn hint(status: &GrpcStatus) -> &'static str {
    if matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied) {
        "; maybe the token has expired, is for another audience, or of another namespace than we say"
    } else if status.code() == Code::Unimplemented {
        "; maybe that port is not where istiod serves configuration"
    } else {
        ""
    }
}
