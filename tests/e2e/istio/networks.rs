//! Another network, as istiod tells of it: one stand-in for all of a service's endpoints there, and a gateway. What is sent
//! there goes through a tunnel in a tunnel, and both ends know each other.

use std::fs::create_dir_all;

use anyhow::{Context, Result, ensure};
use mesh_e2e::envoy::{Listener, Way};
use mesh_e2e::kube::Applied;
use mesh_e2e::{Envoy, Lab, Line};

use super::csr;
use super::echo::{self, EchoClient};
use super::support::{SOON, ask, refused, takes_effect};

const APP: u16 = 8080;
const HBONE: u16 = 15008;
const NO_ENDPOINT: &str = "no healthy endpoint";
const WEB: &str = "web.shop.svc.cluster.local:80";

/// A WorkloadEntry of the other network; the Gateway behind which it is.
fn entry(account: &str) -> String {
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {{name: far, namespace: shop, \
         labels: {{app: server, networking.istio.io/tunnel: http}}}}, \
         spec: {{address: 10.77.0.1, network: west, serviceAccount: {account}, labels: {{app: server}}}}}}"
    )
}

fn gateway(lab: &Lab) -> String {
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: west, namespace: istio-system, \
         labels: {{topology.istio.io/network: west}}}}, spec: {{gatewayClassName: istio-remote, \
         addresses: [{{type: IPAddress, value: {}}}], \
         listeners: [{{name: cross-network, port: 15008, protocol: HBONE, tls: {{mode: Passthrough}}}}]}}}}",
        lab.pod("gateway").v4
    )
}

/// The far end: its control plane knows the service, and Envoy is its gateway, which sees the outer tunnel alone.
fn west(lab: &Lab) -> Result<Envoy> {
    lab.publish(|world| world.service("web").endpoints.push("shop/far".to_owned()))?;
    let credentials = csr::for_pod(lab, "gateway")?;
    let ways = vec![(WEB.to_owned(), Way::Onward(lab.pod("far").at4(HBONE)))];
    let directory = lab.directory().join("envoy-gateway");
    create_dir_all(&directory)?;
    Envoy::start(lab.pod("gateway"), "gateway", &credentials, &[Listener::Hbone(ways)], &directory)
}

/// The service is one of all clusters while this lives.
fn global(lab: &Lab, value: &str) -> Result<()> {
    lab.kube().kubectl().run(["label", "service/web", "--namespace=shop", "--overwrite", value]).map(drop)
}

/// What istiod is told takes effect in traffic: an endpoint on another network, its identity, the gateway; and their ends.
pub(super) fn another(lab: &Lab) -> Result<()> {
    let (kubectl, far, web) = (lab.kube().kubectl(), lab.pod("far"), lab.vip4("web", 80));
    let (application, mut envoy) = (far.echo(APP)?, west(lab)?);
    let (reached, wire) = (|| ask(lab, "client", web), lab.wire("n1")?);
    let fails = |wanted: &str| {
        let news = lab.agent("n1").log().from_now();
        refused(reached())?;
        // An earlier connection that was answered may end with an error of its own when the gateway does.
        let unanswered = |line: &Line| line.field("bytes_recv").parse::<u64>().unwrap_or(0) == 0;
        let line = news.wait(SOON, |line| line.scope == "access" && !line.error().is_empty() && unanswered(line))?;
        ensure!(line.error().contains(wanted), "not for {wanted:?}: {}", line.text);
        Ok(())
    };
    let (server, other, way_in) = (entry("server"), entry("other"), gateway(lab));
    fails(NO_ENDPOINT)?;
    kubectl.apply(&server)?;
    let entrance = kubectl.applied(&way_in)?;
    takes_effect("the service is global", || global(lab, "istio.io/global=true"), reached)?;
    through(lab, &envoy)?;
    let foreign = "not the expected peer: it is spiffe://cluster.local/ns/shop/sa/server";
    takes_effect("another account at the far end", || kubectl.apply(&other), || fails(foreign))?;
    takes_effect("its own account again", || kubectl.apply(&server), reached)?;
    judged(lab)?;
    takes_effect("the gateway is deleted", || entrance.delete(), || fails(NO_ENDPOINT))?;
    let entrance: Applied<'_> = kubectl.applied(&way_in)?;
    takes_effect("and there again", || Ok(()), reached)?;
    takes_effect("the endpoint is deleted", || kubectl.delete(&server), || fails(NO_ENDPOINT))?;
    takes_effect("and there again", || kubectl.apply(&server), reached)?;
    takes_effect("the service is not global", || global(lab, "istio.io/global-"), || fails(NO_ENDPOINT))?;
    takes_effect("and global again", || global(lab, "istio.io/global=true"), reached)?;
    let before = application.accepted();
    envoy.kill()?;
    fails("Connection refused").context("the gateway does not run")?;
    ensure!(application.accepted() == before, "past the gateway");
    global(lab, "istio.io/global-")?;
    entrance.delete()?;
    kubectl.delete(&server)?;
    let capture = wire.finish()?;
    let stray = capture.packets.iter().find(|packet| packet.source.ip() == far.v4 || packet.destination.ip() == far.v4);
    ensure!(stray.is_none(), "past the gateway: {}", stray.map(ToString::to_string).unwrap_or_default());
    Ok(())
}

/// Both ends and the gateway tell the same of one connection.
fn through(lab: &Lab, envoy: &Envoy) -> Result<()> {
    let (client, far, entrance) = (lab.pod("client"), lab.pod("far"), lab.pod("gateway"));
    let logs = ["n1", "n2"].map(|node| lab.agent(node).log().from_now());
    ask(lab, "client", lab.vip4("web", 80))?;
    let of_web = |line: &Line| line.scope == "access" && line.field("dst.hbone_addr") == WEB;
    let [outbound, inbound] = logs.map(|log| log.wait(SOON, of_web));
    let (outbound, inbound) = (outbound?, inbound?);
    for (line, field, value) in [
        (&outbound, "dst.addr", entrance.at4(HBONE).to_string()),
        (&outbound, "dst.identity", far.identity.clone()),
        (&outbound, "dst.workload", "far".to_owned()),
        (&outbound, "error", String::new()),
        (&inbound, "src.identity", client.identity.clone()),
        (&inbound, "src.workload", "client".to_owned()),
        (&inbound, "dst.identity", far.identity.clone()),
        (&inbound, "error", String::new()),
    ] {
        ensure!(line.field(field) == value, "{field} is not {value:?}: {}", line.text);
    }
    ensure!(inbound.field("src.addr").starts_with(&format!("{}:", entrance.v4)), "{}", inbound.text);
    envoy.wait(|line| line.field("authority") == WEB && line.field("peer") == client.identity).map(drop)
}

/// Policy at the far end judges the client, not the gateway that it comes through.
fn judged(lab: &Lab) -> Result<()> {
    let web = lab.vip4("web", 80);
    for (who, allowed) in [("gateway", false), ("client", true)] {
        let principal = lab.pod(who).identity.trim_start_matches("spiffe://").to_owned();
        lab.publish(|world| {
            world.clear_policies();
            let from = format!("{{from: [{{source: {{principals: ['{principal}']}}}}]}}");
            world.authorize(&format!("- {{name: one, namespace: shop, rules: [{from}]}}"));
        })?;
        let news = lab.agent("n1").log().from_now();
        if allowed {
            ask(lab, "client", web).context("the client is allowed")?;
        } else {
            refused(ask(lab, "client", web))?;
            news.wait(SOON, |line| line.scope == "access" && line.error() == "http status: 401")?;
        }
    }
    lab.publish(|world| world.clear_policies()).map(drop)
}

/// Istio's own client speaks both tunnels: the outer one ends in the gateway, the inner one in our agent.
pub(super) fn istios_client(lab: &Lab) -> Result<()> {
    let (identity, entrance) = (&lab.pod("plain").identity, lab.pod("gateway").at4(HBONE));
    let (_application, envoy) = (echo::server(lab, "far", &[])?, west(lab)?);
    let news = lab.agent("n2").log().from_now();
    let client = EchoClient::double("plain", entrance).proven_by(&csr::for_pod(lab, "plain")?);
    let said = client.call(lab, &format!("tcp://{WEB}"))?;
    ensure!(said.succeeded && said.text.contains("StatusCode=200"), "{}", said.text);
    let inbound = news.wait(SOON, |line| line.scope == "access" && line.field("dst.hbone_addr") == WEB)?;
    ensure!(inbound.field("src.identity") == identity.as_str(), "{}", inbound.text);
    envoy.wait(|line| line.field("authority") == WEB && line.field("peer") == *identity)?;
    let said = client.call(lab, "tcp://nobody.shop.svc.cluster.local:80")?;
    ensure!(!said.succeeded, "a service that nobody knows: {}", said.text);
    Ok(())
}
