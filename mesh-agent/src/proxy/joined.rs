//! Between two pods of this node: the same proofs, the same policy and the same records as between nodes, and no tunnel. The
//! agent is both ends, and joins the two sockets itself.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio_util::sync::{CancellationToken, DropGuard};

use super::copy::{self, Count, Socket};
use super::dial::Ports;
use super::direct;
use super::error::{Error, outcome};
use super::far::Far;
use super::inbound::{self, Asked, Tunnel};
use super::pod::Pod;
use super::proxy_protocol::Delivery;
use super::record::{Record, Security, refuse};
use crate::hbone::head::Authority;
use crate::identity::Proven;
use crate::model::route::{self, Leg};
use crate::model::{Identity, OrigDst, Route, SameNode, Workload};
use crate::telemetry::reporter::Reporter;

/// How long a proof is good for, if no certificate ends before: then both show their certificates again.
const GOOD_FOR: Duration = Duration::from_secs(600);

/// The other end of a connection, which is here, too.
#[derive(Debug)]
pub(super) struct Neighbour {
    pub(super) pod: Rc<Pod>,
    pub(super) workload: Arc<Workload>,
    leg: Leg,
    /// Where the bytes go.
    pub(super) target: SocketAddr,
    /// As which policies and the application see the client: at one of its pod's addresses, whatever it has bound to.
    pub(super) client: SocketAddr,
    /// How the two talk, where one of them has bound to no other address than its own.
    pub(super) mode: SameNode,
}

/// The destination, if it is a pod that this agent serves, and both namespaces agree that the connection is joined here.
pub(super) fn neighbour(pod: &Pod, (source, client): (&Workload, SocketAddr), route: &Route) -> Option<Neighbour> {
    let Route::Tunnel { leg, authority: route::Authority::Address(target), workload, .. } = route else { return None };
    // What goes through a waypoint ends there.
    if leg.next_hop.0.ip() != target.ip() || !workload.addresses.contains(&target.ip()) {
        return None;
    }
    let mode = pod.locals.modes.between(source.namespace(), workload.namespace());
    if mode == SameNode::Mtls {
        return None;
    }
    let own = source.addresses.contains(&client.ip()).then(|| client.ip());
    let mode = if own.is_some() { mode } else { SameNode::Local };
    let ip = own.or_else(|| pod.source_ip(source, *target))?;
    let found = pod.locals.find(workload.namespace(), &workload.name)?;
    // Another cluster may have a workload of the same name.
    let own = found.known_workload().filter(|own| own.uid == workload.uid)?;
    let client = SocketAddr::new(ip, client.port());
    Some(Neighbour { pod: found, workload: own, leg: leg.clone(), target: *target, client, mode })
}

/// The connection's end that is here in any case.
#[derive(Debug)]
pub(super) struct Client<'a> {
    pub(super) tcp: Socket,
    pub(super) source: &'a Arc<Workload>,
    /// Where it wanted to go.
    pub(super) original: OrigDst,
    /// The host name of the service that it went by.
    pub(super) service: Option<&'a str>,
}

/// Carries one connection from its client's socket to the application, with the record of the destination.
pub(super) async fn carry(pod: &Rc<Pod>, client: Client<'_>, to: &Neighbour, record: &Record) -> Result<(), Error> {
    let met = pod.acquaintances.meet(pod, &client.source.identity, to).await?;
    let there = &*to.pod;
    let _busy = there.tasks.busy();
    let tunnel = Tunnel { peer: to.client, far: Rc::clone(&met.client), dialled: to.leg.next_hop.0 };
    let asked = Asked { authority: Authority::Address(to.target), service_host: client.service };
    let request = match inbound::understand(there, &tunnel, asked).await {
        Ok(request) => request,
        Err(error) => {
            refuse(Reporter::Destination, to.client, Some(to.target), &error.to_string());
            return Err(Error::Declined(error.to_string()));
        }
    };
    let said = http::HeaderMap::new();
    let theirs = Record::open(&there.books, inbound::ends(there, &tunnel, &request, (&said, Security::Local)));
    let records = Both(record, &theirs);
    let result = there.unless_cut(pin!(join((pod, client, to), &met, &request, &records))).await;
    theirs.finish(outcome(&result));
    match result {
        Err(error @ (Error::Denied(_) | Error::Connect { .. } | Error::ConnectTimeout { .. })) => {
            Err(Error::Declined(error.to_string()))
        }
        result => result,
    }
}

/// Reaches the application and moves the bytes, as long as everything that allowed it holds.
async fn join(
    (pod, client, to): (&Rc<Pod>, Client<'_>, &Neighbour),
    met: &Acquaintance,
    request: &inbound::Request,
    records: &Both<'_>,
) -> Result<(), Error> {
    let there = &*to.pod;
    let mut worlds = there.verdicts.clone();
    let seen = request.delivery.source();
    let ports = if to.mode == SameNode::Direct { Ports::Apart } else { Ports::Any };
    let mut app = inbound::reach(there, &request.question, (seen, ports), records.1).await?;
    direct::offer(pod, client.source, to);
    if let Delivery::Announced(_, header) = &request.delivery {
        app.say_first(header).await?;
    }
    let watched = pod.placement.watch(records, Some(client.original.0));
    let denied = request.question.until_denied(&mut worlds);
    tokio::select! {
        biased;
        () = met.client.revoked.cancelled() => Err(Error::PeerRevoked),
        () = met.server.revoked.cancelled() => Err(Error::PeerRevoked),
        denied = denied => Err(Error::Revoked(denied)),
        result = copy::relay(client.tcp, app, &watched, pod.placement.lane()) => Ok(result?),
    }
}

/// The records of both ends count the same bytes.
struct Both<'a>(&'a Record, &'a Record);

impl Count for Both<'_> {
    fn received(&self, bytes: u64) {
        self.0.received(bytes);
        self.1.received(bytes);
    }

    fn sent(&self, bytes: u64) {
        self.0.sent(bytes);
        self.1.sent(bytes);
    }
}

/// Two pods that have shown each other their certificates.
#[derive(Debug)]
pub(super) struct Acquaintance {
    pub(super) client: Rc<Far>,
    pub(super) server: Rc<Far>,
    server_pod: Weak<Pod>,
    pub(super) until: Instant,
    /// Ends the watch for revocations.
    _watched: DropGuard,
}

impl Acquaintance {
    fn holds(&self, server: &Rc<Pod>) -> bool {
        let revoked = self.client.revoked.is_cancelled() || self.server.revoked.is_cancelled();
        !revoked && Instant::now() < self.until && std::ptr::eq(self.server_pod.as_ptr(), Rc::as_ptr(server))
    }
}

/// Who has met whom.
#[derive(Debug, Default)]
pub(super) struct Acquaintances(RefCell<HashMap<Pair, Rc<Acquaintance>>>);

#[derive(Debug, PartialEq, Eq, Hash)]
struct Pair {
    client: Identity,
    server: Identity,
    /// The server's workload.
    uid: Arc<str>,
}

impl Acquaintances {
    pub(super) async fn meet(
        &self,
        pod: &Rc<Pod>,
        client: &Identity,
        to: &Neighbour,
    ) -> Result<Rc<Acquaintance>, Error> {
        // An acquaintance was judged by whom that client expected; the next one may expect somebody else.
        let expected = to.leg.accepted.contains(&to.workload.identity);
        let (server, uid) = (to.workload.identity.clone(), Arc::clone(&to.workload.uid));
        let key = Pair { client: client.clone(), server, uid };
        let known = self.0.borrow().get(&key).filter(|known| expected && known.holds(&to.pod)).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let met = Rc::new(introduce(pod, client, to).await?);
        // A pod that leaves waits for all that it watches, and nobody would sweep this away.
        if !pod.leaving.is_cancelled() {
            self.0.borrow_mut().insert(key, Rc::clone(&met));
        }
        Ok(met)
    }

    /// Forgets what holds no more.
    pub(super) fn sweep(&self) {
        let now = Instant::now();
        self.0.borrow_mut().retain(|_, met| now < met.until && met.server_pod.strong_count() > 0);
    }

    pub(super) fn clear(&self) {
        self.0.borrow_mut().clear();
    }
}

/// Has both show their certificates.
async fn introduce(pod: &Rc<Pod>, client: &Identity, to: &Neighbour) -> Result<Acquaintance, Error> {
    let ours = pod.credentials(client).await?;
    let theirs = to.pod.credentials(&to.workload.identity).await?;
    let server = ours.meet_server(&theirs, &to.leg.accepted).map_err(Error::Tls)?;
    let client = theirs.meet_client(&ours).map_err(Error::Tls)?;
    let now = SystemTime::now();
    let left = |proven: &Proven| proven.expires.and_then(|at| at.duration_since(now).ok()).unwrap_or_default();
    let until = Instant::now() + GOOD_FOR.min(left(&server)).min(left(&client));
    let watched = CancellationToken::new();
    let far = |proven: Proven| {
        let far = Far::new(proven.identity);
        if proven.tracked.is_some() {
            let (watched, far, peer) = (watched.clone(), Rc::clone(&far), to.target);
            pod.tasks.spawn_local(async move {
                let forgotten = watched.cancelled_owned();
                far.while_trusted(proven.tracked, peer, forgotten).await;
            });
        }
        far
    };
    let (client, server) = (far(client), far(server));
    Ok(Acquaintance { client, server, server_pod: Rc::downgrade(&to.pod), until, _watched: watched.drop_guard() })
}
