//! Where the configuration of the mesh comes from, if not from the file.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::Deserialize;

use super::name;

/// An istiod, or whatever serves the same.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Xds {
    /// `https://host:port`; `http://` only with `plaintext`.
    pub address: String,
    /// How much of the mesh it is to tell.
    #[serde(default)]
    pub mode: Mode,
    /// PEM file with the trust anchors of that endpoint's certificate; default the authority's.
    pub root: Option<PathBuf>,
    /// File with the bearer token; default the authority's.
    pub token: Option<PathBuf>,
    /// Another name than the address's that the certificate is to have.
    pub server_name: Option<String>,
    /// Without TLS: whoever answers configures the mesh.
    #[serde(default)]
    pub plaintext: bool,
    /// The agent's own pod, as the token says.
    #[serde(deserialize_with = "name", default = "pod")]
    pub pod: String,
    #[serde(deserialize_with = "name", default = "namespace")]
    pub namespace: String,
    pub ip: Option<IpAddr>,
    /// Further metadata of the node.
    #[serde(default)]
    pub metadata: BTreeMap<String, serde_json::Value>,
    /// Further headers.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
}

/// What of the mesh is subscribed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// All of it.
    #[default]
    Wildcard,
    /// What connections need, when they need it.
    OnDemand,
}

fn pod() -> String {
    "mesh-agent".to_owned()
}

fn namespace() -> String {
    "istio-system".to_owned()
}
