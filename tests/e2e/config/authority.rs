//! Nodes that cannot get certificates: their pods are captured all the same, and wait.

use std::fs;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use mesh_e2e::socket::{Ending, ending, exchange};
use mesh_e2e::{Lab, Pod, Topology, authority, eventually};

use crate::runner::say;

const AUTHORITY: u16 = 15012;
/// Where the authority of node n3 appears late, and that of n4 never.
const LATE: u16 = 15013;
const NEVER: u16 = 15014;
/// How long a connection waits for its pod's first certificate, and slack.
const WAIT: Duration = Duration::from_secs(13);

/// A node for each way in which it can fail, and one that is in order.
pub(super) fn topology() -> Topology {
    let pods = [("token", "n1"), ("root", "n2"), ("late", "n3"), ("never", "n4"), ("server", "n5")];
    let topology = Topology::new().nodes(&["n1", "n2", "n3", "n4", "n5"]).without_agents();
    pods.into_iter().fold(topology, |topology, (name, node)| topology.pod(Pod::new(name, node)))
}

pub(super) fn missing(lab: &mut Lab) -> Result<()> {
    let lab = &*lab;
    let directory = lab.directory().join("authority");
    let (token, root) = (directory.join("wrong.token"), directory.join("wrong.pem"));
    fs::write(&token, "not the token\n")?;
    authority::write_root(&root, &directory.join("wrong.key"))?;
    let edit = |node: &str, is: String, becomes: String| -> Result<()> {
        let text = lab.node(node).text();
        ensure!(text.contains(&is), "the file of {node} has no {is}");
        lab.node(node).rewrite(&text.replace(&is, &becomes))
    };
    let path = |name: &str| directory.join(name).display().to_string();
    edit("n1", path("n1.token"), path("wrong.token"))?;
    edit("n2", path("anchors.pem"), path("wrong.pem"))?;
    edit("n3", format!(":{AUTHORITY}"), format!(":{LATE}"))?;
    edit("n4", format!(":{AUTHORITY}"), format!(":{NEVER}"))?;
    for node in lab.nodes() {
        node.agent().launch()?;
    }
    for node in lab.nodes() {
        // Without certificates too: enrolled is enrolled.
        node.agent().wait_ready()?;
    }
    lab.settle()?;
    let _server = lab.pod("server").echo(80)?;
    let late = thread::scope(|scope| -> Result<Duration> {
        let failing: Vec<_> = [
            ("n1", "token", &["certificate authority refuses", "unknown token"][..]),
            ("n2", "root", &["certificate authority at https://172.30.0.254:15012", "invalid peer certificate"]),
            ("n4", "never", &["cannot reach the certificate authority at https://172.30.0.254:15014", "refused"]),
        ]
        .into_iter()
        .map(|(node, pod, reasons)| scope.spawn(move || fails(lab, node, pod, reasons).context(pod)))
        .collect();
        let waiting = scope.spawn(|| waits(lab));
        failing.into_iter().try_for_each(joined)?;
        joined(waiting)
    })?;
    say(format_args!("    a connection that waited for the authority worked after {late:?}"));
    // Mended, they recover by themselves.
    fs::copy(directory.join("n1.token"), &token)?;
    fs::copy(directory.join("anchors.pem"), &root)?;
    let at = Instant::now();
    for pod in ["token", "root"] {
        eventually(Duration::from_secs(20), || works(lab, pod)).context(pod)?;
    }
    say(format_args!("    recovered after {:?}", at.elapsed()));
    Ok(())
}

fn joined<T>(thread: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("a thread panicked"))?
}

fn works(lab: &Lab, pod: &str) -> Result<()> {
    let stream = lab.pod(pod).connect(lab.pod("server").at4(80))?;
    stream.set_read_timeout(Some(WAIT))?;
    ensure!(exchange(&stream, "hello")? == "hello", "other bytes came back");
    Ok(())
}

/// A connection waits, and fails with the reason why there is no certificate; nothing is seen on the wire.
fn fails(lab: &Lab, node: &str, pod: &str, reasons: &[&str]) -> Result<()> {
    let (agent, news) = (lab.agent(node), lab.agent(node).log().from_now());
    let wire = lab.wire(node)?;
    let at = Instant::now();
    let stream = lab.pod(pod).connect(lab.pod("server").at4(80))?;
    let end = ending(&stream, WAIT)?;
    ensure!(end == Ending::Reset, "the connection ends with {end:?}");
    ensure!(at.elapsed() > Duration::from_secs(3), "the connection did not wait: {:?}", at.elapsed());
    let line = news.wait(WAIT, |line| line.scope == "access" && line.field("src.workload") == pod)?;
    let start = format!("certificate of {} not there yet: ", lab.pod(pod).identity);
    ensure!(line.error().starts_with(&start), "the log says {:?}", line.error());
    ensure!(reasons.iter().all(|reason| line.error().contains(reason)), "the log says {:?}", line.error());
    let count = agent.metric("istio_tcp_connections_failed_total", &["response_flags=\"IDENTITY_ERROR\""])?;
    ensure!((count - 1.0).abs() < 0.5, "{count} failures with IDENTITY_ERROR");
    let status = agent.status()?;
    let certificate = status.certificates.first().context("status shows no certificate")?;
    ensure!(certificate.state == "failed", "status says {certificate:?}");
    let told = certificate.error.as_deref().unwrap_or_default();
    ensure!(reasons.iter().all(|reason| told.contains(reason)), "status says {told:?}");
    let plain: Vec<_> = wire.finish()?.plaintext().map(ToString::to_string).take(3).collect();
    ensure!(plain.is_empty(), "packets went out in plaintext: {plain:?}");
    Ok(())
}

/// A connection is made before the authority is there, and works once it is.
fn waits(lab: &Lab) -> Result<Duration> {
    let at = Instant::now();
    let stream = lab.pod("late").connect(lab.pod("server").at4(80))?;
    thread::sleep(Duration::from_millis(500));
    let real = lab.outside_addresses()[0];
    let fabric = lab.outside().clone();
    let relay = lab.outside().serve(LATE, move |stream, _| {
        let onward = fabric.try_connect((real, AUTHORITY).into())?;
        relay(stream, &onward)
    })?;
    stream.set_read_timeout(Some(WAIT))?;
    let echo = exchange(&stream, "hello").context("a connection that waits for the authority")?;
    ensure!(echo == "hello", "other bytes came back");
    ensure!(relay.accepted() > 0, "the certificate came by another way");
    Ok(at.elapsed())
}

/// Copies both ways until both sides have ended.
fn relay(near: &TcpStream, far: &TcpStream) -> io::Result<()> {
    thread::scope(|scope| {
        scope.spawn(|| copy(far, near));
        copy(near, far)
    })
}

fn copy(mut from: &TcpStream, mut to: &TcpStream) -> io::Result<()> {
    io::copy(&mut from, &mut to)?;
    to.shutdown(Shutdown::Write)
}
