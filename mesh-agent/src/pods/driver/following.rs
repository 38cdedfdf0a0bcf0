//! Interfaces of virtual machines inside of pods come when those start, long after the pods are captured.

use std::sync::Arc;
use std::time::Duration;

use super::Driver;
use super::work::blocking;
use crate::model::pod::PodStatus;
use crate::model::{Captured, PodSpec};

/// How often it is looked whether they are there. A virtual machine takes longer to start.
pub(super) const EVERY: Duration = Duration::from_secs(1);

impl Driver {
    /// Whether there is anything to look for.
    pub(super) fn follows(&self) -> bool {
        self.pods.values().any(has_virtual_machines)
    }

    pub(super) async fn follow(&self) {
        let specs: Vec<Arc<PodSpec>> =
            self.pods.values().filter(|pod| has_virtual_machines(pod)).map(|pod| Arc::clone(&pod.spec)).collect();
        for spec in specs {
            let (capture, followed) = (Arc::clone(&self.capture), Arc::clone(&spec));
            if let Err(error) = blocking(move || capture.follow(&followed)).await {
                tracing::warn!(pod = %spec.uid, %error, "what the pod's virtual machines open may not be captured");
            }
        }
    }
}

fn has_virtual_machines(pod: &PodStatus) -> bool {
    let has = matches!(&pod.spec.captured, Captured::ByPrograms(programs) if !programs.virtual_interfaces.is_empty());
    has && pod.state.is_captured()
}
