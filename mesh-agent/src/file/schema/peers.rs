//! Whom the agent talks to on its own behalf: the authority, the CNI agent.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::super::duration;

/// Where the certificate authority is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ca {
    #[serde(deserialize_with = "https")]
    pub address: String,
    pub root: PathBuf,
    pub token: PathBuf,
    /// Another name than the address's that the certificate is to have.
    pub server_name: Option<String>,
    /// File with the authority's revocation lists, PEM or DER.
    pub crl: Option<PathBuf>,
    /// Further headers.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Wanted lifetime of certificates.
    #[serde(default = "lifetime", deserialize_with = "duration::deserialize")]
    pub lifetime: Duration,
}

/// Where the CNI agent hands over its pods.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Zds {
    #[serde(default = "zds_socket")]
    pub socket: PathBuf,
}

fn https<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let address = String::deserialize(deserializer)?;
    let host = address.parse::<http::Uri>().ok().and_then(|uri| uri.host().map(|host| !host.is_empty()));
    if address.starts_with("https://") && host == Some(true) {
        return Ok(address);
    }
    Err(serde::de::Error::custom(format!(
        "{address:?} is not of the form https://host:port (the node's token must not be sent in clear)"
    )))
}

fn lifetime() -> Duration {
    Duration::from_secs(24 * 3600)
}

fn zds_socket() -> PathBuf {
    PathBuf::from("/var/run/ztunnel/ztunnel.sock")
}
