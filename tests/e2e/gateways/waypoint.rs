//! A real Envoy as a waypoint. Each case looks at all three: the client's agent, Envoy, and the destination's agent.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};

use anyhow::{Context, Result, ensure};
use mesh_e2e::socket::{self, Ending};
use mesh_e2e::{Lab, eventually};

use super::support::{HOST, get, never_reached, waypoint};
use super::{APP, HBONE, PORT, WAYPOINTS};
use crate::runner::Case;
use crate::traffic::support::{
    Records, SOON, canonical, connect, fields, greeting, mirror, must_be_reset, only_tunnelled,
};

pub(super) const CASES: &[Case] = &[
    Case::shared("service_through_waypoint", &WAYPOINTS, service),
    Case::shared("workload_through_waypoint", &WAYPOINTS, workload),
    Case::shared("trap_11_address_of_a_workload_and_of_a_service", &WAYPOINTS, both),
    Case::shared("trap_13_waypoint_that_is_down_fails_closed", &WAYPOINTS, down),
    Case::shared("trap_13_waypoint_that_cannot_be_found_fails_closed", &WAYPOINTS, not_found),
    Case::shared("waypoint_that_refuses", &WAYPOINTS, refusing),
    Case::shared("waypoint_that_dies", &WAYPOINTS, dying),
    Case::shared("waypoint_that_is_an_impostor", &WAYPOINTS, impostor),
    Case::shared("half_close_through_waypoint", &WAYPOINTS, half_close),
    Case::shared("server_that_ends_first_through_waypoint", &WAYPOINTS, server_first),
    Case::shared("last_answer_through_waypoint", &WAYPOINTS, last_answer),
    Case::shared("weighted_waypoints", &WAYPOINTS, weighted),
    Case::shared("trap_01_12_only_policy_keeps_clients_from_going_directly", &WAYPOINTS, enforced),
];

/// Enough to fill no queue on the way.
const SOME: u64 = 300_000;
const SECRET: &str = "a secret of some length";

/// By a service's address: the waypoint gets that address, reads the HTTP inside, and the destination sees the waypoint.
fn service(lab: &Lab) -> Result<()> {
    let (client, server, way) = (lab.pod("client"), lab.pod("server"), lab.pod("waypoint"));
    let _application = lab.nginx("server", APP, SECRET)?;
    let envoy = waypoint(lab, "waypoint")?;
    for (virtual_address, hop, target) in [
        (lab.vip4("web", PORT), way.at4(HBONE), server.at4(APP)),
        (lab.vip6("web", PORT), way.at6(HBONE), server.at6(APP)),
    ] {
        let (records, wire) = (Records::since_now(lab), lab.wire("n1")?);
        let answer = get(client, virtual_address, "/")?;
        ensure!(answer.body == SECRET && answer.through == "waypoint", "{answer:?}");
        let seen = get(client, virtual_address, "/whoami")?.body;
        ensure!(seen.trim() == hop.ip().to_string(), "the application sees {seen}, not the waypoint");
        let outbound = records.wait("n1", |line| line.field("dst.hbone_addr") == virtual_address.to_string())?;
        fields(
            &outbound,
            &[
                ("src.identity", &client.identity),
                ("dst.addr", &hop.to_string()),
                ("dst.identity", &way.identity),
                ("dst.workload", "waypoint"),
                ("dst.service", "web.default.svc.cluster.local"),
                ("error", ""),
            ],
        )?;
        let inbound = records.wait("n2", |line| line.field("dst.hbone_addr") == target.to_string())?;
        // How it ends is no matter: Envoy resets what it has no more use for.
        let who = [("src.workload", "waypoint"), ("src.identity", &way.identity), ("dst.identity", &server.identity)];
        fields(&inbound, &who)?;
        let asked = envoy.wait(|line| line.field("authority") == virtual_address.to_string())?;
        fields(&asked, &[("peer", &client.identity), ("code", "200"), ("network", "")])?;
        let told = asked.field("forwarded");
        let expected = format!("for=\"{}\";host=web.default.svc.cluster.local", outbound.field("src.addr"));
        ensure!(told == expected, "forwarded: {told}, not {expected}");
        ensure!(asked.field("baggage").contains("k8s.pod.name=client"), "{}", asked.text);
        envoy.wait(|line| line.field("listener") == "http" && line.field("path") == "/whoami")?;
        let capture = wire.finish()?;
        only_tunnelled(&capture, SECRET)?;
        never_reached(&capture, server)?;
    }
    Ok(())
}

/// By a pod's own address: that is what the waypoint gets. Whatever the bytes are.
fn workload(lab: &Lab) -> Result<()> {
    let (client, guarded, way) = (lab.pod("client"), lab.pod("guarded"), lab.pod("waypoint"));
    let _application = mirror(guarded, APP)?;
    let envoy = waypoint(lab, "waypoint")?;
    let by_service = lab.vip4("waypoint", HBONE).ip().to_string();
    for reference in ["default/waypoint.default.svc.cluster.local", &by_service, &way.v4.to_string()] {
        lab.publish(|world| drop(world.pod("guarded").more.insert("waypoint".into(), reference.into())))?;
        for target in [guarded.at4(APP), guarded.at6(APP)] {
            through_waypoint(lab, target).with_context(|| format!("to {target}, waypoint {reference}"))?;
        }
    }
    // Its log is written when it has time.
    eventually(SOON, || {
        let asked = envoy.lines().iter().filter(|line| line.field("authority").ends_with(":8080")).count();
        ensure!(asked == 6, "Envoy was asked {asked} times");
        Ok(())
    })?;
    ensure!(envoy.lines().iter().all(|line| line.field("peer") == client.identity), "{:?}", envoy.lines());
    Ok(())
}

fn through_waypoint(lab: &Lab, target: SocketAddr) -> Result<()> {
    let (client, guarded, way) = (lab.pod("client"), lab.pod("guarded"), lab.pod("waypoint"));
    let (records, wire) = (Records::since_now(lab), lab.wire("n1")?);
    let stream = connect(client, target)?;
    let (own, seen) = (canonical(stream.local_addr()?), greeting(&stream)?);
    ensure!([way.v4, way.v6].contains(&seen.ip()), "the application sees {seen}, not the waypoint");
    ensure!(socket::exchange(&stream, SECRET)? == SECRET, "other bytes came back");
    drop(stream);
    let outbound = records.outbound("n1", own)?;
    let hbone = target.to_string();
    fields(&outbound, &[("dst.hbone_addr", &hbone), ("dst.identity", &way.identity), ("error", "")])?;
    let inbound = records.wait("n2", |line| line.field("dst.hbone_addr") == hbone)?;
    fields(&inbound, &[("src.identity", &way.identity), ("dst.identity", &guarded.identity), ("error", "")])?;
    let capture = wire.finish()?;
    only_tunnelled(&capture, SECRET)?;
    never_reached(&capture, guarded)
}

/// An address that is a workload's is not addressed as a service, though the service's endpoints serve it.
fn both(lab: &Lab) -> Result<()> {
    let (client, server) = (lab.pod("client"), lab.pod("server"));
    let _application = mirror(server, PORT)?;
    lab.publish(|world| {
        world.service("web").addresses.push(server.v4);
        world.service("web").ports.push((PORT + 1, PORT));
    })?;
    let records = Records::since_now(lab);
    let stream = connect(client, server.at4(PORT + 1))?;
    ensure!(greeting(&stream)?.ip() == client.v4, "it went by the waypoint");
    let own = stream.local_addr()?;
    drop(stream);
    records.tunnelled((client, own), (server, server.at4(PORT))).map(drop)
}

/// Nobody listens where the waypoint was: both kinds of connections fail, and nothing is tried instead.
fn down(lab: &Lab) -> Result<()> {
    let (server, guarded) = (lab.pod("server"), lab.pod("guarded"));
    let applications = [server.echo(APP)?, guarded.echo(APP)?];
    let envoy = waypoint(lab, "waypoint")?;
    get_through(lab)?;
    drop(envoy);
    closed(lab, &[lab.vip4("web", PORT), lab.vip6("web", PORT), guarded.at4(APP)], "Connection refused")?;
    let accepted: u64 = applications.iter().map(mesh_e2e::Server::accepted).sum();
    ensure!(accepted == 1, "the applications got {accepted} connections, not the one that was allowed");
    let _envoy = waypoint(lab, "waypoint")?;
    get_through(lab).context("with the waypoint back")
}

/// A connection through the waypoint to `guarded`, where something echoes.
fn get_through(lab: &Lab) -> Result<()> {
    let stream = connect(lab.pod("client"), lab.pod("guarded").at4(APP))?;
    ensure!(socket::exchange(&stream, SECRET)? == SECRET, "other bytes came back");
    Ok(())
}

/// All of these connections end with a reset, with `reason` in the log, and none goes to a destination by itself.
fn closed(lab: &Lab, addresses: &[SocketAddr], reason: &str) -> Result<()> {
    let wire = lab.wire("n1")?;
    for address in addresses {
        let news = lab.agent("n1").log().from_now();
        must_be_reset(lab.pod("client"), *address).with_context(|| address.to_string())?;
        let line = news.wait(SOON, |line| line.scope == "access" && !line.error().is_empty())?;
        ensure!(line.error().contains(reason), "{reason:?} is not the reason in {}", line.text);
    }
    let capture = wire.finish()?;
    ["server", "guarded"].iter().try_for_each(|name| never_reached(&capture, lab.pod(name)))?;
    ensure!(capture.plaintext().next().is_none(), "something went plainly");
    Ok(())
}

fn not_found(lab: &Lab) -> Result<()> {
    let guarded = lab.pod("guarded");
    let _applications = [lab.pod("server").echo(APP)?, guarded.echo(APP)?];
    let addresses = [lab.vip4("web", PORT), guarded.at4(APP)];
    let refer = |to: &str| {
        lab.publish(|world| {
            world.service("web").more.insert("waypoint".into(), to.into());
            world.pod("guarded").more.insert("waypoint".into(), to.into());
        })
    };
    for nowhere in ["default/nowhere.default.svc.cluster.local", "10.50.0.250"] {
        refer(nowhere)?;
        closed(lab, &addresses, "is not known, or none of its endpoints can be used")?;
    }
    refer("default/waypoint.default.svc.cluster.local")?;
    lab.publish(|world| drop(world.pod("waypoint").more.insert("healthy".into(), false.into())))?;
    closed(lab, &addresses, "none of its endpoints can be used")
}

/// What Envoy does not know it answers with 404.
fn refusing(lab: &Lab) -> Result<()> {
    let _applications = [lab.pod("server").echo(APP)?, lab.pod("guarded").echo(APP + 1)?];
    let envoy = waypoint(lab, "waypoint")?;
    let unknown = lab.pod("guarded").at4(APP + 1);
    closed(lab, &[unknown], "http status: 404")?;
    envoy.wait(|line| line.field("authority") == unknown.to_string() && line.field("code") == "404").map(drop)
}

/// With the waypoint its connections end, with a reset.
fn dying(lab: &Lab) -> Result<()> {
    let _application = lab.pod("guarded").echo(APP)?;
    let mut envoy = waypoint(lab, "waypoint")?;
    let stream = connect(lab.pod("client"), lab.pod("guarded").at4(APP))?;
    socket::exchange(&stream, SECRET)?;
    envoy.kill()?;
    let ending = socket::ending(&stream, SOON)?;
    ensure!(ending == Ending::Reset, "it ended with {ending:?}");
    Ok(())
}

/// Somebody else's certificate at the waypoint's address.
fn impostor(lab: &Lab) -> Result<()> {
    lab.publish(|world| "other".clone_into(&mut world.pod("waypoint").service_account))?;
    let _application = lab.pod("guarded").echo(APP)?;
    let _envoy = waypoint(lab, "waypoint")?;
    closed(lab, &[lab.pod("guarded").at4(APP), lab.vip4("web", PORT)], "not the expected peer")
}

/// A client that is done with its half still gets what the server says. (A server that is done first ends both halves:
/// Envoy ends a CONNECT with its answer.)
fn half_close(lab: &Lab) -> Result<()> {
    let (client, guarded) = (lab.pod("client"), lab.pod("guarded"));
    let _envoy = waypoint(lab, "waypoint")?;
    let _server = guarded.sink(APP)?;
    let mut stream = connect(client, guarded.at4(APP))?;
    let sent = socket::pattern(&mut stream, SOME)?;
    stream.shutdown(Shutdown::Write)?;
    let answer = socket::read_text(&stream).context("the answer to a client that is done")?;
    ensure!(answer == sent.to_string(), "other bytes arrived: {answer}");
    Ok(())
}

/// A server that says its part and closes: the client gets all of it and an end in order, and so does the record, though
/// Envoy resets the stream then (with NO_ERROR).
fn server_first(lab: &Lab) -> Result<()> {
    let (client, guarded) = (lab.pod("client"), lab.pod("guarded"));
    let _envoy = waypoint(lab, "waypoint")?;
    let _server = guarded.source(APP, SOME)?;
    let records = Records::since_now(lab);
    let mut stream = connect(client, guarded.at4(APP))?;
    let own = stream.local_addr()?;
    let received = socket::drain(&mut stream).context("a server that is done")?;
    ensure!(received == socket::pattern_digest(SOME), "other bytes arrived: {received}");
    let line = records.outbound("n1", own)?;
    fields(&line, &[("error", ""), ("bytes_recv", &SOME.to_string())])
}

/// An answer after which the connection is closed: all of it arrives. How the connection then ends is Envoy's word: it
/// resets the stream as one that was "reset or abnormally closed" (CONNECT_ERROR), and a reset it is to the client.
fn last_answer(lab: &Lab) -> Result<()> {
    let _application = lab.nginx("server", APP, SECRET)?;
    let _envoy = waypoint(lab, "waypoint")?;
    for _ in 0..20 {
        let mut stream = connect(lab.pod("client"), lab.vip4("web", PORT))?;
        write!(stream, "GET / HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n")?;
        let (mut text, mut piece) = (Vec::new(), [0; 1000]);
        loop {
            match stream.read(&mut piece) {
                Ok(0) => break,
                Ok(length) => text.extend(&piece[..length]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
                Err(error) => return Err(error.into()),
            }
        }
        let text = String::from_utf8(text)?;
        ensure!(text.starts_with("HTTP/1.1 200") && text.ends_with(SECRET), "not all arrived: {text:?}");
    }
    Ok(())
}

/// Three quarters to one, a quarter to the other.
fn weighted(lab: &Lab) -> Result<()> {
    const COUNT: usize = 200;
    let _application = lab.nginx("server", APP, SECRET)?;
    let _envoys = [waypoint(lab, "waypoint")?, waypoint(lab, "canary")?];
    let mut canary = 0;
    for at in 0..COUNT {
        let address = if at % 2 == 0 { lab.vip4("split", PORT) } else { lab.vip6("split", PORT) };
        match get(lab.pod("client"), address, "/")?.through.as_str() {
            "waypoint" => {}
            "canary" => canary += 1,
            other => anyhow::bail!("it came through {other:?}"),
        }
    }
    // 50 are expected, and six standard deviations are 37.
    ensure!((13..=87).contains(&canary), "{canary} of {COUNT} went to the waypoint with a quarter of the weight");
    Ok(())
}

/// Nothing but policy makes a destination insist on its waypoint.
fn enforced(lab: &Lab) -> Result<()> {
    let (client, server, way) = (lab.pod("client"), lab.pod("server"), lab.pod("waypoint"));
    let _application = lab.nginx("server", APP, SECRET)?;
    let _envoy = waypoint(lab, "waypoint")?;
    let directly = get(client, server.at4(APP), "/")?;
    ensure!(directly.body == SECRET && directly.through.is_empty(), "{directly:?}");
    let principal = way.identity.trim_start_matches("spiffe://");
    lab.publish(|world| {
        world.authorize(&format!(
            "- {{name: only-waypoint, selector: {{app: server}}, rules: [{{from: [{{source: {{principals: ['{principal}']}}}}]}}]}}"
        ));
    })?;
    let records = Records::since_now(lab);
    must_be_reset(client, server.at4(APP))?;
    let target = server.at4(APP).to_string();
    let outbound = records.wait("n1", |line| line.field("dst.hbone_addr") == target)?;
    fields(&outbound, &[("error", "http status: 401"), ("dst.identity", &server.identity)])?;
    let inbound = records.wait("n2", |line| line.field("dst.hbone_addr") == target)?;
    fields(&inbound, &[("src.identity", &client.identity)])?;
    let answer = get(client, lab.vip4("web", PORT), "/")?;
    ensure!(answer.body == SECRET && answer.through == "waypoint", "{answer:?}");
    records
        .wait("n2", |line| {
            line.field("src.identity") == way.identity && line.field("policy") == "default/only-waypoint"
        })
        .map(drop)
}
