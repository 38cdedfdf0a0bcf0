//! What the agent listens on in a pod. The caller's thread is inside the pod's namespace.

use std::net::TcpListener;

use mesh_common::abi::{DNS_PORT, HBONE_PORT, OUTBOUND_PORT, PLAINTEXT_PORT};
use mesh_common::maps::ListenerIndex;

use super::capture::CaptureError;
use crate::dns::server::Sockets;
use crate::proxy::shard::PodListeners;
use crate::sys::cores::Homes;
use crate::sys::socket::listen;

/// Whether what pods ask name servers is captured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Names {
    #[default]
    Captured,
    LeftAlone,
}

/// Opens one set for each shard.
pub(super) fn open_listeners(names: Names, homes: &Homes) -> Result<Vec<PodListeners>, CaptureError> {
    homes.iter().map(|home| open_set(names, home)).collect()
}

fn open_set(names: Names, home: Option<usize>) -> Result<PodListeners, CaptureError> {
    let failed = |port| move |cause| CaptureError::Listen { port, cause };
    let open = |port| listen(port, home).map_err(failed(port));
    let dns = match names {
        Names::Captured => Some(Sockets::open(home).map_err(failed(DNS_PORT))?),
        Names::LeftAlone => None,
    };
    Ok(PodListeners { outbound: open(OUTBOUND_PORT)?, plaintext: open(PLAINTEXT_PORT)?, hbone: open(HBONE_PORT)?, dns })
}

/// The set by the places that the programs know its listeners by.
pub(super) fn indexed(set: &PodListeners) -> Vec<(ListenerIndex, &TcpListener)> {
    let names = set.dns.iter().map(|sockets| (ListenerIndex::Dns, sockets.listener()));
    let proxy = [
        (ListenerIndex::Outbound, &set.outbound),
        (ListenerIndex::Plaintext, &set.plaintext),
        (ListenerIndex::Hbone, &set.hbone),
    ];
    proxy.into_iter().chain(names).collect()
}
