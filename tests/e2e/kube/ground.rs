//! That the cluster is one: what everything else is built on, without a mesh.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_e2e::cluster::{Cluster, Proxy, Settings, images};
use mesh_e2e::{eventually, sweep};
use serde_json::{Value, json};

use crate::runner::say;

const START: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(20);
/// What a second start may take: everything is built.
const AGAIN: Duration = Duration::from_secs(60);
const NAMESPACE: &str = "ground";

/// A pod on a node: the echo server on port 8080, ready when it answers.
fn echo(name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"app": "echo"}},
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 1,
            "containers": [
                {
                    "name": "echo",
                    "image": images::ECHO,
                    "args": ["--port=8080"],
                    "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
                },
                {"name": "tools", "image": images::TOOLS},
            ],
        },
    })
}

/// A namespace with a pod on each node and a service of both.
fn objects() -> String {
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "echo", "namespace": NAMESPACE},
        "spec": {
            "selector": {"app": "echo"},
            "ports": [{"port": 80, "targetPort": 8080}],
            "ipFamilyPolicy": "RequireDualStack",
        },
    });
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    let items = [namespace, service, echo("one", "n1"), echo("two", "n2")];
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

/// Has `work` done with the pods ready, and deletes them again.
fn with_pods(cluster: &Cluster, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let applied = cluster.kubectl().applied(&objects())?;
    for pod in ["one", "two"] {
        cluster.wait_pod(START, (NAMESPACE, pod))?;
    }
    work()?;
    applied.delete()
}

/// The answer to a request from a pod; from its second container, which has the client.
fn get(cluster: &Cluster, pod: &str, url: &str) -> Result<String> {
    let client =
        ["exec", "--namespace", NAMESPACE, pod, "--container=tools", "--", "curl", "-sS", "-k", "--max-time", "3"];
    cluster.kubectl().run(client.iter().chain(&[url]))
}

/// As it is written in a URL.
fn host(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

/// Pods run on both nodes and reach each other by their addresses and by a service, by both families and by name.
pub(super) fn pods_and_service(cluster: &Cluster) -> Result<()> {
    with_pods(cluster, || {
        let of = |pod: &str| cluster.kubectl().json(&["get", "pod", pod, "--namespace", NAMESPACE]);
        let two = of("two")?;
        let addresses = two["status"]["podIPs"].as_array().context("addresses")?;
        ensure!(addresses.len() == 2, "both families: {addresses:?}");
        for address in addresses {
            let address = host(address["ip"].as_str().context("an address")?);
            let answer = get(cluster, "one", &format!("http://{address}:8080/"))?;
            ensure!(answer.contains("Hostname=two"), "{address}: {answer}");
        }
        let service = cluster.kubectl().json(&["get", "service", "echo", "--namespace", NAMESPACE])?;
        let addresses = service["spec"]["clusterIPs"].as_array().context("addresses")?;
        let addresses = addresses.iter().filter_map(|address| address.as_str().map(host));
        let names = ["echo", "echo.ground.svc.cluster.local"].map(str::to_owned);
        for place in addresses.chain(names) {
            let url = format!("http://{place}/");
            for from in ["one", "two"] {
                for seen in ["Hostname=one", "Hostname=two"] {
                    eventually(SOON, || {
                        let answer = get(cluster, from, &url)?;
                        ensure!(answer.contains(seen), "{answer}");
                        Ok(())
                    })
                    .with_context(|| format!("from {from} by {url} to {seen}"))?;
                }
            }
        }
        Ok(())
    })
}

/// With its own account's token and the root that it is given, through kube-proxy.
pub(super) fn api_from_a_pod(cluster: &Cluster) -> Result<()> {
    with_pods(cluster, || {
        let place = "/var/run/secrets/kubernetes.io/serviceaccount";
        let script = format!(
            "curl -sS --max-time 5 --cacert {place}/ca.crt -H \"Authorization: Bearer $(cat {place}/token)\" \
             https://$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT/api/v1/namespaces/{NAMESPACE}/pods"
        );
        let arguments = ["exec", "--namespace", NAMESPACE, "one", "--container=tools", "--", "sh", "-c", &script];
        let answer: Value = serde_json::from_str(&cluster.kubectl().run(arguments)?)?;
        let account = format!("system:serviceaccount:{NAMESPACE}:default");
        ensure!(answer["code"] == 403 && answer["message"].to_string().contains(&account), "{answer}");
        Ok(())
    })
}

/// No container, link, namespace, control group or address of theirs is there any more.
pub(super) fn deletion(cluster: &Cluster) -> Result<()> {
    let traces = |node: &str| -> Result<String> {
        let node = cluster.node(node);
        let containers = node.output("ctr", ["--namespace=k8s.io", "tasks", "list", "--quiet"])?;
        let links = node.output("ip", ["-brief", "link", "show", "type", "veth"])?;
        let links = links.lines().filter(|line| !line.starts_with("eth0")).count();
        let rest = "ls /run/netns | wc -l; ls -d /sys/fs/cgroup/pids/mesh-lab.*/$(hostname)/kubepods/besteffort/pod* 2>&1 | \
                    grep -c . ; ls /var/lib/cni/networks/lab | grep -c '^[0-9f]'";
        let rest = node.output("sh", ["-c", rest]).unwrap_or_default();
        Ok(format!("{} tasks, {links} links, namespaces, groups, addresses: {rest:?}", containers.lines().count()))
    };
    let before = ["n1", "n2"].map(|node| traces(node).map_err(|error| error.to_string()));
    with_pods(cluster, || {
        let during = traces("n1")?;
        ensure!(Ok(&during) != before[0].as_ref(), "the pod leaves no trace while it runs: {during}");
        Ok(())
    })?;
    for (node, before) in ["n1", "n2"].into_iter().zip(before) {
        let before = before.map_err(anyhow::Error::msg)?;
        eventually(SOON, || {
            let now = traces(node)?;
            ensure!(now == before, "before: {before}; now: {now}");
            Ok(())
        })
        .with_context(|| node.to_owned())?;
    }
    Ok(())
}

/// Everything on a node is killed and comes back: its pods run again, and serve.
pub(super) fn reboot(cluster: &Cluster) -> Result<()> {
    with_pods(cluster, || {
        let node = cluster.node("n2");
        node.kill()?;
        ensure!(get(cluster, "one", "http://10.40.2.2:8080/").is_err(), "it answers while it is down");
        node.boot()?;
        node.start()?;
        let restarted = || {
            let pod = cluster.kubectl().json(&["get", "pod", "two", "--namespace", NAMESPACE])?;
            let all = pod["status"]["containerStatuses"].as_array().context("no containers")?;
            ensure!(all.iter().all(|one| one["restartCount"] == 1 && one["ready"] == true), "{all:?}");
            Ok(pod["status"]["podIP"].as_str().context("an address")?.to_owned())
        };
        let address = eventually(START, restarted)?;
        let answer = get(cluster, "one", &format!("http://{address}:8080/"))?;
        ensure!(answer.contains("Hostname=two"), "{answer}");
        Ok(())
    })
}

/// A cluster of its own, once with nftables and once without kube-proxies: the second start takes less than a minute, and
/// of neither is anything left.
pub(super) fn removal() -> Result<()> {
    for proxy in [Proxy::Nftables, Proxy::None] {
        let start = Instant::now();
        let settings = Settings::new().proxy(proxy).istiod(None);
        let cluster = Cluster::start(&settings)?;
        let took = start.elapsed();
        say(format_args!("a cluster with kube-proxy {proxy:?}: {:.1} s", took.as_secs_f64()));
        ensure!(took < AGAIN, "it took {took:?}");
        let name = cluster.name().to_owned();
        if proxy != Proxy::None {
            pods_and_service(&cluster).context("with nftables")?;
        }
        with_pods(&cluster, || Ok(()))?;
        drop(cluster);
        let left = sweep::leftovers(&name)?;
        ensure!(left.is_empty(), "left behind: {left:?}");
    }
    Ok(())
}
