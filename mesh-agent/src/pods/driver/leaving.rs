//! Pods that take no new connections any more, and wait for those that are open.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;

use crate::task::Limit;

/// What is left of pods. One that was taken up again before its connections had ended, and is withdrawn once more, has
/// several lives that end; so has one that was replaced.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    ends: FuturesUnordered<BoxFuture<'static, Arc<str>>>,
    lives: HashMap<Arc<str>, Lives>,
}

#[derive(Debug, Default)]
struct Lives {
    limits: Vec<Limit>,
    open: usize,
}

impl Leaving {
    /// A life of the pod, which `ended` waits for, at the latest until `limit`.
    pub(super) fn add(&mut self, uid: &Arc<str>, limit: Limit, ended: impl Future<Output = ()> + Send + 'static) {
        let lives = self.lives.entry(Arc::clone(uid)).or_default();
        lives.limits.push(limit);
        lives.open += 1;
        let uid = Arc::clone(uid);
        self.ends.push(Box::pin(async move {
            ended.await;
            uid
        }));
    }

    /// The next pod of which nothing is left; none if nothing leaves.
    pub(super) async fn next(&mut self) -> Option<Arc<str>> {
        while let Some(uid) = self.ends.next().await {
            if self.is_last(&uid) {
                return Some(uid);
            }
        }
        None
    }

    fn is_last(&mut self, uid: &Arc<str>) -> bool {
        let Some(lives) = self.lives.get_mut(uid) else { return true };
        lives.open -= 1;
        let last = lives.open == 0;
        if last {
            self.lives.remove(uid);
        }
        last
    }

    pub(super) fn has(&self, uid: &str) -> bool {
        self.lives.contains_key(uid)
    }

    /// What is left of the pod gets no more than `time`.
    pub(super) fn within(&self, uid: &str, time: Duration) {
        self.lives.get(uid).into_iter().flat_map(|lives| &lives.limits).for_each(|limit| limit.at_most(time));
    }

    /// What is left of any pod gets no more than `time`.
    pub(super) fn all_within(&self, time: Duration) {
        self.lives.values().flat_map(|lives| &lives.limits).for_each(|limit| limit.at_most(time));
    }
}
