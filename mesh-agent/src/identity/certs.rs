//! The node's certificates: one task per identity writes, everybody else reads.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::ca::Certify;
use super::renew::Schedule;
use super::tls::Credentials;
use crate::model::Identity;
use crate::task::Tasks;

/// Certificates asked for at once (protocol note, section 4.5).
const AT_ONCE: usize = 8;

/// Why no certificate can be used. Never a denial by policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertError {
    #[error("certificate of {identity} not there yet: {}", last_error.as_deref().unwrap_or("the authority has not answered yet"))]
    NotYet { identity: Identity, last_error: Option<String> },
    #[error("certificate of {identity} has expired and could not be renewed: {}", last_error.as_deref().unwrap_or("no answer"))]
    Expired { identity: Identity, last_error: Option<String> },
}

/// The state of one identity's certificate.
#[derive(Clone, Debug, Default)]
pub struct CertState {
    pub credentials: Option<Arc<Credentials>>,
    pub last_error: Option<String>,
    /// When the authority is asked next.
    pub next: Option<SystemTime>,
}

/// What an identity can do with its certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing<'a> {
    Valid,
    /// With why it was not renewed, if that was tried.
    Expired(Option<&'a str>),
    /// The authority was asked, in vain.
    Failed(&'a str),
    /// The authority has not answered yet.
    Pending,
}

impl CertState {
    pub fn standing(&self, now: SystemTime) -> Standing<'_> {
        match (&self.credentials, self.last_error.as_deref()) {
            (Some(credentials), _) if credentials.valid_at(now) => Standing::Valid,
            (Some(_), error) => Standing::Expired(error),
            (None, Some(error)) => Standing::Failed(error),
            (None, None) => Standing::Pending,
        }
    }
}

/// The time of day, by which certificates expire. Tests have a clock of their own.
type Clock = fn() -> SystemTime;

/// Readers' handle on all certificates. Clones share them.
#[derive(Clone, Debug)]
pub struct Certs {
    shared: Arc<Shared>,
    orders: mpsc::UnboundedSender<Order>,
    clock: Clock,
}

#[derive(Debug, Default)]
struct Shared {
    /// Looked at once per tunnel and handshake, never per connection or byte; held for a map operation only.
    lanes: Mutex<HashMap<Identity, Lane>>,
}

#[derive(Debug)]
struct Lane {
    states: watch::Receiver<CertState>,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Order {
    identity: Identity,
    states: watch::Sender<CertState>,
    stop: CancellationToken,
}

/// One identity's certificate, as it changes.
#[derive(Debug)]
pub struct CertWatch {
    identity: Identity,
    states: watch::Receiver<CertState>,
    clock: Clock,
}

impl Certs {
    /// Starts the writer on the current runtime.
    pub fn start(authority: impl Certify, tasks: &Tasks) -> Self {
        Self::start_by(SystemTime::now, authority, tasks)
    }

    fn start_by(clock: Clock, authority: impl Certify, tasks: &Tasks) -> Self {
        let (orders, inbox) = mpsc::unbounded_channel();
        tasks.spawn(write(Arc::new(authority), inbox, tasks.clone(), clock));
        Self { shared: Arc::default(), orders, clock }
    }

    /// The certificate of `identity`; the first to ask has it fetched.
    pub fn watch(&self, identity: &Identity) -> CertWatch {
        let mut lanes = self.lanes();
        let lane = lanes.entry(identity.clone()).or_insert_with(|| {
            let (writer, states) = watch::channel(CertState::default());
            let stop = CancellationToken::new();
            let order = Order { identity: identity.clone(), states: writer, stop: stop.clone() };
            // The writer ends with the process; readers then see "not there yet".
            self.orders.send(order).ok();
            Lane { states, stop }
        });
        CertWatch { identity: identity.clone(), states: lane.states.clone(), clock: self.clock }
    }

    /// Forgets the certificates of identities that are no longer in use on the node, and fetches missing ones early.
    pub fn keep_only(&self, identities: &HashSet<Identity>) {
        self.lanes().retain(|identity, lane| {
            let keep = identities.contains(identity);
            if !keep {
                lane.stop.cancel();
            }
            keep
        });
        for identity in identities {
            drop(self.watch(identity));
        }
    }

    /// All certificates, sorted by identity.
    pub fn list(&self) -> Vec<(Identity, CertState)> {
        let mut all: Vec<_> =
            self.lanes().iter().map(|(identity, lane)| (identity.clone(), lane.states.borrow().clone())).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    fn lanes(&self) -> MutexGuard<'_, HashMap<Identity, Lane>> {
        self.shared.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CertWatch {
    /// The usable credentials; waits up to `limit` for the first.
    pub async fn ready(mut self, limit: Duration) -> Result<Arc<Credentials>, CertError> {
        let clock = self.clock;
        if let Some(credentials) = usable(&self.states.borrow(), clock()) {
            return Ok(credentials);
        }
        let arrival = self.states.wait_for(|state| usable(state, clock()).is_some());
        if let Ok(Ok(state)) = tokio::time::timeout(limit, arrival).await
            && let Some(credentials) = usable(&state, clock())
        {
            return Ok(credentials);
        }
        let CertState { credentials, last_error, .. } = self.states.borrow().clone();
        Err(match credentials {
            None => CertError::NotYet { identity: self.identity, last_error },
            Some(_) => CertError::Expired { identity: self.identity, last_error },
        })
    }
}

fn usable(state: &CertState, now: SystemTime) -> Option<Arc<Credentials>> {
    state.credentials.as_ref().filter(|credentials| credentials.valid_at(now)).map(Arc::clone)
}

async fn write(authority: Arc<impl Certify>, mut inbox: mpsc::UnboundedReceiver<Order>, tasks: Tasks, clock: Clock) {
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    while let Some(order) = inbox.recv().await {
        let (authority, slots) = (Arc::clone(&authority), Arc::clone(&slots));
        tasks.spawn(async move {
            let stop = order.stop.clone();
            stop.run_until_cancelled_owned(keep_fresh(authority, slots, order, clock)).await;
        });
    }
}

/// Fetches and renews one identity's certificate for ever.
async fn keep_fresh(authority: Arc<impl Certify>, slots: Arc<Semaphore>, order: Order, clock: Clock) {
    let mut schedule = Schedule::default();
    loop {
        let result = {
            // The semaphore is never closed.
            let _slot = slots.acquire().await;
            authority.certify(&order.identity).await
        };
        let now = clock();
        let next = match result {
            Ok(credentials) => {
                let next = schedule.succeeded(now, credentials.validity, fastrand::f64());
                tracing::info!(identity = %order.identity, serial = credentials.serial, "certificate issued");
                let credentials = Some(Arc::new(credentials));
                order.states.send_replace(CertState { credentials, last_error: None, next: Some(next) });
                next
            }
            Err(error) => {
                tracing::warn!(identity = %order.identity, %error, "no certificate");
                let expiry = order.states.borrow().credentials.as_ref().map(|kept| kept.validity.not_after);
                let next = schedule.failed(now, expiry, fastrand::f64());
                order.states.send_modify(|state| {
                    state.last_error = Some(error.to_string());
                    state.next = Some(next);
                });
                next
            }
        };
        sleep_until(next, clock).await;
    }
}

/// How long one look at the clock may be trusted: it may be set, or have stood still while the machine slept.
const GLANCE: Duration = Duration::from_secs(60);

/// Waits until the wall clock, by which certificates expire, shows `next`, and no longer than it should take: the clock may
/// be set back, too.
async fn sleep_until(next: SystemTime, clock: Clock) {
    let left = |now| next.duration_since(now).unwrap_or_default();
    let latest = tokio::time::Instant::now() + left(clock());
    while !left(clock()).is_zero() && tokio::time::Instant::now() < latest {
        let glance = tokio::time::Instant::now() + left(clock()).min(GLANCE);
        tokio::time::sleep_until(glance.min(latest)).await;
    }
}

#[cfg(test)]
mod tests;
