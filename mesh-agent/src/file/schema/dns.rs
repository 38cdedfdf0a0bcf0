//! What may be written under `node.dns`.

use std::path::PathBuf;

use serde::Deserialize;

/// Answering the names that pods ask for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dns {
    /// Whether what the pods ask name servers comes to the agent at all.
    pub capture: bool,
    /// The cluster's domain.
    pub domain: String,
    /// Of several services with one name that nothing else distinguishes, this namespace's is taken.
    pub preferred_namespace: Option<String>,
    pub upstream: Upstream,
    pub resolv_conf: PathBuf,
    /// Whether names may have IPv6 addresses.
    pub ipv6: Ipv6,
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            capture: true,
            domain: "cluster.local".to_owned(),
            preferred_namespace: None,
            upstream: Upstream::default(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            ipv6: Ipv6::default(),
        }
    }
}

/// Who is asked what the mesh does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Upstream {
    /// The server that the application has asked.
    #[default]
    Original,
    /// Those of the node's `resolv_conf`.
    Node,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ipv6 {
    #[default]
    On,
    Off,
}
