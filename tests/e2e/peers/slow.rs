//! Peers that take their time. What takes ten seconds is waited for once, for all of them together.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use mesh_e2e::socket::{Ending, ending};
use mesh_e2e::{Lab, Line};

use super::client::{HBONE, SOON, raw, still_serving};
use super::credentials::good_client;
use crate::runner::say;

const ALICE: &str = "spiffe://cluster.local/ns/default/sa/alice";
const COUNT: usize = 50;
/// Ten seconds, and slack.
const LIMIT: Duration = Duration::from_secs(13);

/// The first bytes of a handshake that never goes on: a record that says it has 512 bytes.
const BEGINNING: &[u8] = &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];

pub(super) fn together(lab: &Lab) -> Result<()> {
    let _application = lab.pod("server").echo(80)?;
    let address = lab.pod("impostor").v4;
    // Packets to this address vanish on their way, as behind a firewall.
    lab.node("n2").output("ip", ["route", "add", "blackhole", "10.40.2.99/32"])?;
    lab.publish(|world| {
        world.workload(&format!("- {{name: silent, service_account: silent, addresses: [{address}]}}"));
        world.workload("- {name: hidden, service_account: hidden, addresses: [10.40.2.99]}");
    })?;
    let silent = lab.pod("impostor").serve(HBONE, |mut stream, _| stream.read_to_end(&mut Vec::new()).map(drop))?;
    let results = thread::scope(|scope| {
        let waits = [
            ("slowloris", scope.spawn(|| slowloris(lab))),
            ("silence after the handshake", scope.spawn(|| no_preface(lab))),
            ("a silent server", scope.spawn(|| outbound(lab, "silent", "tls: the peer did not complete the handshake in time"))),
            ("a hidden server", scope.spawn(|| {
                let hint = "connecting to 10.40.2.99:15008 timed out, maybe a NetworkPolicy or firewall blocks HBONE port 15008";
                outbound(lab, "hidden", hint)
            })),
        ];
        waits.map(|(what, wait)| {
            let result = wait.join().unwrap_or_else(|_| Err(anyhow!("panicked")));
            result.context(what)
        })
    });
    lab.node("n2").output("ip", ["route", "del", "blackhole", "10.40.2.99/32"])?;
    drop(silent);
    let wrong: Vec<String> = results.into_iter().filter_map(Result::err).map(|error| format!("{error:#}")).collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("\n  "));
    Ok(())
}

fn descriptors(lab: &Lab) -> Result<usize> {
    let pid = lab.agent("n2").pid().context("the agent runs")?;
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

/// Handshakes that never go on are ended, told, and cost nothing afterwards; others are served meanwhile.
fn slowloris(lab: &Lab) -> Result<()> {
    let (agent, news) = (lab.agent("n2"), lab.agent("n2").log().from_now());
    still_serving(lab)?;
    let before = descriptors(lab)?;
    let start = Instant::now();
    let slow: Vec<TcpStream> = (0..COUNT)
        .map(|_| {
            let mut stream = lab.outside().connect(lab.pod("server").at4(HBONE))?;
            stream.write_all(BEGINNING)?;
            Ok(stream)
        })
        .collect::<Result<_>>()?;
    still_serving(lab).context("beside slow handshakes")?;
    for mut stream in &slow {
        // One byte now and then does not help.
        stream.write_all(&[1])?;
    }
    for stream in &slow {
        ending(stream, LIMIT.saturating_sub(start.elapsed())).context("a handshake that never goes on")?;
    }
    say(format_args!("    {COUNT} slow handshakes ended after {:?}", start.elapsed()));
    let text = "tls: the peer did not complete the handshake in time";
    let told = |line: &Line| line.scope == "access" && line.error() == text;
    mesh_e2e::eventually(SOON, || {
        let lines = news.lines().iter().filter(|line| told(line)).count();
        ensure!(lines >= COUNT, "{lines} of {COUNT} are told");
        Ok(())
    })?;
    mesh_e2e::eventually(SOON, || {
        let now = descriptors(lab)?;
        ensure!(now <= before + 4, "{now} descriptors, {before} before");
        Ok(())
    })?;
    ensure!(agent.is_running(), "the agent is gone");
    still_serving(lab)
}

/// A peer that shakes hands and then says nothing, not even that it speaks HTTP/2.
fn no_preface(lab: &Lab) -> Result<()> {
    let tls = raw(lab.outside(), lab.pod("server").at4(HBONE), good_client(lab, ALICE)?)?;
    let at = Instant::now();
    ending(&tls.sock, LIMIT + SOON).context("the agent waits for an HTTP/2 preface without a limit")?;
    say(format_args!("    silence after the handshake ended after {:?}", at.elapsed()));
    Ok(())
}

/// Alice dials a workload that never answers.
fn outbound(lab: &Lab, workload: &'static str, reason: &str) -> Result<()> {
    let news = lab.agent("n1").log().from_now();
    let address = if workload == "hidden" { "10.40.2.99:80".parse()? } else { lab.pod("impostor").at4(80) };
    let client = lab.pod("alice").connect(address)?;
    ensure!(ending(&client, LIMIT)? == Ending::Reset, "the client sees no reset");
    let line = news.wait(SOON, |line| line.scope == "access" && line.field("dst.workload") == workload)?;
    ensure!(line.error() == reason, "the log says {:?}, should {reason:?}", line.error());
    let flag = if workload == "hidden" { "NETWORK_POLICY" } else { "TLS_FAILURE" };
    let labels = [format!("response_flags=\"{flag}\""), format!("destination_workload=\"{workload}\"")];
    let count = lab.agent("n1").metric("istio_tcp_connections_failed_total", &labels.each_ref().map(String::as_str))?;
    ensure!((count - 1.0).abs() < 0.5, "{count} failures with {flag}");
    Ok(())
}
