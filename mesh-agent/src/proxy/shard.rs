//! (written next) Shards: one single-threaded runtime per core.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use crate::model::PodSpec;
use crate::sys::netns::Netns;

/// A pod that a shard serves.
#[derive(Clone, Debug)]
pub struct LocalPod {
    pub spec: Arc<PodSpec>,
    pub netns: Netns,
}

/// One shard's listeners of one pod, opened in the pod's namespace by [`crate::sys::socket::listen`].
#[derive(Debug)]
pub struct PodListeners {
    pub outbound: TcpListener,
    pub plaintext: TcpListener,
    pub hbone: TcpListener,
}

/// Handle on all shards. Clones share them.
#[derive(Clone, Debug)]
pub struct Shards {}

impl Shards {
    pub fn count(&self) -> usize {
        1
    }

    /// Starts serving a pod, with one set of listeners per shard (`listeners.len() == self.count()`).
    pub async fn serve(&self, _pod: LocalPod, _listeners: Vec<PodListeners>) {}

    /// Closes the pod's listeners at once, tells peers to go elsewhere, and waits for its connections to end; those
    /// still open after `deadline` are cut.
    pub async fn retire(&self, _uid: &str, _deadline: Duration) {}
}
