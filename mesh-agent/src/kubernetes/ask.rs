//! One pod as it is now, asked directly: the plugin must not wait for the watch.

use super::eligibility::{Namespace, Reading};
use super::object::{NamespaceObject, PodObject};
use super::{Action, Api, ApiError, Pod};

/// None: there is none of that name on this node, or its namespace has gone.
pub(super) async fn pod(api: &Api, namespace: &str, name: &str) -> Result<Option<Pod>, ApiError> {
    if !(is_name(namespace) && is_name(name)) {
        return Ok(None);
    }
    let pods = kube::Api::<PodObject>::namespaced(api.client.clone(), namespace);
    let namespaces = kube::Api::<NamespaceObject>::all(api.client.clone());
    let (pod, namespace) = tokio::join!(pods.get_opt(name), namespaces.get_opt(namespace));
    let failed = |resource| move |error| ApiError::of(error, Action { verb: "get", resource }, &api.settings);
    let (pod, namespace) = (pod.map_err(failed("pods"))?, namespace.map_err(failed("namespaces"))?);
    let (Some(pod), Some(namespace)) = (pod, namespace) else { return Ok(None) };
    if pod.spec.node_name.as_ref() != Some(&api.settings.node) {
        return Ok(None);
    }
    let reading = Reading::of(&pod, &api.settings.excluded_namespaces);
    Ok(reading.map(|reading| reading.judged(Namespace::of(&namespace))))
}

/// Whether an object can have this name; what cannot must not become a part of a path.
fn is_name(text: &str) -> bool {
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.first().is_some_and(alphanumeric) && bytes.iter().all(|byte| alphanumeric(byte) || b"-.".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::is_name;

    #[test]
    fn names() {
        for good in ["a", "web-0", "web.example", "0", "a--b"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", ".", "..", "-a", "a/b", "../a", "A", "a b", "a?b", "a%2f", "ä"] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
