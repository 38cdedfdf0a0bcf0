//! Work of the driver that holds up nobody else.

use std::sync::Arc;

use crate::bpf::object::Origin;
use crate::model::PodSpec;
use crate::model::pod::PodState;
use crate::pods::capture::{Capture, CaptureError, Enrolled};
use crate::proxy::shard::{LocalPod, Shards};

/// Captures a pod and hands it to the shards.
pub(super) async fn enrol(
    capture: Arc<dyn Capture>,
    shards: Shards,
    spec: Arc<PodSpec>,
) -> (Arc<PodSpec>, Result<PodState, CaptureError>) {
    let (wanted, homes) = (Arc::clone(&spec), shards.homes().clone());
    let result = async {
        let Enrolled { netns, listeners, origin } = blocking(move || capture.enrol(&wanted, &homes)).await?;
        let serving = shards.serve(LocalPod { spec: Arc::clone(&spec), netns }, listeners).await;
        serving.map_err(|cause| CaptureError::System { what: "handing the pod to the shards", cause })?;
        Ok(match origin {
            Origin::Fresh => PodState::Enrolled,
            Origin::Adopted => PodState::Adopted,
        })
    };
    let result = result.await;
    (spec, result)
}

/// Runs kernel work on a thread that may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CaptureError> + Send + 'static,
) -> Result<T, CaptureError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(CaptureError::System { what: "kernel work", cause: std::io::Error::other(error) }),
    }
}
