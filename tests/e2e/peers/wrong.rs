//! Clients that are not who or what they should be. Each gets a sentence of its own in the log, and the agent goes on.

use std::io::{Read, Write};
use std::net::Shutdown;

use anyhow::{Context, Result, bail, ensure};
use mesh_e2e::socket::ending;
use mesh_e2e::{Lab, Line, Log};
use rcgen::ExtendedKeyUsagePurpose;
use rustls::version::{TLS12, TLS13};

use super::client::{HBONE, SOON, Tunnel, raw, still_serving};
use super::credentials::{Credentials, Root, Valid, Wish, client, good_client, issued, made};

const ALICE: &str = "spiffe://cluster.local/ns/default/sa/alice";
const STRANGER: &str = "spiffe://other.domain/ns/default/sa/alice";

/// Waits for the one line about the failure of the outside host's connection.
fn told(news: &Log, lab: &Lab) -> Result<Line> {
    let address = lab.outside_addresses()[0].to_string();
    // Streams of former connections may end meanwhile; theirs is another message.
    let failed = |line: &Line| line.scope == "access" && line.message == "connection failed";
    let line = news.wait(SOON, |line| failed(line) && line.field("src.addr").starts_with(&address))?;
    ensure!(matches!(line.level.as_str(), "warn" | "error"), "a failure is told as {}", line.level);
    ensure!(line.field("direction") == "inbound", "{}", line.text);
    Ok(line)
}

/// The wrong clients and what is said of them.
type Row<'a> = (&'a str, Result<Option<Credentials>>, &'a str);

/// Certificates that are not taken.
pub(super) fn certificates(lab: &Lab) -> Result<()> {
    let make = |wish: &Wish<'_>| made(lab, wish).map(Some);
    let alice = Wish::of(&[ALICE]);
    let rows: [Row<'_>; 9] = [
        (
            "another trust domain",
            make(&Wish::of(&[STRANGER])),
            "not the expected peer: it is spiffe://other.domain/ns/default/sa/alice, \
             which is not of trust domain cluster.local",
        ),
        (
            "another authority",
            make(&Wish { root: Root::Stranger, ..alice.clone() }),
            "signed by an authority that we do not trust",
        ),
        (
            "another authority of the same name",
            make(&Wish { root: Root::Namesake, ..alice.clone() }),
            "signed by an authority that we do not trust",
        ),
        ("expired", make(&Wish { valid: Valid::Past, ..alice.clone() }), "the peer's certificate has expired"),
        (
            "not valid yet",
            make(&Wish { valid: Valid::Future, ..alice.clone() }),
            "is not valid yet, maybe a clock is wrong",
        ),
        ("no certificate", Ok(None), "the peer presented no certificate"),
        ("no name", make(&Wish::of(&[])), "carries no identity of the mesh"),
        (
            "no SPIFFE name",
            make(&Wish::of(&["https://cluster.local/ns/default/sa/alice"])),
            "carries no identity of the mesh",
        ),
        (
            "a server's certificate",
            make(&Wish { usages: vec![ExtendedKeyUsagePurpose::ServerAuth], ..alice }),
            "the peer's certificate is not acceptable",
        ),
    ];
    let _application = lab.pod("server").echo(80)?;
    let mut wrong = Vec::new();
    for (what, credentials, reason) in rows {
        let config = client(credentials.context(what)?, &TLS13, &["h2"])?;
        let news = lab.agent("n2").log().from_now();
        let to = lab.pod("server").at4(HBONE);
        // With TLS 1.3 the client is done before the server has seen its certificate.
        let answer = Tunnel::open(lab.outside(), to, config).and_then(|mut tunnel| tunnel.connect("10.40.2.10:80"));
        if let Ok(answer) = answer {
            bail!("{what}: the agent answers with {}", answer.status);
        }
        let line = told(&news, lab).context(what)?;
        let said =
            line.error().starts_with("tls: ") && line.error().contains(reason) && !line.error().contains("Error(");
        if !said {
            wrong.push(format!("{what}: the log says {:?}, should {reason:?}", line.error()));
        }
        still_serving(lab).context(what)?;
    }
    if wrong.is_empty() { Ok(()) } else { bail!("{}", wrong.join("\n  ")) }
}

/// The certificates that `mesh-agent control issue` makes: one in order, and one that has expired.
pub(super) fn control_issue(lab: &Lab) -> Result<()> {
    let _application = lab.pod("server").echo(80)?;
    let to = lab.pod("server").at4(HBONE);
    let config = client(Some(issued(lab, ALICE, "1h")?), &TLS13, &["h2"])?;
    let first = lab.agent("n2").log().from_now();
    let answer = Tunnel::open(lab.outside(), to, config)?.connect("10.40.2.10:80")?;
    ensure!(answer.status == 200, "a good certificate is answered with {}", answer.status);
    drop(answer);
    // Its line must not be taken for the next one's.
    first.wait(SOON, |line| line.scope == "access" && line.message == "connection complete")?;
    let news = lab.agent("n2").log().from_now();
    let config = client(Some(issued(lab, ALICE, "-1h")?), &TLS13, &["h2"])?;
    let answer = Tunnel::open(lab.outside(), to, config).and_then(|mut tunnel| tunnel.connect("10.40.2.10:80"));
    ensure!(answer.is_err(), "an expired certificate is taken");
    let line = told(&news, lab)?;
    ensure!(line.error().contains("has expired"), "the log says {:?}", line.error());
    Ok(())
}

/// Bytes on the HBONE port that are no TLS, or not the right one.
pub(super) fn protocols(lab: &Lab) -> Result<()> {
    let _application = lab.pod("server").echo(80)?;
    let not_tls = "tls: what the peer sent is not TLS";
    let raws: [(&str, &[u8], &str); 5] = [
        ("garbage", &[0x5a; 2000], not_tls),
        ("HTTP", b"GET / HTTP/1.1\r\nhost: server\r\n\r\n", not_tls),
        ("HTTP/2 in the clear", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", not_tls),
        ("a broken record", &[0x16, 3, 1, 0xff, 0xff, 1, 2, 3, 4], not_tls),
        ("nothing", b"", "tls: the peer closed the connection during the handshake"),
    ];
    let mut wrong = Vec::new();
    for (what, bytes, reason) in raws {
        let news = lab.agent("n2").log().from_now();
        let mut tcp = lab.outside().connect(lab.pod("server").at4(HBONE))?;
        tcp.write_all(bytes)?;
        tcp.shutdown(Shutdown::Write)?;
        ending(&tcp, SOON).context(what)?;
        wrong.extend(said(&news, lab, what, reason)?);
    }
    for (what, version, offer) in [("TLS 1.2 only", &TLS12, &["h2"][..]), ("HTTP/1.1 only", &TLS13, &["http/1.1"])] {
        let news = lab.agent("n2").log().from_now();
        let config = client(Some(made(lab, &Wish::of(&[ALICE]))?), version, offer)?;
        ensure!(Tunnel::open(lab.outside(), lab.pod("server").at4(HBONE), config).is_err(), "{what} is taken");
        wrong.extend(said(&news, lab, what, "tls: no common protocol, TLS 1.3 with h2 is needed")?);
    }
    let news = lab.agent("n2").log().from_now();
    let mut tls = raw(lab.outside(), lab.pod("server").at4(HBONE), good_client(lab, ALICE)?)?;
    tls.write_all(b"GET / HTTP/1.1\r\nhost: server\r\n\r\n")?;
    let mut rest = Vec::new();
    let closed = tls.read_to_end(&mut rest);
    let hangs = closed.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
    ensure!(!hangs, "HTTP/1.1 inside of TLS: the agent does not close the connection");
    wrong.extend(said(&news, lab, "HTTP/1.1 inside of TLS", "http2: ")?);
    if wrong.is_empty() { Ok(()) } else { bail!("{}", wrong.join("\n  ")) }
}

/// What is wrong with the line about the last connection.
fn said(news: &Log, lab: &Lab, what: &str, reason: &str) -> Result<Option<String>> {
    let wrong = match told(news, lab) {
        Ok(line) if line.error().starts_with(reason) => None,
        Ok(line) => Some(format!("{what}: the log says {:?}, should {reason:?}", line.error())),
        Err(_) => Some(format!("{what}: the log says nothing of it")),
    };
    still_serving(lab).context(what.to_owned())?;
    Ok(wrong)
}
