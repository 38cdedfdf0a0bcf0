//! An agent in the place of Istio's node proxy, with what Istio's DaemonSet gives that: arguments, variables, mounts, and a
//! CNI agent that hands the pods over.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_e2e::agent::READY_PORT;
use mesh_e2e::socket::exchange;
use mesh_e2e::zds::rules::redirect;
use mesh_e2e::zds::{Cni, Handed};
use mesh_e2e::{Lab, Log, Pod, Process, Service, Topology, binary, eventually, kube};

const LIMIT: Duration = Duration::from_secs(20);
const SOON: Duration = Duration::from_secs(5);

pub(super) fn topology() -> Topology {
    Topology::new()
        .pod(Pod::new("client", "n1").handed())
        .pod(Pod::new("server", "n2").handed().namespace("shop").label("app", "server"))
        .service(Service::new("web").namespace("shop").port(80, 8080).selects("app", "server"))
        .handed_over()
        .without_agents()
        .kubernetes(kube::Settings::new().mesh_from_istiod())
}

/// What the DaemonSet of Istio's chart sets. The chart's default values, but for where this lab keeps its sockets.
fn variables(lab: &Lab, node: &str, home: &Path) -> BTreeMap<&'static str, String> {
    let text = |value: &str| value.to_owned();
    let istiod = lab.kube().ca(node, "24h")["address"].as_str().unwrap_or_default().replace("https://", "");
    [
        ("CA_ADDRESS", istiod.clone()),
        ("XDS_ADDRESS", istiod),
        ("LOG_FORMAT", text("json")),
        ("RUST_LOG", text("info")),
        ("RUST_BACKTRACE", text("1")),
        ("ISTIO_META_CLUSTER_ID", text("Kubernetes")),
        ("INPOD_ENABLED", text("true")),
        ("TERMINATION_GRACE_PERIOD_SECONDS", text("7")),
        ("POD_NAME", format!("mesh-agent-{node}")),
        ("POD_NAMESPACE", text("istio-system")),
        ("NODE_NAME", node.to_owned()),
        ("INSTANCE_IP", lab.node(node).addresses[0].to_string()),
        ("SERVICE_ACCOUNT", text("ztunnel")),
        ("ISTIO_META_DNS_CAPTURE", text("false")),
        ("ZTUNNEL_CPU_LIMIT", text("4")),
        ("INPOD_UDS", lab.node(node).zds_socket().display().to_string()),
        ("MESH_AGENT_RUN_DIR", home.join("run").display().to_string()),
    ]
    .into()
}

/// The mounts, in a directory that is the agent's root.
fn mounts(lab: &Lab, node: &str) -> Result<PathBuf> {
    let home = lab.directory().join(format!("home-{node}"));
    let secrets = home.join("var/run/secrets");
    for directory in ["istio", "tokens"] {
        fs::create_dir_all(secrets.join(directory))?;
    }
    let ca = lab.kube().ca(node, "24h");
    symlink(ca["root"].as_str().context("no root")?, secrets.join("istio/root-cert.pem"))?;
    symlink(lab.kube().token(node), secrets.join("tokens/istio-token"))?;
    Ok(home)
}

fn launch(lab: &Lab, node: &str) -> Result<(Process, Log)> {
    let home = mounts(lab, node)?;
    let mut command = lab.node(node).command(&binary::find()?);
    command.current_dir(&home).env_clear().envs(variables(lab, node, &home)).args(["proxy", "ztunnel"]);
    let name = format!("ztunnel-{node}");
    let process = lab.spawn(&name, &mut command)?;
    Ok((process, Log::at(&lab.directory().join(format!("{name}.log")))))
}

pub(super) fn daemonset(lab: &mut Lab) -> Result<()> {
    let lab = &*lab;
    for pod in lab.pods() {
        redirect(pod)?;
        let namespace = if pod.name == "server" { "shop" } else { "default" };
        // As the CNI agent notes it, for istiod.
        let noted = "ambient.istio.io/redirection=enabled";
        lab.kube().kubectl().run(["annotate", "pod", &pod.name, "-n", namespace, "--overwrite", noted])?;
    }
    let mut running = Vec::new();
    for node in ["n1", "n2"] {
        let cni = Cni::listen(&lab.node(node).zds_socket())?;
        let (process, log) = launch(lab, node)?;
        let link = cni.accept(LIMIT).with_context(|| format!("the agent of {node} does not connect"))?;
        let own = lab.pods().iter().filter(|pod| pod.node == node);
        link.snapshot(&own.map(Handed::of).collect::<Result<Vec<_>>>()?)?;
        running.push((node, cni, link, process, log));
    }
    for (node, .., log) in &running {
        eventually(LIMIT, || {
            let (status, body) = lab.agent(node).page(READY_PORT, "/healthz/ready")?;
            ensure!(status == 200, "{node}: {status} {body}");
            Ok(())
        })?;
        let line = log.wait(SOON, |line| line.message == "set, and without a meaning for this agent")?;
        ensure!(line.field("variables") == "SERVICE_ACCOUNT", "{}", line.text);
    }
    let _server = lab.pod("server").echo(8080)?;
    let news = running[1].4.from_now();
    eventually(LIMIT, || {
        let stream = lab.pod("client").try_connect(lab.vip4("web", 80))?;
        stream.set_read_timeout(Some(SOON))?;
        ensure!(exchange(&stream, "hello")? == "hello", "other bytes came back");
        Ok(())
    })?;
    let line = news.wait(SOON, |line| line.scope == "access" && line.field("direction") == "inbound")?;
    ensure!(line.field("src.identity") == "spiffe://cluster.local/ns/default/sa/client", "{}", line.text);
    Ok(())
}
