//! Writing the annotation by which istiod knows that a pod is captured (protocol note, section 11.2).

use kube::api::{Patch, PatchParams};
use kube::core::Status;
use serde_json::{Value, json};

use super::eligibility::MARK;
use super::object::PodObject;
use super::{Action, Api, ApiError, Pod};

const ACTION: Action = Action { verb: "patch", resource: "pods/status" };

pub(super) async fn write(api: &Api, pod: &Pod, mark: Option<&str>) -> Result<(), ApiError> {
    let pods = kube::Api::<PodObject>::namespaced(api.client.clone(), &pod.namespace);
    let params = PatchParams { field_manager: Some("mesh-agent".to_owned()), ..PatchParams::default() };
    match pods.patch_status(&pod.name, &params, &Patch::Merge(patch(pod, mark))).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if has_gone(&status) => Ok(()),
        Err(error) => Err(ApiError::of(error, ACTION, &api.settings)),
    }
}

/// The uid makes it a patch of this pod and of no other with its name. Null removes.
fn patch(pod: &Pod, mark: Option<&str>) -> Value {
    json!({"metadata": {"uid": &*pod.object, "annotations": {MARK: mark}}})
}

/// Whether there is no pod of the name, or one with another uid, which the API server calls a conflict, or a change of what
/// may not change.
fn has_gone(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    match status.code {
        404 => status.is_not_found(),
        409 => status.message.contains("UID"),
        422 => causes.map(|cause| cause.field.as_str()).any(|field| field == "metadata.uid"),
        _ => false,
    }
}
