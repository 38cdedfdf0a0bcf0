//! Bytes in great number, in small pieces, in both directions, and after long silence: all arrive, in order.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_e2e::{Lab, socket};

use super::long::Long;
use super::support::{Records, connect, fields, ping_pong, tunnels};
use super::{APP, MESH, ONE_SHARD, PORT};
use crate::runner::{Case, say};

pub(super) const CASES: &[Case] = &[
    Case::shared("gigabyte_to_server", &MESH, |lab| transfer(lab, GIB, 0)).limit(90),
    Case::shared("gigabyte_to_client", &MESH, |lab| transfer(lab, 0, GIB)).limit(90),
    Case::shared("gigabyte_both_ways_at_once", &MESH, |lab| transfer(lab, GIB, GIB)).limit(120),
    Case::shared("server_speaks_first", &MESH, server_first),
    Case::shared("one_byte_writes", &ONE_SHARD, one_byte_writes).limit(120),
    Case::shared("long_silence", &ONE_SHARD, long_silence),
];

const GIB: u64 = 1 << 30;
const WRITES: usize = 200_000;

/// Both directions at once, each compared byte by byte with what was sent, and each counted to the byte by both agents.
fn transfer(lab: &Lab, up: u64, down: u64) -> Result<()> {
    let (client, server) = (lab.pod("client"), lab.pod("server"));
    let records = Records::since_now(lab);
    let _server = server.serve(APP, move |stream, _| exchange(stream, down, up).map_err(io::Error::other))?;
    let stream = connect(client, lab.vip4("web", PORT))?;
    let start = Instant::now();
    exchange(&stream, up, down)?;
    let seconds = start.elapsed().as_secs_f64();
    say(format_args!("    {:.1} Gb/s", (up + down) as f64 * 8e-9 / seconds));
    let address = stream.local_addr()?;
    drop(stream);
    let [outbound, inbound] = records.tunnelled((client, address), (server, server.at4(APP)))?;
    let (up, down) = (up.to_string(), down.to_string());
    fields(&outbound, &[("bytes_sent", &up), ("bytes_recv", &down), ("error", "")])?;
    fields(&inbound, &[("bytes_sent", &down), ("bytes_recv", &up), ("error", "")])
}

/// Sends so many bytes, then ends, and meanwhile receives so many, up to the other side's end.
fn exchange(mut stream: &TcpStream, send: u64, receive: u64) -> Result<()> {
    thread::scope(|scope| {
        let sending = scope.spawn(move || {
            Long::default().send(stream, send).context("sending")?;
            stream.shutdown(Shutdown::Write).context("ending")
        });
        let mut long = Long::default();
        long.receive(&mut stream, receive).context("receiving")?;
        ensure!(stream.read(&mut [0])? == 0, "more came than was sent");
        sending.join().map_err(|_| anyhow::anyhow!("the sender panicked"))?
    })
}

fn server_first(lab: &Lab) -> Result<()> {
    let _server = lab.pod("server").greet(APP, "220 ready\r\n")?;
    let stream = connect(lab.pod("client"), lab.vip4("web", PORT))?;
    let mut greeting = [0; 11];
    (&stream).read_exact(&mut greeting).context("the client has said nothing, and waits")?;
    ensure!(&greeting == b"220 ready\r\n");
    ensure!(socket::exchange(&stream, "QUIT\r\n")? == "QUIT\r\n");
    let records = Records::since_now(lab);
    let address = stream.local_addr()?;
    drop(stream);
    let (client, server) = (lab.pod("client"), lab.pod("server"));
    records.tunnelled((client, address), (server, server.at4(APP))).map(drop)
}

/// Each byte a segment, and likely a frame, of its own. A neighbour on the tunnel shows that it bears that.
fn one_byte_writes(lab: &Lab) -> Result<()> {
    let (client, server) = (lab.pod("client"), lab.pod("server"));
    let _server = server.echo(APP)?;
    let neighbour = connect(client, server.at4(APP))?;
    ping_pong(&neighbour, Duration::from_millis(100))?;
    let before = tunnels(client)?;
    let stream = connect(client, server.at4(APP))?;
    stream.set_nodelay(true)?;
    let bytes: Vec<u8> = (0..WRITES).map(|at| (at * 7 + at / 251) as u8).collect();
    let start = Instant::now();
    let returned = thread::scope(|scope| -> Result<Vec<u8>> {
        let writing = scope.spawn(|| bytes.iter().try_for_each(|byte| (&stream).write_all(&[*byte])));
        let mut returned = vec![0; WRITES];
        (&stream).read_exact(&mut returned).context("what comes back")?;
        writing.join().map_err(|_| anyhow::anyhow!("the writer panicked"))?.context("writing")?;
        Ok(returned)
    })?;
    let took = start.elapsed();
    let wrong = returned.iter().zip(&bytes).position(|(got, sent)| got != sent);
    ensure!(wrong.is_none(), "the byte at {wrong:?} is another");
    say(format_args!("    {WRITES} bytes there and back in {took:?}"));
    ensure!(took < Duration::from_secs(30), "{WRITES} bytes took {took:?}");
    ping_pong(&neighbour, Duration::from_millis(100)).context("the neighbour on the tunnel")?;
    let after = tunnels(client)?;
    ensure!(before == 1 && after == 1, "{before} tunnels before, {after} after: the first has died");
    let records = Records::since_now(lab);
    let address = stream.local_addr()?;
    drop(stream);
    let [outbound, _] = records.tunnelled((client, address), (server, server.at4(APP)))?;
    let all = WRITES.to_string();
    fields(&outbound, &[("bytes_sent", &all), ("bytes_recv", &all), ("error", "")])
}

/// Longer than the tunnel's pings are apart, so that one is answered meanwhile.
fn long_silence(lab: &Lab) -> Result<()> {
    let (client, server) = (lab.pod("client"), lab.pod("server"));
    let _server = server.echo(APP)?;
    let stream = connect(client, server.at4(APP))?;
    socket::exchange(&stream, "before")?;
    thread::sleep(Duration::from_secs(12));
    ensure!(socket::exchange(&stream, "after")? == "after", "other bytes came back");
    ensure!(tunnels(client)? == 1, "the tunnel is another");
    let flows = lab.agent("n1").flows()?;
    let address = stream.local_addr()?.to_string();
    let flow = flows.iter().find(|flow| flow.source.address == address).context("no flow is shown for it")?;
    ensure!(flow.age_ms >= 12_000 && flow.to_server == 11, "{flow:?}");
    Ok(())
}
