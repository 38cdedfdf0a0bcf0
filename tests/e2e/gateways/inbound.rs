//! Which CONNECTs a pod answers for, asked by a client that is not the agent's.

use std::io::ErrorKind;

use anyhow::{Context, Result, ensure};
use mesh_e2e::{Lab, RunningPod, socket};

use super::{APP, BEHIND, HBONE, PORT, WAYPOINTS};
use crate::peers::client::Tunnel;
use crate::peers::credentials::good_client;
use crate::runner::Case;
use crate::traffic::support::{Records, connect, fields};

pub(super) const CASES: &[Case] = &[
    Case::shared("authority_is_a_service_by_name", &WAYPOINTS, by_name),
    Case::shared("authority_is_a_service_whose_waypoint_is_this_pod", &WAYPOINTS, own_service),
    Case::shared("authorities_that_are_not_answered_for", &WAYPOINTS, foreign),
];

const SECRET: &str = "a secret of some length";

fn tunnel(lab: &Lab, to: &RunningPod) -> Result<Tunnel> {
    Tunnel::open(lab.pod("alien"), to.at4(HBONE), good_client(lab, &lab.pod("client").identity)?)
}

fn name(service: &str, port: u16) -> String {
    format!("{service}.default.svc.cluster.local:{port}")
}

/// As a gateway of another network asks: the name stands for this pod, the port for the one it leads to.
fn by_name(lab: &Lab) -> Result<()> {
    let server = lab.pod("server");
    let _application = server.echo(APP)?;
    let (records, mut tunnel) = (Records::since_now(lab), tunnel(lab, server)?);
    let authority = name("web", PORT);
    let mut answer = tunnel.connect(&authority)?;
    ensure!(answer.status == 200, "status {}", answer.status);
    ensure!(tunnel.exchange(&mut answer, SECRET)? == SECRET, "other bytes came back");
    tunnel.finish(&mut answer)?;
    let line = records.wait("n2", |line| line.field("dst.hbone_addr") == authority)?;
    fields(&line, &[("dst.service", "web.default.svc.cluster.local"), ("dst.workload", "server"), ("error", "")])
}

/// A waypoint without an application tunnel gets the service's address as its own, with the port as it was asked for.
fn own_service(lab: &Lab) -> Result<()> {
    let (client, bare) = (lab.pod("client"), lab.pod("bare"));
    let _application = bare.greet(APP, "waypoint")?;
    for address in [lab.vip4("fronted", APP), lab.vip6("fronted", APP)] {
        let records = Records::since_now(lab);
        let stream = connect(client, address)?;
        stream.shutdown(std::net::Shutdown::Write)?;
        ensure!(socket::read_text(&stream)? == "waypoint", "somebody else answers");
        let line = records.wait("n2", |line| line.field("dst.hbone_addr") == address.to_string())?;
        fields(&line, &[("src.identity", &client.identity), ("dst.identity", &bare.identity), ("error", "")])?;
    }
    Ok(())
}

/// The rest is refused: 400 for addresses, 503 for names; behind an application tunnel any address is taken.
fn foreign(lab: &Lab) -> Result<()> {
    let applications = ["server", "bare"].map(|pod| lab.pod(pod).echo(APP));
    let behind = lab.pod("sandwich").serve(BEHIND, |_, _| Err(ErrorKind::Other.into()))?;
    let mut wrong = Vec::new();
    for (pod, authority, expected) in [
        ("server", lab.pod("server").at4(APP).to_string(), 200),
        ("server", lab.vip4("web", PORT).to_string(), 400),
        ("server", lab.pod("guarded").at4(APP).to_string(), 400),
        ("server", name("web", PORT + 1), 503),
        ("server", name("wrapped", PORT), 503),
        ("server", name("nowhere", PORT), 503),
        ("bare", lab.vip4("fronted", APP).to_string(), 200),
        ("bare", lab.vip4("web", APP).to_string(), 400),
        ("bare", name("fronted", APP), 200),
        ("bare", name("web", PORT), 503),
        ("sandwich", lab.vip4("web", PORT).to_string(), 200),
        ("sandwich", name("wrapped", PORT), 200),
        ("sandwich", name("web", PORT), 503),
    ] {
        let mut tunnel = tunnel(lab, lab.pod(pod))?;
        let answer = tunnel.connect(&authority).with_context(|| format!("{pod}: {authority}"))?;
        if answer.status != expected {
            wrong.push(format!("{pod} answers {} to {authority}, not {expected}", answer.status));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n  "));
    for application in applications {
        ensure!(application?.accepted() > 0, "an application was not reached");
    }
    ensure!(behind.accepted() == 2, "{} connections behind the application tunnel", behind.accepted());
    Ok(())
}
