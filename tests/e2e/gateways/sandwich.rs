//! A waypoint whose tunnels the agent ends: behind an application tunnel it is told who the client is and what it wanted;
//! what it sends itself the agent takes into the mesh, and not back to it.

use std::io::{self, Read};
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::mpsc::{Receiver, channel};

use anyhow::{Context, Result, ensure};
use mesh_e2e::envoy::Listener;
use mesh_e2e::{Lab, Server, server, socket};

use super::support::get;
use super::{APP, BEHIND, JOINED, PORT, WAYPOINTS};
use crate::runner::Case;
use crate::traffic::support::{Records, SOON, connect, fields, greeting, mirror, must_be_reset};

pub(super) const CASES: &[Case] = &[
    Case::shared("trap_17_application_tunnel_tells_of_the_client", &WAYPOINTS, told),
    Case::shared("application_tunnel_to_envoy", &JOINED, envoy),
    Case::shared("application_tunnel_with_another_port", &WAYPOINTS, port),
    Case::shared("policy_sees_the_port_of_the_application_tunnel", &WAYPOINTS, policy),
];

const SECRET: &str = "a secret of some length";

/// What came before the first byte, as an application reads it.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    /// Whom the application sees.
    peer: SocketAddr,
    client: SocketAddr,
    destination: SocketAddr,
    /// Types and values of what follows the addresses.
    more: Vec<(u8, String)>,
}

/// An application that reads the header, tells of it, and echoes what comes after it.
fn application(lab: &Lab) -> Result<(Server, Receiver<io::Result<Told>>)> {
    let (tell, told) = channel();
    let server = lab.pod("sandwich").serve(BEHIND, move |stream, peer| {
        // The test may have failed already.
        tell.send(header(stream, peer)).ok();
        server::echo(stream)
    })?;
    Ok((server, told))
}

/// Reads a header of version 2 (HAProxy's proxy-protocol.txt, section 2.2).
fn header(mut from: impl Read, peer: SocketAddr) -> io::Result<Told> {
    let wrong = |what: &str| Err(io::Error::other(what.to_owned()));
    let mut head = [0; 16];
    from.read_exact(&mut head)?;
    if head[..12] != *b"\r\n\r\n\0\r\nQUIT\n" || head[12] != 0x21 {
        return wrong("no header of version 2 with the command PROXY");
    }
    let mut body = vec![0; usize::from(u16::from_be_bytes([head[14], head[15]]))];
    from.read_exact(&mut body)?;
    let size = match head[13] {
        0x11 => 4,
        0x21 => 16,
        _ => return wrong("neither TCP over IPv4 nor over IPv6"),
    };
    let address = |at: usize, port: usize| {
        let (ip, port) = (&body[at * size..(at + 1) * size], &body[2 * size + 2 * port..]);
        let port = u16::from_be_bytes([port[0], port[1]]);
        let v4 = <[u8; 4]>::try_from(ip).map(|ip| SocketAddr::from((ip, port)));
        v4.unwrap_or_else(|_| SocketAddr::from((Ipv6Addr::from(<[u8; 16]>::try_from(ip).unwrap_or_default()), port)))
    };
    let (client, destination) = (address(0, 0), address(1, 1));
    let (mut more, mut rest) = (Vec::new(), &body[2 * size + 4..]);
    while let [kind, high, low, tail @ ..] = rest {
        let (value, tail) = tail.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        more.push((*kind, String::from_utf8_lossy(value).into_owned()));
        rest = tail;
    }
    Ok(Told { peer, client, destination, more })
}

/// The header comes before the first byte, from loopback: who the client is by its tunnel, and the address it wanted.
fn told(lab: &Lab) -> Result<()> {
    let (client, sandwich, behind) = (lab.pod("client"), lab.pod("sandwich"), lab.pod("behind"));
    let (_application, told) = application(lab)?;
    for wanted in [
        lab.vip4("wrapped", PORT),
        lab.vip6("wrapped", PORT),
        behind.at4(APP),
        behind.at6(APP),
        sandwich.at4(7777),
        sandwich.at6(7777),
    ] {
        let records = Records::since_now(lab);
        let stream = connect(client, wanted)?;
        ensure!(socket::exchange(&stream, SECRET)? == SECRET, "other bytes came back");
        drop(stream);
        let told = told.recv_timeout(SOON).context("nobody was told")??;
        let own = if wanted.is_ipv4() { client.v4 } else { client.v6 };
        ensure!(told.peer.ip().is_loopback(), "the application sees {}", told.peer);
        ensure!(told.client.ip() == own && told.client.port() != 0, "{told:?}");
        ensure!(told.destination == wanted, "{told:?} instead of {wanted}");
        ensure!(told.more == [(0xD0, client.identity.clone())], "{told:?}");
        let line = records.wait("n2", |line| line.field("dst.hbone_addr") == wanted.to_string())?;
        let who = [("src.identity", client.identity.as_str()), ("dst.identity", &sandwich.identity), ("error", "")];
        fields(&line, &who)?;
    }
    Ok(())
}

/// The whole way: the client's agent, the waypoint's agent, Envoy, which believes the header, and once more the waypoint's
/// agent, which takes what Envoy sends to the destination, and not back to the waypoint.
fn envoy(lab: &Lab) -> Result<()> {
    let (client, sandwich, behind) = (lab.pod("client"), lab.pod("sandwich"), lab.pod("behind"));
    let _application = lab.nginx("behind", APP, SECRET)?;
    let envoy = lab.envoy("sandwich", &[Listener::Announced { port: BEHIND, to: behind.at4(APP) }])?;
    for wanted in [lab.vip4("wrapped", PORT), behind.at4(APP)] {
        let records = Records::since_now(lab);
        let answer = get(client, wanted, "/whoami")?;
        ensure!(answer.body.trim() == sandwich.v4.to_string() && answer.through == "sandwich", "{answer:?}");
        let seen = envoy.wait(|line| line.field("to") == wanted.to_string() && !line.field("announced").is_empty())?;
        fields(&seen, &[("announced", &client.identity)])?;
        ensure!(seen.field("from").starts_with(&format!("{}:", client.v4)), "{}", seen.text);
        let onward = records.wait("n2", |line| line.field("direction") == "outbound")?;
        let target = behind.at4(APP).to_string();
        fields(
            &onward,
            &[
                ("src.identity", &sandwich.identity),
                ("dst.identity", &behind.identity),
                ("dst.addr", &target),
                ("mode", "local"),
                ("error", ""),
            ],
        )?;
        let arrived = records
            .wait("n2", |line| line.field("dst.workload") == "behind" && line.field("direction") == "inbound")?;
        fields(&arrived, &[("src.identity", &sandwich.identity), ("dst.addr", &target), ("mode", "local")])?;
    }
    Ok(())
}

/// Only the port is another: the application sees the client, at its own address.
fn port(lab: &Lab) -> Result<()> {
    let (client, ported) = (lab.pod("client"), lab.pod("ported"));
    let _application = mirror(ported, BEHIND)?;
    for (wanted, own) in [(ported.at4(APP), client.v4), (ported.at6(APP), client.v6)] {
        let stream = connect(client, wanted)?;
        let seen = greeting(&stream)?;
        ensure!(seen.ip() == own, "the application sees {seen}");
        ensure!(socket::exchange(&stream, SECRET)? == SECRET, "other bytes came back");
    }
    Ok(())
}

fn policy(lab: &Lab) -> Result<()> {
    let (client, ported) = (lab.pod("client"), lab.pod("ported"));
    let _application = mirror(ported, BEHIND)?;
    let deny = |port: u16| {
        lab.publish(|world| {
            world.clear_policies();
            world.authorize(&format!(
                "- {{name: port, action: DENY, rules: [{{to: [{{operation: {{ports: ['{port}']}}}}]}}]}}"
            ));
        })
    };
    deny(APP)?;
    greeting(&connect(client, ported.at4(APP))?).context("the port that was asked for counts")?;
    deny(BEHIND)?;
    let records = Records::since_now(lab);
    must_be_reset(client, ported.at4(APP)).context("the application's port does not count")?;
    let line = records.wait("n1", |line| line.field("dst.workload") == "ported")?;
    fields(&line, &[("error", "http status: 401")])
}
