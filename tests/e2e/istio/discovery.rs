//! What istiod makes of Kubernetes' objects (protocol note, section 14), as a node's agent is told it.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use mesh_e2e::discovery::{HBONE, Port};
use mesh_e2e::kube::Readiness;
use mesh_e2e::{Lab, Pod};

use super::xds::{Subscription, uid};
use crate::runner::say;

const WEB: &str = "shop/web.shop.svc.cluster.local";
const UNHEALTHY: i32 = 1;
const DENY: i32 = 1;
const WORKLOAD_SELECTOR: i32 = 2;
/// How long istiod may take, on a machine that may be busy. What it takes is said.
const LIMIT: Duration = Duration::from_secs(10);

/// Pods of the mesh, a pod outside it, and a pod of which Kubernetes knows nothing.
pub(super) fn workloads(lab: &Lab) -> Result<()> {
    let istiod = Subscription::start(lab, "n1")?;
    let (client, server) = (uid("default", "client"), uid("shop", "server"));
    istiod.wait(LIMIT, |view| view.workload(&client).and(view.workload(&server)).map(drop))?;
    istiod.wait(LIMIT, |view| {
        let seen = view.workload(&client)?;
        let pod = lab.pod("client");
        ensure!(seen.addresses == bytes([pod.v4, pod.v6]), "addresses {:?}", seen.addresses);
        ensure!((seen.name.as_str(), seen.namespace.as_str()) == ("client", "default"), "{seen:?}");
        ensure!((seen.service_account.as_str(), seen.node.as_str()) == ("client", "n1"), "{seen:?}");
        ensure!((seen.canonical_name.as_str(), seen.tunnel_protocol) == ("client", HBONE), "{seen:?}");
        ensure!(seen.status != UNHEALTHY, "{seen:?}");
        let seen = view.workload(&server)?;
        ensure!((seen.node.as_str(), seen.canonical_revision.as_str()) == ("n2", "v2"), "{seen:?}");
        let seen = view.workload(&uid("default", "plain"))?;
        ensure!(seen.tunnel_protocol != HBONE, "a pod outside the mesh: {seen:?}");
        ensure!(view.workload(&uid("default", "stranger")).is_err(), "a pod that is in no list is seen");
        Ok(())
    })
}

/// Both virtual addresses, the port, and the pods behind them.
pub(super) fn services(lab: &Lab) -> Result<()> {
    let istiod = Subscription::start(lab, "n1")?;
    let port = |port: &Port| (port.service_port, port.target_port);
    istiod.wait(LIMIT, |view| {
        let web = view.service(WEB)?;
        let addresses: Vec<_> = web.addresses.iter().map(|place| place.address.clone()).collect();
        let expected = [lab.vip4("web", 80).ip(), lab.vip6("web", 80).ip()];
        ensure!(addresses == bytes(expected), "{addresses:?} instead of {expected:?}");
        ensure!(web.hostname == "web.shop.svc.cluster.local", "{web:?}");
        ensure!(web.ports.iter().map(port).eq([(80, 8080)]), "{web:?}");
        let server = view.workload(&uid("shop", "server"))?;
        let Some(ports) = server.services.get(WEB) else { bail!("no endpoint of {WEB}: {server:?}") };
        ensure!(ports.ports.iter().map(port).eq([(80, 8080)]), "{ports:?}");
        let client = view.workload(&uid("default", "client"))?;
        ensure!(client.services.is_empty(), "{client:?}");
        Ok(())
    })
}

/// A pod that comes while all runs, is not ready any more, and goes.
pub(super) fn life(lab: &Lab) -> Result<()> {
    let (istiod, kube) = (Subscription::start(lab, "n1")?, lab.kube());
    let uid = uid("shop", "late");
    let mut pod = Pod::new("late", "n2").namespace("shop").label("app", "server");
    pod.addresses = vec!["10.40.2.99".parse()?, "fd00:40:2::99".parse()?];
    timed("a pod is there", || {
        kube.add_pod(&pod)?;
        istiod.wait(LIMIT, |view| {
            let seen = view.workload(&uid)?;
            ensure!(seen.status != UNHEALTHY, "{seen:?}");
            ensure!(seen.services.contains_key(WEB), "it is no endpoint of {WEB}: {seen:?}");
            Ok(())
        })
    })?;
    timed("a pod is not ready", || {
        kube.set_readiness(&pod, Readiness::NotReady)?;
        istiod.wait(LIMIT, |view| {
            let seen = view.workload(&uid)?;
            ensure!(seen.status == UNHEALTHY, "{seen:?}");
            Ok(())
        })
    })?;
    timed("a pod is gone", || {
        kube.delete_pod("shop", "late")?;
        istiod.wait(LIMIT, |view| {
            ensure!(view.workload(&uid).is_err(), "it is still there");
            Ok(())
        })
    })
}

/// An AuthorizationPolicy with a selector, and its end; then a PeerAuthentication.
pub(super) fn policies(lab: &Lab) -> Result<()> {
    let (istiod, kubectl) = (Subscription::start(lab, "n2")?, lab.kube().kubectl());
    let (key, server) = ("shop/no-client".to_owned(), uid("shop", "server"));
    let refers = |name: &str, view: &super::xds::View| -> Result<bool> {
        Ok(view.workload(&server)?.authorization_policies.iter().any(|policy| policy == name))
    };
    let policy = timed("a policy is in force", || {
        let applied = kubectl.applied(POLICY)?;
        istiod.wait(LIMIT, |view| {
            let seen = view.authorization(&key)?;
            ensure!((seen.scope, seen.action) == (WORKLOAD_SELECTOR, DENY), "{seen:?}");
            let matches: Vec<_> =
                seen.rules.iter().flat_map(|rule| &rule.clauses).flat_map(|clause| &clause.matches).collect();
            let principals = matches.iter().flat_map(|one| &one.principals).filter_map(|text| text.exact.as_deref());
            ensure!(principals.eq(["cluster.local/ns/default/sa/client"]), "{seen:?}");
            ensure!(matches.iter().flat_map(|one| &one.destination_ports).eq([&8080]), "{seen:?}");
            ensure!(refers(&key, view)?, "the workload does not refer to it");
            Ok(())
        })?;
        Ok(applied)
    })?;
    timed("a policy is not in force", || {
        policy.delete()?;
        istiod.wait(LIMIT, |view| {
            ensure!(view.authorization(&key).is_err() && !refers(&key, view)?, "it is still there");
            Ok(())
        })
    })?;
    let _strict = kubectl.applied(STRICT)?;
    let converted = "istio-system/istio_converted_static_strict";
    istiod.wait(LIMIT, |view| {
        view.authorization(converted)?;
        ensure!(refers(converted, view)?, "the workload does not refer to {converted}");
        Ok(())
    })
}

/// A Gateway of Istio's class with a Service and a pod behind it, none of which istiod makes here: services that ask for
/// it are given it as their waypoint, and not any more when they do not.
pub(super) fn waypoint(lab: &Lab) -> Result<()> {
    let (istiod, kube) = (Subscription::start(lab, "n1")?, lab.kube());
    let mut pod = Pod::new("gate", "n2").namespace("shop").plain();
    pod = pod.label("gateway.networking.k8s.io/gateway-name", "gate").label("networking.istio.io/tunnel", "http");
    pod.addresses = vec!["10.40.2.98".parse()?, "fd00:40:2::98".parse()?];
    let gateway = kube.kubectl().applied(GATEWAY)?;
    kube.add_pod(&pod)?;
    let label = |value: &str| kube.kubectl().run(["label", "service/web", "--namespace=shop", value]).map(drop);
    label("istio.io/use-waypoint=gate")?;
    kube.wait(LIMIT, ("shop", "gateways.gateway.networking.k8s.io/gate"), |gateway| {
        let conditions = gateway["status"]["conditions"].as_array();
        let mut programmed = conditions.into_iter().flatten().filter(|one| one["type"] == "Programmed");
        ensure!(programmed.any(|one| one["status"] == "True"), "the Gateway is not programmed: {}", gateway["status"]);
        Ok(())
    })?;
    let seen = istiod.wait(LIMIT, |view| {
        let gate = view.workload(&uid("shop", "gate"))?;
        ensure!(gate.tunnel_protocol == HBONE && gate.native_tunnel, "{gate:?}");
        let Some(waypoint) = view.service(WEB)?.waypoint.clone() else { bail!("{WEB} has no waypoint") };
        Ok(waypoint)
    })?;
    let Some(hostname) = &seen.hostname else { bail!("not by its name: {seen:?}") };
    ensure!(hostname.hostname == "gate.shop.svc.cluster.local" && seen.hbone_mtls_port == 15008, "{seen:?}");
    label("istio.io/use-waypoint-")?;
    istiod.wait(LIMIT, |view| {
        ensure!(view.service(WEB)?.waypoint.is_none(), "{WEB} still has a waypoint");
        Ok(())
    })?;
    kube.delete_pod("shop", "gate")?;
    gateway.delete()
}

/// A cluster's network and a second one behind a gateway: what is there is reached through it.
pub(super) fn another_network(lab: &mut Lab) -> Result<()> {
    let (istiod, kube) = (Subscription::start(lab, "n1")?, lab.kube());
    let _west = kube.kubectl().applied(WEST)?;
    kube.kubectl().run(["label", "service/web", "--namespace=shop", "istio.io/global=true"])?;
    istiod.wait(LIMIT, |view| {
        let client = view.workload(&uid("default", "client"))?;
        ensure!(client.network == "east" && client.network_gateway.is_none(), "{client:?}");
        let mut remotes = view.workloads.iter().filter(|(uid, _)| uid.starts_with("west/SplitHorizonWorkload/"));
        let Some((_, remote)) = remotes.next() else { bail!("nothing of west in {:?}", view.workloads.keys()) };
        ensure!(remote.network == "west" && remote.services.contains_key(WEB), "{remote:?}");
        let Some(gateway) = &remote.network_gateway else { bail!("no way there: {remote:?}") };
        let address = gateway.address.as_ref().map(|place| place.address.as_slice());
        ensure!(address == Some(&[172, 30, 0, 77]) && gateway.hbone_mtls_port == 15008, "{gateway:?}");
        Ok(())
    })
}

const WEST: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: west, namespace: istio-system, labels: {topology.istio.io/network: west}}
spec:
  gatewayClassName: istio-remote
  addresses: [{type: IPAddress, value: 172.30.0.77}]
  listeners:
  - {name: cross-network, port: 15008, protocol: HBONE, tls: {mode: Passthrough}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: far, namespace: shop, labels: {app: server, networking.istio.io/tunnel: http}}
spec: {address: 10.77.0.1, network: west, serviceAccount: server, labels: {app: server}}
";
const GATEWAY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gate, namespace: shop}
spec:
  gatewayClassName: istio-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
---
apiVersion: v1
kind: Service
metadata: {name: gate, namespace: shop, labels: {gateway.networking.k8s.io/gateway-name: gate}}
spec:
  selector: {gateway.networking.k8s.io/gateway-name: gate}
  ports: [{name: hbone, port: 15008}]
";
const POLICY: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-client, namespace: shop}
spec:
  selector: {matchLabels: {app: server}}
  action: DENY
  rules:
  - from: [{source: {principals: [cluster.local/ns/default/sa/client]}}]
    to: [{operation: {ports: ['8080']}}]
";
const STRICT: &str = "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: shop}
spec: {mtls: {mode: STRICT}}
";

/// Says how long it took from the first call of kubectl until istiod had told.
fn timed<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let value = work()?;
    say(format_args!("    {what}: {} ms", start.elapsed().as_millis()));
    Ok(value)
}

fn bytes(addresses: [IpAddr; 2]) -> Vec<Vec<u8>> {
    addresses
        .map(|address| match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        })
        .to_vec()
}
