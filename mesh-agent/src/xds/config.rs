//! Where istiod is, how it is recognised, and what we tell it about us (protocol note, sections 1.1 and 1.3).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Uri};
use prost_types::value::Kind as Field;
use prost_types::{ListValue, Struct, Value};

use super::session::Mode;
use crate::proto::discovery;

/// Everything the client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `https://host:port`, or `http://host:port` with [`Security::Plaintext`].
    pub address: String,
    pub security: Security,
    /// File with the bearer token; read anew for every stream, since Kubernetes rotates it.
    pub token: Option<PathBuf>,
    /// Headers beside the token's and the cluster's.
    pub headers: Vec<(String, String)>,
    pub node: Node,
    pub addresses: Mode,
    /// How long somebody waits for what was asked for on demand. A wait on an istiod that is away ends too.
    pub patience: Duration,
}

/// How istiod is recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Security {
    /// By its certificate. We show none: the token says who we are.
    Tls {
        /// PEM file with the trust anchors; read anew for every connection.
        root: PathBuf,
        /// Another name than the address's that the certificate is to have.
        server_name: Option<String>,
    },
    /// Not at all. Whoever answers configures the mesh.
    Plaintext,
}

/// Who we are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Of the agent's pod.
    pub ip: Option<IpAddr>,
    pub pod: String,
    pub namespace: String,
    pub node: String,
    pub cluster: String,
    /// Further entries; they do not replace those made of the fields above.
    pub metadata: BTreeMap<String, serde_json::Value>,
}

/// Why no client can be made of a [`Config`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadConfig {
    #[error("{0:?} is no address of an istiod: expected https://host:port")]
    Address(String),
    #[error("{0} has no TLS; plaintext must be asked for explicitly, since whoever answers configures the mesh")]
    NoTls(String),
    #[error("{0} has TLS, but plaintext was asked for")]
    Tls(String),
    #[error("{0:?} cannot be a header")]
    Header(String),
}

impl Config {
    /// Whether a client can be made of it.
    pub(super) fn check(&self) -> Result<(), BadConfig> {
        let address = || self.address.clone();
        let uri: Uri = self.address.parse().map_err(|_| BadConfig::Address(address()))?;
        let host = uri.host().is_some_and(|host| !host.is_empty());
        match (uri.scheme_str(), &self.security) {
            (Some("https" | "http"), _) if !host => return Err(BadConfig::Address(address())),
            (Some("https"), Security::Tls { .. }) | (Some("http"), Security::Plaintext) => {}
            (Some("http"), Security::Tls { .. }) => return Err(BadConfig::NoTls(address())),
            (Some("https"), Security::Plaintext) => return Err(BadConfig::Tls(address())),
            _ => return Err(BadConfig::Address(address())),
        }
        for (name, value) in &self.headers {
            let bad = |_| BadConfig::Header(name.clone());
            HeaderName::try_from(name).map_err(|_| BadConfig::Header(name.clone()))?;
            HeaderValue::try_from(value).map_err(bad)?;
        }
        let cluster = &self.node.cluster;
        HeaderValue::try_from(cluster).map_err(|_| BadConfig::Header(cluster.clone()))?;
        Ok(())
    }
}

impl Node {
    /// The message of the first request. istiod reads the id's parts, and finds the pods of our node by the metadata.
    pub(super) fn message(&self) -> discovery::Node {
        // istiod refuses an id without an address; the reference sends this one when it knows none.
        let ip = self.ip.unwrap_or(IpAddr::V4(Ipv4Addr::new(1, 1, 1, 1)));
        let Self { pod, namespace, node, cluster, .. } = self;
        let mut fields: BTreeMap<_, _> =
            self.metadata.iter().map(|(name, value)| (name.clone(), json(value))).collect();
        let ours = [
            ("NAME", pod.clone()),
            ("NAMESPACE", namespace.clone()),
            ("INSTANCE_IPS", ip.to_string()),
            ("NODE_NAME", node.clone()),
            ("CLUSTER_ID", cluster.clone()),
        ];
        fields.extend(ours.map(|(name, value)| (name.to_owned(), Value { kind: Some(Field::StringValue(value)) })));
        discovery::Node {
            id: format!("ztunnel~{ip}~{pod}.{namespace}~{namespace}.svc.cluster.local"),
            metadata: Some(Struct { fields }),
            ..discovery::Node::default()
        }
    }
}

fn json(value: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    let kind = match value {
        Json::Null => Field::NullValue(0),
        Json::Bool(value) => Field::BoolValue(*value),
        Json::Number(number) => Field::NumberValue(number.as_f64().unwrap_or_default()),
        Json::String(text) => Field::StringValue(text.clone()),
        Json::Array(values) => Field::ListValue(ListValue { values: values.iter().map(json).collect() }),
        Json::Object(entries) => {
            let fields = entries.iter().map(|(name, value)| (name.clone(), json(value))).collect();
            Field::StructValue(Struct { fields })
        }
    };
    Value { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::{BadConfig, Config, Field, Mode, Node, Security, Struct};

    fn node() -> Node {
        Node {
            ip: Some("10.1.2.3".parse().unwrap()),
            pod: "agent-x".into(),
            namespace: "istio-system".into(),
            node: "n1".into(),
            cluster: "west".into(),
            metadata: [
                ("LABELS".to_owned(), json!({"app": "agent", "n": [1, true, null]})),
                ("NAMESPACE".to_owned(), json!("other")),
            ]
            .into(),
        }
    }

    #[test]
    fn a_node_says_who_it_is() {
        let message = node().message();
        assert_eq!(message.id, "ztunnel~10.1.2.3~agent-x.istio-system~istio-system.svc.cluster.local");
        let fields = message.metadata.unwrap().fields;
        let text = |name: &str| match &fields[name].kind {
            Some(Field::StringValue(text)) => text.clone(),
            other => panic!("{name}: {other:?}"),
        };
        assert_eq!(
            ["NAME", "NAMESPACE", "INSTANCE_IPS", "NODE_NAME", "CLUSTER_ID"].map(text),
            ["agent-x", "istio-system", "10.1.2.3", "n1", "west"]
        );
        let Some(Field::StructValue(Struct { fields: labels })) = &fields["LABELS"].kind else { panic!("{fields:?}") };
        assert_eq!(labels["app"].kind, Some(Field::StringValue("agent".into())));
        let Some(Field::ListValue(list)) = &labels["n"].kind else { panic!("{labels:?}") };
        let kinds: Vec<_> = list.values.iter().map(|value| value.kind.clone().unwrap()).collect();
        assert_eq!(kinds, [Field::NumberValue(1.0), Field::BoolValue(true), Field::NullValue(0)]);
    }

    #[test]
    fn a_node_without_an_address_has_the_usual_one() {
        assert!(Node { ip: None, ..node() }.message().id.starts_with("ztunnel~1.1.1.1~agent-x."));
    }

    #[test]
    fn plaintext_is_never_by_accident() {
        let tls = Security::Tls { root: "/root.pem".into(), server_name: None };
        let check = |address: &str, security: &Security, headers: &[(&str, &str)], cluster: &str| {
            let config = Config {
                address: address.into(),
                security: security.clone(),
                token: None,
                headers: headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
                node: Node { cluster: cluster.into(), ..node() },
                addresses: Mode::Wildcard,
                patience: Duration::from_secs(1),
            };
            config.check()
        };
        let (good, plain) = ("https://istiod:15012", Security::Plaintext);
        assert_eq!(check(good, &tls, &[("x-a", "b")], "west"), Ok(()));
        assert_eq!(check("https://[::1]:15012", &tls, &[], "west"), Ok(()));
        assert_eq!(check("http://istiod:15010", &plain, &[], "west"), Ok(()));
        assert_eq!(
            check("http://istiod:15010", &tls, &[], "west"),
            Err(BadConfig::NoTls("http://istiod:15010".into()))
        );
        assert_eq!(check(good, &plain, &[], "west"), Err(BadConfig::Tls(good.into())));
        for bad in ["istiod:15012", "istiod", "", "https://", "unix:/run/x", "https:// istiod"] {
            assert_eq!(check(bad, &tls, &[], "west"), Err(BadConfig::Address(bad.into())), "{bad}");
        }
        assert_eq!(check(good, &tls, &[("a b", "c")], "west"), Err(BadConfig::Header("a b".into())));
        assert_eq!(check(good, &tls, &[("a", "c\n")], "west"), Err(BadConfig::Header("a".into())));
        assert_eq!(check(good, &tls, &[], "we\nst"), Err(BadConfig::Header("we\nst".into())));
    }
}
