//! Pods that cannot be enrolled: each gets its reason, is tried again, and harms nobody.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mesh_e2e::agent::READY_PORT;
use mesh_e2e::{Lab, Line, Log, Pod, Topology, eventually};

use super::talk::{PATIENCE, alive, open};
use super::traces::{self, Traces};

pub(super) fn pair() -> Topology {
    Topology::new().pod(Pod::new("client", "n1")).pod(Pod::new("near", "n1")).pod(Pod::new("server", "n2"))
}

/// Pods for each of the agent's ports, and one more.
pub(super) fn ports() -> Topology {
    let pods = ["a", "b", "c", "fine"].iter().map(|name| Pod::new(name, "n1"));
    pods.fold(Topology::new().nodes(&["n1"]), Topology::pod).without_agents()
}

fn failed_with(lab: &Lab, pod: &str, reasons: &[&str]) -> Result<()> {
    eventually(PATIENCE, || {
        let status = lab.agent("n1").status()?;
        let found = status.pod(pod).with_context(|| format!("status does not show {pod}"))?;
        let error = found.error.as_deref().unwrap_or_default();
        ensure!(found.state == "failed", "{pod} is {}", found.state);
        ensure!(reasons.iter().all(|reason| error.contains(reason)), "{pod}: {error:?} does not say {reasons:?}");
        Ok(())
    })
}

fn captured(lab: &Lab, pod: &str, limit: Duration) -> Result<()> {
    eventually(limit, || {
        let status = lab.agent("n1").status()?;
        let found = status.pod(pod).with_context(|| format!("status does not show {pod}"))?;
        ensure!(found.state.starts_with("captured"), "{pod} is {}: {:?}", found.state, found.error);
        Ok(())
    })
}

fn complaints(log: &Log) -> Vec<String> {
    let loud = |line: &Line| line.scope != "access" && matches!(line.level.as_str(), "error" | "warn");
    log.lines().into_iter().filter(loud).map(|line| line.text).collect()
}

/// The ways in which one pod's entry can be wrong: its line is edited, its reason is awaited, and it is edited back.
pub(super) fn entries(lab: &mut Lab) -> Result<()> {
    let (node, agent) = (lab.node("n1"), lab.agent("n1"));
    let _echo = lab.pod("server").echo(80)?;
    let good = node.text();
    let netns = lab.pod("client").path().display().to_string();
    let own = node.path().display().to_string();
    let interface = format!("\"interface\":\"eth7\",\"netns\":\"{netns}\"");
    let edits = [
        ("the node's own namespace", netns.as_str(), own.as_str(), &["host network", "cannot be enrolled"][..]),
        (
            "no such file",
            &netns,
            "/run/netns/nowhere",
            &["/run/netns/nowhere", "No such file", "maybe the pod has ended"],
        ),
        ("no namespace", &netns, "/etc/hostname", &["/etc/hostname", "no network namespace"]),
        ("no such interface", &format!("\"netns\":\"{netns}\""), &interface, &["eth7"]),
    ];
    let before = Before { node: traces::of(node)?, pod: of_unenrolled(lab)? };
    let mut wrong = Vec::new();
    for (what, is, becomes, reasons) in edits {
        let news = agent.log().from_now();
        node.rewrite(&good.replacen(is, becomes, 1))?;
        if let Err(error) = refused(lab, &news, reasons, &before) {
            wrong.push(format!("{what}: {error:#}"));
        }
        node.rewrite(&good)?;
        if let Err(error) = captured(lab, "client", PATIENCE)
            .and_then(|()| open(lab.pod("client"), lab.pod("server").at4(80)).map(drop))
        {
            wrong.push(format!("{what}: mended: {error:#}"));
        }
    }
    if wrong.is_empty() { Ok(()) } else { bail!("{}", wrong.join("\n  ")) }
}

/// Namespaces as they should be while the pod is refused.
struct Before {
    node: Traces,
    pod: Traces,
}

fn refused(lab: &Lab, news: &Log, reasons: &[&str], before: &Before) -> Result<()> {
    failed_with(lab, "client", reasons)?;
    thread::sleep(Duration::from_millis(1200));
    let said = complaints(news);
    ensure!(said.len() <= 4, "{} lines in the log: {said:?}", said.len());
    let told = said.iter().any(|line| reasons.iter().all(|reason| line.contains(reason)));
    ensure!(told, "the log does not say why: {said:?}");
    open(lab.pod("near"), lab.pod("server").at4(80)).context("another pod")?;
    traces::same("the node", &before.node, &traces::of(lab.node("n1"))?)?;
    traces::same("the pod that failed", &before.pod, &traces::of(lab.pod("client"))?)
}

/// The client's namespace while it is not enrolled.
fn of_unenrolled(lab: &Lab) -> Result<Traces> {
    let world = lab.world().clone();
    lab.publish(super::talk::leave(&["client"]))?;
    let dump = traces::of(lab.pod("client"))?;
    lab.publish(|now| *now = world)?;
    Ok(dump)
}

/// A change of a captured pod that cannot be made: the capture stays as it was, and nothing is there twice afterwards.
pub(super) fn unchangeable(lab: &mut Lab) -> Result<()> {
    let before = of_unenrolled(lab)?;
    let enrolled = traces::of(lab.pod("client"))?;
    let _echo = lab.pod("server").echo(80)?;
    let open_one = open(lab.pod("client"), lab.pod("server").at4(80))?;
    // What the change would have to be written to.
    let pins = traces::files(lab.agent("n1"));
    let config = pins.iter().find(|file| file.ends_with("~client/config")).context("the client's configuration")?;
    let aside = lab.agent("n1").bpf_fs().join("aside");
    fs::rename(config, &aside).context("putting it aside")?;
    lab.write(|world| world.pod("client").probe_ports = vec![8080])?;
    eventually(PATIENCE, || {
        let status = lab.agent("n1").status()?;
        let error = status.pods.iter().find(|pod| pod.name == "client").and_then(|pod| pod.error.clone());
        ensure!(error.is_some_and(|text| text.contains("map config")), "nothing is said of the change");
        Ok(())
    })?;
    thread::sleep(Duration::from_millis(1500));
    alive(&open_one)?;
    traces::same("the pod that cannot be changed", &enrolled, &traces::of(lab.pod("client"))?)?;
    lab.publish(|world| world.pod("client").probe_ports.clear())?;
    alive(&open_one)?;
    traces::same("the pod that is as it was", &enrolled, &traces::of(lab.pod("client"))?)?;
    fs::rename(&aside, config).context("putting it back")?;
    drop(open_one);
    lab.publish(super::talk::leave(&["client"]))?;
    traces::same("the pod that left", &before, &traces::of(lab.pod("client"))?)
}

/// A pod that uses one of the agent's ports gets its reason, and is captured when it lets the port go.
pub(super) fn taken(lab: &mut Lab) -> Result<()> {
    let pods = [("a", 15001), ("b", 15006), ("c", 15008)];
    let listeners: Vec<_> = pods.iter().map(|(name, port)| lab.pod(name).listen(*port)).collect::<Result<_>>()?;
    let before: Vec<_> = pods.iter().map(|(name, _)| traces::of(lab.pod(name))).collect::<Result<_>>()?;
    let (agent, news) = (lab.agent("n1"), lab.agent("n1").log().from_now());
    agent.launch()?;
    eventually(PATIENCE, || agent.status())?;
    for ((name, port), before) in pods.iter().zip(&before) {
        failed_with(lab, name, &[&format!("port {port}"), "maybe the pod itself uses the port"])?;
        traces::same(&format!("{name}, which failed"), before, &traces::of(lab.pod(name))?)?;
    }
    captured(lab, "fine", PATIENCE)?;
    let (status, page) = agent.page(READY_PORT, "/healthz/ready")?;
    ensure!(status != 200, "the agent is ready, though three pods are not captured: {page}");
    drop(listeners);
    // It may have waited twice already; the next time is at most four seconds away.
    for (name, _) in pods {
        captured(lab, name, 2 * PATIENCE)?;
    }
    agent.wait_ready()?;
    let said = complaints(&news);
    ensure!(said.len() <= 4 * pods.len(), "{} lines in the log: {said:?}", said.len());
    Ok(())
}

/// A pod that ends without a word is no reason for alarm, and nothing is kept of it once the file says so.
pub(super) fn vanished(lab: &mut Lab) -> Result<()> {
    let descriptors = |lab: &Lab| -> Result<usize> {
        let pid = lab.agent("n1").pid().context("the agent runs")?;
        Ok(fs::read_dir(Path::new("/proc").join(pid.to_string()).join("fd"))?.count())
    };
    let news = lab.agent("n1").log().from_now();
    lab.node("n1").output("ip", ["link", "del", "vclient"])?;
    lab.delete_pod("client")?;
    thread::sleep(Duration::from_millis(1500));
    let said = complaints(&news);
    ensure!(said.len() <= 2, "{} lines in the log: {said:?}", said.len());
    let held = descriptors(lab)?;
    lab.publish(|world| world.pods.retain(|pod| pod.name != "client"))?;
    news.wait(PATIENCE, |line| line.message == "pod withdrawn")?;
    let said = complaints(&news);
    ensure!(said.len() <= 2, "{} lines in the log: {said:?}", said.len());
    let left: Vec<_> = traces::files(lab.agent("n1")).into_iter().filter(|file| file.contains("client")).collect();
    ensure!(left.is_empty(), "files are left: {left:?}");
    let holds = descriptors(lab)?;
    ensure!(holds < held, "{holds} descriptors are held without the pod, and {held} with it");
    let _echo = lab.pod("server").echo(80)?;
    open(lab.pod("near"), lab.pod("server").at4(80)).map(drop)
}
