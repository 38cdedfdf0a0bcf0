//! What a denied connection looks like: to its client, in the logs, in the metrics; and that the application never
//! sees it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_e2e::socket::{Ending, ending};
use mesh_e2e::{Agent, Lab, Line, Log, Namespace};

use super::matrix::echoes;

const SOON: Duration = Duration::from_secs(2);
const NOT_ALLOWED: &str = "ALLOW policies apply to the workload and none of them allows it";

/// The line of the access log about the connection of `workload`.
fn line_about(log: &Log, workload: &str, direction: &str) -> Result<Line> {
    log.wait(SOON, |line| {
        line.scope == "access" && line.field("direction") == direction && line.field("src.workload") == workload
    })
}

/// Connects and waits for the reset. It may come before the client has noticed that it is connected.
fn is_reset(from: &Namespace, to: SocketAddr) -> Result<()> {
    let end = match from.try_connect(to) {
        Ok(client) => ending(&client, SOON),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(Ending::Reset),
        Err(error) => Err(error),
    };
    let end = end.context("the denied client")?;
    ensure!(end == Ending::Reset, "the denied client sees {end:?}");
    Ok(())
}

/// Connections of the destination's side that ended with DENY.
fn denied(agent: &Agent, source: &str) -> Result<f64> {
    let labels = ["reporter=\"destination\"", "response_flags=\"DENY\"", source];
    let closed = agent.metric("istio_tcp_connections_closed_total", &labels)?;
    let failed = agent.metric("istio_tcp_connections_failed_total", &labels)?;
    ensure!((closed - failed).abs() < 0.5, "{closed} closed by DENY, but {failed} failed by it");
    Ok(closed)
}

pub(super) fn tunnelled(lab: &Lab) -> Result<()> {
    let (alice, server) = (lab.pod("alice"), lab.pod("server"));
    let application = server.echo(80)?;
    let source = "source_workload=\"alice\"";
    let cases = [
        (
            "- {name: no-alice, action: DENY, rules: [{from: [{source: {principals: ['*/alice']}}]}]}",
            "policy default/no-alice denies it",
        ),
        ("- {name: only-bob, rules: [{from: [{source: {principals: ['*/bob']}}]}]}", NOT_ALLOWED),
    ];
    for (policy, reason) in cases {
        lab.publish(|world| {
            world.clear_policies();
            world.authorize(policy);
        })?;
        let before = denied(lab.agent("n2"), source)?;
        let (near, far) = (lab.agent("n1").log().from_now(), lab.agent("n2").log().from_now());
        is_reset(alice, server.at4(80))?;
        let here = line_about(&near, "alice", "outbound")?;
        ensure!(here.error() == "http status: 401", "the client's side says {}", here.text);
        let there = line_about(&far, "alice", "inbound")?;
        ensure!(there.error() == reason, "the server's side says {:?}, should {reason:?}", there.error());
        ensure!(there.level == "error", "a denial is told as {}", there.level);
        ensure!(there.field("src.identity") == alice.identity, "{}", there.text);
        ensure!(there.field("dst.identity") == server.identity, "{}", there.text);
        ensure!(there.field("dst.hbone_addr") == server.at4(80).to_string(), "{}", there.text);
        let more = denied(lab.agent("n2"), source)? - before;
        ensure!((more - 1.0).abs() < 0.5, "one denied connection counts as {more}");
    }
    ensure!(application.accepted() == 0, "the application has seen a denied connection");
    Ok(())
}

pub(super) fn plain(lab: &Lab) -> Result<()> {
    let (plain, server) = (lab.pod("plain"), lab.pod("server"));
    let application = server.echo(80)?;
    let source = "source_principal=\"unknown\"";
    let cases = [
        (
            "- {name: nobody, action: DENY, rules: [{from: [{source: {notPrincipals: ['*']}}]}]}",
            "",
            "policy default/nobody denies it",
        ),
        ("- {name: meshed, rules: [{from: [{source: {principals: ['*']}}]}]}", "", NOT_ALLOWED),
        ("", "- {name: s, mode: STRICT}", "policy istio-system/istio_converted_static_strict denies it"),
    ];
    for (policy, strict, reason) in cases {
        lab.publish(|world| {
            world.clear_policies();
            world.authorize(policy);
            world.peer_authentication(strict);
        })?;
        let before = denied(lab.agent("n2"), source)?;
        let far = lab.agent("n2").log().from_now();
        is_reset(plain, server.at4(80))?;
        let line = line_about(&far, "plain", "inbound")?;
        ensure!(line.error() == reason, "the server's side says {:?}, should {reason:?}", line.error());
        ensure!(line.field("bytes_sent") == "0", "a denied connection got bytes: {}", line.text);
        let more = denied(lab.agent("n2"), source)? - before;
        ensure!((more - 1.0).abs() < 0.5, "one denied connection counts as {more}");
    }
    ensure!(application.accepted() == 0, "the application has seen a denied connection");
    Ok(())
}

/// An edit with a policy that is not understood is refused whole: what it would have allowed stays denied.
pub(super) fn not_understood(lab: &Lab) -> Result<()> {
    let (alice, server) = (lab.pod("alice"), lab.pod("server"));
    let _application = server.echo(80)?;
    lab.publish(|world| world.authorize("- {name: closed, action: DENY, rules: [{}]}"))?;
    let (node, agent) = (lab.node("n2"), lab.agent("n2"));
    let bad = [
        ("action: DENY", "action: AUDIT", "AUDIT"),
        ("rules: [{}]", "rules: [{when: [{key: source.colour, values: [red]}]}]", "source.colour"),
        ("rules: [{}]", "rules: [{from: [{source: {principal: [x]}}]}]", "principal"),
    ];
    let good = node.text();
    for (is, becomes, reason) in bad {
        let news = agent.log().from_now();
        node.rewrite(&good.replace(is, becomes))?;
        let line = news.wait(SOON, |line| line.message.starts_with("configuration "))?;
        ensure!(line.message.contains("rejected") && line.text.contains(reason), "{becomes}: {}", line.text);
        ensure!(!echoes(alice, server.at4(80))?, "{becomes}: the old policy is no longer in force");
        let rejected = agent.status()?.config.rejected.with_context(|| format!("{becomes}: status shows nothing"))?;
        ensure!(rejected.reason.contains(reason), "{becomes}: status says {}", rejected.reason);
    }
    Ok(())
}
