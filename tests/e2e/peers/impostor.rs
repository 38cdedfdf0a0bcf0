//! Wrong servers: the agent dials a workload that is not what the configuration says, and tells what it found.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use http::{Response, StatusCode};
use mesh_e2e::socket::Ending;
use mesh_e2e::{Agent, Lab, Log, Server};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tokio_rustls::TlsAcceptor;

use super::client::{HBONE, SOON, still_serving};
use super::credentials::{Root, Valid, Wish, made, server};
use crate::runner::say;

const EXPECTED: &str = "spiffe://cluster.local/ns/default/sa/impostor";
const OTHER: &str = "spiffe://cluster.local/ns/default/sa/somebody";

/// What a wrong server does once it has the connection.
#[derive(Clone)]
enum Manner {
    /// Sends bytes that are no TLS.
    Garbage,
    /// Says nothing and hangs up.
    HangsUp,
    /// Shakes hands and then sends bytes that are no HTTP/2.
    Babbles(Arc<ServerConfig>),
    /// Answers every request with this status.
    Answers(Arc<ServerConfig>, u16),
}

impl Manner {
    fn serve(&self, stream: &TcpStream) -> io::Result<()> {
        match self {
            Self::Garbage => (&*stream).write_all(&[0x5a; 500]),
            Self::HangsUp => Ok(()),
            Self::Babbles(config) => babble(stream, config),
            Self::Answers(config, status) => answer(stream, config, *status),
        }
    }
}

fn babble(stream: &TcpStream, config: &Arc<ServerConfig>) -> io::Result<()> {
    let tls = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
    let mut tls = StreamOwned::new(tls, stream.try_clone()?);
    tls.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?;
    tls.read_to_end(&mut Vec::new()).map(drop)
}

fn answer(stream: &TcpStream, config: &Arc<ServerConfig>, status: u16) -> io::Result<()> {
    let (stream, acceptor) = (stream.try_clone()?, TlsAcceptor::from(Arc::clone(config)));
    stream.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let tls = acceptor.accept(tokio::net::TcpStream::from_std(stream)?).await?;
        let mut connection = h2::server::handshake(tls).await.map_err(io::Error::other)?;
        while let Some(request) = connection.accept().await {
            let (_, mut respond) = request.map_err(io::Error::other)?;
            let mut response = Response::new(());
            *response.status_mut() = StatusCode::from_u16(status).map_err(io::Error::other)?;
            respond.send_response(response, true).map_err(io::Error::other)?;
        }
        Ok(())
    })
}

/// The rows: what the server is, what the log says, and the flag in the metrics.
type Row<'a> = (&'a str, Manner, &'a str, &'a str);

fn rows(lab: &Lab) -> Result<Vec<Row<'static>>> {
    let tls = |wish: &Wish<'_>| server(made(lab, wish)?, &["h2"]);
    let good = Wish::of(&[EXPECTED]);
    let answers = |wish: &Wish<'_>| Ok::<_, anyhow::Error>(Manner::Answers(tls(wish)?, 200));
    Ok(vec![
        (
            "another identity",
            answers(&Wish::of(&[OTHER]))?,
            "tls: not the expected peer: it is spiffe://cluster.local/ns/default/sa/somebody, \
             but spiffe://cluster.local/ns/default/sa/impostor was expected",
            "TLS_FAILURE",
        ),
        (
            "another authority",
            answers(&Wish { root: Root::Stranger, ..good.clone() })?,
            "tls: the peer's certificate is signed by an authority that we do not trust",
            "TLS_FAILURE",
        ),
        (
            "expired",
            answers(&Wish { valid: Valid::Past, ..good.clone() })?,
            "tls: the peer's certificate has expired",
            "TLS_FAILURE",
        ),
        (
            "no name",
            answers(&Wish::of(&[]))?,
            "tls: not the expected peer: its certificate carries no identity of the mesh",
            "TLS_FAILURE",
        ),
        ("HTTP/1.1 only", Manner::Answers(server(made(lab, &good)?, &["http/1.1"])?, 200), "tls: ", "TLS_FAILURE"),
        ("garbage", Manner::Garbage, "tls: what the peer sent is not TLS", "TLS_FAILURE"),
        ("hangs up", Manner::HangsUp, "tls: the peer closed the connection during the handshake", "TLS_FAILURE"),
        ("no HTTP/2", Manner::Babbles(tls(&good)?), "", "H2_HANDSHAKE_FAILURE"),
        ("404", Manner::Answers(tls(&good)?, 404), "http status: 404", "CONNECT"),
        ("503", Manner::Answers(tls(&good)?, 503), "http status: 503", "CONNECT"),
    ])
}

/// Connections of the source's side that ended with `flag`.
fn failed(agent: &Agent, flag: &str) -> Result<f64> {
    let flag = format!("response_flags=\"{flag}\"");
    agent.metric("istio_tcp_connections_failed_total", &["reporter=\"source\"", &flag])
}

/// Alice connects to the impostor; gives the line in the log.
fn attempt(lab: &Lab, news: &Log) -> Result<mesh_e2e::Line> {
    let to = lab.pod("impostor").at4(80);
    match lab.pod("alice").connect(to) {
        Ok(client) => {
            let end = mesh_e2e::socket::ending(&client, SOON).context("the client")?;
            ensure!(end == Ending::Reset, "the client sees {end:?}");
        }
        // The reset may come before the client has looked at its new connection.
        Err(error) => ensure!(is_reset(&error), "{error:#}"),
    }
    let line = news.wait(SOON, |line| line.scope == "access" && line.field("dst.workload") == "impostor")?;
    ensure!(line.field("src.workload") == "alice" && line.level == "error", "{}", line.text);
    Ok(line)
}

fn is_reset(error: &anyhow::Error) -> bool {
    let kinds = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind);
    kinds.into_iter().any(|kind| kind == io::ErrorKind::ConnectionReset)
}

pub(super) fn wrong_servers(lab: &Lab) -> Result<()> {
    let _application = lab.pod("server").echo(80)?;
    let address = lab.pod("impostor").v4;
    lab.publish(|world| {
        world.workload(&format!("- {{name: impostor, service_account: impostor, addresses: [{address}]}}"));
    })?;
    let agent = lab.agent("n1");
    let mut wrong = Vec::new();
    for (what, manner, reason, flag) in rows(lab)? {
        let server: Server = lab.pod("impostor").serve(HBONE, move |stream, _| manner.serve(stream))?;
        let (news, before) = (agent.log().from_now(), failed(agent, flag)?);
        let line = attempt(lab, &news).with_context(|| what.to_owned())?;
        let more = failed(agent, flag)? - before;
        ensure!(server.accepted() > 0, "{what}: the server was not asked");
        if !line.error().starts_with(reason) || line.error().is_empty() || line.error().contains("Error(") {
            wrong.push(format!("{what}: the log says {:?}, should {reason:?}", line.error()));
        }
        if (more - 1.0).abs() > 0.5 {
            wrong.push(format!("{what}: {more} more with the flag {flag}"));
        }
        still_serving(lab).context(what)?;
    }
    if wrong.is_empty() { Ok(()) } else { bail!("{}", wrong.join("\n  ")) }
}

/// Nobody on the HBONE port: a workload without an agent, and one whose agent has stopped.
pub(super) fn nobody(lab: &Lab) -> Result<()> {
    let address = lab.pod("impostor").v4;
    lab.publish(|world| {
        world.workload(&format!("- {{name: impostor, service_account: impostor, addresses: [{address}]}}"));
    })?;
    let agent = lab.agent("n1");
    let (news, before) = (agent.log().from_now(), failed(agent, "CONNECT")?);
    let line = attempt(lab, &news)?;
    let sentence = format!(
        "cannot connect to {address}:15008: Connection refused (os error 111), \
         maybe its node's agent is down or does not serve the pod"
    );
    ensure!(line.error() == sentence, "the log says {:?}", line.error());
    let more = failed(agent, "CONNECT")? - before;
    ensure!((more - 1.0).abs() < 0.5, "{more} more with the flag CONNECT");
    let _application = lab.pod("server").echo(80)?;
    still_serving(lab)
}

/// The agent of the server's node ends: its pods stay captured, and who dials them is told.
pub(super) fn stopped(lab: &mut Lab) -> Result<()> {
    let _application = lab.pod("server").echo(80)?;
    still_serving(lab)?;
    let at = std::time::Instant::now();
    lab.agent("n2").stop()?;
    say(format_args!("    an agent with idle tunnels ended after {:?}", at.elapsed()));
    let news = lab.agent("n1").log().from_now();
    let to = lab.pod("server").at4(80);
    let client = lab.pod("alice").connect(to)?;
    // Packets to a pod without an agent are dropped, not refused: connecting takes its time.
    let end = mesh_e2e::socket::ending(&client, Duration::from_secs(15)).context("the client")?;
    ensure!(end == Ending::Reset, "the client sees {end:?}");
    let line = news.wait(SOON, |line| line.scope == "access" && line.field("dst.workload") == "server")?;
    let told = ["15008", "maybe"].iter().all(|word| line.error().contains(word));
    ensure!(told, "the log says {:?}", line.error());
    say(format_args!("    told after {:?}", at.elapsed()));
    lab.agent("n2").start()?;
    mesh_e2e::eventually(Duration::from_secs(2), || still_serving(lab)).context("after the agent's return")
}
