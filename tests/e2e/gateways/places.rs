//! Which endpoint, by where it is; endpoints that are only names; services that choose none.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, bail, ensure};
use mesh_e2e::{Lab, Service, socket};

use super::{APP, PORT, WAYPOINTS};
use crate::runner::Case;
use crate::traffic::support::{Records, SOON, connect, fields, greeting, mirror, must_be_reset};

pub(super) const CASES: &[Case] = &[
    Case::shared("endpoints_of_this_node_only", &WAYPOINTS, strict),
    Case::shared("endpoints_of_this_node_first", &WAYPOINTS, failover),
    Case::shared("endpoint_by_host_name", &WAYPOINTS, named),
    Case::shared("endpoint_whose_name_is_unknown", &WAYPOINTS, unknown_name),
    Case::shared("service_that_is_passed_through", &WAYPOINTS, passthrough),
];

/// An address for a service that is added.
const EXTRA: &str = "10.50.0.99";

/// Which of the two answers, asked so often that chance is no explanation.
fn answers(lab: &Lab, service: &str) -> Result<[usize; 2]> {
    let servers = ["near", "server"].map(|name| lab.pod(name).greet(APP, name));
    let mut counts = [0; 2];
    for at in 0..30 {
        let address = if at % 2 == 0 { lab.vip4(service, PORT) } else { lab.vip6(service, PORT) };
        let stream = connect(lab.pod("client"), address)?;
        stream.shutdown(std::net::Shutdown::Write)?;
        match socket::read_text(&stream)?.as_str() {
            "near" => counts[0] += 1,
            "server" => counts[1] += 1,
            other => bail!("neither of them says {other:?}"),
        }
    }
    servers.into_iter().try_for_each(|server| server.map(drop))?;
    Ok(counts)
}

/// Makes `near` an endpoint that is used, or one that is not.
fn near_is(lab: &Lab, health: &str) -> Result<()> {
    let healthy = health == "healthy";
    lab.publish(|world| drop(world.pod("near").more.insert("healthy".into(), healthy.into()))).map(drop)
}

fn strict(lab: &Lab) -> Result<()> {
    let counts = answers(lab, "local")?;
    ensure!(counts == [30, 0], "near and server got {counts:?}");
    near_is(lab, "unhealthy")?;
    let _server = lab.pod("server").echo(APP)?;
    let news = lab.agent("n1").log().from_now();
    must_be_reset(lab.pod("client"), lab.vip4("local", PORT)).context("without an endpoint on the node")?;
    news.wait(SOON, |line| line.error().contains("no healthy endpoint")).map(drop)
}

fn failover(lab: &Lab) -> Result<()> {
    let counts = answers(lab, "closest")?;
    ensure!(counts == [30, 0], "near and server got {counts:?}");
    near_is(lab, "unhealthy")?;
    let counts = answers(lab, "closest")?;
    ensure!(counts == [0, 30], "without near, near and server got {counts:?}");
    near_is(lab, "healthy")?;
    let counts = answers(lab, "closest")?;
    ensure!(counts == [30, 0], "with near again, near and server got {counts:?}");
    Ok(())
}

/// Adds a service whose one endpoint is a name.
fn name(lab: &Lab, hostname: &str) -> Result<SocketAddr> {
    let address: IpAddr = EXTRA.parse()?;
    lab.publish(|world| {
        world.workload(&format!("- {{name: named, hostname: {hostname}, protocol: TCP}}"));
        let mut service = Service::new("by-name").port(PORT, APP).endpoint("default/named");
        service.addresses.push(address);
        world.services.push(service);
    })?;
    Ok(SocketAddr::new(address, PORT))
}

/// The node's resolver is asked, and the connection is made where the pod is.
fn named(lab: &Lab) -> Result<()> {
    let client = lab.pod("client");
    let _application = mirror(client, APP)?;
    let address = name(lab, "LocalHost")?;
    let records = Records::since_now(lab);
    let stream = connect(client, address)?;
    let (own, seen) = (stream.local_addr()?, greeting(&stream)?);
    ensure!(seen.ip().is_loopback(), "the application sees {seen}");
    drop(stream);
    let line = records.outbound("n1", own)?;
    let expected = [
        ("dst.addr", "127.0.0.1:8080"),
        ("dst.workload", "named"),
        ("dst.service", "by-name.default.svc.cluster.local"),
        ("dst.hbone_addr", ""),
        ("error", ""),
    ];
    fields(&line, &expected)?;
    let labels = ["hostname=\"localhost\"", "source_workload=\"client\""];
    let count = lab.agent("n1").metric("istio_on_demand_dns_total", &labels)?;
    ensure!((count - 1.0).abs() < 0.5, "the look-up counts as {count}");
    Ok(())
}

fn unknown_name(lab: &Lab) -> Result<()> {
    let address = name(lab, "nobody.invalid")?;
    let news = lab.agent("n1").log().from_now();
    must_be_reset(lab.pod("client"), address)?;
    let line = news.wait(SOON, |line| line.field("dst.addr") == address.to_string())?;
    ensure!(line.error().contains("nobody.invalid"), "{}", line.text);
    Ok(())
}

/// Plainly to the address that was asked for, whatever the endpoints are, and at any port.
fn passthrough(lab: &Lab) -> Result<()> {
    let (client, addresses) = (lab.pod("client"), lab.outside_addresses());
    let _host = mirror(lab.outside(), APP)?;
    lab.publish(|world| world.service("open").addresses = addresses.to_vec())?;
    for address in addresses {
        let (records, address) = (Records::since_now(lab), SocketAddr::new(address, APP));
        let stream = connect(client, address)?;
        let (own, seen) = (stream.local_addr()?, greeting(&stream)?);
        ensure!([client.v4, client.v6].contains(&seen.ip()), "the host sees {seen}");
        drop(stream);
        let line = records.outbound("n1", own)?;
        let service = "open.default.svc.cluster.local";
        fields(
            &line,
            &[("dst.addr", &address.to_string()), ("dst.hbone_addr", ""), ("dst.service", service), ("error", "")],
        )?;
    }
    Ok(())
}
