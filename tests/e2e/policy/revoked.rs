//! Certificates that the authority takes back under open connections: their holders are cut off, on either side.

use std::fs;
use std::net::TcpStream;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, anyhow, ensure};
use mesh_e2e::socket::{Ending, ending, exchange};
use mesh_e2e::{Lab, Node, Pod, Topology, eventually};
use rcgen::{CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber};

use crate::runner::say;

/// What the mesh promises.
const PROMISE: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(5);

const FLAG: &str = "response_flags=\"CERT_REVOKED\"";

/// The agents get a line about their list before they start.
pub(super) fn topology() -> Topology {
    Topology::new()
        .pod(Pod::new("alice", "n1"))
        .pod(Pod::new("bob", "n1"))
        .pod(Pod::new("server", "n2"))
        .without_agents()
}

/// All on one node, where connections have no tunnel.
pub(crate) fn one_node() -> Topology {
    ["alice", "bob", "server"]
        .into_iter()
        .fold(Topology::new(), |all, name| all.pod(Pod::new(name, "n1")))
        .same_node("local")
        .without_agents()
}

fn list_of(lab: &Lab, node: &str) -> PathBuf {
    lab.directory().join(format!("{node}.crl"))
}

/// Gives `node` a list with the certificates of these pods; returns when it was in place.
pub(crate) fn revoke(lab: &Lab, node: &str, serials: &[String]) -> Result<Instant> {
    let directory = lab.directory().join("authority");
    let key = KeyPair::from_pem(&fs::read_to_string(directory.join("root.key"))?)?;
    let root = Issuer::from_ca_cert_pem(&fs::read_to_string(directory.join("root.pem"))?, key)?;
    let now = SystemTime::now();
    let revoked = |serial: &String| {
        let bytes: Result<Vec<u8>, _> = serial.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect();
        anyhow::Ok(RevokedCertParams {
            serial_number: SerialNumber::from(bytes?),
            revocation_time: now.into(),
            reason_code: None,
            invalidity_date: None,
        })
    };
    let list = CertificateRevocationListParams {
        this_update: now.into(),
        next_update: (now + Duration::from_secs(3600)).into(),
        crl_number: SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: serials.iter().map(revoked).collect::<Result<_>>()?,
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let fresh = lab.directory().join("fresh.crl");
    fs::write(&fresh, list.signed_by(&root)?.pem()?)?;
    fs::rename(&fresh, list_of(lab, node))?;
    Ok(Instant::now())
}

pub(crate) fn serial(lab: &Lab, node: &str, pod: &str) -> Result<String> {
    let certificates = lab.agent(node).status()?.certificates;
    let own = certificates.into_iter().find(|it| it.identity == lab.pod(pod).identity);
    own.and_then(|it| it.serial).context("no certificate")
}

fn open(lab: &Lab, client: &str) -> Result<TcpStream> {
    let stream = lab.pod(client).connect(lab.pod("server").at4(80))?;
    works(&stream)?;
    Ok(stream)
}

fn works(stream: &TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    ensure!(exchange(stream, "hello").context("the connection")? == "hello", "other bytes came back");
    Ok(())
}

/// A new connection gets nowhere. The reset may be faster than the client.
fn refused(lab: &Lab, client: &str) -> Result<()> {
    let Ok(stream) = lab.pod(client).connect(lab.pod("server").at4(80)) else { return Ok(()) };
    let end = ending(&stream, PATIENCE)?;
    ensure!(end == Ending::Reset, "a new connection ends with {end:?}");
    Ok(())
}

/// How long after `change` the stream was reset.
fn reset_by(stream: &TcpStream, change: impl FnOnce() -> Result<Instant>) -> Result<()> {
    let time = thread::scope(|scope| -> Result<Duration> {
        let watch = scope.spawn(|| (ending(stream, PATIENCE), Instant::now()));
        let at = change()?;
        let (end, when) = watch.join().map_err(|_| anyhow!("the watching thread panicked"))?;
        ensure!(end.context("the connection")? == Ending::Reset, "it was closed as if it were complete");
        Ok(when.saturating_duration_since(at))
    })?;
    say(format_args!("    cut off after {time:?}"));
    ensure!(time < PROMISE, "cut off after {time:?}");
    Ok(())
}

fn count(lab: &Lab, node: &str, name: &str, labels: &[&str]) -> Result<usize> {
    // A series that does not exist yet has counted nothing.
    Ok(lab.agent(node).metric(name, labels).unwrap_or_default().round() as usize)
}

pub(crate) fn start(lab: &Lab) -> Result<()> {
    for Node { name: node, .. } in lab.nodes() {
        revoke(lab, node, &[])?;
        let (text, list) = (lab.node(node).text(), list_of(lab, node));
        ensure!(text.contains("\"ca\":{"), "the file of {node} is not as it was");
        lab.node(node).rewrite(&text.replace("\"ca\":{", &format!("\"ca\":{{\"crl\":\"{}\",", list.display())))?;
        lab.agent(node).launch()?;
    }
    for node in lab.nodes() {
        lab.agent(&node.name).wait_ready()?;
    }
    lab.settle()
}

pub(super) fn both_directions(lab: &mut Lab) -> Result<()> {
    let lab = &*lab;
    start(lab)?;
    let _application = lab.pod("server").echo(80)?;
    client(lab).context("a revoked client")?;
    server(lab).context("a revoked server")?;
    broken(lab).context("a list that cannot be read")
}

/// The one node learns that alice's certificate is no longer good, and then that the server's is not.
pub(super) fn joined(lab: &mut Lab) -> Result<()> {
    let lab = &*lab;
    start(lab)?;
    let _application = lab.pod("server").echo(80)?;
    let (alice, bob) = (open(lab, "alice")?, open(lab, "bob")?);
    let news = lab.agent("n1").log().from_now();
    let alices = serial(lab, "n1", "alice")?;
    reset_by(&alice, || revoke(lab, "n1", std::slice::from_ref(&alices)))?;
    let line = news.wait(PATIENCE, |line| line.scope == "access" && line.field("src.workload") == "alice")?;
    ensure!(line.field("mode") == "local", "it had a tunnel: {}", line.text);
    let reason = "closed by a revocation: the peer's certificate was revoked by its authority";
    ensure!(line.error() == reason, "the log says {:?}", line.error());
    works(&bob).context("somebody else's connection")?;
    refused(lab, "alice")?;
    revoke(lab, "n1", &[])?;
    eventually(PATIENCE, || open(lab, "alice").map(drop)).context("taken off the list again")?;
    let servers = serial(lab, "n1", "server")?;
    reset_by(&bob, || revoke(lab, "n1", std::slice::from_ref(&servers)))?;
    refused(lab, "bob")
}

/// The server's node learns that alice's certificate is no longer good.
fn client(lab: &Lab) -> Result<()> {
    let (alice, bob) = (open(lab, "alice")?, open(lab, "bob")?);
    let serial = serial(lab, "n1", "alice")?;
    let news = lab.agent("n2").log().from_now();
    reset_by(&alice, || revoke(lab, "n2", std::slice::from_ref(&serial)))?;
    let line = news.wait(PATIENCE, |line| line.scope == "access" && line.field("src.workload") == "alice")?;
    ensure!(
        line.error() == "closed by a revocation: the peer's certificate was revoked by its authority",
        "the log says {:?}",
        line.error()
    );
    works(&bob).context("somebody else's connection")?;
    let news = lab.agent("n2").log().from_now();
    refused(lab, "alice")?;
    news.wait(PATIENCE, |line| line.error() == "tls: the peer's certificate was revoked by its authority")?;
    let closed = count(lab, "n2", "istio_tcp_connections_failed_total", &[FLAG, "reporter=\"destination\""])?;
    let rejections = count(lab, "n2", "istio_crl_policy_rejections_total", &["reporter=\"destination\""])?;
    ensure!(closed == 1 && rejections >= 2, "{closed} connections and {rejections} rejections are counted");
    revoke(lab, "n2", &[])?;
    eventually(PATIENCE, || open(lab, "alice").map(drop)).context("taken off the list again")
}

/// The client's node learns it of the server's.
fn server(lab: &Lab) -> Result<()> {
    let bob = open(lab, "bob")?;
    let serial = serial(lab, "n2", "server")?;
    reset_by(&bob, || revoke(lab, "n1", std::slice::from_ref(&serial)))?;
    let counted = || count(lab, "n1", "istio_tcp_connections_failed_total", &[FLAG, "reporter=\"source\""]);
    let closed = counted()?;
    ensure!(closed == 1, "{closed} connections are counted");
    refused(lab, "bob")?;
    eventually(PATIENCE, || {
        let closed = counted()?;
        ensure!(closed == 2, "{closed} connections are counted");
        Ok(())
    })
}

/// A broken file changes nothing, and is told.
fn broken(lab: &Lab) -> Result<()> {
    fs::write(list_of(lab, "n1"), "-----BEGIN X509 CRL-----\nMIIB")?;
    let told = || {
        let status = String::from_utf8(lab.agent("n1").ctl().arg("status").output()?.stdout)?;
        ensure!(status.contains("1 certificate revoked") && status.contains("LIST REJECTED"), "status says\n{status}");
        Ok(())
    };
    eventually(PATIENCE, told)?;
    ensure!(count(lab, "n1", "mesh_crl_rejected", &[])? == 1, "the metric says nothing of it");
    refused(lab, "bob").context("by the former list")?;
    revoke(lab, "n1", &[])?;
    eventually(PATIENCE, || open(lab, "bob").map(drop))
}
