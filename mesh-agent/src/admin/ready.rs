//! Readiness: the list of what must still happen before the node may be given work.
//!
//! Whoever has something to wait for takes a [`Gate`] before the listener starts, and marks it when it is done. Dropping
//! a gate marks nothing: a part that failed or panicked leaves the node not ready, with its name on the page.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::{Method, StatusCode};

use super::router::{Reply, Router};

/// All gates of the process. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Ready {
    /// Locked for a few instructions, by gates and by the page.
    pending: Arc<Mutex<BTreeSet<&'static str>>>,
}

/// One thing that is still awaited.
#[must_use = "a gate that is dropped keeps the node from becoming ready"]
#[derive(Debug)]
pub struct Gate {
    name: &'static str,
    ready: Ready,
}

impl Ready {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds something to wait for; `name` is what the page shows.
    pub fn gate(&self, name: &'static str) -> Gate {
        self.locked().insert(name);
        Gate { name, ready: self.clone() }
    }

    /// What is still awaited, sorted.
    pub fn pending(&self) -> Vec<String> {
        self.locked().iter().map(|name| (*name).to_owned()).collect()
    }

    /// The page that a kubelet asks: 200 `ready`, or 500 with the names of what is pending.
    pub fn router(&self) -> Router {
        let ready = self.clone();
        Router::new().route(Method::GET, "/healthz/ready", move |_| {
            let pending = ready.pending();
            async move {
                if pending.is_empty() {
                    Reply::text("ready")
                } else {
                    let body = format!("not ready, pending: {}", pending.join(", "));
                    Reply::text(body).with_status(StatusCode::INTERNAL_SERVER_ERROR)
                }
            }
        })
    }

    fn locked(&self) -> MutexGuard<'_, BTreeSet<&'static str>> {
        // The set is whole whatever panicked.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gate {
    /// It happened.
    pub fn mark(self) {
        self.ready.locked().remove(self.name);
        tracing::info!(gate = self.name, "ready");
    }
}

#[cfg(test)]
mod tests {
    use http::{Method, StatusCode};

    use super::Ready;

    #[tokio::test]
    async fn ready_when_every_gate_is_marked() {
        let ready = Ready::new();
        let router = ready.router();
        let page = async || {
            let reply = router.answer(&Method::GET, "/healthz/ready", None, None).await;
            (reply.status, String::from_utf8(reply.body.to_vec()).unwrap())
        };
        let pods = ready.gate("pods");
        let config = ready.gate("configuration");
        let wait = StatusCode::INTERNAL_SERVER_ERROR;
        assert_eq!(page().await, (wait, "not ready, pending: configuration, pods".to_owned()));
        config.mark();
        assert_eq!(page().await, (wait, "not ready, pending: pods".to_owned()));
        drop(pods);
        assert_eq!(page().await, (wait, "not ready, pending: pods".to_owned()), "a dropped gate is no success");
        ready.gate("pods").mark();
        assert_eq!(page().await, (StatusCode::OK, "ready".to_owned()));
        for (method, path, status) in [
            (Method::POST, "/healthz/ready", StatusCode::METHOD_NOT_ALLOWED),
            (Method::GET, "/", StatusCode::NOT_FOUND),
            (Method::GET, "/healthz", StatusCode::NOT_FOUND),
        ] {
            assert_eq!(router.answer(&method, path, None, None).await.status, status, "{method} {path}");
        }
    }
}
