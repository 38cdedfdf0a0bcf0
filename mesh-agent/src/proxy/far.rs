//! The far end of a tunnel, on either side of it: who it is, and for how long that is believed.

use std::fmt::Display;
use std::rc::Rc;

use tokio_util::sync::CancellationToken;

use crate::identity::revocation::Tracked;
use crate::model::Identity;

/// Who is at the far end of a tunnel.
#[derive(Debug)]
pub(super) struct Far {
    pub(super) identity: Option<Identity>,
    /// Its certificate was taken back: nothing of the tunnel goes on.
    pub(super) revoked: CancellationToken,
}

impl Far {
    pub(super) fn new(identity: Option<Identity>) -> Rc<Self> {
        Rc::new(Self { identity, revoked: CancellationToken::new() })
    }

    /// Does `work` for the tunnel to `peer`; nothing comes of it when the far end's certificate is taken back meanwhile.
    pub(super) async fn while_trusted<T>(
        &self,
        tracked: Option<Tracked>,
        peer: impl Display,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let Some(tracked) = tracked else { return Some(work.await) };
        tokio::select! {
            biased;
            // Boxed: most meshes keep no lists, and every tunnel has this future.
            why = Box::pin(tracked.until_revoked()) => {
                tracing::warn!(%why, %peer, "closing a tunnel");
                self.revoked.cancel();
                None
            }
            result = work => Some(result),
        }
    }
}
