//! Envoys as the cases want them, and HTTP by hand.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use mesh_e2e::envoy::{self, Listener, MARK, Way};
use mesh_e2e::{Capture, Envoy, Lab, Namespace, RunningPod};

use super::{APP, HBONE, PORT};
use crate::traffic::support::connect;

/// What clients call the application.
pub(super) const HOST: &str = "app.example";

/// The tunnel that a waypoint opens to `to`, which listens on `port`.
pub(super) fn tunnel(to: &RunningPod, address: SocketAddr) -> envoy::Tunnel {
    let next_hop = SocketAddr::new(address.ip(), HBONE);
    envoy::Tunnel { to: next_hop, authority: address.to_string(), identity: to.identity.clone() }
}

/// A waypoint in the pod `name` for the services `web` and `split`, whose requests it sees, and for the pod `guarded`,
/// whose bytes it passes on.
pub(super) fn waypoint(lab: &Lab, name: &str) -> Result<Envoy> {
    let (server, guarded) = (lab.pod("server"), lab.pod("guarded"));
    let mut ways = Vec::new();
    for service in ["web", "split"] {
        ways.push((lab.vip4(service, PORT).to_string(), Way::Http(tunnel(server, server.at4(APP)))));
        ways.push((lab.vip6(service, PORT).to_string(), Way::Http(tunnel(server, server.at6(APP)))));
    }
    for address in [guarded.at4(APP), guarded.at6(APP)] {
        ways.push((address.to_string(), Way::Bytes(tunnel(guarded, address))));
    }
    lab.envoy(name, &[Listener::Hbone(ways)])
}

/// An answer to a request.
#[derive(Debug)]
pub(super) struct Answer {
    /// The pod of the Envoy through which it came; empty when it came through none.
    pub(super) through: String,
    pub(super) body: String,
}

/// GET on a connection of its own, which the client closes once it has the answer.
pub(super) fn get(from: &Namespace, to: SocketAddr, path: &str) -> Result<Answer> {
    let mut stream = connect(from, to)?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {HOST}\r\n\r\n")?;
    let mut answer = BufReader::new(&stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        ensure!(answer.read_line(&mut head).context("the answer")? > 0, "the answer ends after {head:?}");
    }
    ensure!(head.starts_with("HTTP/1.1 200"), "{head:?}");
    let field = |name: &str| {
        let mut fields = head.lines().filter_map(|line| line.split_once(": "));
        fields.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    };
    let length: usize = field("content-length").with_context(|| format!("no length: {head:?}"))?.parse()?;
    let mut body = vec![0; length];
    answer.read_exact(&mut body).context("the answer's body")?;
    Ok(Answer { through: field(MARK).unwrap_or_default().to_owned(), body: String::from_utf8(body)? })
}

/// Nothing of a capture went to `pod`, nor came from it.
pub(super) fn never_reached(capture: &Capture, pod: &RunningPod) -> Result<()> {
    let with = [pod.v4, pod.v6];
    let stray = capture.packets.iter().find(|packet| {
        packet.protocol == 6 && with.iter().any(|ip| packet.source.ip() == *ip || packet.destination.ip() == *ip)
    });
    ensure!(stray.is_none(), "past the gateway: {}", stray.map(ToString::to_string).unwrap_or_default());
    Ok(())
}
