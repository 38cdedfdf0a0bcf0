//! What the cases do to the mesh and see of it: one request, a change of an object and its effect, a load that must never
//! fail.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_e2e::socket::exchange;
use mesh_e2e::{Lab, eventually};

use crate::runner::say;

/// What a change of an object may take until traffic shows it.
const EFFECT: Duration = Duration::from_secs(1);
/// And until it must, on a machine that may be busy. More than [`EFFECT`] is said.
pub(super) const LIMIT: Duration = Duration::from_secs(10);
pub(super) const SOON: Duration = Duration::from_secs(3);
/// Of a client. An address that nobody knows yet gets no answer at all, and must not hold up the next try.
const PATIENCE: Duration = Duration::from_millis(300);
/// Of a client that must not fail, on a machine that may be busy.
const LONG: Duration = Duration::from_secs(10);
/// Between two connections of the load, and between two messages on the one that stays.
const PAUSE: Duration = Duration::from_millis(5);
const BEAT: Duration = Duration::from_millis(50);

/// One request on a connection of its own: what the server answers.
pub(super) fn ask(lab: &Lab, from: &str, to: SocketAddr) -> Result<()> {
    ask_within(PATIENCE, lab, from, to)
}

fn ask_within(patience: Duration, lab: &Lab, from: &str, to: SocketAddr) -> Result<()> {
    let stream = lab.pod(from).try_connect(to)?;
    stream.set_read_timeout(Some(patience))?;
    let answer = exchange(&stream, "hello")?;
    ensure!(answer == "hello", "answered {answer:?}");
    Ok(())
}

/// Waits until a connection works, or does not any more, and says how long after the change that was.
pub(super) fn takes_effect(
    what: &str,
    change: impl FnOnce() -> Result<()>,
    seen: impl FnMut() -> Result<()>,
) -> Result<()> {
    change().with_context(|| what.to_owned())?;
    let changed = Instant::now();
    eventually(LIMIT, seen).with_context(|| format!("{what}: nothing of it is seen"))?;
    let took = changed.elapsed();
    say(format_args!("{what}: {} ms after kubectl returned", took.as_millis()));
    ensure!(took < EFFECT * 3, "{what}: seen only after {took:?}");
    Ok(())
}

pub(super) fn refused(result: Result<()>) -> Result<()> {
    ensure!(result.is_err(), "it still works");
    Ok(())
}

/// A policy by name, in the server's namespace.
pub(super) fn policy(name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, \
         metadata: {{name: {name}, namespace: shop}}, spec: {spec}}}"
    )
}

/// Connections one after the other and one that stays, from `client` to an echo server, for as long as `story` takes. None
/// may fail.
pub(super) fn under_load(lab: &Lab, to: SocketAddr, story: impl FnOnce() -> Result<()>) -> Result<()> {
    let stop = AtomicBool::new(false);
    let (asked, beats, slowest) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let goes_on = || !stop.load(Ordering::Relaxed);
    let told = thread::scope(|scope| {
        let fresh = scope.spawn(|| {
            while goes_on() {
                let start = Instant::now();
                ask_within(LONG, lab, "client", to)
                    .with_context(|| format!("connection {} of the load", asked.load(Ordering::Relaxed) + 1))?;
                slowest.fetch_max(start.elapsed().as_micros().try_into()?, Ordering::Relaxed);
                asked.fetch_add(1, Ordering::Relaxed);
                thread::sleep(PAUSE);
            }
            anyhow::Ok(())
        });
        let kept = scope.spawn(|| {
            let stream = lab.pod("client").connect(to)?;
            stream.set_read_timeout(Some(LONG))?;
            while goes_on() {
                let answer = exchange(&stream, "still here").context("the connection that stays")?;
                ensure!(answer == "still here", "the connection that stays: {answer:?}");
                beats.fetch_add(1, Ordering::Relaxed);
                thread::sleep(BEAT);
            }
            anyhow::Ok(())
        });
        let told = story();
        stop.store(true, Ordering::Relaxed);
        let loads = [fresh.join(), kept.join()].map(|end| end.unwrap_or_else(|_| anyhow::bail!("the load panicked")));
        // What the load saw is the better reason, if both failed.
        loads.into_iter().collect::<Result<Vec<()>>>().and(told)
    });
    say(format_args!(
        "    {} connections, the slowest {:.1} ms, and {} messages on one",
        asked.load(Ordering::Relaxed),
        slowest.load(Ordering::Relaxed) as f64 / 1000.0,
        beats.load(Ordering::Relaxed),
    ));
    told
}
