//! One pod as it is now, asked directly: the plugin must not wait for the watch.

use kube::api::ListParams;

use super::eligibility::{Namespace, Reading};
use super::object::{NamespaceObject, PodObject};
use super::{Action, Api, ApiError, Pod};

/// None: there is none of that name on this node, or its namespace has gone. Asked as lists of at most one, which the API
/// server reads by their key like a single object: the watches need `list` anyway, and `get` is a permission less.
pub(super) async fn pod(api: &Api, namespace: &str, name: &str) -> Result<Option<Pod>, ApiError> {
    if !(is_name(namespace) && is_name(name)) {
        return Ok(None);
    }
    let pods = kube::Api::<PodObject>::namespaced(api.client.clone(), namespace);
    let namespaces = kube::Api::<NamespaceObject>::all(api.client.clone());
    let (by_name, by_namespace) = (named(name), named(namespace));
    let (pods, namespaces) = tokio::join!(pods.list(&by_name), namespaces.list(&by_namespace));
    let failed = |resource| move |error| ApiError::of(error, Action { verb: "list", resource }, &api.settings);
    let (pods, namespaces) = (pods.map_err(failed("pods"))?, namespaces.map_err(failed("namespaces"))?);
    let (Some(pod), Some(namespace)) = (pods.items.first(), namespaces.items.first()) else { return Ok(None) };
    if pod.spec.node_name.as_ref() != Some(&api.settings.node) {
        return Ok(None);
    }
    let reading = Reading::of(pod, &api.settings.excluded_namespaces);
    Ok(reading.map(|reading| reading.judged(Namespace::of(namespace))))
}

/// The one object of that name.
fn named(name: &str) -> ListParams {
    ListParams::default().fields(&format!("metadata.name={name}"))
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
