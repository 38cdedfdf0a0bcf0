//! Another network: a tunnel within a tunnel, through Envoy as the network's gateway, which sees only the outer one.

use anyhow::{Context, Result, ensure};
use mesh_e2e::envoy::{Listener, Way};
use mesh_e2e::{Envoy, Lab, eventually, socket};
use serde_json::json;

use super::support::never_reached;
use super::{APP, HBONE, NETWORKS, PORT};
use crate::runner::Case;
use crate::traffic::support::{
    Records, SOON, canonical, connect, fields, greeting, mirror, must_be_reset, only_tunnelled, quiet, tunnels,
};

pub(super) const CASES: &[Case] = &[
    Case::shared("other_network_through_gateway", &NETWORKS, through),
    Case::shared("trap_15_far_end_proves_the_service", &NETWORKS, unproven),
    Case::shared("trap_15_inner_tunnels_are_not_shared", &NETWORKS, unshared),
    Case::shared("trap_16_network_is_told_on_the_inner_connect_only", &NETWORKS, network),
    Case::shared("denied_by_the_far_end", &NETWORKS, denied),
    Case::shared("gateway_that_is_down_fails_closed", &NETWORKS, down),
    Case::shared("unknown_destinations_are_refused", &NETWORKS, unknown),
];

const SECRET: &str = "a secret of some length";
const WEB: &str = "web.default.svc.cluster.local:80";
const NATIVE: &str = "native.default.svc.cluster.local:80";

/// Tells `n1` what stands for the other network.
pub(super) fn tell(lab: &Lab) -> Result<()> {
    let gateway = lab.pod("gateway");
    lab.publish(|world| {
        let (v4, v6) = (gateway.v4, gateway.v6);
        world.workload_seen_from(
            "here",
            &format!(
                "- {{name: entrance, service_account: gateway, addresses: ['{v4}', '{v6}'], tunnel_end: workload}}"
            ),
        );
        for app in ["server", "native"] {
            world.workload_seen_from(
                "here",
                &format!("- {{name: far-{app}, network: there, network_gateway: '{v4}', labels: {{app: {app}}}}}"),
            );
        }
    })
    .map(drop)
}

/// The gateway: it passes on what is inside its tunnels, by the service's name.
pub(super) fn gateway(lab: &Lab) -> Result<Envoy> {
    let onward = |name: &str, pod: &str| (name.to_owned(), Way::Onward(lab.pod(pod).at4(HBONE)));
    lab.envoy("gateway", &[Listener::Hbone(vec![onward(WEB, "server"), onward(NATIVE, "native")])])
}

/// Both agents and the gateway tell the same; who serves it, `n1` has only from the far end's own words.
fn through(lab: &Lab) -> Result<()> {
    let (client, server, entrance) = (lab.pod("client"), lab.pod("server"), lab.pod("gateway"));
    tell(lab)?;
    let (_application, envoy) = (mirror(server, APP)?, gateway(lab)?);
    for address in [lab.vip4("web", PORT), lab.vip6("web", PORT)] {
        let (records, wire) = (Records::since_now(lab), lab.wire("n1")?);
        let stream = connect(client, address)?;
        let (own, seen) = (canonical(stream.local_addr()?), greeting(&stream)?);
        ensure!(seen.ip() == entrance.v4, "the application sees {seen}, not the gateway");
        ensure!(socket::exchange(&stream, SECRET)? == SECRET, "other bytes came back");
        drop(stream);
        let outbound = records.outbound("n1", own)?;
        fields(
            &outbound,
            &[
                ("dst.addr", &entrance.at4(HBONE).to_string()),
                ("dst.hbone_addr", WEB),
                ("dst.identity", &server.identity),
                ("dst.workload", "server-owner"),
                ("dst.namespace", "default"),
                ("dst.service", "web.default.svc.cluster.local"),
                ("error", ""),
            ],
        )?;
        let inbound = records.wait("n2", |line| line.field("dst.hbone_addr") == WEB)?;
        fields(
            &inbound,
            &[
                ("src.identity", &client.identity),
                ("src.workload", "client"),
                ("dst.identity", &server.identity),
                ("error", ""),
            ],
        )?;
        ensure!(inbound.field("src.addr").starts_with(&format!("{}:", entrance.v4)), "{}", inbound.text);
        let capture = wire.finish()?;
        only_tunnelled(&capture, SECRET)?;
        never_reached(&capture, server)?;
    }
    envoy.wait(|line| line.field("authority") == WEB && line.field("peer") == client.identity)?;
    let labels = ["reporter=\"source\"", "destination_workload=\"server-owner\"", "destination_app=\"server\""];
    let counted = lab.agent("n1").metric("istio_tcp_connections_opened_total", &labels)?;
    ensure!((counted - 2.0).abs() < 0.5, "{counted} connections count for the workload that served them");
    Ok(())
}

/// What the far end must prove are the service's names, and nothing else.
fn unproven(lab: &Lab) -> Result<()> {
    tell(lab)?;
    let (application, _envoy) = (lab.pod("server").echo(APP)?, gateway(lab)?);
    for (names, reason) in [
        (json!([]), "tls: "),
        (
            json!([lab.pod("gateway").identity]),
            "tls: not the expected peer: it is spiffe://cluster.local/ns/default/sa/server",
        ),
    ] {
        lab.publish(|world| drop(world.service("web").more.insert("subject_alt_names".into(), names.clone())))?;
        let news = lab.agent("n1").log().from_now();
        must_be_reset(lab.pod("client"), lab.vip4("web", PORT)).with_context(|| names.to_string())?;
        let line = news.wait(SOON, |line| line.scope == "access" && !line.error().is_empty())?;
        ensure!(line.error().starts_with(reason), "{names}: {}", line.text);
    }
    ensure!(application.accepted() == 0, "the application was reached");
    Ok(())
}

/// One outer tunnel, and inside it one for each connection, which ends with it.
fn unshared(lab: &Lab) -> Result<()> {
    const COUNT: usize = 5;
    let (client, entrance) = (lab.pod("client"), lab.pod("gateway"));
    tell(lab)?;
    let (_application, _envoy) = (lab.pod("server").echo(APP)?, gateway(lab)?);
    quiet(lab)?;
    let mut streams = Vec::new();
    for _ in 0..COUNT {
        let stream = connect(client, lab.vip4("web", PORT))?;
        socket::exchange(&stream, SECRET)?;
        streams.push(stream);
    }
    let open = [tunnels(client)?, tunnels(entrance)?];
    ensure!(open == [1, COUNT], "{open:?} tunnels of the client and the gateway");
    drop(streams.pop());
    eventually(SOON, || {
        let left = tunnels(entrance)?;
        ensure!(left == COUNT - 1, "{left} inner tunnels are left");
        Ok(())
    })?;
    for stream in &streams {
        socket::exchange(stream, SECRET).context("beside one that has ended")?;
    }
    drop(streams);
    eventually(SOON, || {
        let left = [tunnels(client)?, tunnels(entrance)?];
        ensure!(left == [1, 0], "{left:?} tunnels of the client and the gateway are left");
        Ok(())
    })
}

/// What each end of the two tunnels was told, in Envoy's words at both.
fn network(lab: &Lab) -> Result<()> {
    let (client, native) = (lab.pod("client"), lab.pod("native"));
    tell(lab)?;
    let (_application, gateway) = (mirror(native, APP)?, gateway(lab)?);
    let inside = format!("127.0.0.1:{APP}").parse()?;
    let end = lab.envoy("native", &[Listener::Hbone(vec![(NATIVE.to_owned(), Way::Onward(inside))])])?;
    let stream = connect(client, lab.vip4("native", PORT))?;
    let own = stream.local_addr()?;
    greeting(&stream)?;
    ensure!(socket::exchange(&stream, SECRET)? == SECRET, "other bytes came back");
    drop(stream);
    let forwarded = format!("for=\"{own}\";host=native.default.svc.cluster.local");
    let baggage = "k8s.cluster.name=Kubernetes,k8s.namespace.name=default,k8s.pod.name=client,service.name=client,service.version=latest";
    for (envoy, network) in [(&gateway, ""), (&end, "here")] {
        let line = envoy.wait(|line| line.field("authority") == NATIVE)?;
        fields(
            &line,
            &[
                ("network", network),
                ("peer", &client.identity),
                ("forwarded", &forwarded),
                ("baggage", baggage),
                ("code", "200"),
            ],
        )?;
    }
    Ok(())
}

/// Policy at the far end judges the client, not the gateway.
fn denied(lab: &Lab) -> Result<()> {
    let client = lab.pod("client");
    tell(lab)?;
    let (_application, _envoy) = (mirror(lab.pod("server"), APP)?, gateway(lab)?);
    for (who, allowed) in [(&lab.pod("gateway").identity, false), (&client.identity, true)] {
        let principal = who.trim_start_matches("spiffe://");
        lab.publish(|world| {
            world.clear_policies();
            world.authorize(&format!(
                "- {{name: one, rules: [{{from: [{{source: {{principals: ['{principal}']}}}}]}}]}}"
            ));
        })?;
        let records = Records::since_now(lab);
        if allowed {
            greeting(&connect(client, lab.vip4("web", PORT))?).context("the client is allowed")?;
            continue;
        }
        must_be_reset(client, lab.vip4("web", PORT))?;
        let line = records.wait("n1", |line| line.field("dst.hbone_addr") == WEB)?;
        fields(&line, &[("error", "http status: 401")])?;
    }
    Ok(())
}

fn down(lab: &Lab) -> Result<()> {
    tell(lab)?;
    let server = lab.pod("server");
    let application = server.echo(APP)?;
    let wire = lab.wire("n1")?;
    let refused = |reason: &str| {
        let news = lab.agent("n1").log().from_now();
        must_be_reset(lab.pod("client"), lab.vip4("web", PORT)).context(reason.to_owned())?;
        let line = news.wait(SOON, |line| line.scope == "access" && !line.error().is_empty())?;
        ensure!(line.error().contains(reason), "{reason:?} is not the reason in {}", line.text);
        Ok(())
    };
    refused("Connection refused")?;
    lab.publish(|world| {
        world
            .seen_from
            .values_mut()
            .for_each(|text| *text = text.replace("network_gateway: '10.40", "network_gateway: '10.99"))
    })?;
    refused("is not known, or none of its endpoints can be used")?;
    never_reached(&wire.finish()?, server)?;
    ensure!(application.accepted() == 0, "the application was reached");
    Ok(())
}

/// Neither hosts that nobody knows, nor workloads of other networks by their addresses.
fn unknown(lab: &Lab) -> Result<()> {
    tell(lab)?;
    let (server, [host, _]) = (lab.pod("server"), lab.outside_addresses());
    let applications = [server.echo(APP)?, lab.outside().echo(APP)?];
    for address in [std::net::SocketAddr::new(host, APP), server.at4(APP), server.at6(APP)] {
        let news = lab.agent("n1").log().from_now();
        must_be_reset(lab.pod("client"), address).with_context(|| address.to_string())?;
        let line = news.wait(SOON, |line| line.field("dst.addr") == address.to_string())?;
        ensure!(line.error().contains("connections to the unknown are refused"), "{}", line.text);
    }
    ensure!(applications.iter().all(|server| server.accepted() == 0), "one was reached");
    Ok(())
}
