//! What may be written under `node.tunnels` and `node.keepalive`.

use std::time::Duration;

use serde::de::Error;
use serde::{Deserialize, Deserializer};

use super::super::duration;
use crate::hbone;
use crate::sys::socket;

/// How tunnels are made, and what goes through them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tunnels {
    /// Bytes that may be on their way in one stream.
    #[serde(deserialize_with = "window")]
    pub stream_window: u32,
    /// Bytes that may be on their way in all streams of a connection.
    #[serde(deserialize_with = "window")]
    pub connection_window: u32,
    /// Bytes of the largest frame that is taken.
    #[serde(deserialize_with = "frame")]
    pub frame_size: u32,
    /// Streams on one connection before another is opened.
    #[serde(deserialize_with = "streams")]
    pub streams: usize,
    /// How long a connection without streams is kept.
    #[serde(deserialize_with = "duration::deserialize")]
    pub idle: Duration,
    /// Whether each end tells the other what it is, for telemetry. The request always does.
    pub response_baggage: bool,
    /// Where an application behind an application tunnel is reached.
    pub applications: Applications,
}

/// Where an application behind an application tunnel is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Applications {
    #[default]
    Loopback,
    /// At the pod's own, and it sees the client's.
    Address,
}

impl Default for Tunnels {
    fn default() -> Self {
        let hbone::Settings { stream_window, connection_window, frame_size, streams, idle } =
            hbone::Settings::default();
        Self {
            stream_window,
            connection_window,
            frame_size,
            streams,
            idle,
            response_baggage: true,
            applications: Applications::default(),
        }
    }
}

/// Probes of TCP on connections that say nothing.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Keepalive {
    pub enabled: bool,
    #[serde(deserialize_with = "seconds")]
    pub time: Duration,
    #[serde(deserialize_with = "seconds")]
    pub interval: Duration,
    #[serde(deserialize_with = "retries")]
    pub retries: u32,
}

impl Default for Keepalive {
    fn default() -> Self {
        let socket::Keepalive { time, interval, retries } = socket::Keepalive::default();
        Self { enabled: true, time, interval, retries }
    }
}

/// A number between two others.
fn between<'de, D: Deserializer<'de>>(deserializer: D, (low, high): (u32, u32)) -> Result<u32, D::Error> {
    let number = u32::deserialize(deserializer)?;
    if (low..=high).contains(&number) {
        return Ok(number);
    }
    Err(Error::custom(format!("{number} is not between {low} and {high}")))
}

/// RFC 9113, section 6.9.1; below the first value of a connection none can be announced.
fn window<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    between(deserializer, (65_535, (1 << 31) - 1))
}

/// RFC 9113, section 4.2.
fn frame<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    between(deserializer, (1 << 14, (1 << 24) - 1))
}

fn streams<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    between(deserializer, (1, 65_535)).map(|number| number as usize)
}

fn retries<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    // What the kernel takes (tcp(7)).
    between(deserializer, (1, 127))
}

fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    const LONGEST: Duration = Duration::from_secs(32_767);
    let duration = duration::deserialize(deserializer)?;
    if (Duration::from_secs(1)..=LONGEST).contains(&duration) {
        return Ok(duration);
    }
    Err(Error::custom(format!("{duration:?} is not between 1s and {LONGEST:?}, which the kernel takes")))
}
