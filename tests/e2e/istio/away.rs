//! istiod is away for a while: nothing changes, and its return changes nothing.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_e2e::{Lab, eventually};

use super::support::{self, LIMIT, policy};

/// istiod is killed under load: nothing changes, neither then nor when it comes back; and what changed meanwhile arrives.
pub(super) fn under_load(lab: &mut Lab) -> Result<()> {
    let _server = lab.pod("server").echo(8080)?;
    let kube = lab.kube();
    support::under_load(lab, lab.vip4("web", 80), || {
        thread::sleep(Duration::from_millis(500));
        kube.istiod().kill()?;
        eventually(LIMIT, || {
            let istiod = lab.agent("n1").status()?.istiod.context("no istiod in the status")?;
            ensure!(istiod.state != "connected" && istiod.error.is_some(), "{istiod:?}");
            Ok(())
        })?;
        thread::sleep(Duration::from_secs(5));
        // Said while nobody listens.
        kube.kubectl()
            .apply(&policy("meanwhile", "{action: DENY, rules: [{to: [{operation: {ports: [\"9999\"]}}]}]}"))?;
        kube.istiod().launch()?;
        kube.istiod().wait_ready()?;
        eventually(Duration::from_secs(30), || {
            for node in ["n1", "n2"] {
                let status = lab.agent(node).status()?;
                let istiod = status.istiod.context("no istiod in the status")?;
                ensure!(istiod.state == "connected", "{node}: {istiod:?}");
                ensure!(status.config.policies >= 1, "{node} has not heard of the policy: {:?}", status.config);
            }
            Ok(())
        })
    })
}
