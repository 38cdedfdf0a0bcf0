//! Forms that a field's text must have.

use serde::de::Error;
use serde::{Deserialize, Deserializer};

pub(super) fn https<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let address = String::deserialize(deserializer)?;
    let host = address.parse::<http::Uri>().ok().and_then(|uri| uri.host().map(|host| !host.is_empty()));
    if address.starts_with("https://") && host == Some(true) {
        return Ok(address);
    }
    Err(Error::custom(format!(
        "{address:?} is not of the form https://host:port (the node's token must not be sent in clear)"
    )))
}

pub(super) fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    if name.is_empty() { Err(Error::custom("a name must not be empty")) } else { Ok(name) }
}

/// Threads; more than this is a slip of the pen.
const MOST_SHARDS: usize = 1024;

pub(super) fn shards<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    match Option::<usize>::deserialize(deserializer)? {
        Some(count) if !(1..=MOST_SHARDS).contains(&count) => {
            Err(Error::custom(format!("{count} shards; write a number from 1 to {MOST_SHARDS}, or leave it out")))
        }
        count => Ok(count),
    }
}
