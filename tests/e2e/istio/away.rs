//! istiod is away for a while: nothing changes, and its return changes nothing.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_e2e::documents::Certificate;
use mesh_e2e::{Lab, Log, eventually};

use super::support::{LIMIT, policy, under_load};
use crate::runner::say;

const NODES: [&str; 2] = ["n1", "n2"];
/// Failed renewals of each node before istiod comes back.
const FAILURES: usize = 2;
/// What the longest wait between two tries, and connecting again, may take.
const BACK: Duration = Duration::from_secs(200);

pub(super) fn half_a_minute(lab: &mut Lab) -> Result<()> {
    without_istiod(lab, Duration::from_secs(25))
}

pub(super) fn ten_minutes(lab: &mut Lab) -> Result<()> {
    without_istiod(lab, Duration::from_secs(600))
}

/// istiod is killed under load and is away for `time` at least, and until each node has tried to renew its certificate and
/// failed, twice: nothing changes, and the certificates stay in use. When it comes back, nothing fails either; certificates
/// are renewed and what was said meanwhile arrives.
fn without_istiod(lab: &Lab, time: Duration) -> Result<()> {
    let _server = lab.pod("server").echo(8080)?;
    let (kube, logs) = (lab.kube(), NODES.map(|node| lab.agent(node).log().from_now()));
    let before = certificates(lab)?;
    under_load(lab, lab.vip4("web", 80), || {
        let start = Instant::now();
        kube.istiod().kill()?;
        eventually(LIMIT, || {
            let istiod = lab.agent("n1").status()?.istiod.context("no istiod in the status")?;
            ensure!(istiod.state != "connected" && istiod.error.is_some(), "{istiod:?}");
            Ok(())
        })?;
        // Said while nobody listens.
        let meanwhile = policy("meanwhile", "{action: DENY, rules: [{to: [{operation: {ports: [\"9999\"]}}]}]}");
        kube.kubectl().apply(&meanwhile)?;
        thread::sleep(time.saturating_sub(start.elapsed()));
        eventually(time, || logs.iter().try_for_each(|log| failed(log).map(drop)))?;
        let kept = certificates(lab)?;
        for (old, new) in before.iter().zip(&kept) {
            ensure!(new.state == "valid" && new.serial == old.serial, "{new:?} instead of {old:?}");
            ensure!(new.error.is_some() && new.expires_s.is_some_and(|left| left > 0), "{new:?}");
        }
        let failures = logs.iter().map(failed).collect::<Result<Vec<_>>>()?;
        say(format_args!("istiod is away for {:.0} s; failed renewals: {failures:?}", start.elapsed().as_secs_f64()));
        let left: Vec<_> = kept.iter().filter_map(|certificate| certificate.expires_s).collect();
        kube.istiod().launch()?;
        kube.istiod().wait_ready()?;
        let back = Instant::now();
        eventually(BACK, || renewed(lab, &kept))?;
        let took = back.elapsed().as_secs_f64();
        say(format_args!("renewed {took:.1} s after its return; {left:?} s before the end of the old ones"));
        eventually(LIMIT, || connected(lab))
    })
}

/// Failed renewals so far, which must be enough.
fn failed(log: &Log) -> Result<usize> {
    let lines = log.lines();
    let failures =
        lines.iter().filter(|line| line.scope == "identity::certs" && line.message == "no certificate").count();
    ensure!(failures >= FAILURES, "{failures} renewals have failed");
    Ok(failures)
}

/// The one certificate of each node.
fn certificates(lab: &Lab) -> Result<Vec<Certificate>> {
    let first = |node: &&str| {
        let status = lab.agent(node).status()?;
        status.certificates.into_iter().next().with_context(|| format!("{node} has no certificate"))
    };
    NODES.iter().map(first).collect()
}

fn renewed(lab: &Lab, old: &[Certificate]) -> Result<()> {
    for (old, new) in old.iter().zip(certificates(lab)?) {
        ensure!(new.state == "valid" && new.error.is_none() && new.serial != old.serial, "not renewed: {new:?}");
    }
    Ok(())
}

fn connected(lab: &Lab) -> Result<()> {
    for node in NODES {
        let status = lab.agent(node).status()?;
        let istiod = status.istiod.context("no istiod in the status")?;
        ensure!(istiod.state == "connected", "{node}: {istiod:?}");
        ensure!(status.config.policies >= 1, "{node} has not heard of the policy: {:?}", status.config);
    }
    Ok(())
}
