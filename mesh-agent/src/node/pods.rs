//! Where the pods to serve come from: the file, Kubernetes, or a CNI agent.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Feeds;
use super::kubernetes::Cluster;
use crate::admin::ready::{Gate, Ready};
use crate::file::schema::Node;
use crate::identity::Certs;
use crate::model::pod::PodStatus;
use crate::model::{PodSpec, World};
use crate::pods::driver::Retry;
use crate::sys::memory;
use crate::task::Tasks;
use crate::zds::{Client, Pods};

/// Pods that a CNI agent has handed over and that could not be served are tried again so often (protocol note, section
/// 10.4).
pub(super) const RETRY: Retry = Retry { first: Duration::from_secs(5), cap: Duration::from_secs(5) };

/// When the first certificates have come, the start is over.
const SETTLED: Duration = Duration::from_secs(2);

/// What a source of pods works with.
pub(super) struct Source<'a> {
    /// Kubernetes, if the pods come from there.
    pub(super) cluster: Option<Cluster>,
    pub(super) feeds: &'a Feeds,
    pub(super) certs: &'a Certs,
    pub(super) ready: &'a Ready,
    pub(super) tasks: &'a Tasks,
}

impl Source<'_> {
    /// The pods as they are to be; `statuses` says how they are. When they are, `gate` is marked. A CNI agent is listened
    /// to until `stop`.
    pub(super) fn open(
        self,
        node: &Node,
        gate: Gate,
        statuses: watch::Receiver<Vec<PodStatus>>,
        stop: &CancellationToken,
    ) -> Pods {
        if let Some(cluster) = self.cluster {
            let desired = cluster.open(gate, statuses, self.tasks);
            self.tasks.spawn(keep_certificates(desired.clone(), self.feeds.worlds.subscribe(), self.certs.clone()));
            return desired;
        }
        let Some(cni) = &node.zds else {
            let desired = self.feeds.pods.subscribe();
            if node.xds.is_some() {
                let (pods, worlds) = (desired.clone(), self.feeds.worlds.subscribe());
                self.tasks.spawn(keep_certificates(pods, worlds, self.certs.clone()));
            }
            let wanted = Arc::clone(&desired.borrow());
            self.tasks.spawn(mark_when_enrolled(gate, statuses, wanted));
            return desired;
        };
        let (client, desired) = Client::new(&cni.socket, statuses, self.ready, gate);
        let stop = stop.clone();
        // An agent that ends closes its connection first: it is given no more pods.
        self.tasks.spawn(async move {
            stop.run_until_cancelled(client.run()).await;
        });
        self.tasks.spawn(keep_certificates(desired.clone(), self.feeds.worlds.subscribe(), self.certs.clone()));
        desired
    }
}

/// Ready once every pod of the first configuration is enrolled.
async fn mark_when_enrolled(gate: Gate, mut pods: watch::Receiver<Vec<PodStatus>>, wanted: Arc<Vec<Arc<PodSpec>>>) {
    let all = |pods: &Vec<PodStatus>| {
        wanted.iter().all(|spec| pods.iter().any(|pod| pod.spec.uid == spec.uid && pod.state.is_captured()))
    };
    if pods.wait_for(all).await.is_ok() {
        mark(gate).await;
    }
}

/// The start is over soon after the node is ready, when the first certificates have come.
pub(super) async fn mark(gate: Gate) {
    gate.mark();
    tokio::time::sleep(SETTLED).await;
    memory::release_code();
}

/// Has certificates for those workloads that are pods of this node, and for no others.
async fn keep_certificates(mut pods: Pods, mut worlds: watch::Receiver<Arc<World>>, certs: Certs) {
    loop {
        let (wanted, world) = (Arc::clone(&pods.borrow_and_update()), Arc::clone(&worlds.borrow_and_update()));
        let identity = |pod: &Arc<PodSpec>| {
            let workload = world.local_workload(&pod.namespace, &pod.name)?;
            let meant = |account: &str| pod.service_account.is_empty() || account == pod.service_account;
            Some(workload.identity.clone()).filter(|identity| meant(identity.service_account()))
        };
        certs.keep_only(&wanted.iter().filter_map(identity).collect());
        let changed = tokio::select! {
            changed = pods.changed() => changed,
            changed = worlds.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}
