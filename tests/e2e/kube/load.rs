//! A namespace that is labelled, and un-labelled again, while its pods are busy.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_e2e::cluster::Cluster;
use mesh_e2e::eventually;
use serde_json::Value;

use super::support::{
    SOON, echo, exec, list, names, namespace, pod, pods, said, script, service, wait_ready, with_mesh,
};
use crate::runner::say;

const NAMESPACE: &str = "load";
/// Pairs of a busy client and its server, on different nodes both ways round.
const PAIRS: usize = 4;
/// Pods that only run.
const QUIET: usize = 12;
const HTTP: u16 = 8080;
const IPERF: u16 = 5201;
const IDLE: u16 = 9000;
/// New connections are in the mesh so soon after the label.
const IN: Duration = Duration::from_secs(2);
/// How long the load goes on in each state.
const WHILE: Duration = Duration::from_secs(6);

fn node(number: usize) -> &'static str {
    if number.is_multiple_of(2) { "n1" } else { "n2" }
}

/// The names of a pair.
fn pair(number: usize) -> (String, String) {
    (format!("client-{number}"), format!("server-{number}"))
}

fn objects() -> Vec<Value> {
    let mut all = vec![namespace(NAMESPACE)];
    for number in 0..PAIRS {
        let (client, server) = pair(number);
        let serve = [
            echo(HTTP),
            script("iperf", &format!("while true; do iperf3 -s -p {IPERF}; done")),
            script("idle", &format!("nc -ll -p {IDLE} -e cat & wait")),
        ];
        all.push(pod((NAMESPACE, &server), node(number + 1), serve.to_vec()));
        all.push(service((NAMESPACE, &server), &[(80, HTTP), (IPERF, IPERF), (IDLE, IDLE)]));
        all.push(pod((NAMESPACE, &client), node(number), client_of(&server)));
    }
    let quiet = (0..QUIET).map(|number| {
        pod(
            (NAMESPACE, &format!("quiet-{number}")),
            node(number),
            vec![script("quiet", "while true; do sleep 1; done")],
        )
    });
    all.extend(quiet);
    all
}

/// The loads of one client: a connection with requests again and again, one of bytes, one that says nothing until it is
/// told to, and new ones all the time.
fn client_of(server: &str) -> Vec<Value> {
    let format = "%{http_code} %{num_connects} %{time_total}\\n";
    let keep = format!(
        "until [ -e /tmp/go ]; do sleep 0.2; done; curl -sS --rate 20/s -o /dev/null -w '%{{stderr}}{format}' \
                        'http://{server}/?[1-100000]' 2>&1 & wait"
    );
    let bulk = format!(
        "until [ -e /tmp/go ]; do sleep 0.2; done; \
                        iperf3 -c {server} -p {IPERF} -t 600 -i 1 -b 20M --forceflush 2>&1; echo ended $?"
    );
    // busybox resolves no names; the service's address is in the environment.
    let variable = server.to_uppercase().replace('-', "_");
    let idle = format!(
        "until [ -e /tmp/go ]; do sleep 0.2; done; mkfifo /tmp/in; nc ${variable}_SERVICE_HOST {IDLE} < /tmp/in & \
                        exec 3> /tmp/in; echo first >&3; until [ -e /tmp/say ]; do sleep 0.2; done; echo second >&3; sleep 600 & wait"
    );
    let fresh = format!(
        "until [ -e /tmp/go ]; do sleep 0.2; done; while true; do \
                         curl -sS --no-keepalive --max-time 5 -o /dev/null -w '{format}' http://{server}/ 2>&1; sleep 0.1; done"
    );
    let all = [("keep", keep), ("bulk", bulk), ("idle", idle), ("fresh", fresh)];
    all.iter().map(|(name, text)| script(name, text)).collect()
}

/// Tells all containers of the clients something.
fn tell(cluster: &Cluster, file: &str, containers: &[&str]) -> Result<()> {
    for number in 0..PAIRS {
        for container in containers {
            exec(cluster, (NAMESPACE, &pair(number).0), container, &["touch", file])?;
        }
    }
    Ok(())
}

/// What the loads have met up to now.
fn untroubled(cluster: &Cluster) -> Result<usize> {
    let mut requests = 0;
    for number in 0..PAIRS {
        let client = pair(number).0;
        let lines = |container| said(cluster, (NAMESPACE, &client), container);
        let keep = lines("keep")?;
        let bad: Vec<_> = keep.lines().filter(|line| !line.starts_with("200 ")).collect();
        let opened = keep.lines().filter(|line| line.split(' ').nth(1) == Some("1")).count();
        ensure!(bad.is_empty() && opened == 1, "{client}: kept connection: opened {opened} times, {bad:?}");
        let bulk = lines("bulk")?;
        ensure!(!bulk.contains("error") && !bulk.contains("ended"), "{client}: bytes: {bulk}");
        let fresh = lines("fresh")?;
        let failed: Vec<_> = fresh.lines().filter(|line| !line.starts_with("200 ")).collect();
        ensure!(
            failed.is_empty(),
            "{client}: {} of {} new connections: {failed:?}",
            failed.len(),
            fresh.lines().count()
        );
        requests += keep.lines().count() + fresh.lines().count();
    }
    Ok(requests)
}

/// 20 running pods: nothing is reset, new connections are in the mesh within two seconds; un-labelled, the same the other way
/// round, and what is open through the agent lives on.
pub(super) fn labelled(cluster: &Cluster) -> Result<()> {
    with_mesh(cluster)?;
    let applied = cluster.kubectl().applied(&list(objects()))?;
    let all = wait_ready(cluster, NAMESPACE, 2 * PAIRS + QUIET)?;
    // That a server is ready is not yet known to every node's kube-proxy.
    for number in 0..PAIRS {
        let (client, server) = pair(number);
        let ask = ["curl", "-sS", "--max-time", "1", "-o", "/dev/null", &format!("http://{server}/")];
        eventually(SOON, || exec(cluster, (NAMESPACE, &client), "fresh", &ask))?;
    }
    tell(cluster, "/tmp/go", &["keep", "bulk", "idle", "fresh"])?;
    thread::sleep(WHILE);
    untroubled(cluster).context("before the label")?;
    let start = Instant::now();
    cluster.label_namespace(NAMESPACE, Some("ambient"))?;
    thread::sleep(IN.saturating_sub(start.elapsed()));
    let new = new_in_plaintext(cluster)?;
    ensure!(new.is_empty(), "{IN:?} after the label there are new connections outside of the mesh: {new:?}");
    for node in ["n1", "n2"] {
        cluster.wait_captured(SOON, node, &names(&all, node))?;
    }
    tell(cluster, "/tmp/say", &["idle"])?;
    idle_lives(cluster, &["first", "second"])?;
    let requests = untroubled(cluster).context("after the label")?;
    say(format_args!("labelled under load: {requests} requests, none failed"));
    unlabelled(cluster)?;
    applied.delete()
}

fn unlabelled(cluster: &Cluster) -> Result<()> {
    // One connection that is in the mesh, and is to outlive it.
    let client = pair(0).0;
    let host = "${SERVER_0_SERVICE_HOST}";
    let open = format!(
        "mkfifo /tmp/on; (nc {host} {IDLE} < /tmp/on > /tmp/heard 2>&1 &); (sleep 600 > /tmp/on < /dev/null 2>&1 &); echo one > /tmp/on"
    );
    exec(cluster, (NAMESPACE, &client), "idle", &["sh", "-c", &open])?;
    thread::sleep(WHILE);
    cluster.label_namespace(NAMESPACE, None)?;
    eventually(IN, || {
        let tunnels = new_tunnels(cluster)?;
        ensure!(tunnels == 0, "{tunnels} new connections still go through tunnels");
        Ok(())
    })?;
    thread::sleep(WHILE);
    exec(cluster, (NAMESPACE, &client), "idle", &["sh", "-c", "echo two > /tmp/on"])?;
    eventually(SOON, || {
        let heard = exec(cluster, (NAMESPACE, &client), "idle", &["cat", "/tmp/heard"])?;
        ensure!(heard == "one\ntwo\n", "the connection that was open through the agent heard {heard:?}");
        Ok(())
    })?;
    let requests = untroubled(cluster).context("after the label was taken away")?;
    say(format_args!("un-labelled under load: {requests} requests in all, none failed"));
    // When the last connection has ended, nothing is left.
    exec(cluster, (NAMESPACE, &client), "idle", &["sh", "-c", "pkill -f 'sleep 600'; pkill nc"]).ok();
    for node in ["n1", "n2"] {
        cluster.wait_captured(SOON, node, &[])?;
    }
    Ok(())
}

/// New connections between pods of different nodes that are seen outside of tunnels for some time.
fn new_in_plaintext(cluster: &Cluster) -> Result<Vec<String>> {
    let wire = cluster.node("n2").watch_wire()?;
    thread::sleep(IN);
    let seen = wire.finish()?;
    let new = seen.plaintext().filter(|packet| packet.protocol == 6 && packet.has_port(HTTP) && packet.opens());
    Ok(new.map(ToString::to_string).collect())
}

fn new_tunnels(cluster: &Cluster) -> Result<usize> {
    let wire = cluster.node("n2").watch_wire()?;
    thread::sleep(Duration::from_millis(500));
    let seen = wire.finish()?;
    let plain = seen.plaintext().filter(|packet| packet.has_port(HTTP) && packet.opens()).count();
    ensure!(plain > 0, "no new connection goes the plain way");
    Ok(seen.tunnelled().filter(|packet| packet.opens()).count())
}

/// The connections that said nothing are the ones that were opened before.
fn idle_lives(cluster: &Cluster, wanted: &[&str]) -> Result<()> {
    for number in 0..PAIRS {
        let client = pair(number).0;
        eventually(SOON, || {
            let heard = said(cluster, (NAMESPACE, &client), "idle")?;
            ensure!(heard.lines().eq(wanted.iter().copied()), "{client}: the idle connection heard {heard:?}");
            Ok(())
        })?;
    }
    ensure!(pods(cluster, NAMESPACE)?.len() == 2 * PAIRS + QUIET, "pods have gone");
    Ok(())
}
