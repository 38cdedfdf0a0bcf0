//! Five thousand queries a second from one pod, as a busy application makes them, and not one lost.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hickory_proto::op::Message;
use hickory_proto::rr::RecordType::A;
use mesh_e2e::Lab;

use super::client::{connected, query};
use super::upstream::Upstream;
use super::{NOWHERE, outside};
use crate::runner::say;

const RATE: u32 = 5000;
const SECONDS: u32 = 3;
/// Each of these asks every few milliseconds, whether or not it has been answered.
const SOCKETS: u32 = 20;

pub(super) fn known_names(lab: &Lab) -> Result<()> {
    all_answered(lab, NOWHERE[0].parse()?, "web")
}

pub(super) fn forwarded_names(lab: &Lab) -> Result<()> {
    let upstream = Upstream::start(lab.outside())?;
    all_answered(lab, outside(lab)[0], "www.example.org")?;
    let asked = upstream.asked().len();
    ensure!(asked == (RATE * SECONDS) as usize, "the name server was asked {asked} times");
    Ok(())
}

fn all_answered(lab: &Lab, server: SocketAddr, name: &str) -> Result<()> {
    let pod = lab.pod("client");
    let start = Instant::now() + Duration::from_millis(100);
    let each = RATE * SECONDS / SOCKETS;
    let times = thread::scope(|scope| -> Result<Vec<Duration>> {
        let one = |at: u32| {
            let socket = connected(pod, server)?;
            let queries: Vec<Vec<u8>> = (0..each).map(|_| Ok(query(name, A)?.to_vec()?)).collect::<Result<_>>()?;
            let due = move |index: u32| start + Duration::from_secs(1) * (index * SOCKETS + at) / RATE;
            thread::scope(|scope| -> Result<Vec<Duration>> {
                let sending = scope.spawn(|| -> Result<Vec<Instant>> {
                    (0..)
                        .zip(&queries)
                        .map(|(index, query)| {
                            thread::sleep(due(index).saturating_duration_since(Instant::now()));
                            let now = Instant::now();
                            socket.send(query)?;
                            Ok(now)
                        })
                        .collect()
                });
                let mut answers = Vec::new();
                let mut buffer = [0; 2048];
                for _ in 0..each {
                    let length = socket
                        .recv(&mut buffer)
                        .with_context(|| format!("only {} of {each} answers", answers.len()))?;
                    answers.push((Instant::now(), Message::from_vec(&buffer[..length])?));
                }
                let sent = sending.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
                let ids: std::collections::HashMap<[u8; 2], Instant> =
                    queries.iter().map(|query| [query[0], query[1]]).zip(sent).collect();
                answers
                    .iter()
                    .map(|(at, answer)| {
                        ensure!(answer.answers.len() == 1, "{answer}");
                        let sent = ids.get(&answer.metadata.id.to_be_bytes()).context("an answer to nothing")?;
                        Ok(at.duration_since(*sent))
                    })
                    .collect()
            })
        };
        let clients: Vec<_> = (0..SOCKETS).map(|at| scope.spawn(move || one(at))).collect();
        let mut times = Vec::new();
        for client in clients {
            times.extend(client.join().map_err(|_| anyhow::anyhow!("a client panicked"))??);
        }
        Ok(times)
    })?;
    let (took, mut times) = (start.elapsed(), times);
    times.sort();
    let percentile = |share: usize| times.get(times.len() * share / 100).copied().unwrap_or_default();
    say(format_args!("    {} answers in {took:.1?}; p50 {:?}, p99 {:?}", times.len(), percentile(50), percentile(99)));
    ensure!(times.len() == (RATE * SECONDS) as usize, "{} answers", times.len());
    ensure!(took < Duration::from_secs(u64::from(SECONDS) + 2), "it took {took:?}");
    Ok(())
}
