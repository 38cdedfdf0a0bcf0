//! `ctl check` on nodes that are well and on nodes that are not.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use mesh_e2e::{Lab, Pod, Topology, binary};
use serde_json::Value;

use super::talk::PATIENCE;
use crate::runner::say;

/// A classic BPF program of one instruction, as tc takes it.
const MATCHES_NOTHING: &str = "1,6 0 0 0,";

/// One node, which has no agent yet.
pub(super) fn before() -> Topology {
    ["a", "b"].iter().fold(Topology::new().nodes(&["n1"]), |all, name| all.pod(Pod::new(name, "n1"))).without_agents()
}

/// What one run said.
struct Said {
    code: Option<i32>,
    findings: Vec<Value>,
}

impl Said {
    /// Runs it on the node, with the agent's file.
    fn by(lab: &Lab) -> Result<Self> {
        let agent = lab.agent("n1");
        let mut command = lab.node("n1").command(binary::find()?);
        let output = command.args(["ctl", "check", "--json", "--config"]).arg(agent.config_file()).output()?;
        let told = || String::from_utf8_lossy(&output.stderr).into_owned();
        let document: Value = serde_json::from_slice(&output.stdout).with_context(told)?;
        let findings = document["findings"].as_array().context("there are no findings")?.clone();
        Ok(Self { code: output.status.code(), findings })
    }

    /// The findings on one thing at one level.
    fn of(&self, level: &str, what: &str) -> impl Iterator<Item = &str> {
        let wanted = move |finding: &&Value| finding["level"] == level && finding["what"] == what;
        self.findings.iter().filter(wanted).filter_map(|finding| finding["found"].as_str())
    }

    /// Fails unless something is found that has all the parts in its text.
    fn has(&self, level: &str, what: &str, parts: &[&str]) -> Result<()> {
        let found = self.of(level, what).any(|text| parts.iter().all(|part| text.contains(part)));
        ensure!(found, "no {level} finding on {what} says {parts:?}: {:#?}", self.findings);
        Ok(())
    }

    /// Fails unless exactly these are wrong, and the exit code says so.
    fn wrong(&self, expected: &[&str]) -> Result<()> {
        let wrong: Vec<_> = self.findings.iter().filter(|finding| finding["level"] == "wrong").collect();
        let what: Vec<_> = wrong.iter().filter_map(|finding| finding["what"].as_str()).collect();
        ensure!(what == expected, "{what:?} are wrong, and not {expected:?}: {wrong:#?}");
        ensure!(wrong.iter().all(|finding| finding["fix"].is_string()), "without a fix: {wrong:#?}");
        let code = i32::from(!expected.is_empty());
        ensure!(self.code == Some(code), "it ends with {:?}, and not with {code}", self.code);
        Ok(())
    }
}

/// Before an agent is there, and what is in its way.
pub(super) fn beforehand(lab: &mut Lab) -> Result<()> {
    let said = Said::by(lab)?;
    said.wrong(&[])?;
    said.has("ok", "agent", &["no agent runs"])?;
    said.has("ok", "programs", &["taken by the verifier"])?;
    said.has("ok", "port 15021", &["free"])?;
    let (node, pod) = (lab.node("n1"), lab.pod("a"));
    let listener = node.listen(15021)?;
    node.output("ip", ["route", "add", "default", "via", "172.30.0.254"])?;
    pod.output("ip", ["link", "set", "eth0", "mtu", "9000"])?;
    pod.output("tc", ["qdisc", "add", "dev", "eth0", "clsact"])?;
    pod.output("tc", "filter add dev eth0 egress bpf bytecode".split(' ').chain([MATCHES_NOTHING, "flowid", "1:1"]))?;
    let said = Said::by(lab)?;
    said.wrong(&["port 15021"])?;
    said.has("wrong", "port 15021", &[&format!("(pid {})", std::process::id())])?;
    said.has("warning", "MTU", &[&format!("9000 in {}", pod.netns()), "eth0, 1500"])?;
    said.has("warning", "other programs", &[pod.netns(), "bpf filter on eth0 egress"])?;
    drop(listener);
    Said::by(lab)?.wrong(&[])
}

/// An agent that works, one that was killed, and pods that are not captured although the agent says so.
pub(super) fn afterwards(lab: &mut Lab) -> Result<()> {
    lab.start_agents()?;
    let agent = lab.agent("n1");
    let news = agent.log().from_now();
    works(lab)?;
    let unreachable = news.wait(3 * PATIENCE, |line| line.text.contains("192.0.2.1:9"))?;
    ensure!(
        !unreachable.error().is_empty(),
        "the log has the connection, and not that it failed: {}",
        unreachable.text
    );
    agent.kill()?;
    let said = Said::by(lab)?;
    said.wrong(&["agent"])?;
    said.has("wrong", "agent", &["nobody answers", "2 pods stay captured without it"])?;
    said.has("ok", "port 15020", &["free"])?;
    lab.start_agents()?;
    works(lab)?;
    detach(lab, "a")?;
    let said = Said::by(lab)?;
    said.of("wrong", "capture of default/a").for_each(|text| say(format_args!("    {text}")));
    said.wrong(&["capture of default/a"])?;
    said.has("wrong", "capture of default/a", &["NOT CAPTURED", "192.0.2.1:9", "[2001:db8::1]:9"])?;
    said.has("ok", "capture of default/b", &["verified"])?;
    agent.restart()?;
    works(lab)
}

/// All is well, for programs and for people.
fn works(lab: &Lab) -> Result<()> {
    let said = Said::by(lab)?;
    said.wrong(&[])?;
    for pod in ["a", "b"] {
        said.has("ok", &format!("capture of default/{pod}"), &["verified", "192.0.2.1:9", "[2001:db8::1]:9"])?;
    }
    said.has("ok", "port 15000", &["held by the agent"])?;
    said.has("ok", "other programs", &[])?;
    let mut command = lab.node("n1").command(binary::find()?);
    let output = command.args(["ctl", "check", "--config"]).arg(lab.agent("n1").config_file()).output()?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(output.status.success(), "{text}");
    let (headings, lines): (Vec<_>, Vec<_>) = text.lines().partition(|line| !line.starts_with(' '));
    ensure!(headings == ["node", "network", "agent"], "{text}");
    ensure!(lines.len() == said.findings.len(), "a line for each of {} findings: {text}", said.findings.len());
    Ok(())
}

/// Takes the pod's programs away behind the agent's back.
fn detach(lab: &Lab, pod: &str) -> Result<()> {
    let node = lab.agent("n1").bpf_fs().join("mesh-agent/n1");
    let layouts = fs::read_dir(&node)?.map(|entry| Ok(entry?.path().join("pods"))).collect::<Result<Vec<PathBuf>>>()?;
    let pods = layouts.iter().map(fs::read_dir).collect::<Result<Vec<_>, _>>()?;
    for entry in pods.into_iter().flatten() {
        let entry = entry?;
        if entry.file_name().to_string_lossy().ends_with(&format!("~{pod}")) {
            return ["lo_ingress", "pod_ingress", "pod_egress"]
                .iter()
                .try_for_each(|link| Ok(fs::remove_file(entry.path().join(link))?));
        }
    }
    bail!("nothing is pinned for {pod} below {}", node.display())
}
