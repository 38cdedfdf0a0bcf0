//! Where the picture of the mesh comes from: the node's file, or an istiod.

use std::sync::Arc;

use anyhow::Context;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::admin::ready::Gate;
use crate::file::schema::xds::Mode;
use crate::file::schema::{Node, Xds};
use crate::model::{Store, World};
use crate::task::Tasks;
use crate::xds;

/// Starts following istiod, if the node has one: its pictures go to `worlds`.
pub(super) fn source(
    node: &Node,
    worlds: &watch::Sender<Arc<World>>,
    tasks: &Tasks,
) -> anyhow::Result<Option<xds::Handle>> {
    let Some(istiod) = &node.xds else { return Ok(None) };
    let place = worlds.borrow().place().clone();
    let mesh = xds::Mesh::new(Store::new(place), worlds.clone());
    let (client, handle) = xds::Client::new(config(node, istiod), mesh).context("node.xds")?;
    tasks.spawn(client.run());
    Ok(Some(handle))
}

fn config(node: &Node, istiod: &Xds) -> xds::Config {
    let security = if istiod.plaintext {
        xds::Security::Plaintext
    } else {
        let root = istiod.root.clone().unwrap_or_else(|| node.ca.root.clone());
        xds::Security::Tls { root, server_name: istiod.server_name.clone() }
    };
    xds::Config {
        address: istiod.address.clone(),
        security,
        token: Some(istiod.token.clone().unwrap_or_else(|| node.ca.token.clone())),
        headers: istiod.headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        node: xds::Node {
            ip: istiod.ip,
            pod: istiod.pod.clone(),
            namespace: istiod.namespace.clone(),
            node: node.name.clone(),
            cluster: node.cluster.clone(),
            metadata: istiod.metadata.clone(),
        },
        addresses: match istiod.mode {
            Mode::Wildcard => xds::Mode::Wildcard,
            Mode::OnDemand => xds::Mode::OnDemand,
        },
        patience: PATIENCE,
    }
}

/// Where the data path asks, if it has to.
pub(super) fn demand(istiod: &xds::Handle) -> Option<xds::Demand> {
    istiod.demand.is_needed().then(|| istiod.demand.clone())
}

/// How long a connection waits for what istiod is asked for on demand.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

/// Waits for the first whole picture, or until the agent is stopped.
pub(super) async fn synced(gate: Gate, mut status: watch::Receiver<xds::Status>, stop: &CancellationToken) {
    tokio::select! {
        // The client lives as long as the process.
        _ = status.wait_for(xds::Status::synced) => gate.mark(),
        () = stop.cancelled() => {}
    }
}
