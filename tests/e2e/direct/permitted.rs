//! A direct connection never outlives its permission.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_e2e::socket::{ending, exchange};
use mesh_e2e::{Lab, Membership, Pod, World, eventually};
use rustix::process::Signal;

use super::APP;
use super::talk::{PATIENCE, PROMISE, direct, ended_after, ended_by, open, refused, works};
use crate::policy::revoked;
use crate::runner::say;

const DENY_ALL: &str = "- {name: closed, action: DENY, rules: [{}]}";

/// How a pod is seen to be gone from an agent.
fn state(lab: &Lab, pod: &str) -> Result<Option<String>> {
    Ok(lab.agent("n1").status()?.pod(pod).map(|pod| pod.state.clone()))
}

/// What was granted to alice is granted to nobody else, and for no other port: each asks anew.
pub(super) fn only(lab: &Lab) -> Result<()> {
    let server = lab.pod("server");
    let _applications = [server.echo(APP)?, server.echo(APP + 1)?];
    drop(direct(lab, "alice", server.at4(APP))?);
    lab.publish(|world| {
        world.authorize("- {name: few, rules: [{from: [{source: {principals: ['*/alice']}}], to: [{operation: {ports: ['8080']}}]}]}");
    })?;
    works(&direct(lab, "alice", server.at4(APP))?)?;
    refused(lab.pod("bob"), server.at4(APP)).context("somebody else")?;
    refused(lab.pod("alice"), server.at4(APP + 1)).context("another port")?;
    lab.publish(World::clear_policies).map(drop)
}

/// Ended by a policy, on both sides and with a reason; the next ones are denied until that is taken back.
pub(super) fn denied(lab: &Lab) -> Result<()> {
    let (door, ends) = std::sync::mpsc::channel();
    let server = lab.pod("server");
    let _application = server.serve(APP, move |stream, _| {
        let result = mesh_e2e::server::echo(stream);
        door.send(result.as_ref().err().map(std::io::Error::kind)).ok();
        result
    })?;
    let to = server.at4(APP);
    let stream = direct(lab, "alice", to)?;
    // Those that were opened on the way have ended in peace.
    while ends.recv_timeout(Duration::from_millis(200)).is_ok() {}
    let (own, news) = (stream.local_addr()?.to_string(), lab.agent("n1").log().from_now());
    ended_by(lab, &stream, |world| world.authorize(DENY_ALL))?;
    let end = ends.recv_timeout(PROMISE).context("the application's end stays open")?;
    ensure!(end.is_some(), "to the application it seems complete");
    for direction in ["outbound", "inbound"] {
        let line = news.wait(PROMISE, |line| {
            line.scope == "access" && line.field("src.addr") == own && line.field("direction") == direction
        })?;
        let reason = "closed by a policy change: policy default/closed denies it";
        ensure!(line.error() == reason && line.field("mode") == "direct", "{}", line.text);
    }
    refused(lab.pod("alice"), to)?;
    lab.publish(World::clear_policies)?;
    direct(lab, "alice", to).map(drop)
}

/// An ALLOW policy that no longer covers it is as good as a DENY.
pub(super) fn lost(lab: &Lab) -> Result<()> {
    let only = |who: &str| format!("- {{name: only, rules: [{{from: [{{source: {{principals: ['*/{who}']}}}}]}}]}}");
    let to = lab.pod("server").at6(APP);
    let _application = lab.pod("server").echo(APP)?;
    lab.publish(|world| world.authorize(&only("alice")))?;
    let stream = direct(lab, "alice", to)?;
    ended_by(lab, &stream, |world| {
        world.clear_policies();
        world.authorize(&only("bob"));
    })?;
    lab.publish(World::clear_policies).map(drop)
}

/// A server that has closed its end, and waits for its client no longer, has nothing that could be ended but its listener.
pub(super) fn half_gone(lab: &Lab) -> Result<()> {
    let server = lab.pod("server");
    let to = server.at4(APP + 2);
    let application = server.echo(APP + 2)?;
    drop(direct(lab, "bob", to)?);
    drop(application);
    server.set_sysctls(&[("net.ipv4.tcp_fin_timeout", "1")])?;
    let _application = server.serve(APP + 2, |stream, _| mesh_e2e::server::say(stream, "bye"))?;
    let left = lab.pod("bob").connect(to)?;
    ensure!(ending(&left, PATIENCE)? == mesh_e2e::socket::Ending::Fin, "the server does not close");
    eventually(PATIENCE, || {
        let open = server.output("ss", ["-Htn", "state", "all", "sport", "=", &format!(":{}", APP + 2)])?;
        ensure!(open.lines().all(|line| line.starts_with("LISTEN")), "{open}");
        Ok(())
    })?;
    lab.publish(|world| world.authorize(DENY_ALL))?;
    lab.publish(World::clear_policies)?;
    let anew = lab.pod("bob").connect(to)?;
    ensure!(ending(&anew, PATIENCE)? == mesh_e2e::socket::Ending::Fin, "nobody listens any more");
    drop(left);
    Ok(())
}

/// Pods of a namespace that does not want it are joined by the agent, whoever talks to them.
pub(super) fn stricter(lab: &Lab) -> Result<()> {
    let to = lab.pod("strict").at4(APP);
    let _application = lab.pod("strict").echo(APP)?;
    for _ in 0..5 {
        let (_stream, security) = open(lab, "alice", to)?;
        ensure!(security == "local", "it goes by {security:?}");
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Both ends' certificates count.
pub(super) fn revoked(lab: &mut Lab) -> Result<()> {
    let lab = &*lab;
    revoked::start(lab)?;
    let to = lab.pod("server").at4(APP);
    let _application = lab.pod("server").echo(APP)?;
    let (alice, bob) = (direct(lab, "alice", to)?, direct(lab, "bob", to)?);
    let alices = revoked::serial(lab, "n1", "alice")?;
    ended_after(&alice, || revoked::revoke(lab, "n1", std::slice::from_ref(&alices)))?;
    works(&bob).context("somebody else's connection")?;
    refused(lab.pod("alice"), to)?;
    revoked::revoke(lab, "n1", &[])?;
    eventually(PATIENCE, || direct(lab, "alice", to).map(drop)).context("taken off the list again")?;
    let servers = revoked::serial(lab, "n1", "server")?;
    ended_after(&bob, || revoked::revoke(lab, "n1", std::slice::from_ref(&servers)))?;
    refused(lab.pod("bob"), to)
}

/// A pod that gets the address of one that was talked to directly is not the one that was authorised.
pub(super) fn replaced(lab: &mut Lab) -> Result<()> {
    let to = lab.pod("server").at4(APP);
    let application = lab.pod("server").echo(APP)?;
    drop(direct(lab, "alice", to)?);
    drop(application);
    lab.delete_pod("server")?;
    lab.publish(|world| world.pods.retain(|pod| pod.name != "server"))?;
    lab.publish(|world| world.authorize("- {name: nobody, selector: {app: heir}, action: DENY, rules: [{}]}"))?;
    lab.add_pod(Pod::new("heir", "n1").label("app", "heir"))?;
    lab.settle()?;
    ensure!(lab.pod("heir").at4(APP) == to, "it has got another address");
    let heir = lab.pod("heir").echo(APP)?;
    refused(lab.pod("alice"), to).context("nobody may talk to the heir")?;
    ensure!(heir.accepted() == 0, "a connection has come through");
    lab.publish(World::clear_policies)?;
    works(&direct(lab, "alice", to)?)
}

/// Open ones go on while a pod leaves the mesh, and new ones have no part in it any more.
pub(super) fn leaves(lab: &mut Lab) -> Result<()> {
    let to = lab.pod("server").at4(APP);
    let _application = lab.pod("server").echo(APP)?;
    let stream = direct(lab, "alice", to)?;
    lab.write(|world| world.pod("alice").membership = Membership::Plain)?;
    eventually(PATIENCE, || {
        ensure!(state(lab, "alice")?.as_deref() == Some("retiring"), "it has not begun to leave");
        Ok(())
    })?;
    works(&stream).context("while its pod leaves")?;
    let beside = lab.pod("alice").connect(to)?;
    works(&beside).context("beside the mesh")?;
    drop(stream);
    eventually(PATIENCE, || {
        ensure!(state(lab, "alice")?.is_none(), "it has not left");
        Ok(())
    })?;
    works(&beside).context("after its pod has left")
}

/// Nobody can take a permission back who does not live: then nothing goes on. What comes after ends it for good.
pub(super) fn killed(lab: &mut Lab) -> Result<()> {
    let to = lab.pod("server").at4(APP);
    let _application = lab.pod("server").echo(APP)?;
    let stream = direct(lab, "alice", to)?;
    stream.set_read_timeout(Some(Duration::from_millis(300)))?;
    lab.agent("n1").kill()?;
    let at = Instant::now();
    while exchange(&stream, "?").is_ok() {
        ensure!(at.elapsed() < PATIENCE, "it goes on without an agent");
        thread::sleep(Duration::from_millis(10));
    }
    say(format_args!("    stopped {:?} after the agent", at.elapsed()));
    ensure!(at.elapsed() < PROMISE + Duration::from_millis(600), "it went on for {:?}", at.elapsed());
    let tried = lab.pod("alice").run(|| std::net::TcpStream::connect_timeout(&to, PROMISE));
    ensure!(tried.is_err(), "a new connection was let through");
    lab.agent("n1").launch()?;
    let end = ending(&stream, PATIENCE * 2).context("after the agent's return")?;
    ensure!(end == mesh_e2e::socket::Ending::Reset, "it was closed as if it were complete");
    lab.agent("n1").wait_ready()?;
    lab.settle()?;
    works(&direct(lab, "alice", to)?).context("after the agent's return")
}

/// An agent that stops in order gives open connections their time, and ends what is left then.
pub(super) fn stopped(lab: &mut Lab) -> Result<()> {
    let to = lab.pod("server").at4(APP);
    let _application = lab.pod("server").echo(APP)?;
    let stream = direct(lab, "alice", to)?;
    let at = Instant::now();
    lab.agent("n1").signal(Signal::TERM)?;
    thread::sleep(Duration::from_secs(1));
    works(&stream).context("while its agent stops")?;
    let end = ending(&stream, PATIENCE)?;
    ensure!(end == mesh_e2e::socket::Ending::Reset, "it was closed as if it were complete");
    ensure!(at.elapsed() > Duration::from_secs(2), "it got only {:?}", at.elapsed());
    lab.agent("n1").wait_end()?;
    lab.agent("n1").launch()?;
    lab.agent("n1").wait_ready()?;
    lab.settle()?;
    works(&direct(lab, "alice", to)?).context("after the agent's return")
}
