//! A grant, from the question whether it may be to the end of the last connection under it.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderMap;
use mesh_common::direct::{Event, GrantKey, Slot};
use tokio::sync::watch;

use super::{Asked, Kernel, straight};
use crate::hbone::head::Authority;
use crate::model::{PolicyName, Route, Service, Workload};
use crate::proxy::error::Error;
use crate::proxy::inbound::{self, Tunnel};
use crate::proxy::joined::{Acquaintance, Neighbour};
use crate::proxy::outbound;
use crate::proxy::pod::Pod;
use crate::proxy::proxy_protocol::Delivery;
use crate::proxy::record::{Ends, Outcome, Security};
use crate::proxy::revoke::Question;

/// How long the programs' news may be on their way.
const LATE: Duration = Duration::from_millis(300);

/// Who wants to talk to whom.
pub(super) struct Pair {
    pub(super) kernel: Arc<dyn Kernel>,
    pub(super) client: Rc<Pod>,
    pub(super) source: Arc<Workload>,
    pub(super) route: Route,
    pub(super) to: Neighbour,
}

/// What the kernel may carry.
#[derive(Debug)]
pub(super) struct Granted {
    pub(super) slot: Slot,
    pub(super) client: Rc<Pod>,
    pub(super) server: Rc<Pod>,
    pub(super) target: SocketAddr,
    question: Question,
    pub(super) policy: Option<PolicyName>,
    /// Of the records of any connection, but for the client's port: source, destination.
    pub(super) ends: [Ends; 2],
    pub(super) open: watch::Sender<usize>,
    /// Whether a connection came since the two have shown their certificates.
    pub(super) used: Cell<bool>,
    /// How connections end that are heard of too late.
    pub(super) over: RefCell<Option<Outcome>>,
}

/// Grants it, if it may be, and takes the grant back in time.
pub(super) async fn keep(pair: Pair, asked: Asked<GrantKey>) {
    let _busy = pair.to.pod.tasks.busy();
    if !pair.kernel.stays(pair.to.target.ip()) {
        tracing::warn!(
            pod = %pair.to.pod.local.spec.uid,
            address = %pair.to.target.ip(),
            "the node sends what is for this pod over a wire, or nobody knows where: its connections are not direct"
        );
        // Which will not change while the pods are there.
        tokio::select! {
            () = pair.client.leaving.cancelled() => {}
            () = pair.to.pod.leaving.cancelled() => {}
        }
        return;
    }
    match pair.grant(&asked.key).await {
        Ok((granted, met)) => hold(&pair, &asked.key, &Rc::new(granted), met).await,
        Err(reason) => tracing::debug!(?reason, target = %pair.to.target, "not granted"),
    }
}

/// Why something is not granted that was asked for.
#[derive(Debug)]
enum Refused {
    /// As a joined connection would be.
    #[expect(dead_code, reason = "it is logged")]
    Error(Error),
    /// The other shard has granted it, or there is no room.
    Taken,
    /// The application is not reached as its clients ask for it.
    Elsewhere,
}

impl Pair {
    async fn grant(&self, key: &GrantKey) -> Result<(Granted, Rc<Acquaintance>), Refused> {
        let (client, to, server) = (&self.client, &self.to, &self.to.pod);
        let met = self.meet().await.map_err(Refused::Error)?;
        let tunnel = Tunnel { peer: to.client, far: Rc::clone(&met.client), dialled: to.target };
        let asked = inbound::Asked { authority: Authority::Address(to.target), service_host: None };
        let request = inbound::understand(server, &tunnel, asked).await.map_err(Refused::Error)?;
        if request.question.target != to.target || !matches!(request.delivery, Delivery::FromClient(_)) {
            return Err(Refused::Elsewhere);
        }
        let permit = request.question.ask(&server.world()).map_err(|denied| Refused::Error(denied.into()))?;
        let policy = permit.policy().cloned();
        let ends = [
            outbound::direct_ends(client, &self.source, (to.client, to.target), self.route.clone()),
            inbound::ends(server, &tunnel, &request, (&HeaderMap::new(), Security::Direct)),
        ];
        let slot = self.kernel.grant(client.shortcuts.shard, key, server.netns_cookie).ok_or(Refused::Taken)?;
        let granted = Granted {
            slot,
            client: Rc::clone(client),
            server: Rc::clone(server),
            target: to.target,
            question: request.question,
            policy,
            ends,
            open: watch::Sender::new(0),
            used: Cell::new(false),
            over: RefCell::default(),
        };
        Ok((granted, met))
    }

    async fn meet(&self) -> Result<Rc<Acquaintance>, Error> {
        self.client.acquaintances.meet(&self.client, &self.source.identity, &self.to).await
    }

    /// Waits until a new connection would go another way.
    async fn unrouted(&self) {
        let mut worlds = self.client.worlds.clone();
        loop {
            worlds.borrow_and_update();
            // What is known of the client may have changed as well.
            let source = self.client.known_workload();
            let still = source.is_some_and(|source| {
                source.identity == self.source.identity && straight(&self.client, &source, &self.to).is_some()
            });
            if !still {
                return;
            }
            if worlds.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}

async fn hold(pair: &Pair, key: &GrantKey, granted: &Rc<Granted>, met: Rc<Acquaintance>) {
    let (shortcuts, kernel) = (&pair.client.shortcuts, &pair.kernel);
    shortcuts.grants.borrow_mut().insert(granted.slot.index, Rc::clone(granted));
    let (met, fate) = granted.while_new_ones_may_come(pair, met).await;
    kernel.withdraw(key);
    let fate = match fate {
        Ok(()) => granted.until_quiet(&met).await,
        over => over,
    };
    kernel.cut(granted.slot);
    let outcome = crate::proxy::error::outcome(&fate);
    if fate.is_err() {
        shortcuts.cut(granted, &outcome);
    }
    granted.over.replace(Some(outcome));
    tokio::time::sleep(LATE).await;
    shortcuts.grants.borrow_mut().remove(&granted.slot.index);
    kernel.free(granted.slot);
}

impl Granted {
    /// The service by which a client came here, and the address that it asked for.
    pub(super) fn wanted(&self, event: &Event) -> Option<(SocketAddr, Arc<Service>)> {
        let to = (event.wanted.port != 0).then(|| event.wanted.socket())?;
        let (source, world) = (self.client.known_workload()?, self.client.world());
        let service = world.service_at(&source.network, to.ip(), source.namespace())?;
        Some((to, Arc::clone(service)))
    }

    /// Ok: only new connections go elsewhere. With whom they had met last.
    async fn while_new_ones_may_come(
        &self,
        pair: &Pair,
        mut met: Rc<Acquaintance>,
    ) -> (Rc<Acquaintance>, Result<(), Error>) {
        loop {
            let again = met.until.saturating_duration_since(Instant::now()).max(LATE);
            let shown = async {
                tokio::time::sleep(again).await;
                pair.meet().await
            };
            let result = tokio::select! {
                biased;
                error = self.over(&met) => Err(error),
                () = self.client.leaving.cancelled() => Ok(()),
                () = self.server.leaving.cancelled() => Ok(()),
                () = pair.unrouted() => Ok(()),
                shown = shown => {
                    let needed = self.used.replace(false) || *self.open.borrow() > 0;
                    match shown {
                        Ok(anew) if needed => {
                            met = anew;
                            continue;
                        }
                        Ok(_) | Err(_) => Ok(()),
                    }
                }
            };
            return (met, result);
        }
    }

    /// No new ones come: waits for the end of the last one.
    async fn until_quiet(&self, met: &Acquaintance) -> Result<(), Error> {
        let mut open = self.open.subscribe();
        let quiet = async {
            tokio::time::sleep(LATE).await;
            // Its sender is ours.
            open.wait_for(|open| *open == 0).await.ok();
        };
        tokio::select! {
            biased;
            error = self.over(met) => Err(error),
            () = quiet => Ok(()),
        }
    }

    /// Waits for what ends open connections, too.
    async fn over(&self, met: &Acquaintance) -> Error {
        let mut verdicts = self.server.verdicts.clone();
        tokio::select! {
            biased;
            () = self.client.cut.cancelled() => Error::Cut,
            () = self.server.cut.cancelled() => Error::Cut,
            () = met.client.revoked.cancelled() => Error::PeerRevoked,
            () = met.server.revoked.cancelled() => Error::PeerRevoked,
            denied = self.question.until_denied(&mut verdicts) => Error::Revoked(denied),
        }
    }
}
