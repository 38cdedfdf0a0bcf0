//! What is left of an enrolment that has ended: nothing.

use anyhow::{Result, ensure};
use mesh_e2e::{Lab, Namespace, Pod, Topology};

use super::talk::{leave, open};
use super::traces::{self, Traces};

/// The pods that come and go.
const PODS: &[&str] = &["client", "server"];

/// Agents start on demand, so that the first dump is of pods that never were enrolled.
pub(super) fn from_nothing() -> Topology {
    Topology::new()
        .pod(Pod::new("client", "n1"))
        .pod(Pod::new("stays", "n1"))
        .pod(Pod::new("server", "n2"))
        .without_agents()
        .node_setting("drain", "1s")
}

/// By the mechanism of older kernels.
pub(super) fn by_clsact() -> Topology {
    from_nothing().node_setting("capture", "clsact")
}

/// Agents that take everything along when they end.
pub(super) fn withdrawing() -> Topology {
    from_nothing().node_setting("on_shutdown", "withdraw")
}

/// As [`withdrawing`], by the mechanism of older kernels.
pub(super) fn withdrawing_clsact() -> Topology {
    by_clsact().node_setting("on_shutdown", "withdraw")
}

/// What a CNI or an operator may have set in a pod before it is enrolled. It must be there afterwards.
fn others_settings(pod: &Namespace) -> Result<()> {
    pod.set_sysctls(&[
        ("net.ipv4.conf.all.rp_filter", "1"),
        ("net.ipv4.conf.eth0.rp_filter", "2"),
        ("net.ipv4.conf.lo.rp_filter", "1"),
    ])?;
    let commands = [
        "ip rule add priority 200 fwmark 0x7 lookup main",
        "ip route add blackhole 192.0.2.0/24 table 77",
        "tc qdisc add dev eth0 clsact",
        // A classic program that matches nothing.
        "tc filter add dev eth0 egress pref 9 protocol ip bpf bytecode 1,6_0_0_0",
    ];
    commands.iter().try_for_each(|command| {
        let mut words = command.split(' ').map(|word| word.replace('_', " "));
        pod.output(&words.next().unwrap_or_default(), words).map(drop)
    })
}

fn dumps(lab: &Lab) -> Result<Vec<(&'static str, Traces)>> {
    PODS.iter().map(|name| Ok((*name, traces::of(lab.pod(name))?))).collect()
}

/// Starts the agents and uses the mesh; the enrolment must show in the dumps, or they prove nothing later.
fn begin(lab: &Lab) -> Result<Vec<(&'static str, Traces)>> {
    others_settings(lab.pod("server"))?;
    let before = dumps(lab)?;
    lab.start_agents()?;
    {
        let _echo = lab.pod("server").echo(80)?;
        for to in [lab.pod("server").at4(80), lab.pod("server").at6(80)] {
            open(lab.pod("client"), to)?;
        }
    }
    for (name, before) in &before {
        let changes = before.changes(&traces::of(lab.pod(name))?);
        for section in ["rules", "IPv6 rules", "routes", "IPv6 routes", "listening sockets", "sysctls"] {
            let shown = changes.iter().any(|line| line.starts_with(&format!("{section}: ")));
            ensure!(shown, "the enrolment of {name} does not show in {section}: the comparison is blind");
        }
        let programs = changes.iter().any(|line| line.starts_with("tcx programs: ") || line.starts_with("filters of "));
        ensure!(programs, "the programs of {name} do not show: the comparison is blind");
    }
    Ok(before)
}

fn as_before(lab: &Lab, before: &[(&str, Traces)]) -> Result<()> {
    before.iter().try_for_each(|(name, before)| traces::same(name, before, &traces::of(lab.pod(name))?))
}

/// Un-enrolment while the agents go on and another pod stays enrolled; then the end of agents that serve nobody.
pub(super) fn unenrolled(lab: &mut Lab) -> Result<()> {
    let before = begin(lab)?;
    lab.publish(leave(PODS))?;
    as_before(lab, &before)?;
    for node in ["n1", "n2"] {
        let left = traces::files_of_pods(lab.agent(node));
        let expected = |file: &String| node == "n1" && file.contains("stays");
        ensure!(left.iter().all(expected), "{node}: files are left: {left:?}");
    }
    lab.publish(leave(&["stays"]))?;
    for node in ["n1", "n2"] {
        lab.agent(node).stop()?;
        let left = traces::files(lab.agent(node));
        ensure!(left.is_empty(), "{node}: the agent that served nobody leaves {left:?}");
    }
    Ok(())
}

/// The pods are un-enrolled while their agent is dead; the next one cleans up.
pub(super) fn while_dead(lab: &mut Lab) -> Result<()> {
    let before = begin(lab)?;
    for node in ["n1", "n2"] {
        lab.agent(node).kill()?;
    }
    lab.write(leave(PODS))?;
    lab.start_agents()?;
    mesh_e2e::eventually(super::talk::PATIENCE, || as_before(lab, &before))?;
    let left = traces::files_of_pods(lab.agent("n2"));
    ensure!(left.is_empty(), "files are left: {left:?}");
    Ok(())
}

/// `on_shutdown: withdraw`.
pub(super) fn withdrawn(lab: &mut Lab) -> Result<()> {
    let before = begin(lab)?;
    for node in ["n1", "n2"] {
        let status = lab.agent(node).stop()?;
        ensure!(status.success(), "{node}: the agent ends with {status}");
    }
    as_before(lab, &before)?;
    for node in ["n1", "n2"] {
        let left = traces::files(lab.agent(node));
        ensure!(left.is_empty(), "{node}: files are left: {left:?}");
    }
    Ok(())
}
