//! Where the pods to serve come from: the file, or a CNI agent.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Feeds, mark_when_enrolled};
use crate::admin::ready::{Gate, Ready};
use crate::file::schema::Node;
use crate::identity::Certs;
use crate::model::pod::PodStatus;
use crate::model::{PodSpec, World};
use crate::pods::driver::Retry;
use crate::task::Tasks;
use crate::zds::{Client, Pods};

/// Pods that a CNI agent has handed over and that could not be served are tried again so often (protocol note, section
/// 10.4).
pub(super) const RETRY: Retry = Retry { first: Duration::from_secs(5), cap: Duration::from_secs(5) };

/// What a source of pods works with.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
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
