//! Istio's echo client and server, which speak HBONE themselves, as ends of a tunnel that are not ours.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_e2e::authority::Issued;
use mesh_e2e::{Lab, Process, eventually};

use super::csr;

const PORT: u16 = 8080;
/// Of the echo server, which opens these by default.
const UNUSED: [&str; 2] = ["--port=18080", "--grpc=17070"];
const START: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_secs(5);

/// The echo client in a pod that nothing captures.
#[derive(Debug)]
pub(super) struct EchoClient {
    pod: String,
    way: String,
    credentials: Vec<(&'static str, PathBuf)>,
}

/// What became of a call.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) succeeded: bool,
    pub(super) text: String,
}

impl EchoClient {
    /// In `pod`, through the port 15008 at `tunnel`.
    pub(super) fn new(pod: &str, tunnel: SocketAddr) -> Self {
        Self { pod: pod.to_owned(), way: format!("--hbone={tunnel}"), credentials: Vec::new() }
    }

    /// The same, with a tunnel inside the first.
    pub(super) fn double(pod: &str, gateway: SocketAddr) -> Self {
        Self { way: format!("--double-hbone={gateway}"), ..Self::new(pod, gateway) }
    }

    pub(super) fn proven_by(mut self, issued: &Issued) -> Self {
        self.credentials =
            vec![("--hbone-client-cert", issued.certificate.clone()), ("--hbone-client-key", issued.key.clone())];
        self
    }

    /// One request, such as to `tcp://10.40.2.10:8080`.
    pub(super) fn call(&self, lab: &Lab, url: &str) -> Result<Said> {
        let mut command = lab.pod(&self.pod).command(lab.kube().tools().program("echo-client"));
        command.arg(&self.way).args(["--hbone-insecure-skip-verify", "--inner-hbone-insecure-skip-verify"]);
        for (name, file) in &self.credentials {
            command.arg(name).arg(file);
        }
        let output = command.args(["--count=1", "--timeout=5s", url]).output().context("the echo client")?;
        let said = [output.stdout, output.stderr].concat();
        Ok(Said { succeeded: output.status.success(), text: String::from_utf8_lossy(&said).into_owned() })
    }
}

/// The echo server in a pod, with further arguments.
pub(super) fn server(lab: &Lab, pod: &str, arguments: &[String]) -> Result<Process> {
    let place = lab.pod(pod);
    let mut command = place.command(lab.kube().tools().program("echo-server"));
    command.args(UNUSED).arg(format!("--tcp={PORT}")).args(arguments);
    let running = lab.spawn(&format!("echo-server-{pod}"), &mut command)?;
    eventually(START, || place.connect(place.at4(PORT)).map(drop)).context("the echo server")?;
    Ok(running)
}

/// The client, with a certificate that istiod issued to it, asks for a pod through the agent's port 15008: it reaches
/// the application there, and is known by its identity. Without a certificate it does not.
pub(super) fn through_15008(lab: &Lab) -> Result<()> {
    let (target, identity) = (lab.pod("server"), &lab.pod("plain").identity);
    let _running = server(lab, "server", &[])?;
    let (client, url) = (EchoClient::new("plain", target.at4(15008)), format!("tcp://{}", target.at4(PORT)));
    let said = client.call(lab, &url)?;
    ensure!(!said.succeeded && !said.text.contains("StatusCode=200"), "without a certificate: {}", said.text);
    let news = lab.agent("n2").log().from_now();
    let said = client.proven_by(&csr::for_pod(lab, "plain")?).call(lab, &url)?;
    ensure!(said.succeeded && said.text.contains("StatusCode=200"), "the client failed: {}", said.text);
    let line = news.wait(SOON, |line| line.scope == "access" && line.field("src.identity") == identity.as_str())?;
    // It ends without closing its tunnel, which is told as an error.
    let here = line.field("direction") == "inbound" && line.field("dst.hbone_addr") == target.at4(PORT).to_string();
    ensure!(here, "{}", line.text);
    Ok(())
}

/// A pod that ends its tunnels itself, by Istio's server: a captured client reaches it through one, under its identity.
pub(super) fn native(lab: &Lab) -> Result<()> {
    let (pod, client) = (lab.pod("native"), lab.pod("client"));
    let issued = csr::for_pod(lab, "native")?;
    let file = |flag: &str, path: &Path| format!("--{flag}={}", path.display());
    let arguments = ["--hbone=15008".to_owned(), "--tls=15008".to_owned()];
    let _running = server(
        lab,
        "native",
        &[&arguments[..], &[file("crt", &issued.certificate), file("key", &issued.key)]].concat(),
    )?;
    eventually(START, || pod.connect(pod.at4(15008)).map(drop)).context("its port 15008")?;
    let news = lab.agent("n1").log().from_now();
    let mut stream = client.connect(pod.at4(PORT))?;
    stream.set_read_timeout(Some(SOON))?;
    stream.write_all(b"hello\n")?;
    let mut answer = [0; 200];
    let length = stream.read(&mut answer).context("the server's answer")?;
    let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
    ensure!(answer.contains("StatusCode=200") || answer.contains("hello"), "{answer}");
    drop(stream);
    let line = news.wait(SOON, |line| line.scope == "access" && line.field("dst.workload") == "native")?;
    let way = [line.field("dst.addr"), line.field("dst.hbone_addr"), line.field("dst.identity")];
    let wanted = [pod.at4(15008).to_string(), pod.at4(PORT).to_string(), pod.identity.clone()];
    ensure!(way == wanted, "{way:?} instead of {wanted:?}");
    Ok(())
}
