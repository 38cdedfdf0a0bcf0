//! Links, addresses and routes of a lab, made with iproute2 in one batch per namespace.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::namespace::Namespace;
use crate::topology::{Pod, node_addresses, node_number};

/// The number of the fabric among the nodes.
pub(crate) const FABRIC: u8 = 254;
/// The number of the host on which Kubernetes and istiod run, if they do.
pub(crate) const KUBE: u8 = 253;
/// The gateway of every pod; each node answers to it.
const GATEWAY: &str = "169.254.1.1";

/// Sysctls before there are devices: IPv6 addresses are usable at once, and asymmetric ways are no reason to drop.
const EVERYWHERE: [(&str, &str); 6] = [
    ("net.ipv6.conf.all.disable_ipv6", "0"),
    ("net.ipv6.conf.default.disable_ipv6", "0"),
    ("net.ipv6.conf.all.accept_dad", "0"),
    ("net.ipv6.conf.default.accept_dad", "0"),
    ("net.ipv4.conf.all.rp_filter", "0"),
    ("net.ipv4.conf.default.rp_filter", "0"),
];
const NODES: [(&str, &str); 2] = [("net.ipv4.ip_forward", "1"), ("net.ipv6.conf.all.forwarding", "1")];

/// Runs `ip` commands, one a line, in a namespace or (to make namespaces) in our own. One that fails does not keep the
/// rest from being run.
pub(crate) fn batch(namespace: Option<&Namespace>, lines: &str) -> Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let mut command = Command::new("ip");
    if let Some(namespace) = namespace {
        command.args(["-n", namespace.netns()]);
    }
    command.args(["-force", "-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().context("ip (Debian package iproute2)")?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(lines.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("ip: {}these were the lines:\n{lines}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// A fresh namespace of any kind.
pub(crate) fn prepare(namespace: &Namespace) -> Result<()> {
    namespace.set_sysctls(&EVERYWHERE)
}

/// The bridge that joins the nodes. It has an address of its own and knows the way to every pod.
pub(crate) fn fabric(fabric: &Namespace, nodes: &[(String, Namespace)]) -> Result<()> {
    let (v4, v6) = node_addresses(FABRIC);
    let mut lines = format!(
        "link set lo up\n\
         link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
         addr add {v4}/24 dev br0\n\
         addr add {v6}/64 dev br0 nodad\n\
         link set br0 up\n"
    );
    for (number, (name, namespace)) in (1..).zip(nodes) {
        writeln!(lines, "link add f{name} type veth peer name eth0 netns {}", namespace.netns())?;
        writeln!(lines, "link set f{name} master br0 up")?;
        lines.push_str(&pod_routes(number));
    }
    batch(Some(fabric), &lines)
}

/// A node: its place on the fabric and the ways to the other nodes' pods.
pub(crate) fn node(namespace: &Namespace, number: u8, of: u8) -> Result<()> {
    namespace.set_sysctls(&NODES)?;
    let (v4, v6) = node_addresses(number);
    let mut lines = format!(
        "link set lo up\n\
         addr add {GATEWAY}/32 dev lo\n\
         addr add {v4}/24 dev eth0\n\
         addr add {v6}/64 dev eth0 nodad\n\
         link set eth0 up\n"
    );
    lines.extend((1..=of).filter(|other| *other != number).map(pod_routes));
    batch(Some(namespace), &lines)
}

/// A further host on the fabric, with an address like a node's. It knows the way to every pod of the `nodes` nodes.
pub(crate) fn guest(fabric: &Namespace, name: &str, guest: &Namespace, number: u8, nodes: u8) -> Result<()> {
    let (v4, v6) = node_addresses(number);
    let link = format!(
        "link add f{name} type veth peer name eth0 netns {}\n\
         link set f{name} master br0 up\n",
        guest.netns()
    );
    let mut lines = format!(
        "link set lo up\n\
         addr add {v4}/24 dev eth0\n\
         addr add {v6}/64 dev eth0 nodad\n\
         link set eth0 up\n"
    );
    lines.extend((1..=nodes).map(pod_routes));
    batch(Some(fabric), &link)?;
    batch(Some(guest), &lines)
}

/// A pod and its node's end of the link.
pub(crate) fn pod(pod: &Pod, namespace: &Namespace, nodes: &[String], node: &Namespace) -> Result<()> {
    let (v4, v6) = node_addresses(node_number(nodes, &pod.node));
    let link = format!("v{}", pod.name);
    let mut outer = format!(
        "link add {link} type veth peer name eth0 netns {}\n\
         addr add fe80::1/64 dev {link} nodad\n\
         link set {link} up\n",
        namespace.netns()
    );
    let mut inner = "link set lo up\n".to_owned();
    for address in &pod.addresses {
        let (bits, via) = if address.is_ipv4() { (32, v4.to_string()) } else { (128, v6.to_string()) };
        let nodad = if address.is_ipv4() { "" } else { " nodad" };
        writeln!(inner, "addr add {address}/{bits} dev eth0{nodad}")?;
        writeln!(outer, "route add {address}/{bits} dev {link} src {via}")?;
    }
    inner.push_str("link set eth0 up\n");
    writeln!(inner, "route add {GATEWAY} dev eth0 scope link")?;
    writeln!(inner, "route add default via {GATEWAY} dev eth0")?;
    writeln!(inner, "route add default via fe80::1 dev eth0")?;
    batch(Some(node), &outer)?;
    batch(Some(namespace), &inner)
}

/// The way to the pods of node `number`.
fn pod_routes(number: u8) -> String {
    let (v4, v6) = node_addresses(number);
    format!("route add 10.40.{number}.0/24 via {v4}\nroute add fd00:40:{number}::/64 via {v6}\n")
}
