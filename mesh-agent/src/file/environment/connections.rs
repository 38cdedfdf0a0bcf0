//! Threads, tunnels, sockets, and how long connections may go on at the end.

use serde_json::{Map, Value};

use super::mesh::Mesh;
use super::put;
use super::vars::Vars;

/// Threads that carry traffic: a number, or so many percent of the CPUs; else what the container may use; else a quarter of
/// the machine, at least two and at least what the container asks for.
pub(super) fn shards(vars: &Vars<'_>, mesh: &Mesh, cpus: usize) -> usize {
    let limit = vars.number("ZTUNNEL_RESOURCE_CPU_LIMIT").map(|cpus| cpus as usize);
    let usable = vars.number("ZTUNNEL_CPU_LIMIT").map_or(cpus, |cpus| cpus as usize);
    let asked = vars.number("ZTUNNEL_RESOURCE_CPU_REQUEST").map(|cpus| cpus as usize);
    let written = vars.parsed("ZTUNNEL_WORKER_THREADS", "a whole number, or percent such as 50%", |text| {
        let Some(percent) = text.strip_suffix('%') else { return text.parse::<usize>().ok() };
        let percent: usize = percent.trim().parse().ok()?;
        Some(usable.saturating_mul(percent).div_ceil(100))
    });
    let configured = mesh.concurrency().map(|threads| threads as usize).filter(|threads| *threads > 0);
    let count = written.or(configured).or(limit.filter(|limit| *limit > 0));
    count.unwrap_or_else(|| usable.div_ceil(4).max(2).max(asked.unwrap_or(0))).clamp(1, 1024)
}

/// The time that a container has to end is not all for its connections.
pub(super) fn drain(vars: &Vars<'_>) -> Option<String> {
    let grace = vars.number("TERMINATION_GRACE_PERIOD_SECONDS");
    if let Some(deadline) = vars.duration("CONNECTION_TERMINATION_DEADLINE") {
        return Some(deadline.to_owned());
    }
    let seconds = match grace? {
        long @ 11.. => long - 5,
        short => short.saturating_sub(1).max(1),
    };
    Some(format!("{seconds}s"))
}

pub(super) fn tunnels(vars: &Vars<'_>) -> Map<String, Value> {
    let mut tunnels = Map::new();
    put(&mut tunnels, "stream_window", vars.number("HTTP2_STREAM_WINDOW_SIZE"));
    put(&mut tunnels, "connection_window", vars.number("HTTP2_CONNECTION_WINDOW_SIZE"));
    put(&mut tunnels, "frame_size", vars.number("HTTP2_FRAME_SIZE"));
    put(&mut tunnels, "streams", vars.number("POOL_MAX_STREAMS_PER_CONNECTION"));
    put(&mut tunnels, "idle", vars.duration("POOL_UNUSED_RELEASE_TIMEOUT"));
    put(&mut tunnels, "response_baggage", vars.flag("ENABLE_RESPONSE_BAGGAGE"));
    let loopback = vars.flag("LOCALHOST_APP_TUNNEL");
    put(&mut tunnels, "applications", loopback.map(|yes| if yes { "loopback" } else { "address" }));
    tunnels
}

pub(super) fn keepalive(vars: &Vars<'_>) -> Map<String, Value> {
    let mut keepalive = Map::new();
    put(&mut keepalive, "enabled", vars.flag("KEEPALIVE_ENABLED"));
    put(&mut keepalive, "time", vars.duration("KEEPALIVE_TIME"));
    put(&mut keepalive, "interval", vars.duration("KEEPALIVE_INTERVAL"));
    put(&mut keepalive, "retries", vars.number("KEEPALIVE_RETRIES"));
    keepalive
}
