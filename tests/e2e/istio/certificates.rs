//! Who gets a certificate from istiod, for whom (protocol note, section 4.3), and agents that live on them.

use std::fs;
use std::net::Shutdown;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use mesh_e2e::Lab;
use mesh_e2e::kube::istiod::NODE_ACCOUNTS;
use mesh_e2e::socket::{exchange, read_text};
use tonic::Code;
use x509_parser::extensions::GeneralName;
use x509_parser::pem::parse_x509_pem;

use super::csr::ask;

const CLIENT: &str = "spiffe://cluster.local/ns/default/sa/client";
const SERVER: &str = "spiffe://cluster.local/ns/shop/sa/server";
const SOON: Duration = Duration::from_secs(5);

/// The agent of a node gets certificates for the accounts of its node's pods, with istiod's root at the end.
pub(super) fn by_impersonation(lab: &Lab) -> Result<()> {
    for (node, identity) in [("n1", CLIENT), ("n2", SERVER)] {
        let token = fs::read_to_string(lab.kube().token(node))?;
        let chain = ask(lab, node, &token, identity)?.with_context(|| format!("{node} asks for {identity}"))?.chain;
        let (leaf, root) = (chain.first().context("an empty chain")?, chain.last().context("an empty chain")?);
        let names = uris(leaf)?;
        ensure!(names == [identity], "asked for {identity}, got {names:?}");
        let published = fs::read_to_string(lab.kube().istiod().root())?;
        ensure!(root.trim() == published.trim(), "the chain does not end with the root that istiod publishes");
    }
    // A renewed token is as good.
    lab.kube().renew_token("n1")?;
    let token = fs::read_to_string(lab.kube().token("n1"))?;
    ask(lab, "n1", &token, CLIENT)?.context("with a renewed token").map(drop)
}

/// Everything that is not exactly so is refused.
pub(super) fn refused(lab: &Lab) -> Result<()> {
    let kube = lab.kube();
    let [_, account] = NODE_ACCOUNTS;
    let own = Some("mesh-agent-n1");
    let good = kube.make_token(account, own, "istio-ca")?;
    ask(lab, "n1", &good, CLIENT)?.context("the good token")?;
    let cases = [
        ("an account that has no pod on this node", good.clone(), SERVER),
        ("an account that has no pod at all", good, "spiffe://cluster.local/ns/default/sa/nobody"),
        ("a token that is bound to no pod", kube.make_token(account, None, "istio-ca")?, CLIENT),
        ("a token for somebody else", kube.make_token(account, own, "somebody-else")?, CLIENT),
        ("an account that no node may use", kube.make_token("default", None, "istio-ca")?, CLIENT),
        ("no token at all", "nonsense".to_owned(), CLIENT),
    ];
    for (what, token, identity) in cases {
        let Err(status) = ask(lab, "n1", &token, identity)? else { return Err(anyhow!("{what} got a certificate")) };
        ensure!(status.code() == Code::Unauthenticated, "{what}: {status:?}");
    }
    Ok(())
}

/// The lab's agents ask istiod themselves; what they carry is under its certificates.
pub(super) fn of_agents(lab: &Lab) -> Result<()> {
    for (node, identity) in [("n1", CLIENT), ("n2", SERVER)] {
        let status = lab.agent(node).status()?;
        let own: Vec<_> = status.certificates.iter().map(|certificate| certificate.identity.as_str()).collect();
        ensure!(own == [identity], "the agent of {node} has certificates for {own:?}");
    }
    works(lab)
}

/// While istiod is away everything goes on; once it is back a fresh agent gets its certificates again.
pub(super) fn istiod_away(lab: &mut Lab) -> Result<()> {
    let istiod = lab.kube().istiod();
    works(lab)?;
    istiod.kill()?;
    works(lab).context("without istiod")?;
    istiod.launch()?;
    istiod.wait_ready()?;
    works(lab).context("with istiod again")?;
    lab.agent("n1").stop()?;
    lab.start_agents().context("an agent that starts after istiod's return")?;
    works(lab)
}

/// A connection through the service, which ends as it should; the server's side has proven who calls.
fn works(lab: &Lab) -> Result<()> {
    let _server = lab.pod("server").echo(8080)?;
    let news = lab.agent("n2").log().from_now();
    let stream = lab.pod("client").connect(lab.vip4("web", 80))?;
    stream.set_read_timeout(Some(SOON))?;
    let answer = exchange(&stream, "hello")?;
    ensure!(answer == "hello", "the server answered {answer:?}");
    stream.shutdown(Shutdown::Write)?;
    read_text(&stream)?;
    let line = news.wait(SOON, |line| line.scope == "access" && line.field("direction") == "inbound")?;
    ensure!(line.field("src.identity") == CLIENT, "{}", line.text);
    Ok(())
}

/// The URIs for which a certificate is good.
fn uris(pem: &str) -> Result<Vec<String>> {
    let (_, pem) = parse_x509_pem(pem.as_bytes()).map_err(|error| anyhow!("no PEM: {error}"))?;
    let certificate = pem.parse_x509().context("no certificate")?;
    let names = certificate.subject_alternative_name()?.context("no names")?.value.general_names.iter();
    Ok(names.filter_map(|name| if let GeneralName::URI(uri) = name { Some((*uri).to_owned()) } else { None }).collect())
}
