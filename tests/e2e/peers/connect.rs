//! CONNECT requests of a good peer, and their answers (protocol note, section 5.3).

use std::io::{Read, Write};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use h2::Reason;
use http::{Method, Request};
use mesh_e2e::Lab;

use super::client::{HBONE, SOON, Tunnel, still_serving};
use super::credentials::good_client;

const ALICE: &str = "spiffe://cluster.local/ns/default/sa/alice";

/// What the destination says of itself.
const BAGGAGE: &str = "k8s.cluster.name=Kubernetes,k8s.namespace.name=default,k8s.pod.name=server,\
                       service.name=server,service.version=latest";

fn tunnel(lab: &Lab) -> Result<Tunnel> {
    Tunnel::open(lab.outside(), lab.pod("server").at4(HBONE), good_client(lab, ALICE)?)
}

/// All on one tunnel: a refused request does not end it.
pub(super) fn answers(lab: &Lab) -> Result<()> {
    let _application = lab.pod("server").echo(80)?;
    let own_port = "is a port of the agent itself";
    let foreign = "which is not an address of this pod";
    let rows = [
        ("10.40.2.10:80", 200, ""),
        ("10.40.1.10:80", 400, foreign),
        ("127.0.0.1:80", 400, foreign),
        ("[fd00:40:2::10]:80", 400, foreign),
        ("[::ffff:10.40.2.10]:80", 200, ""),
        ("10.40.2.10:15001", 503, own_port),
        ("10.40.2.10:15006", 503, own_port),
        ("10.40.2.10:15008", 503, own_port),
        ("10.40.2.10", 400, "is not host:port"),
        ("10.40.2.10:0", 400, "is not host:port"),
        ("server", 400, "is not host:port"),
        ("web.default.svc.cluster.local:8080", 200, ""),
        ("WEB.default.svc.cluster.local:8080", 200, ""),
        ("web.default.svc.cluster.local:8081", 503, "no service web.default.svc.cluster.local:8081"),
        ("other.default.svc.cluster.local:80", 503, "no service other.default.svc.cluster.local:80"),
        ("10.40.2.10:81", 503, "cannot connect to 10.40.2.10:81: Connection refused"),
    ];
    let mut tunnel = tunnel(lab)?;
    ensure!(
        tunnel
            .server
            .windows(lab.pod("server").identity.len())
            .any(|part| part == lab.pod("server").identity.as_bytes()),
        "the server's certificate does not carry the pod's identity"
    );
    let mut wrong = Vec::new();
    for (authority, status, reason) in rows {
        let news = lab.agent("n2").log().from_now();
        let mut answer = tunnel.connect(authority).with_context(|| authority.to_owned())?;
        if answer.status != status {
            wrong.push(format!("{authority}: answered with {}, should {status}", answer.status));
        }
        if answer.status == 200 {
            ensure!(tunnel.exchange(&mut answer, "through")? == "through", "{authority}: other bytes came back");
            tunnel.finish(&mut answer).with_context(|| authority.to_owned())?;
            continue;
        }
        ensure!(tunnel.rest(&mut answer)?.is_empty(), "{authority}: the error has a body");
        let line = news.wait(SOON, |line| line.scope == "access" && !line.error().is_empty())?;
        if !line.error().contains(reason) {
            wrong.push(format!("{authority}: the log says {:?}, should {reason:?}", line.error()));
        }
    }
    still_serving(lab)?;
    if wrong.is_empty() { Ok(()) } else { bail!("{}", wrong.join("\n  ")) }
}

pub(super) fn other_methods(lab: &Lab) -> Result<()> {
    let _application = lab.pod("server").echo(80)?;
    let mut tunnel = tunnel(lab)?;
    for method in [Method::GET, Method::POST, Method::OPTIONS] {
        let news = lab.agent("n2").log().from_now();
        let request = Request::builder().method(method.clone()).uri("https://10.40.2.10:80/").body(())?;
        let answer = tunnel.ask(request)?;
        ensure!(answer.status == 400, "{method} is answered with {}", answer.status);
        news.wait(SOON, |line| line.error() == format!("method {method} where CONNECT is expected"))?;
    }
    ensure!(tunnel.connect("10.40.2.10:80")?.status == 200, "the tunnel is no longer good");
    still_serving(lab)
}

/// 200 comes with the destination's baggage, once the application is connected, which sees the client's address.
pub(super) fn success(lab: &Lab) -> Result<()> {
    let (application, peer) = (lab.pod("server").echo(80)?, lab.pod("server").report_peer(82)?);
    let mut tunnel = tunnel(lab)?;
    let mut answer = tunnel.connect("10.40.2.10:80")?;
    ensure!(answer.status == 200, "answered with {}", answer.status);
    ensure!(answer.baggage.as_deref() == Some(BAGGAGE), "the baggage is {:?}", answer.baggage);
    ensure!(tunnel.exchange(&mut answer, "through")? == "through", "other bytes came back");
    ensure!(application.accepted() == 1, "the application has {} connections", application.accepted());
    let mut answer = tunnel.connect("10.40.2.10:82")?;
    let seen = tunnel.rest(&mut answer)?;
    let own = lab.outside_addresses()[0].to_string();
    ensure!(seen.starts_with(&format!("{own}:")), "the application sees {seen:?}, not {own}");
    drop(peer);
    // Nobody listens now: there is no 200 without an application.
    let refused = tunnel.connect("10.40.2.10:82")?;
    ensure!(refused.status == 503 && refused.baggage.is_none(), "answered with {}", refused.status);
    Ok(())
}

/// RST_STREAM with NO_ERROR or CANCEL is the end of data (protocol note, section 5.6); with another code it is a reset.
pub(super) fn resets(lab: &Lab) -> Result<()> {
    let (door, ends) = mpsc::channel();
    let _application = lab.pod("server").serve(80, move |stream, _| {
        let (mut stream, mut buffer) = (stream, [0; 64]);
        let end = loop {
            match stream.read(&mut buffer) {
                Ok(0) => break None,
                Ok(length) => stream.write_all(&buffer[..length])?,
                Err(error) => break Some(error.kind()),
            }
        };
        door.send(end).ok();
        Ok(())
    })?;
    let mut wrong = Vec::new();
    let reset = Some(std::io::ErrorKind::ConnectionReset);
    for (reason, expected) in [
        (Reason::NO_ERROR, None),
        (Reason::CANCEL, None),
        (Reason::CONNECT_ERROR, reset),
        (Reason::INTERNAL_ERROR, reset),
    ] {
        let mut tunnel = tunnel(lab)?;
        let mut answer = tunnel.connect("10.40.2.10:80")?;
        ensure!(tunnel.exchange(&mut answer, "through")? == "through", "other bytes came back");
        answer.send.send_reset(reason);
        // The reset goes out while something is done on the tunnel.
        ensure!(tunnel.connect("10.40.2.10")?.status == 400, "the tunnel does not go on");
        let end = ends.recv_timeout(SOON).with_context(|| format!("{reason:?}: the application sees no end"))?;
        if end != expected {
            wrong.push(format!("{reason:?}: the application sees {end:?}, should {expected:?}"));
        }
    }
    if wrong.is_empty() { Ok(()) } else { bail!("{}", wrong.join("\n  ")) }
}

pub(super) fn denied(lab: &Lab) -> Result<()> {
    let application = lab.pod("server").echo(80)?;
    let mut tunnel = tunnel(lab)?;
    ensure!(tunnel.connect("10.40.2.10:80")?.status == 200, "allowed, and not answered with 200");
    lab.publish(|world| {
        world.authorize("- {name: no, action: DENY, rules: [{from: [{source: {principals: ['*/alice']}}]}]}");
    })?;
    let news = lab.agent("n2").log().from_now();
    let before = application.accepted();
    let mut answer = tunnel.connect("10.40.2.10:80")?;
    ensure!(answer.status == 401, "denied, and answered with {}", answer.status);
    ensure!(tunnel.rest(&mut answer)?.is_empty(), "the denial has a body");
    news.wait(SOON, |line| line.error() == "policy default/no denies it" && line.field("src.identity") == ALICE)?;
    // The source's address is the peer's, not what the certificate's workload has.
    lab.publish(|world| {
        world.clear_policies();
        world.authorize("- {name: by-address, action: DENY, rules: [{from: [{source: {ipBlocks: [172.30.0.254]}}]}]}");
    })?;
    ensure!(tunnel.connect("10.40.2.10:80")?.status == 401, "the peer's address does not count");
    ensure!(application.accepted() == before, "the application has seen a denied connection");
    lab.publish(mesh_e2e::World::clear_policies)?;
    std::thread::sleep(Duration::from_millis(100));
    ensure!(tunnel.connect("10.40.2.10:80")?.status == 200, "the tunnel is no longer good");
    Ok(())
}
