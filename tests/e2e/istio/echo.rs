//! Istio's echo client and server, which speak HBONE themselves, as ends of a tunnel that are not ours.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_e2e::{Lab, eventually};

use super::csr::ask;

const PORT: u16 = 8080;
/// Of the echo server, which opens these by default.
const UNUSED: [&str; 2] = ["--port=18080", "--grpc=17070"];
const START: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_secs(5);

/// The client, with a certificate that istiod issued to it, asks for a pod through the agent's port 15008: it reaches
/// the application there, and is known by its identity. Without a certificate it does not.
pub(super) fn through_15008(lab: &Lab) -> Result<()> {
    let server = lab.pod("server");
    let mut command = server.command(lab.kube().tools().program("echo-server"));
    command.args(UNUSED).arg(format!("--tcp={PORT}"));
    let _running = lab.spawn("echo-server", &mut command)?;
    eventually(START, || server.connect(server.at4(PORT)).map(drop)).context("the echo server")?;
    let token = fs::read_to_string(lab.kube().token("n1"))?;
    let identity = &lab.pod("plain").identity;
    let issued = ask(lab, "n1", &token, identity)?.context("a certificate for the client")?;
    let file = |name: &str| lab.directory().join(name);
    let (certificate, key) = (file("plain.pem"), file("plain.key"));
    fs::write(&certificate, issued.chain.concat())?;
    fs::write(&key, issued.key)?;
    let news = lab.agent("n2").log().from_now();
    let mut proven = client(lab);
    proven.arg("--hbone-client-cert").arg(&certificate).arg("--hbone-client-key").arg(&key);
    let (succeeded, said) = run(&mut proven)?;
    ensure!(succeeded && said.contains("StatusCode=200"), "the client failed: {said}");
    let line = news.wait(SOON, |line| line.scope == "access" && line.field("src.identity") == identity.as_str())?;
    // It ends without closing its tunnel, which is told as an error.
    let here = line.field("direction") == "inbound" && line.field("dst.hbone_addr") == server.at4(PORT).to_string();
    ensure!(here, "{}", line.text);
    let (succeeded, said) = run(&mut client(lab))?;
    ensure!(!succeeded && !said.contains("StatusCode=200"), "a client without a certificate got through: {said}");
    Ok(())
}

/// In the pod outside the mesh, so that nothing captures what it sends.
fn client(lab: &Lab) -> Command {
    let server = lab.pod("server");
    let mut command = lab.pod("plain").command(lab.kube().tools().program("echo-client"));
    command.arg(format!("--hbone={}", server.at4(15008))).arg("--hbone-insecure-skip-verify");
    command.args(["--count=1", "--timeout=5s"]).arg(format!("tcp://{}", server.at4(PORT)));
    command
}

/// Whether it ended well, and all it said.
fn run(command: &mut Command) -> Result<(bool, String)> {
    let output = command.output().context("the echo client")?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
}
