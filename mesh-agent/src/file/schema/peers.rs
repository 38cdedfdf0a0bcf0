//! Whom the agent talks to on its own behalf: the authority, the CNI agent.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::file::duration;

/// Shorter ones would be renewed all the time.
const LEAST_TTL: Duration = Duration::from_secs(10);

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
    /// The lifetime that certificates are asked for with.
    #[serde(default = "certificate_ttl", deserialize_with = "ttl")]
    pub certificate_ttl: Duration,
    /// File with the authority's revocation lists, PEM or DER.
    pub crl: Option<PathBuf>,
    /// Further headers.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
}

/// Where the CNI agent hands over its pods.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Zds {
    #[serde(default = "zds_socket")]
    pub socket: PathBuf,
}

pub(super) fn https<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let address = String::deserialize(deserializer)?;
    let host = address.parse::<http::Uri>().ok().and_then(|uri| uri.host().map(|host| !host.is_empty()));
    if address.starts_with("https://") && host == Some(true) {
        return Ok(address);
    }
    Err(serde::de::Error::custom(format!(
        "{address:?} is not of the form https://host:port (the node's token must not be sent in clear)"
    )))
}

fn certificate_ttl() -> Duration {
    Duration::from_secs(24 * 3600)
}

fn ttl<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let ttl = duration::deserialize(deserializer)?;
    if ttl < LEAST_TTL {
        let text = format!("certificates of {ttl:?}; the shortest lifetime is {LEAST_TTL:?}");
        return Err(serde::de::Error::custom(text));
    }
    Ok(ttl)
}

fn zds_socket() -> PathBuf {
    PathBuf::from("/var/run/ztunnel/ztunnel.sock")
}
