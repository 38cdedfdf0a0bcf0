//! One pod on one shard: what its pipelines share.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::accept::accept;
use super::copy::Broken;
use super::demand::Asker;
use super::direct::Shortcuts;
use super::error::Error;
use super::far::Far;
use super::joined::Acquaintances;
use super::locals::Locals;
use super::names::Names;
use super::placement::{Moving, Placed, Placement, Weight};
use super::record::{Books, Reporter, refuse};
use super::shard::{Door, Habits, Leave, LocalPod, PodListeners, arrive};
use super::{inbound, outbound, plaintext};
use crate::hbone::head::Baggage;
use crate::hbone::pool::Pool;
use crate::identity::{Certs, Credentials};
use crate::model::accepted::Accepted;
use crate::model::addr::canonical;
use crate::model::{Captured, Identity, NextHop, Workload, World};
use crate::sys::socket::original_destination;
use crate::task::{Limited, Tasks};

/// How long a new pod's workload or first certificate may take to appear.
const ARRIVAL: Duration = Duration::from_secs(10);

/// How often idle tunnels are looked for.
const SWEEP: Duration = Duration::from_secs(10);

/// What a tunnel is kept under: connections that differ in any of it never share one (protocol note, section 5.7).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct TunnelKey {
    pub(super) source: Identity,
    pub(super) accepted: Accepted,
    pub(super) next_hop: NextHop,
    /// The pod's address that the peer will see, for its policies.
    pub(super) source_ip: Option<IpAddr>,
}

pub(super) struct Pod {
    pub(super) local: LocalPod,
    pub(super) netns_cookie: u64,
    /// Name of the network the node is on.
    pub(super) network: Arc<str>,
    pub(super) worlds: watch::Receiver<Arc<World>>,
    /// Changes only when an answer of [`crate::model::authorize`] may have changed.
    pub(super) verdicts: watch::Receiver<Arc<World>>,
    pub(super) certs: Certs,
    pub(super) books: Rc<Books>,
    pub(super) handshakes: Rc<Semaphore>,
    pub(super) names: Rc<Names>,
    /// Where what is not known yet is asked for.
    pub(super) asker: Option<Rc<Asker>>,
    pub(super) habits: Habits,
    /// The other pods of this node on this shard.
    pub(super) locals: Rc<Locals>,
    pub(super) acquaintances: Acquaintances,
    pub(super) shortcuts: Rc<Shortcuts>,
    pub(super) placement: Rc<Placement>,
    doors: Arc<[Door]>,
    pub(super) tunnels: Pool<TunnelKey, Rc<Far>, Error>,
    pub(super) tasks: Tasks,
    /// Peers are told to go elsewhere.
    pub(super) leaving: CancellationToken,
    /// Connections that are still open are cut.
    pub(super) cut: CancellationToken,
    baggage: RefCell<Option<(Arc<Workload>, Option<HeaderValue>)>>,
}

impl Pod {
    pub(super) fn new(local: LocalPod, netns_cookie: u64, shared: &super::shard::Shared) -> Rc<Self> {
        Rc::new(Self {
            local,
            netns_cookie,
            network: Arc::clone(&shared.network),
            worlds: shared.worlds.clone(),
            verdicts: shared.verdicts.clone(),
            certs: shared.certs.clone(),
            books: Rc::clone(&shared.books),
            handshakes: Rc::clone(&shared.handshakes),
            names: Rc::clone(&shared.names),
            asker: shared.asker.clone(),
            habits: shared.habits,
            locals: Rc::clone(&shared.locals),
            acquaintances: Acquaintances::default(),
            shortcuts: Rc::clone(&shared.shortcuts),
            placement: Rc::clone(&shared.placement),
            doors: Arc::clone(&shared.doors),
            tunnels: Pool::default(),
            tasks: Tasks::new(),
            leaving: CancellationToken::new(),
            cut: CancellationToken::new(),
            baggage: RefCell::default(),
        })
    }

    /// Goes on with `journey` until the pod's connections are cut. It is lent, not given: within another future, a future
    /// that is passed on takes its room twice, and a connection is little else.
    pub(super) async fn unless_cut<T>(
        &self,
        journey: Pin<&mut impl Future<Output = Result<T, Error>>>,
    ) -> Result<T, Error> {
        self.cut.run_until_cancelled(journey).await.unwrap_or(Err(Error::Cut))
    }

    /// Starts the three pipelines.
    pub(super) fn serve(self: &Rc<Self>, listeners: PodListeners) -> std::io::Result<()> {
        let listener = |listener| {
            let listener = Rc::new(TcpListener::from_std(listener)?);
            self.placement.opened(&listener);
            Ok::<_, std::io::Error>(listener)
        };
        let outbound = listener(listeners.outbound)?;
        let plaintext = listener(listeners.plaintext)?;
        let hbone = listener(listeners.hbone)?;
        let (stop, tasks) = (self.leaving.clone(), &self.tasks);
        let pod = Rc::clone(self);
        let serve = move |tcp, client| place(Rc::clone(&pod), tcp, client);
        tasks.spawn_local(accept(outbound, tasks.clone(), stop.clone(), serve));
        let pod = Rc::clone(self);
        let serve = move |tcp, client| plaintext::serve(Rc::clone(&pod), tcp, client);
        tasks.spawn_local(accept(plaintext, tasks.clone(), stop.clone(), serve));
        let pod = Rc::clone(self);
        let serve = move |tcp, peer| inbound::serve(Rc::clone(&pod), tcp, peer);
        tasks.spawn_local(accept(hbone, tasks.clone(), stop, serve));
        tasks.spawn_local(sweep(Rc::clone(self)));
        Ok(())
    }

    /// Serves on while peers may not have heard that it leaves, then retires.
    pub(super) async fn leave(&self, Leave { linger, mut limit }: Leave) {
        // Without anything to wait for nothing new is taken from this very moment on.
        if !linger.is_zero() {
            tokio::select! {
                () = tokio::time::sleep(linger) => {}
                () = limit.reached() => {}
            }
        }
        self.retire(limit).await;
    }

    /// Stops listening, lets connections end, and cuts those that are left when `limit` is reached.
    pub(super) async fn retire(&self, mut limit: Limited) {
        self.leaving.cancel();
        self.tunnels.clear();
        self.acquaintances.clear();
        tokio::select! {
            () = self.tasks.ended() => {}
            () = limit.reached() => {}
        }
        self.cut.cancel();
        // Cancelled tasks write their records and end at once.
        self.tasks.drain(Duration::from_secs(1)).await;
    }

    pub(super) fn world(&self) -> Arc<World> {
        match &self.asker {
            None => Arc::clone(&self.worlds.borrow()),
            Some(asker) => asker.world(),
        }
    }

    /// Where the client of a captured connection wanted to go. Packets that the agent's programs capture are left as they
    /// are, so it is the accepted socket's own address; rules rewrite them, and the kernel knows what they said before.
    pub(super) fn original_destination(&self, tcp: &TcpStream) -> Result<SocketAddr, Error> {
        let found = match self.local.spec.captured {
            Captured::ByPrograms(_) => tcp.local_addr().map(canonical),
            Captured::ByRules => original_destination(tcp),
        };
        found.map_err(|cause| Error::Broken(Broken::Local(cause)))
    }

    /// The pod's own workload; a pod may be enrolled a moment before the configuration knows it.
    pub(super) async fn workload(&self) -> Result<Arc<Workload>, Error> {
        if let Some(workload) = self.known_workload() {
            return Ok(workload);
        }
        let mut worlds = self.worlds.clone();
        let arrival = worlds.wait_for(|world| self.workload_in(world).is_some());
        match tokio::time::timeout(ARRIVAL, arrival).await {
            Ok(Ok(world)) => self.workload_in(&world).ok_or(Error::UnknownWorkload),
            Ok(Err(_)) | Err(_) => Err(Error::UnknownWorkload),
        }
    }

    pub(super) fn known_workload(&self) -> Option<Arc<Workload>> {
        self.workload_in(&self.worlds.borrow())
    }

    /// The ids of a pod and of its workload need not be the same: names tell.
    fn workload_in(&self, world: &World) -> Option<Arc<Workload>> {
        let spec = &self.local.spec;
        let meant = |account: &str| spec.service_account.is_empty() || account == spec.service_account;
        let same = |found: &&Arc<Workload>| meant(found.identity.service_account());
        world.local_workload(&spec.namespace, &spec.name).filter(same).cloned()
    }

    /// The credentials of an identity; waits for the first certificate within a limit.
    pub(super) async fn credentials(&self, identity: &Identity) -> Result<Arc<Credentials>, Error> {
        Ok(self.certs.watch(identity).ready(ARRIVAL).await?)
    }

    /// The baggage header that describes the pod, rendered anew only when its workload changes.
    pub(super) fn baggage(&self, workload: &Arc<Workload>) -> Option<HeaderValue> {
        let mut cached = self.baggage.borrow_mut();
        match &*cached {
            Some((of, header)) if Arc::ptr_eq(of, workload) => header.clone(),
            _ => {
                let header = baggage_of(workload).header();
                *cached = Some((Arc::clone(workload), header.clone()));
                header
            }
        }
    }

    /// The pod's address of the family of `towards`.
    pub(super) fn source_ip(&self, workload: &Workload, towards: SocketAddr) -> Option<IpAddr> {
        workload.addresses.iter().copied().find(|ip| ip.is_ipv4() == towards.is_ipv4())
    }
}

impl std::fmt::Debug for Pod {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pod").field("uid", &self.local.spec.uid).finish_non_exhaustive()
    }
}

/// Serves an outbound connection, here or on the shard where it should live.
async fn place(pod: Rc<Pod>, tcp: TcpStream, client: SocketAddr) {
    if !pod.placement.moves() {
        return outbound::serve(pod, tcp, client).await;
    }
    // Without its destination it is told of here, in order.
    let Ok(destination) = pod.original_destination(&tcp) else { return outbound::serve(pod, tcp, client).await };
    let Placed { shard, weight } = pod.placement.place(destination);
    let Some(door) = pod.doors.get(shard).filter(|_| shard != pod.placement.own) else {
        return serve_weighed(pod, tcp, client, weight).await;
    };
    let moving = match tcp.into_std() {
        Ok(tcp) => Moving { tcp, client, weight, busy: pod.tasks.busy() },
        Err(cause) => return refuse(Reporter::Source, client, None, &Error::Broken(Broken::Local(cause)).to_string()),
    };
    if let Err(moving) = door.hand_over(&pod.local.spec.uid, moving, pod.placement.own) {
        arrive(&pod, moving.turned_to(pod.placement.own));
    }
}

/// Its weight is on this shard until it ends.
pub(super) async fn serve_weighed(pod: Rc<Pod>, tcp: TcpStream, client: SocketAddr, weight: Option<Weight>) {
    outbound::serve(pod, tcp, client).await;
    drop(weight);
}

async fn sweep(pod: Rc<Pod>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(SWEEP) => {
                pod.tunnels.sweep(pod.habits.tunnels.idle);
                pod.acquaintances.sweep();
            }
            () = pod.leaving.cancelled() => return,
        }
    }
}

fn baggage_of(workload: &Workload) -> Baggage {
    Baggage {
        cluster: workload.cluster.to_string(),
        namespace: workload.namespace().to_owned(),
        workload_type: workload.workload_type.as_str(),
        workload: workload.workload_name.to_string(),
        service: workload.canonical_name.to_string(),
        version: workload.canonical_revision.to_string(),
        region: workload.locality.region.to_string(),
        zone: workload.locality.zone.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the future that a function gives.
    fn size<A, B, C, F>(_: impl Fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_connection_is_a_small_task() {
        let tasks = [
            ("outbound", size(place)),
            ("outbound, from another shard", size(|pod, tcp, client| serve_weighed(pod, tcp, client, None))),
            ("inbound", size(inbound::stream)),
            ("plaintext", size(plaintext::serve)),
        ];
        for (what, size) in tasks {
            assert!(size <= 2800, "{what}: {size} bytes; what needs much and ends soon is boxed");
        }
    }
}
