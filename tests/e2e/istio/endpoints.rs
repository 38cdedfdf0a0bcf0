//! Endpoints that come and go: machines that are no pods of Kubernetes, and pods that are deleted.

use std::fs::create_dir_all;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_e2e::envoy::{Listener, Way};
use mesh_e2e::socket::{Ending, ending, exchange};
use mesh_e2e::{Envoy, Lab, Line, Pod, eventually};

use super::echo::EchoClient;
use super::support::{LIMIT, SOON, ask, policy, refused, takes_effect, under_load};
use super::{csr, echo};
use crate::runner::say;

/// Until a line is in the log of what has just happened.
const PROMPT: Duration = Duration::from_millis(500);
const APP: u16 = 8080;
const OTHER: u16 = 8081;
/// Of the ServiceEntry.
const MACHINES: &str = "240.240.0.90:83";
const NO_ENDPOINT: &str = "no healthy endpoint";

/// A machine outside Kubernetes, known by a WorkloadEntry that a ServiceEntry selects: it is reached plainly, then by a tunnel
/// and under its identity once it has one, is judged by that identity when it calls, and is gone when its entry is.
pub(super) fn virtual_machine(lab: &Lab) -> Result<()> {
    let (machine, kubectl, news) = (lab.pod("machine"), lab.kube().kubectl(), lab.agent("n1").log().from_now());
    let (_application, to) = (machine.echo(APP)?, MACHINES.parse()?);
    let reached = || ask(lab, "client", to);
    let service = kubectl.applied(
        "{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: machines, namespace: shop}, spec: \
         {hosts: [machines.example], addresses: [240.240.0.90], ports: [{number: 83, name: tcp, protocol: TCP, targetPort: 8080}], \
         resolution: STATIC, location: MESH_INTERNAL, workloadSelector: {labels: {app: machine}}}}",
    )?;
    let entry = |labels: &str, account: &str| {
        format!(
            "{{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, \
             metadata: {{name: machine, namespace: shop, labels: {{app: machine{labels}}}}}, \
             spec: {{address: {}, serviceAccount: {account}, labels: {{app: machine{labels}}}}}}}",
            machine.v4
        )
    };
    let told = |wanted: &str| {
        let line = news.wait(SOON, |line| line.scope == "access" && line.error().contains(wanted));
        line.with_context(|| format!("no connection failed for {wanted:?}")).map(drop)
    };
    eventually(LIMIT, || {
        reached().err().context("there is no machine, but an answer").and_then(|_| told(NO_ENDPOINT))
    })?;
    let plain = entry("", "machine");
    takes_effect("a WorkloadEntry", || kubectl.apply(&plain), reached)?;
    let line = news.wait(SOON, |line| line.scope == "access" && line.field("dst.workload") == "machine")?;
    ensure!(
        line.field("dst.addr") == machine.at4(APP).to_string() && line.field("dst.identity").is_empty(),
        "{}",
        line.text
    );

    kubectl.run(["create", "serviceaccount", "machine", "--namespace=shop"])?;
    let credentials = csr::for_machine(lab, "machine", ("shop", "machine"))?;
    let tunnel = tunnel_end(lab, &credentials)?;
    let (in_mesh, posed) =
        (entry(", networking.istio.io/tunnel: http", "machine"), entry(", networking.istio.io/tunnel: http", "other"));
    takes_effect(
        "its tunnel",
        || kubectl.apply(&in_mesh),
        || {
            reached()?;
            let by_tunnel = |line: &mesh_e2e::Line| line.field("dst.identity") == machine.identity;
            ensure!(news.access().iter().any(by_tunnel), "not by its tunnel");
            Ok(())
        },
    )?;
    tunnel.wait(|line| line.field("peer") == lab.pod("client").identity)?;
    takes_effect("another account", || kubectl.apply(&posed), || refused(reached()))?;
    told("not the expected peer")?;
    takes_effect("its own account again", || kubectl.apply(&in_mesh), reached)?;

    as_client(lab, &credentials)?;
    takes_effect("the WorkloadEntry deleted", || kubectl.delete(&in_mesh), || refused(reached()))?;
    takes_effect("and there again", || kubectl.apply(&in_mesh), reached)?;
    takes_effect("the ServiceEntry deleted", || service.delete(), || refused(reached()))?;
    kubectl.delete(&in_mesh)?;
    kubectl.run(["delete", "serviceaccount", "machine", "--namespace=shop"]).map(drop)
}

/// What a proxy on the machine would be: it ends the tunnels, and says who was at the other end.
fn tunnel_end(lab: &Lab, credentials: &mesh_e2e::authority::Issued) -> Result<Envoy> {
    let machine = lab.pod("machine");
    let inside = SocketAddr::from(([127, 0, 0, 1], APP));
    let ways = vec![(machine.at4(APP).to_string(), Way::Onward(inside))];
    let directory = lab.directory().join("envoy-machine");
    create_dir_all(&directory)?;
    Envoy::start(machine, "machine", credentials, &[Listener::Hbone(ways)], &directory)
}

/// It calls a pod, by Istio's client and its own certificate, and policy judges it by that.
fn as_client(lab: &Lab, credentials: &mesh_e2e::authority::Issued) -> Result<()> {
    let (machine, server, kubectl) = (lab.pod("machine"), lab.pod("server"), lab.kube().kubectl());
    let _applications = (echo::server(lab, "server", &[])?, server.echo(OTHER)?);
    let client = EchoClient::new("machine", server.at4(15008)).proven_by(credentials);
    let call = || client.call(lab, &format!("tcp://{}", server.at4(APP)));
    let news = lab.agent("n2").log().from_now();
    let said = call()?;
    ensure!(said.succeeded, "{}", said.text);
    news.wait(SOON, |line| line.scope == "access" && line.field("src.identity") == machine.identity)?;
    let deny = policy(
        "no-machine",
        "{action: DENY, rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/machine]}}]}]}",
    );
    takes_effect(
        "a DENY of the machine",
        || kubectl.apply(&deny),
        || {
            let said = call()?;
            ensure!(!said.succeeded && said.text.contains("401"), "{}", said.text);
            Ok(())
        },
    )?;
    ask(lab, "client", server.at4(OTHER)).context("others are not meant")?;
    takes_effect(
        "its end",
        || kubectl.delete(&deny),
        || {
            let said = call()?;
            ensure!(said.succeeded, "{}", said.text);
            Ok(())
        },
    )
}

/// Two pods serve; one is deleted under load and chosen no more, and nothing fails; the last one gone is an error that says
/// so; and one that comes is used.
pub(super) fn pods_deleted(lab: &mut Lab) -> Result<()> {
    let (twins, namespace) = (lab.vip4("twins", 80), "shop");
    let (first, second) = (lab.pod("first").echo(APP)?, lab.pod("second").echo(APP)?);
    let call = |lab: &Lab| ask(lab, "client", twins);
    let both = || {
        call(lab)?;
        ensure!(first.accepted() > 0 && second.accepted() > 0, "only one of them is chosen");
        Ok(())
    };
    eventually(LIMIT, both)?;
    under_load(lab, twins, || {
        takes_effect(
            "a pod is deleted",
            || lab.kube().delete_pod(namespace, "first"),
            || chosen_no_more(lab, twins, &first),
        )?;
        let before = (first.accepted(), second.accepted());
        std::thread::sleep(SOON);
        ensure!(first.accepted() == before.0, "the deleted pod is chosen again");
        ensure!(second.accepted() > before.1 + 50, "the other one is not chosen");
        Ok(())
    })?;
    drop(first);
    gone(lab, "first")?;

    let stream = lab.pod("client").connect(twins)?;
    exchange(&stream, "hello")?;
    let news = lab.agent("n1").log().from_now();
    let told = |line: &Line| line.scope == "access" && line.error().contains(NO_ENDPOINT);
    // On a busy machine a call fails by the client's patience as well, and then the agent has nothing to tell of it.
    let seen = || {
        refused(call(lab))?;
        news.wait(PROMPT, told).map(drop)
    };
    takes_effect("the last one is deleted", || lab.kube().delete_pod(namespace, "second"), seen)?;
    let line = news.wait(SOON, told)?;
    ensure!(
        line.field("dst.service") == "twins.shop.svc.cluster.local" || line.error().contains("twins"),
        "{}",
        line.text
    );
    say(format_args!("    told as: {}", line.error()));
    exchange(&stream, "hello").context("a connection that was open, to a pod that still runs")?;
    drop(second);
    ensure!(matches!(ending(&stream, SOON)?, Ending::Fin | Ending::Reset), "the pod ended, the connection did not");
    gone(lab, "second")?;

    lab.add_pod(Pod::new("third", "n2").namespace(namespace).label("app", "twin"))?;
    let _third = lab.pod("third").echo(APP)?;
    takes_effect("a new one, once it is enrolled", || Ok(()), || call(lab))
}

/// The service answers, and `server` has not been asked.
fn chosen_no_more(lab: &Lab, service: SocketAddr, server: &mesh_e2e::Server) -> Result<()> {
    let before = server.accepted();
    for _ in 0..10 {
        ask(lab, "client", service)?;
    }
    ensure!(server.accepted() == before, "it is chosen still");
    Ok(())
}

/// The pod's namespace goes, and its node's agent is told.
fn gone(lab: &mut Lab, name: &str) -> Result<()> {
    lab.delete_pod(name)?;
    lab.publish(|world| world.pods.retain(|pod| pod.name != name)).map(drop)
}
