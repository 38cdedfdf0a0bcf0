//! How long a small HTTP request takes.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mesh_e2e::Namespace;

/// Requests on one connection, after some that are not counted.
pub(super) const REQUESTS: usize = 3000;
const WARM_UP: usize = 300;
/// Requests on a connection each.
pub(super) const CONNECTIONS: usize = 500;
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n";

/// Both kinds of request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Latency {
    keep_alive: Quantiles,
    connecting: Quantiles,
}

#[derive(Clone, Copy, Debug)]
struct Quantiles {
    p50: Duration,
    p99: Duration,
}

/// Measures from inside `pod`, one request at a time.
pub(super) fn measure(pod: &Namespace, server: SocketAddr) -> Result<Latency> {
    Ok(Latency { keep_alive: keep_alive(pod, server)?, connecting: pod.run(|| connecting(server))? })
}

fn keep_alive(pod: &Namespace, server: SocketAddr) -> Result<Quantiles> {
    let stream = pod.connect(server)?;
    stream.set_nodelay(true)?;
    let mut times = (0..WARM_UP + REQUESTS).map(|_| timed(|| ask(&stream))).collect::<Result<Vec<_>>>()?;
    Ok(quantiles(times.split_off(WARM_UP)))
}

fn connecting(server: SocketAddr) -> Result<Quantiles> {
    let once = || timed(|| ask(&std::net::TcpStream::connect(server)?));
    Ok(quantiles((0..CONNECTIONS).map(|_| once()).collect::<Result<_>>()?))
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed())
}

/// One request and its whole answer.
fn ask(mut stream: &std::net::TcpStream) -> Result<()> {
    stream.write_all(REQUEST)?;
    let (mut answer, mut filled) = ([0; 2048], 0);
    loop {
        let rest = answer.get_mut(filled..).filter(|rest| !rest.is_empty()).context("a short answer")?;
        match stream.read(rest)? {
            0 => bail!("the server closed the connection"),
            length => filled += length,
        }
        if answer.get(..filled).is_some_and(whole) {
            return Ok(());
        }
    }
}

fn whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    text.split_once("\r\n\r\n").is_some_and(|(head, body)| {
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        length.is_some_and(|length| length.parse() == Ok(body.len()))
    })
}

fn quantiles(mut times: Vec<Duration>) -> Quantiles {
    times.sort_unstable();
    let at = |percent: usize| times.get(times.len() * percent / 100).copied().unwrap_or_default();
    Quantiles { p50: at(50), p99: at(99) }
}

/// The two measurements beside each other.
pub(super) fn table(without: &Latency, with: &Latency) -> String {
    let row = |name: &str, without: Quantiles, with: Quantiles| {
        let [a, b, c, d] =
            [without.p50, without.p99, with.p50, with.p99].map(|time| format!("{} us", time.as_micros()));
        format!("{name:<26}{a:>10}{b:>10}   {c:>10}{d:>10}\n")
    };
    let head = format!("{:<26}{:>20}   {:>20}\n", "", "no mesh", "mutual TLS, policy");
    let units = format!("{:<26}{:>10}{:>10}   {:>10}{:>10}\n", "", "p50", "p99", "p50", "p99");
    head + &units
        + &row("request, kept-alive", without.keep_alive, with.keep_alive)
        + &row("request on a connection", without.connecting, with.connecting)
}
