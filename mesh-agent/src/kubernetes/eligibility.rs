//! Whether a pod is to be in the mesh, by its labels and its namespace's (protocol note, section 11.1); and what else is
//! read of it.

use std::net::IpAddr;
use std::sync::Arc;

use super::object::{NamespaceObject, PodObject, Status};
use super::{Outside, Pod, Standing, probes};
use crate::model::Inbound;

const MODE: &str = "istio.io/dataplane-mode";
const AMBIENT: &str = "ambient";
const SIDECAR: &str = "sidecar.istio.io/status";
const NAMES: &str = "ambient.istio.io/dns-capture";
const BYPASS: &str = "ambient.istio.io/bypass-inbound-capture";
/// What the kubelet puts on the mirror of a static pod; the second one is the uid that the runtime knows.
const MIRROR: &str = "kubernetes.io/config.mirror";
const STATIC: &str = "kubernetes.io/config.hash";
const VIRTUAL: &str = "istio.io/reroute-virtual-interfaces";
/// The annotation by which istiod knows that a pod is captured.
pub(super) const MARK: &str = "ambient.istio.io/redirection";
/// Istio's node proxy.
const PROXY: (&str, &str) = ("istio-system", "ztunnel");

/// What a pod's own object says of its standing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// Whatever the namespace says.
    Settled(Standing),
    /// The namespace decides.
    Open,
}

/// What a namespace says of those of its pods that leave it to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Namespace {
    /// It has the label.
    Ambient,
    Plain,
}

/// A pod as it was read; its standing is that in a namespace that does not have the label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    pod: Pod,
    claim: Claim,
}

/// Whose uid a pod has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Naming {
    /// The API server's.
    Own,
    /// One that stands in the object, where anybody can write it.
    Mirrored,
}

impl Claim {
    fn standing(self, namespace: Namespace) -> Standing {
        match (self, namespace) {
            (Self::Settled(standing), _) => standing,
            (Self::Open, Namespace::Ambient) => Standing::Member,
            (Self::Open, Namespace::Plain) => Standing::Outside(Outside::NotLabelled),
        }
    }
}

impl Reading {
    /// None: an object without what each has.
    pub(super) fn of(object: &PodObject, excluded: &[String]) -> Option<Self> {
        let (object_uid, name) = (object.metadata.uid.as_deref()?, object.metadata.name.clone()?);
        let uid = object.annotation(MIRROR).and(object.annotation(STATIC)).unwrap_or(object_uid);
        let namespace = object.metadata.namespace.clone()?;
        let claim = claim(object, &namespace, excluded);
        let addresses = addresses(&object.status);
        let service_account = object.spec.service_account_name.clone().filter(|name| !name.is_empty());
        let pod = Pod {
            uid: Arc::from(uid),
            object: Arc::from(object_uid),
            name,
            namespace,
            // What the API server fills in for a pod that names none.
            service_account: service_account.unwrap_or_else(|| "default".to_owned()),
            probe_ports: probes::ports(&object.spec, &addresses),
            addresses,
            names: object.annotation(NAMES).and_then(boolean),
            inbound: inbound(object.annotation(BYPASS)),
            virtual_interfaces: list(object.annotation(VIRTUAL).unwrap_or_default()),
            standing: claim.standing(Namespace::Plain),
            mark: object.annotation(MARK).map(ToOwned::to_owned),
        };
        Some(Self { pod, claim })
    }

    pub(super) fn uid(&self) -> &Arc<str> {
        &self.pod.uid
    }

    pub(super) fn naming(&self) -> Naming {
        if self.pod.uid == self.pod.object { Naming::Own } else { Naming::Mirrored }
    }

    pub(super) fn namespace(&self) -> &str {
        &self.pod.namespace
    }

    pub(super) fn judged(&self, namespace: Namespace) -> Pod {
        self.with(self.claim.standing(namespace))
    }

    /// The pod, where its namespace is not known; `before`: how it stood when it was.
    pub(super) fn judged_alone(&self, before: Option<Standing>) -> Option<Pod> {
        match self.claim {
            Claim::Settled(standing) => Some(self.with(standing)),
            Claim::Open => before.map(|standing| self.with(standing)),
        }
    }

    fn with(&self, standing: Standing) -> Pod {
        Pod { standing, ..self.pod.clone() }
    }
}

impl Namespace {
    pub(super) fn of(object: &NamespaceObject) -> Self {
        if object.label(MODE) == Some(AMBIENT) { Self::Ambient } else { Self::Plain }
    }
}

/// A pod that is being deleted is judged like any other: it is served to its last process.
fn claim(pod: &PodObject, namespace: &str, excluded: &[String]) -> Claim {
    let outside = |why| Claim::Settled(Standing::Outside(why));
    if matches!(pod.status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        outside(Outside::Ended)
    } else if pod.spec.host_network == Some(true) {
        outside(Outside::HostNetwork)
    } else if pod.annotation(SIDECAR).is_some() {
        outside(Outside::Sidecar)
    } else if pod.label("app").is_some_and(|app| (namespace, app) == PROXY) {
        outside(Outside::Agent)
    } else if excluded.iter().any(|name| name == namespace) {
        outside(Outside::Namespace)
    } else {
        match pod.label(MODE) {
            Some(AMBIENT) => Claim::Settled(Standing::Member),
            Some("none") => outside(Outside::OptedOut),
            _ => Claim::Open,
        }
    }
}

fn addresses(status: &Status) -> Vec<IpAddr> {
    let all = status.pod_ips.iter().filter_map(|one| one.ip.as_ref());
    // Some API servers fill in the one alone, and most both.
    let texts = status.pod_ip.iter().chain(all);
    let mut addresses = Vec::new();
    for address in texts.filter_map(|text| text.parse::<IpAddr>().ok()).map(|address| address.to_canonical()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

fn inbound(bypass: Option<&str>) -> Inbound {
    if bypass.and_then(boolean) == Some(true) { Inbound::Bypassed } else { Inbound::Captured }
}

fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(ToOwned::to_owned).collect()
}

/// As Istio's CNI agent reads it; anything else says nothing.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::object::{NamespaceObject, PodObject};
    use super::Namespace::{Ambient, Plain};
    use super::{Inbound, Namespace, Outside, Reading, Standing};

    const EXCLUDED: &str = "kube-system";

    fn read(object: Value) -> Reading {
        let object: PodObject = serde_json::from_value(object).unwrap();
        Reading::of(&object, &[EXCLUDED.to_owned()]).unwrap()
    }

    /// A pod in `namespace`, with these additions to its metadata and as its spec and status.
    fn pod(namespace: &str, labels: Value, annotations: Value, spec: Value, phase: &str) -> Value {
        json!({
            "metadata": {"uid": "u", "name": "a", "namespace": namespace, "labels": labels, "annotations": annotations},
            "spec": spec,
            "status": {"phase": phase},
        })
    }

    #[test]
    fn interfaces_of_virtual_machines() {
        let cases = [("", &[][..]), (" , ,", &[]), ("net1", &["net1"]), (" net1 ,br-vm,", &["net1", "br-vm"])];
        for (text, expected) in cases {
            let annotations = json!({"istio.io/reroute-virtual-interfaces": text});
            let pod = read(pod("apps", json!(null), annotations, json!({}), "Running")).judged(Ambient);
            assert_eq!(pod.virtual_interfaces, expected, "{text}");
        }
    }

    #[test]
    fn standing_by_labels() {
        use Outside::{NotLabelled, OptedOut};
        let (member, not) = (Standing::Member, Standing::Outside);
        // The pod's label, and the standing without and with that of the namespace.
        let cases = [
            (None, not(NotLabelled), member),
            (Some("ambient"), member, member),
            (Some("none"), not(OptedOut), not(OptedOut)),
            (Some(""), not(NotLabelled), member),
            (Some("Ambient"), not(NotLabelled), member),
            (Some("sidecar"), not(NotLabelled), member),
        ];
        for (label, without, with) in cases {
            let labels = label.map_or(json!(null), |label| json!({"istio.io/dataplane-mode": label}));
            let reading = read(pod("apps", labels, json!(null), json!({}), "Running"));
            assert_eq!([Plain, Ambient].map(|it| reading.judged(it).standing), [without, with], "{label:?}");
        }
    }

    #[test]
    fn what_keeps_a_pod_out_whatever_the_labels() {
        let mode = json!({"istio.io/dataplane-mode": "ambient"});
        let app = |app: &str| json!({"istio.io/dataplane-mode": "ambient", "app": app});
        let sidecar = json!({"sidecar.istio.io/status": "{}"});
        let host = json!({"hostNetwork": true});
        let (none, running) = (json!({}), "Running");
        let cases = [
            (pod("apps", mode.clone(), none.clone(), host.clone(), running), Some(Outside::HostNetwork)),
            (pod("apps", mode.clone(), none.clone(), json!({"hostNetwork": false}), running), None),
            (pod("apps", mode.clone(), sidecar, none.clone(), running), Some(Outside::Sidecar)),
            (pod(EXCLUDED, mode.clone(), none.clone(), none.clone(), running), Some(Outside::Namespace)),
            (pod("istio-system", app("ztunnel"), none.clone(), none.clone(), running), Some(Outside::Agent)),
            (pod("istio-system", app("istiod"), none.clone(), none.clone(), running), None),
            (pod("apps", app("ztunnel"), none.clone(), none.clone(), running), None),
            (pod("apps", mode.clone(), none.clone(), none.clone(), "Succeeded"), Some(Outside::Ended)),
            (pod("apps", mode.clone(), none.clone(), host, "Failed"), Some(Outside::Ended)),
            (pod("apps", mode.clone(), none.clone(), none.clone(), "Pending"), None),
            (pod("apps", mode, none.clone(), none, "Unknown"), None),
        ];
        for (object, why) in cases {
            let expected = why.map_or(Standing::Member, Standing::Outside);
            let reading = read(object.clone());
            assert_eq!([Plain, Ambient].map(|it| reading.judged(it).standing), [expected; 2], "{object}");
        }
    }

    #[test]
    fn a_pod_that_is_being_deleted_stays() {
        let mut object = pod("apps", json!(null), json!(null), json!({}), "Running");
        object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        object["metadata"]["deletionGracePeriodSeconds"] = json!(30);
        assert_eq!(read(object).judged(Ambient).standing, Standing::Member);
    }

    #[test]
    fn without_its_namespace_a_pod_stands_as_before() {
        let open = read(pod("apps", json!(null), json!(null), json!({}), "Running"));
        assert_eq!(open.judged_alone(None), None);
        assert_eq!(open.judged_alone(Some(Standing::Member)).unwrap().standing, Standing::Member);
        let ended = read(pod("apps", json!(null), json!(null), json!({}), "Failed"));
        let expected = Standing::Outside(Outside::Ended);
        assert_eq!([None, Some(Standing::Member)].map(|it| ended.judged_alone(it).unwrap().standing), [expected; 2]);
    }

    #[test]
    fn what_is_read_beside() {
        let object = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "uid": "0c5d", "name": "web-1", "namespace": "apps", "resourceVersion": "812",
                "creationTimestamp": "2026-01-01T00:00:00Z",
                "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:metadata": {}}}],
                "annotations": {"ambient.istio.io/dns-capture": "false", "ambient.istio.io/redirection": "enabled"},
            },
            "spec": {"serviceAccountName": "web", "containers": [{"name": "c", "image": "i",
                "livenessProbe": {"httpGet": {"port": 80, "host": "10.1.2.3"}}}], "nodeName": "n1", "tolerations": []},
            "status": {"phase": "Running", "podIP": "10.1.2.3", "podIPs": [{"ip": "10.1.2.3"},
                {"ip": "::ffff:10.1.2.4"}, {"ip": "fd00::3"}, {"ip": "nonsense"}, {}], "conditions": []},
        });
        let pod = read(object).judged(Ambient);
        assert_eq!((&*pod.uid, &*pod.name, &*pod.namespace, &*pod.service_account), ("0c5d", "web-1", "apps", "web"));
        let addresses: Vec<_> = pod.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.1.2.3", "10.1.2.4", "fd00::3"]);
        assert_eq!((pod.names, pod.mark.as_deref(), &*pod.probe_ports), (Some(false), Some("enabled"), &[80][..]));
    }

    #[test]
    fn what_is_absent() {
        let bare = json!({"metadata": {"uid": "u", "name": "a", "namespace": "apps"}, "spec": null, "status": null});
        let pod = read(bare).judged(Plain);
        assert_eq!((pod.addresses, pod.probe_ports, pod.names, pod.mark), (vec![], vec![], None, None));
        assert_eq!(pod.service_account, "default");
        let no_uid: PodObject = serde_json::from_value(json!({"metadata": {"name": "a", "namespace": "b"}})).unwrap();
        assert_eq!(Reading::of(&no_uid, &[]), None);
    }

    #[test]
    fn truth_as_istio_reads_it() {
        let read = |text: &str| {
            let annotations = json!({"ambient.istio.io/dns-capture": text});
            self::read(pod("apps", json!(null), annotations, json!({}), "Running")).judged(Plain).names
        };
        assert_eq!(["1", "t", "true", "TRUE", "True"].map(read), [Some(true); 5]);
        assert_eq!(["0", "f", "false", "FALSE", "False"].map(read), [Some(false); 5]);
        assert_eq!(["", "yes", "tRue", " true"].map(read), [None; 4]);
    }

    #[test]
    fn connections_to_a_pod_bypass_the_capture_only_if_it_says_so() {
        use Inbound::{Bypassed, Captured};
        let cases = [("true", Bypassed), ("1", Bypassed), ("false", Captured), ("", Captured), ("yes", Captured)];
        for (text, expected) in cases {
            let annotations = json!({"ambient.istio.io/bypass-inbound-capture": text});
            let pod = read(pod("apps", json!(null), annotations, json!({}), "Running")).judged(Ambient);
            assert_eq!(pod.inbound, expected, "{text}");
        }
        let silent = read(pod("apps", json!(null), json!(null), json!({}), "Running"));
        assert_eq!(silent.judged(Ambient).inbound, Captured);
    }

    #[test]
    fn a_namespace_has_the_label_or_not() {
        for (labels, expected) in [
            (json!({"istio.io/dataplane-mode": "ambient"}), Ambient),
            (json!({"istio.io/dataplane-mode": "none"}), Plain),
            (json!({"istio-injection": "enabled"}), Plain),
            (json!(null), Plain),
        ] {
            let metadata = json!({"metadata": {"name": "apps", "labels": labels.clone()}});
            let namespace: NamespaceObject = serde_json::from_value(metadata).unwrap();
            assert_eq!(Namespace::of(&namespace), expected, "{labels}");
        }
    }
}
