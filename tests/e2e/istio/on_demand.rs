//! Agents that ask istiod only for what connections need: `node.xds.mode: on_demand` (protocol note, section 1.8).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_e2e::socket::exchange;
use mesh_e2e::{Lab, Topology, eventually};
use serde_json::json;

use crate::runner::say;

const LIMIT: Duration = Duration::from_secs(10);
/// How long a connection waits for istiod, and slack.
const PATIENCE: Duration = Duration::from_secs(8);

pub(super) fn topology() -> Topology {
    super::of_istiod().node_setting("xds", json!({"mode": "on_demand"})).node_setting("dns", json!({"capture": false}))
}

fn ask(lab: &Lab, to: SocketAddr) -> Result<Duration> {
    let at = Instant::now();
    let stream = lab.pod("client").try_connect(to)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let answer = exchange(&stream, "hello")?;
    ensure!(answer == "hello", "answered {answer:?}");
    Ok(at.elapsed())
}

fn workloads(lab: &Lab) -> Result<u64> {
    Ok(lab.agent("n1").status()?.config.workloads)
}

/// The very first connection to a service works and is in mutual TLS; what the mesh does not know is passed on; what comes
/// to be later is told; and what nobody can tell is refused, not passed.
pub(super) fn story(lab: &mut Lab) -> Result<()> {
    let lab = &*lab;
    let _server = lab.pod("server").echo(8080)?;
    let before = lab.agent("n1").status()?.config;
    ensure!(before.services == 0, "nobody has asked for anything, and yet {before:?}");
    let news = lab.agent("n2").log().from_now();
    let first = ask(lab, lab.vip4("web", 80)).context("the first connection to the service")?;
    let line = news.wait(LIMIT, |line| line.scope == "access" && line.field("direction") == "inbound")?;
    ensure!(line.field("src.identity") == "spiffe://cluster.local/ns/default/sa/client", "{}", line.text);
    ensure!(line.field("dst.service") == "web.shop.svc.cluster.local", "{}", line.text);
    let second = ask(lab, lab.vip4("web", 80))?;
    say(format_args!("    first connection after {first:?}, second after {second:?}"));
    let after = lab.agent("n1").status()?.config;
    ensure!(after.services >= 1 && after.workloads > before.workloads, "{after:?}");
    ask(lab, lab.pod("server").at4(8080)).context("by its own address")?;
    appears(lab)?;
    away(lab)
}

/// An address that leads nowhere now, and to a service later.
fn appears(lab: &Lab) -> Result<()> {
    let address = "10.50.0.77:81".parse()?;
    ensure!(ask(lab, address).is_err(), "an address of nobody answers");
    let service = "{apiVersion: v1, kind: Service, metadata: {name: other, namespace: shop}, spec: {clusterIP: 10.50.0.77, \
                    selector: {app: server}, ports: [{port: 81, targetPort: 8080}]}}";
    lab.kube().kubectl().apply(service)?;
    eventually(LIMIT, || ask(lab, address).map(drop)).context("a service that came to be")?;
    lab.kube().kubectl().delete(service)
}

/// What was asked for goes on working; anything else waits, and is refused.
fn away(lab: &Lab) -> Result<()> {
    lab.kube().istiod().kill()?;
    eventually(LIMIT, || {
        let istiod = lab.agent("n1").status()?.istiod.context("no istiod in the status")?;
        ensure!(istiod.state != "connected", "{istiod:?}");
        Ok(())
    })?;
    ask(lab, lab.vip4("web", 80)).context("what is known, without istiod")?;
    let known = workloads(lab)?;
    let news = lab.agent("n1").log().from_now();
    let stranger = lab.pod("stranger").at4(8080);
    let _application = lab.pod("stranger").echo(8080)?;
    ensure!(ask(lab, stranger).is_err(), "what nobody knows is passed on");
    let line = news.wait(LIMIT, |line| line.scope == "access" && line.error().starts_with("asking for "))?;
    ensure!(line.error().contains("istiod has not answered within 5s"), "{}", line.text);
    ensure!(workloads(lab)? == known, "the picture has changed without istiod");
    lab.kube().istiod().launch()?;
    lab.kube().istiod().wait_ready()?;
    eventually(Duration::from_secs(30), || ask(lab, stranger).map(drop))
        .context("outside of the mesh, with istiod back")
}
