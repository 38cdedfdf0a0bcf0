//! A conversation that goes on through the mesh: a round trip every millisecond, to see when it stalls.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mesh_e2e::{Namespace, socket};
use serde::Serialize;

const PAUSE: Duration = Duration::from_millis(1);

/// Round trips of one connection, on a thread of its own until this is dropped.
#[derive(Debug)]
pub(super) struct Pulse {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    over: AtomicBool,
    beats: Mutex<Vec<(Instant, Duration)>>,
}

/// Round trips of a while, in milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Beats {
    pub(super) count: usize,
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) worst: f64,
    /// How many took more than 5 ms.
    pub(super) stalls: usize,
}

/// What is a stall.
const STALL: f64 = 5.0;

impl Pulse {
    /// Talks from inside `pod` to an echo server.
    pub(super) fn start(pod: &Namespace, server: SocketAddr) -> Result<Self> {
        let stream = pod.connect(server)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        socket::exchange(&stream, ".").context("the first round trip")?;
        let shared = Arc::<Shared>::default();
        let ours = Arc::clone(&shared);
        let beat = move || {
            while !ours.over.load(Ordering::Relaxed) {
                let start = Instant::now();
                if socket::exchange(&stream, ".").is_err() {
                    return;
                }
                ours.beats.lock().unwrap_or_else(PoisonError::into_inner).push((start, start.elapsed()));
                std::thread::sleep(PAUSE);
            }
        };
        let thread = std::thread::Builder::new().name("pulse".to_owned()).spawn(beat)?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// The round trips that were under way in that time.
    pub(super) fn between(&self, from: Instant, to: Instant) -> Result<Beats> {
        let alive = self.thread.as_ref().is_some_and(|thread| !thread.is_finished());
        anyhow::ensure!(alive, "the connection through the mesh broke");
        let beats = self.shared.beats.lock().unwrap_or_else(PoisonError::into_inner);
        let within = beats.iter().filter(|(start, took)| *start + *took >= from && *start < to);
        Ok(Beats::of(within.map(|(_, took)| *took).collect()))
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

impl Beats {
    pub(super) fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |share: usize| {
            let rank = (times.len() * share).div_ceil(100).saturating_sub(1);
            times.get(rank).map_or(0.0, |time| time.as_secs_f64() * 1e3)
        };
        let stalls = times.iter().filter(|time| time.as_secs_f64() * 1e3 > STALL).count();
        Self { count: times.len(), p50: at(50), p99: at(99), worst: at(100), stalls }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_and_stalls() {
        let beats = Beats::of((1..=100).map(|ms| Duration::from_micros(ms * 100)).collect());
        assert_eq!((beats.count, beats.stalls), (100, 50));
        assert_eq!((beats.p50, beats.p99, beats.worst), (5.0, 9.9, 10.0));
        assert_eq!(Beats::of(Vec::new()).count, 0);
    }
}
