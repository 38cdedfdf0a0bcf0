//! Short connections one after the other, which come to use the same ports again and again. Who closes first keeps the
//! pair of addresses in TIME_WAIT; a new connection must not trip over that, whoever's socket it is.
//!
//! Each case has a lab of its own: what it leaves behind in the pods lasts a minute.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mesh_e2e::socket::{self, Ending};
use mesh_e2e::{Lab, Line, RunningPod, eventually, server};

use super::support::{Records, SOON, Times, quiet, timeouts};
use super::{APP, joining, topology};
use crate::runner::{Case, say};

pub(super) const CASES: &[Case] = &[
    Case::fresh("ports_again_tunnel_ipv4", topology, |lab| closed_by_server(lab, "client", "server", RunningPod::at4)),
    Case::fresh("ports_again_tunnel_ipv6", topology, |lab| closed_by_server(lab, "client", "server", RunningPod::at6)),
    Case::fresh("ports_again_joined", joining, |lab| closed_by_server(lab, "client", "near", RunningPod::at4)),
    Case::fresh("ports_again_plaintext_in", topology, |lab| closed_by_server(lab, "plain", "near", RunningPod::at4)),
    Case::fresh("ports_again_plaintext_out", topology, |lab| closed_by_server(lab, "client", "plain", RunningPod::at4)),
    Case::fresh("ports_again_closed_by_client", topology, closed_by_client),
];

const CYCLES: usize = 2000;
/// Of a client that keeps each port for a second.
const SLOW_CYCLES: usize = 500;
/// What is slower waits for something: a SYN that is lost is sent again after a second.
const SLOW: Duration = Duration::from_millis(500);
/// Slow connections after which a case has seen enough.
const ENOUGH: usize = 5;
/// Each port is used ten times.
const FEW_PORTS: (&str, &str) = ("net.ipv4.ip_local_port_range", "40000 40199");

/// The server closes first. Without a mesh its end would be in TIME_WAIT, in another namespace; in the mesh an end of the
/// agent's is, in the client's own.
fn closed_by_server(lab: &Lab, from: &str, to: &str, address: fn(&RunningPod, u16) -> SocketAddr) -> Result<()> {
    let (from, to) = (lab.pod(from), lab.pod(to));
    let _server = to.serve(APP, |mut stream, _| {
        stream.read_exact(&mut [0; 7])?;
        server::say(stream, "answer")
    })?;
    to.set_sysctls(&[FEW_PORTS])?;
    cycles(lab, from, to, CYCLES, || {
        let (stream, time) = connect(from, address(to, APP))?;
        (&stream).write_all(b"request")?;
        ensure!(socket::read_text(&stream)? == "answer", "another answer");
        Ok(time)
    })
}

/// The client closes first and keeps its ports itself, until the kernel thinks that they may be used again
/// (`tcp_tw_reuse`, a second). In the server's pod the agent is the client, and needs ports as well.
fn closed_by_client(lab: &mut Lab) -> Result<()> {
    let (from, to) = (lab.pod("client"), lab.pod("server"));
    from.set_sysctls(&[("net.ipv4.tcp_tw_reuse", "1")])?;
    let _server = to.echo(APP)?;
    cycles(lab, from, to, SLOW_CYCLES, || {
        let (stream, time) = connect(from, to.at4(APP))?;
        ensure!(socket::exchange(&stream, "request")? == "request", "another answer");
        stream.shutdown(std::net::Shutdown::Write)?;
        ensure!(socket::ending(&stream, SOON)? == Ending::Fin, "it was reset");
        Ok(time)
    })
}

/// Runs `once`, which gives the time that its connect took, `count` times.
fn cycles(
    lab: &Lab,
    from: &RunningPod,
    to: &RunningPod,
    count: usize,
    mut once: impl FnMut() -> Result<Duration>,
) -> Result<()> {
    from.set_sysctls(&[FEW_PORTS])?;
    let records = Records::since_now(lab);
    let (mut times, mut slow) = (Times::default(), Vec::new());
    let start = Instant::now();
    for at in 0..count {
        let begun = start.elapsed();
        let time = once().with_context(|| format!("connection {at}, after {begun:?}"))?;
        times.push(time);
        if time > SLOW {
            slow.push(format!("connection {at} at {begun:?} took {time:?}"));
            ensure!(slow.len() < ENOUGH, "slow: {}", slow.join(", "));
        }
    }
    ensure!(slow.is_empty(), "slow: {}", slow.join(", "));
    say(format_args!("    {count} connects in {:?}, p99 {:?}", start.elapsed(), times.percentile(99)));
    quiet(lab)?;
    let node = if to.name == "near" { &to.node } else { &from.node };
    let mode = match (&*from.name, &*to.name) {
        ("plain", _) | (_, "plain") => "plain",
        _ if from.node == to.node => "local",
        _ => "mtls",
    };
    let of_these = |line: &&Line| line.field("dst.workload") == to.name && line.field("mode") == mode;
    eventually(SOON, || {
        let recorded = records.all(node).iter().filter(of_these).count();
        ensure!(recorded >= count, "{recorded} of {count} were recorded by {node}");
        Ok(())
    })
}

/// Connects, and gives the time that took. Waits when the kernel has no port to give; that is the client's own affair.
fn connect(from: &RunningPod, to: SocketAddr) -> Result<(TcpStream, Duration)> {
    let deadline = Instant::now() + SOON;
    loop {
        let start = Instant::now();
        match from.try_connect(to) {
            Ok(stream) => {
                let took = start.elapsed();
                timeouts(&stream, SOON)?;
                return Ok((stream, took));
            }
            Err(error) if error.kind() == ErrorKind::AddrNotAvailable && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) => bail!("connecting: {error}"),
        }
    }
}
