//! Un-enrolling pods that have captured connections: these may end in peace, for a while.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_e2e::socket::{Ending, ending};
use mesh_e2e::{Lab, Membership, Pod, Topology, eventually};

use super::talk::{PATIENCE, alive, leave, open, says};
use crate::runner::say;

const DRAIN: Duration = Duration::from_secs(3);
/// How late something may come that should come at once.
const SLACK: Duration = Duration::from_secs(1);

/// Time for connections to end.
pub(super) fn patient() -> Topology {
    Topology::new()
        .pod(Pod::new("client", "n1"))
        .pod(Pod::new("other", "n1").plain())
        .pod(Pod::new("server", "n2"))
        .node_setting("drain", "3s")
}

/// More time than anything takes.
pub(super) fn unhurried() -> Topology {
    patient().node_setting("drain", "60s")
}

/// Several pods with connections on an agent that takes everything along.
pub(super) fn crowded() -> Topology {
    let pods = ["a", "b", "c", "d"].iter().map(|name| Pod::new(name, "n1"));
    let topology = pods.fold(Topology::new().pod(Pod::new("server", "n2")), Topology::pod);
    topology.node_setting("drain", "1s").node_setting("on_shutdown", "withdraw")
}

/// Waits until the agent shows the pod in `state`; no state means that it is gone.
fn wait_for(lab: &Lab, node: &str, pod: &str, state: Option<&str>) -> Result<()> {
    eventually(PATIENCE, || {
        let status = lab.agent(node).status()?;
        let found = status.pod(pod).map(|pod| pod.state.as_str());
        ensure!(found == state, "{pod} is {found:?}, should be {state:?}");
        Ok(())
    })
}

/// An open connection goes on while its pod leaves, new ones go beside the mesh, and its end ends the drain.
pub(super) fn in_peace(lab: &mut Lab) -> Result<()> {
    let to = lab.pod("server").at4(80);
    let _echo = lab.pod("server").echo(80)?;
    for (node, name) in [("n1", "client"), ("n2", "server")] {
        let names: &'static [&'static str] = if name == "client" { &["client"] } else { &["server"] };
        let before = lab.world().clone();
        let open_one = open(lab.pod("client"), to)?;
        lab.write(leave(names))?;
        wait_for(lab, node, name, Some("retiring"))?;
        alive(&open_one).with_context(|| format!("{name} leaves"))?;
        if name == "client" {
            let wire = lab.wire("n1")?;
            says(&open(lab.pod("client"), to)?, "beside the mesh")?;
            says(&open_one, "still inside it")?;
            let seen = wire.finish()?;
            ensure!(seen.showing("beside the mesh").count() > 0, "a new connection is still captured");
            ensure!(seen.showing("still inside it").count() == 0, "the captured one went to the wire in plaintext");
        }
        let at = Instant::now();
        drop(open_one);
        wait_for(lab, node, name, None)?;
        say(format_args!("    {name} withdrawn {:?} after its last connection", at.elapsed()));
        ensure!(at.elapsed() < SLACK, "{name} is withdrawn only {:?} after its last connection", at.elapsed());
        lab.publish(|world| *world = before)?;
    }
    Ok(())
}

/// A pod that comes back while its connections end is captured at once. Those of before go on inside the mesh, those of the
/// time between beside it, and new ones inside.
pub(super) fn comes_back(lab: &mut Lab) -> Result<()> {
    let to = lab.pod("server").at4(80);
    let _echo = lab.pod("server").echo(80)?;
    let before = lab.world().clone();
    let inside = open(lab.pod("client"), to)?;
    lab.write(leave(&["client"]))?;
    wait_for(lab, "n1", "client", Some("retiring"))?;
    let beside = open(lab.pod("client"), to)?;
    lab.write(|world| *world = before)?;
    wait_for(lab, "n1", "client", Some("captured (taken over)"))?;
    let wire = lab.wire("n1")?;
    says(&inside, "from before").context("the connection of before")?;
    says(&beside, "from between").context("the connection of the time between")?;
    let anew = open(lab.pod("client"), to)?;
    says(&anew, "from now on")?;
    let seen = wire.finish()?;
    ensure!(seen.showing("from between").count() > 0, "what was opened beside the mesh is inside it now");
    for text in ["from before", "from now on"] {
        ensure!(seen.showing(text).count() == 0, "{text:?} went to the wire in plaintext");
    }
    drop((inside, beside));
    std::thread::sleep(SLACK);
    wait_for(lab, "n1", "client", Some("captured (taken over)"))?;
    alive(&anew).context("the end of the old ones is none of the new ones'")
}

/// The metrics about pods have Istio's prefix for them, which is not that of the others.
pub(super) fn trap_25_pods_are_counted(lab: &mut Lab) -> Result<()> {
    const NAMES: [&str; 4] =
        ["active_proxy_count", "pending_proxy_count", "proxies_started_total", "proxies_stopped_total"];
    let counted = || -> Result<Vec<f64>> {
        let agent = lab.agent("n1");
        NAMES.iter().map(|name| agent.metric(&format!("workload_manager_{name}"), &[])).collect()
    };
    ensure!(counted()? == [1.0, 0.0, 1.0, 0.0], "one pod is served: {:?}", counted()?);
    let before = lab.world().clone();
    lab.publish(leave(&["client"]))?;
    wait_for(lab, "n1", "client", None)?;
    ensure!(counted()? == [0.0, 0.0, 1.0, 1.0], "it has left: {:?}", counted()?);
    lab.publish(|world| *world = before)?;
    ensure!(counted()? == [1.0, 0.0, 2.0, 1.0], "it has come back: {:?}", counted()?);
    Ok(())
}

/// A connection that does not end is cut when the time is over, and its application is told by a reset.
pub(super) fn cut(lab: &mut Lab) -> Result<()> {
    let _echo = lab.pod("server").echo(80)?;
    let stubborn = open(lab.pod("client"), lab.pod("server").at4(80))?;
    let at = lab.write(leave(&["client"]))?;
    ensure!(ending(&stubborn, DRAIN + PATIENCE)? == Ending::Reset, "the connection ends as if it were complete");
    let time = at.elapsed();
    say(format_args!("    cut after {time:?} of {DRAIN:?}"));
    ensure!(time + SLACK / 10 > DRAIN && time < DRAIN + SLACK, "cut after {time:?}, should be after {DRAIN:?}");
    let told = |line: &mesh_e2e::Line| line.scope == "access" && !line.error().is_empty();
    lab.agent("n1").log().wait(SLACK, told)?;
    wait_for(lab, "n1", "client", None)
}

/// A pod that takes its time to leave does not hold up one that comes.
pub(super) fn nobody_waits(lab: &mut Lab) -> Result<()> {
    let _echo = lab.pod("server").echo(80)?;
    let _stubborn = open(lab.pod("client"), lab.pod("server").at4(80))?;
    lab.write(leave(&["client"]))?;
    wait_for(lab, "n1", "client", Some("retiring"))?;
    let at = lab.write(|world| world.pod("other").membership = Membership::Enrolled)?;
    wait_for(lab, "n1", "other", Some("captured"))?;
    let time = at.elapsed();
    ensure!(time < DRAIN * 2 / 3, "a pod is captured {time:?} after it was asked for, because another one is leaving");
    Ok(())
}

/// Pods leave together: an agent that ends needs one drain, not one for each pod.
pub(super) fn together(lab: &mut Lab) -> Result<()> {
    let _echo = lab.pod("server").echo(80)?;
    let to = lab.pod("server").at4(80);
    let _stubborn: Vec<TcpStream> =
        ["a", "b", "c", "d"].iter().map(|name| open(lab.pod(name), to)).collect::<Result<_>>()?;
    let at = Instant::now();
    lab.agent("n1").stop()?;
    let time = at.elapsed();
    ensure!(time < 2 * SLACK + SLACK / 2, "the agent of four pods takes {time:?} to end, with a drain of 1s");
    Ok(())
}
