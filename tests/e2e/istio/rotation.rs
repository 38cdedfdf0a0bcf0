//! Another root of trust, as an operator brings it in: trust both, sign with the new one, trust the new one alone.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use mesh_e2e::kube::Root;
use mesh_e2e::{Lab, eventually};
use serde_json::Value;
use x509_parser::pem::Pem;

use super::csr;
use super::echo::{self, EchoClient};
use super::support::under_load;

use crate::runner::say;

/// Certificates live 20 seconds and are renewed at half of that; istiod may have been away when it was due.
const RENEWED: Duration = Duration::from_secs(40);
/// Of istiod's page for its tools.
const ADMIN: u16 = 15000;

/// Each step is a change of the secret `cacerts`, a new start of istiod, and a wait until all certificates of the mesh are
/// renewed. No connection fails meanwhile; afterwards the new root alone is trusted, and what the old one signed is refused.
pub(super) fn without_a_break(lab: &mut Lab) -> Result<()> {
    let (kube, server) = (lab.kube(), lab.pod("server"));
    let (old, new) = (kube.first_root().context("no root of an operator's own")?, Root::new("second root")?);
    let new = &new;
    let _applications = (echo::server(lab, "server", &[])?, lab.pod("server").echo(8081)?);
    let (past, url) = (csr::for_pod(lab, "plain")?, format!("tcp://{}", server.at4(8080)));
    let client = |issued| EchoClient::new("plain", server.at4(15008)).proven_by(issued);
    ensure!(client(&past).call(lab, &url)?.succeeded, "the old root's client, before all that");
    under_load(lab, server.at4(8081), || {
        for (what, signing, trusted) in [
            ("both roots are trusted", old, vec![old, new]),
            ("the new one signs", new, vec![old, new]),
            ("the new one alone is trusted", new, vec![new]),
        ] {
            let start = std::time::Instant::now();
            let authority = kube.plug_in(signing, &trusted)?;
            kube.istiod().stop()?;
            kube.istiod().launch()?;
            kube.istiod().wait_ready()?;
            kube.mount_roots(&trusted)?;
            eventually(RENEWED, || ["n1", "n2"].iter().try_for_each(|node| holds(lab, node, &authority, &trusted)))
                .with_context(|| what.to_owned())?;
            say(format_args!("{what}: everywhere after {:.1} s", start.elapsed().as_secs_f64()));
        }
        Ok(())
    })?;
    for node in ["n1", "n2"] {
        let failed = lab.agent(node).log().access().into_iter().find(|line| line.error().contains("tls: "));
        ensure!(failed.is_none(), "a handshake failed: {}", failed.unwrap_or_default().text);
    }
    let present = csr::for_pod(lab, "plain")?;
    let said = client(&present).call(lab, &url)?;
    ensure!(said.succeeded, "the new root's client: {}", said.text);
    ensure!(!client(&past).call(lab, &url)?.succeeded, "what the old root has signed is still taken");
    ensure!(proves(lab, new)?, "the server does not prove itself under the new root");
    ensure!(!proves(lab, old)?, "the server proves itself under the old root");
    Ok(())
}

/// The agent's certificates are signed by `authority`, and exactly the roots are trusted.
fn holds(lab: &Lab, node: &str, authority: &str, roots: &[&Root]) -> Result<()> {
    let (status, page) = lab.agent(node).page(ADMIN, "/config_dump")?;
    ensure!(status == 200, "{status} {page}");
    let dump: Value = serde_json::from_str(&page)?;
    let serials = |list: &Value| -> Vec<String> {
        let all = list.as_array().into_iter().flatten();
        all.filter_map(|one| Some(one["serialNumber"].as_str()?.to_owned())).collect()
    };
    let wanted = roots.iter().map(|root| serial(root.pem())).collect::<Result<Vec<_>>>()?;
    let certificates = dump["certificates"].as_array().filter(|all| !all.is_empty()).context("no certificates")?;
    for certificate in certificates {
        let (chain, trusted) = (serials(&certificate["certChain"]), serials(&certificate["rootCerts"]));
        let who = &certificate["identity"];
        ensure!(chain.get(1) == Some(&serial(authority)?), "{node}: {who} is signed by another authority");
        ensure!(trusted == wanted, "{node}: {who} trusts {trusted:?}, not {wanted:?}");
    }
    Ok(())
}

fn serial(pem: &str) -> Result<String> {
    let pem = Pem::iter_from_buffer(pem.as_bytes()).next().context("no PEM")??;
    Ok(pem.parse_x509().map_err(|error| anyhow!("no certificate: {error}"))?.raw_serial_as_string())
}

/// Whether the server's port 15008 proves itself under `root`, in the eyes of OpenSSL.
fn proves(lab: &Lab, root: &Root) -> Result<bool> {
    let own = csr::for_pod(lab, "plain")?;
    let anchor = lab.directory().join("anchor.pem");
    fs::write(&anchor, root.pem())?;
    let mut openssl = lab.pod("plain").command("openssl");
    openssl.args(["s_client", "-brief", "-alpn", "h2", "-connect", &lab.pod("server").at4(15008).to_string()]);
    openssl.arg("-CAfile").arg(anchor).arg("-cert").arg(own.certificate).arg("-key").arg(own.key);
    let output = openssl.stdin(std::process::Stdio::null()).output().context("openssl")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(said.contains("CONNECTION ESTABLISHED"), "openssl: {said}");
    Ok(said.contains("Verification: OK"))
}
