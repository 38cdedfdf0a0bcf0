//! Many enrolments at once.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use super::work::enrol;
use super::{Desired, Driver};
use crate::model::PodSpec;

/// Enrolments at once. Most of an enrolment is the kernel's check of the programs, on one core.
pub(super) const AT_ONCE: usize = 8;
/// How long new pods join those that are being enrolled. All else that is to be done waits for the last of them.
const JOIN: Duration = Duration::from_secs(2);

impl Driver {
    /// Enrols these, and pods that are wanted meanwhile and that nothing is known of: a runtime waits for each of them, and
    /// not for the others. Tells whether all succeeded.
    pub(super) async fn enrol_all(&mut self, specs: Vec<Arc<PodSpec>>, desired: &mut Desired) -> bool {
        let began = Instant::now();
        let mut under_way: BTreeSet<Arc<str>> = specs.iter().map(|spec| Arc::clone(&spec.uid)).collect();
        let mut queue = VecDeque::from(specs);
        let mut running = FuturesUnordered::new();
        let (mut settled, mut joined) = (true, false);
        if !queue.is_empty() {
            self.quicken();
        }
        loop {
            while running.len() < AT_ONCE
                && let Some(spec) = queue.pop_front()
            {
                running.push(enrol(Arc::clone(&self.capture), self.shards.clone(), spec));
            }
            tokio::select! {
                Some((spec, result)) = running.next() => {
                    settled &= self.note(spec, result).is_ok();
                    self.report();
                }
                Ok(()) = desired.changed(), if !running.is_empty() && began.elapsed() < JOIN => {
                    let wanted = Arc::clone(&desired.borrow_and_update());
                    joined = true;
                    self.quicken();
                    for spec in wanted.iter().filter(|spec| self.is_stranger(spec)) {
                        if under_way.insert(Arc::clone(&spec.uid)) {
                            queue.push_back(Arc::clone(spec));
                        }
                    }
                }
                else => break,
            }
        }
        if joined {
            // Only what joined has been looked at.
            desired.mark_changed();
        }
        settled
    }

    /// Whether nothing is, or was, of the pod.
    fn is_stranger(&self, spec: &PodSpec) -> bool {
        !self.pods.contains_key(&spec.uid) && !self.leaving.has(&spec.uid) && !self.left_behind.contains(&spec.uid)
    }
}
