//! The authority's YAML file.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::file::duration;
use crate::file::problem::{Problems, parse};
use crate::model::Identity;

/// The whole file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControlFile {
    /// Where the CSR API is served.
    pub listen: SocketAddr,
    #[serde(default = "default_trust_domain")]
    pub trust_domain: String,
    /// A mounted root; without one a self-signed root is made at each start.
    pub root: Option<Root>,
    /// Where the trust anchors of the endpoint are written for the nodes.
    pub publish_root: PathBuf,
    /// Names and addresses that the endpoint's own certificate carries; the listening address is added.
    #[serde(default)]
    pub names: Vec<String>,
    /// Longest lifetime of a certificate.
    #[serde(default = "default_ttl", deserialize_with = "duration::deserialize")]
    pub certificate_ttl: Duration,
    /// Who may ask, and for whom.
    #[serde(default)]
    pub nodes: Vec<Node>,
}

/// A mounted root, PEM.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Root {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// One node's credentials and what it may ask for.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    pub name: String,
    pub token_file: PathBuf,
    /// SPIFFE ids of the service accounts of the node's pods.
    #[serde(default, deserialize_with = "identities")]
    pub identities: Vec<Identity>,
}

fn default_trust_domain() -> String {
    "cluster.local".to_owned()
}

fn default_ttl() -> Duration {
    Duration::from_secs(24 * 3600)
}

fn identities<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Identity>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts.iter().map(|text| text.parse().map_err(serde::de::Error::custom)).collect()
}

/// Reads and checks the file.
pub fn read(path: &Path) -> Result<ControlFile, Problems> {
    let text = std::fs::read_to_string(path).map_err(|error| Problems::unreadable(path, &error))?;
    parse(path, &text)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{ControlFile, parse};

    #[test]
    fn mistakes_name_their_line() {
        let text = "listen: 127.0.0.1:15012\npublish_root: /tmp/r.pem\nnodes:\n- name: n1\n  token_file: /t\n  identities: [nonsense]\n";
        let error = parse::<ControlFile>(Path::new("c.yaml"), text).unwrap_err().to_string();
        assert!(error.contains("c.yaml:6"), "{error}");
        assert!(error.contains("nonsense"), "{error}");
    }
}
