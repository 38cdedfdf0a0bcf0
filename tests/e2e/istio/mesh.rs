//! Agents whose mesh is what istiod says: objects of Kubernetes take effect in traffic, and cease to.

use anyhow::{Context, Result, ensure};
use mesh_e2e::Lab;
use mesh_e2e::kube::Readiness;

use super::support::{SOON, ask, policy, refused, takes_effect};

/// By address and by service; both ends know each other by the certificates that istiod issued.
pub(super) fn pods_talk(lab: &Lab) -> Result<()> {
    let _server = lab.pod("server").echo(8080)?;
    let news = lab.agent("n2").log().from_now();
    for to in [lab.vip4("web", 80), lab.vip6("web", 80), lab.pod("server").at4(8080), lab.pod("server").at6(8080)] {
        ask(lab, "client", to).with_context(|| format!("to {to}"))?;
        let line = news.wait(SOON, |line| line.scope == "access" && line.field("direction") == "inbound")?;
        ensure!(line.field("src.identity") == "spiffe://cluster.local/ns/default/sa/client", "{}", line.text);
    }
    let status = lab.agent("n1").status()?;
    let istiod = status.istiod.context("the status does not mention istiod")?;
    ensure!(istiod.state == "connected" && istiod.rejected.is_empty(), "{istiod:?}");
    ensure!(status.config.workloads >= 3 && status.config.services >= 1, "{:?}", status.config);
    Ok(())
}

/// AuthorizationPolicy and PeerAuthentication: applied, changed, deleted.
pub(super) fn policies(lab: &Lab) -> Result<()> {
    let (_server, kubectl) = (lab.pod("server").echo(8080)?, lab.kube().kubectl());
    let web = lab.vip4("web", 80);
    let (works, plain) = (|| ask(lab, "client", web), || ask(lab, "plain", lab.pod("server").at4(8080)));
    works().and_then(|()| plain()).context("before any policy")?;
    let deny =
        policy("deny-client", "{action: DENY, rules: [{from: [{source: {serviceAccounts: [default/client]}}]}]}");
    takes_effect("a DENY by service account", || kubectl.apply(&deny), || refused(works()))?;
    plain().context("somebody else")?;
    takes_effect("its deletion", || kubectl.delete(&deny), works)?;
    let allow = |port: u16| {
        policy(
            "allow",
            &format!(
                "{{selector: {{matchLabels: {{app: server}}}}, action: ALLOW, rules: [{{to: [{{operation: {{ports: [\"{port}\"]}}}}]}}]}}"
            ),
        )
    };
    takes_effect("an ALLOW of another port", || kubectl.apply(&allow(9090)), || refused(works()))?;
    takes_effect("an ALLOW of this port", || kubectl.apply(&allow(8080)), works)?;
    takes_effect("no ALLOW any more", || kubectl.delete(&allow(8080)), || plain().and_then(|()| works()))?;
    let strict = "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, \
                   metadata: {name: default, namespace: shop}, spec: {mtls: {mode: STRICT}}}";
    takes_effect("STRICT", || kubectl.apply(strict), || refused(plain()))?;
    works().context("mutual TLS under STRICT")?;
    takes_effect("STRICT deleted", || kubectl.delete(strict), plain)
}

/// Services and ServiceEntries come and go; pods that are not ready get no connections by a service.
pub(super) fn services(lab: &Lab) -> Result<()> {
    let (_server, kube) = (lab.pod("server").echo(8080)?, lab.kube());
    let address = "10.50.0.77:81".parse()?;
    let service = "{apiVersion: v1, kind: Service, metadata: {name: other, namespace: shop}, spec: {clusterIP: 10.50.0.77, \
                    selector: {app: server}, ports: [{port: 81, targetPort: 8080}]}}";
    takes_effect("a Service", || kube.kubectl().apply(service), || ask(lab, "client", address))?;
    takes_effect("its deletion", || kube.kubectl().delete(service), || refused(ask(lab, "client", address)))?;
    let entry = "{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: entry, namespace: shop}, spec: \
         {hosts: [entry.example], addresses: [240.240.0.77], ports: [{number: 82, name: tcp, protocol: TCP, targetPort: 8080}], \
         resolution: STATIC, location: MESH_INTERNAL, workloadSelector: {labels: {app: server}}}}";
    let address = "240.240.0.77:82".parse()?;
    takes_effect("a ServiceEntry", || kube.kubectl().apply(entry), || ask(lab, "client", address))?;
    takes_effect("its deletion", || kube.kubectl().delete(entry), || refused(ask(lab, "client", address)))?;
    let (web, pod) = (lab.vip4("web", 80), lab.world().pod("server").clone());
    let ready = |readiness| kube.set_readiness(&pod, readiness);
    takes_effect("a pod is not ready", || ready(Readiness::NotReady), || refused(ask(lab, "client", web)))?;
    ask(lab, "client", lab.pod("server").at4(8080)).context("trap 14: its own address works all the same")?;
    takes_effect("it is ready again", || ready(Readiness::Ready), || ask(lab, "client", web))
}

/// Trap 13: a service whose waypoint is not there refuses; without the label it serves again.
pub(super) fn waypoint_that_is_not_there(lab: &Lab) -> Result<()> {
    let (_server, kubectl, web) = (lab.pod("server").echo(8080)?, lab.kube().kubectl(), lab.vip4("web", 80));
    let gateway = "{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: waypoint, namespace: shop, \
                    labels: {istio.io/waypoint-for: service}}, spec: {gatewayClassName: istio-waypoint, \
                    listeners: [{name: mesh, port: 15008, protocol: HBONE}]}}";
    let service = "{apiVersion: v1, kind: Service, metadata: {name: waypoint, namespace: shop, \
                    labels: {gateway.networking.k8s.io/gateway-name: waypoint}}, spec: {clusterIP: 10.50.0.78, \
                    selector: {gateway.networking.k8s.io/gateway-name: waypoint}, ports: [{name: mesh, port: 15008}]}}";
    let status = r#"{"status":{"addresses":[{"type":"Hostname","value":"waypoint.shop.svc.cluster.local"}],
        "conditions":[{"type":"Programmed","status":"True","reason":"Programmed","message":"","lastTransitionTime":"2026-01-01T00:00:00Z"}]}}"#;
    kubectl.apply(service)?;
    kubectl.apply(gateway)?;
    kubectl.run([
        "patch",
        "gateway",
        "waypoint",
        "-n",
        "shop",
        "--subresource=status",
        "--type=merge",
        "-p",
        status,
    ])?;
    let label = |value: &str| kubectl.run(["label", "service", "web", "-n", "shop", "--overwrite", value]).map(drop);
    takes_effect(
        "a waypoint without pods",
        || label("istio.io/use-waypoint=waypoint"),
        || refused(ask(lab, "client", web)),
    )?;
    ask(lab, "client", lab.pod("server").at4(8080)).context("the pod's own address has no waypoint")?;
    takes_effect("no waypoint any more", || label("istio.io/use-waypoint-"), || ask(lab, "client", web))?;
    kubectl.delete(gateway)?;
    kubectl.delete(service)
}

/// What istioctl reads.
pub(super) fn config_dump(lab: &Lab) -> Result<()> {
    let page = lab.node("n1").output("curl", ["-sS", "--max-time", "5", "http://127.0.0.1:15000/config_dump"])?;
    let dump: serde_json::Value =
        serde_json::from_str(&page).with_context(|| page.chars().take(200).collect::<String>())?;
    let of = |list: &str, key: &str, value: &str| {
        let found = dump[list].as_array().and_then(|all| all.iter().find(|one| one[key] == *value));
        found.with_context(|| format!("no {list} with {key} {value}"))
    };
    let server = of("workloads", "name", "server")?;
    ensure!(server["protocol"] == "HBONE" && server["node"] == "n2" && server["status"] == "Healthy", "{server}");
    let web = of("services", "hostname", "web.shop.svc.cluster.local")?;
    ensure!(web["endpoints"].as_object().is_some_and(|all| all.len() == 1), "{web}");
    let own = of("certificates", "identity", "spiffe://cluster.local/ns/default/sa/client")?;
    ensure!(own["state"] == "Available" && own["certChain"][0]["validFrom"].is_string(), "{own}");
    let state = dump["workloadState"].as_object().context("no workloadState")?;
    ensure!(state.values().any(|pod| pod["info"]["name"] == "client" && pod["state"] == "Up"), "{state:?}");
    Ok(())
}
