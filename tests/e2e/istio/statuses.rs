//! The statuses of a CONNECT (protocol note, section 5.3), as clients see them that are not ours: Istio's own, and Python's
//! HTTP/2.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use anyhow::{Context, Result, ensure};
use mesh_e2e::authority::Issued;
use mesh_e2e::{Lab, eventually};

use super::csr;
use super::echo::{self, EchoClient};
use super::support::{LIMIT, SOON, ask, policy};

const HBONE: u16 = 15008;
const APP: u16 = 8080;
const PROTOCOL_ERROR: u32 = 1;
/// Nobody listens there.
const CLOSED: u16 = 9;
/// With Debian's package python3-h2.
const PYTHON: &str = "/usr/bin/python3";

/// One connection of `foreign.py`, from a pod that nothing captures.
struct Foreign {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Foreign {
    fn start(lab: &Lab, to: SocketAddr, issued: &Issued) -> Result<Self> {
        let mut command = lab.pod("plain").command(PYTHON);
        command.args(["-c", include_str!("foreign.py"), &to.ip().to_string(), &to.port().to_string()]);
        command.arg(&issued.certificate).arg(&issued.key).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().context(PYTHON)?;
        let (input, output) =
            (process.stdin.take().context("its input")?, process.stdout.take().context("its output")?);
        Ok(Self { process, input, output: BufReader::new(output) })
    }

    /// What is answered to a request.
    fn ask(&mut self, method: &str, authority: &str) -> Result<String> {
        writeln!(self.input, "{method} {authority}")?;
        let mut line = String::new();
        let length = self.output.read_line(&mut line)?;
        ensure!(length > 0, "foreign.py has ended (Debian package python3-h2?)");
        Ok(line.trim().to_owned())
    }

    /// The same, which must be an error status without a body.
    fn refused(&mut self, method: &str, authority: &str, status: u16) -> Result<()> {
        let answer = self.ask(method, authority)?;
        ensure!(answer == format!("{status} end -"), "{method} {authority}: {answer}, not {status}");
        Ok(())
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// Each status for each reason, all on one connection, which stays; then the same from Istio's client, as far as it can.
pub(super) fn all(lab: &Lab) -> Result<()> {
    let (server, kubectl, issued) = (lab.pod("server"), lab.kube().kubectl(), csr::for_pod(lab, "plain")?);
    let (application, own) = (server.echo(APP)?, server.at4(APP).to_string());
    let mut client = Foreign::start(lab, server.at4(HBONE), &issued)?;
    let accepted = |answer: &str| {
        let (head, baggage) = answer.rsplit_once(' ').context("no baggage")?;
        ensure!(head == "200 open" && baggage.contains("k8s.pod.name=server"), "{answer}");
        anyhow::Ok(())
    };
    accepted(&client.ask("CONNECT", &own)?)?;
    accepted(&client.ask("CONNECT", "web.shop.svc.cluster.local:80")?)?;
    for method in ["GET", "POST", "OPTIONS"] {
        client.refused(method, &own, 400)?;
    }
    for authority in
        [server.v4.to_string().as_str(), "no-port", "10.40.2.10:0", "10.40.2.10:65536", "web.shop:http", "-"]
    {
        client.refused("CONNECT", authority, 400)?;
    }
    // What HTTP itself has no word for is reset, as malformed (RFC 9113, section 8.1.1).
    let answer = client.ask("CONNECT", "a:b:80")?;
    ensure!(answer == format!("reset {PROTOCOL_ERROR}"), "{answer}");
    let elsewhere = lab.pod("client").at4(APP).to_string();
    for authority in [elsewhere.as_str(), &lab.vip4("web", 80).to_string(), "[fd00:40:1::10]:8080"] {
        client.refused("CONNECT", authority, 400).context("an address that is not the pod's")?;
    }
    for authority in ["nobody.shop.svc.cluster.local:80", "web.shop.svc.cluster.local:81"] {
        client.refused("CONNECT", authority, 503).context("a name or port that is unknown")?;
    }
    for port in [HBONE, 15001, 15006] {
        client.refused("CONNECT", &server.at4(port).to_string(), 503).context("a port of the agent's")?;
    }
    client.refused("CONNECT", &server.at4(CLOSED).to_string(), 503).context("nobody listens there")?;
    let deny = policy(
        "no-plain",
        "{action: DENY, rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/plain]}}]}]}",
    );
    let denial = kubectl.applied(&deny)?;
    eventually(LIMIT, || client.refused("CONNECT", &own, 401))?;
    drop(application);
    from_istio(lab, &issued, "401", &own)?;
    denial.delete()?;
    eventually(LIMIT, || client.refused("CONNECT", &own, 503)).context("the application has ended")?;
    let _application = echo::server(lab, "server", &[])?;
    eventually(LIMIT, || from_istio(lab, &issued, "StatusCode=200", &own))?;
    for (status, authority) in [
        ("400", elsewhere.as_str()),
        ("503", &server.at4(CLOSED).to_string()),
        ("503", "nobody.shop.svc.cluster.local:80"),
        ("503", "web.shop.svc.cluster.local:81"),
        ("StatusCode=200", "web.shop.svc.cluster.local:80"),
    ] {
        from_istio(lab, &issued, status, authority)?;
    }
    Ok(())
}

/// Istio's client sees that status, or the application's answer.
fn from_istio(lab: &Lab, issued: &Issued, status: &str, authority: &str) -> Result<()> {
    let client = EchoClient::new("plain", lab.pod("server").at4(HBONE)).proven_by(issued);
    let said = client.call(lab, &format!("tcp://{authority}"))?;
    let wanted = if status.starts_with("Status") { status.to_owned() } else { format!("round trip failed: {status}") };
    ensure!(said.text.contains(&wanted), "{authority}: not {wanted:?}: {}", said.text);
    Ok(())
}

/// A waypoint whose tunnels the agent ends wants a PROXY header, and a service without an address gives none to write into it.
pub(super) fn no_address_to_announce(lab: &Lab) -> Result<()> {
    let (sandwich, issued) = (lab.pod("sandwich"), csr::for_pod(lab, "plain")?);
    let mut client = Foreign::start(lab, sandwich.at4(HBONE), &issued)?;
    let bare = "bare.shop.svc.cluster.local:80";
    let _application = sandwich.echo(APP)?;
    ensure!(client.ask("CONNECT", bare)?.starts_with("200 open"), "without a PROXY header");
    let gateway = lab.kube().kubectl().applied(
        "{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: sandwich, namespace: shop, \
         annotations: {ambient.istio.io/waypoint-inbound-binding: PROXY/15088}}, \
         spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15088, protocol: istio.io/PROXY}]}}",
    )?;
    let news = lab.agent("n2").log().from_now();
    eventually(LIMIT, || client.refused("CONNECT", bare, 503))?;
    let line = news.wait(SOON, |line| line.scope == "access" && !line.error().is_empty())?;
    ensure!(line.error().contains("PROXY"), "{}", line.text);
    gateway.delete()
}

/// The pod is gone from Kubernetes while a tunnel to it is open: its node does not know it any more.
pub(super) fn unknown_workload(lab: &Lab) -> Result<()> {
    let (server, kube, issued) = (lab.pod("server"), lab.kube(), csr::for_pod(lab, "plain")?);
    let (_application, own) = (server.echo(APP)?, server.at4(APP).to_string());
    let mut client = Foreign::start(lab, server.at4(HBONE), &issued)?;
    ensure!(client.ask("CONNECT", &own)?.starts_with("200 open"), "before that");
    let (pod, known) = (lab.world().pod("server").clone(), || anyhow::Ok(lab.agent("n2").status()?.config.workloads));
    let before = known()?;
    kube.delete_pod("shop", "server")?;
    let gone = eventually(LIMIT, || {
        ensure!(known()? < before, "the node still knows it");
        Ok(())
    });
    let answer = client.refused("CONNECT", &own, 503);
    kube.add_pod(&pod)?;
    eventually(LIMIT, || ask(lab, "client", lab.vip4("web", 80))).context("it is there again")?;
    gone.and(answer)?;
    ensure!(client.ask("CONNECT", &own)?.starts_with("200 open"), "through the tunnel that was there all the time");
    Ok(())
}
