//! The rules that Istio's CNI agent keeps in a pod (protocol note, sections 11.3 and 11.4).

use std::ffi::OsStr;
use std::io::Write;

use anyhow::Result;
use mesh_common::abi::{
    AGENT_MARK, CAPTURED_MARK, DNS_PORT, HBONE_PORT, MARK_MASK, NAME_SERVER_PORT, OUTBOUND_PORT, PLAINTEXT_PORT,
    ROUTE_TABLE, RULE_PRIORITY,
};

use crate::namespace::Namespace;

/// What differs between the families.
#[derive(Clone, Copy, Debug)]
struct Family {
    restore: &'static str,
    flag: &'static str,
    loopback: &'static str,
    everything: &'static str,
    /// Where the kubelet's probes come from.
    probes: &'static str,
}

const FAMILIES: [Family; 2] = [
    Family {
        restore: "iptables-restore",
        flag: "-4",
        loopback: "127.0.0.1/32",
        everything: "0.0.0.0/0",
        probes: "169.254.7.127",
    },
    Family {
        restore: "ip6tables-restore",
        flag: "-6",
        loopback: "::1/128",
        everything: "::/0",
        probes: "fd16:9254:7127:1337:ffff:ffff:ffff:ffff",
    },
];

/// Sends what the pod's applications send to port 15001, what comes for them to 15006, and leaves tunnels to 15008 alone,
/// as well as all that the node proxy sends itself. It connects to applications from their clients' addresses: what
/// they answer comes back to it.
pub fn redirect(pod: &Namespace) -> Result<()> {
    for family in FAMILIES {
        let mut file = tempfile::NamedTempFile::new()?;
        file.write_all(rules(family).as_bytes())?;
        pod.output(family.restore, [file.path()])?;
        let mark = format!("{CAPTURED_MARK:#x}/{MARK_MASK:#x}");
        let (priority, table) = (RULE_PRIORITY.to_string(), ROUTE_TABLE.to_string());
        // As Istio's does it: what is there already is as good.
        let present = pod.output("ip", [family.flag, "rule", "show", "pref", &priority])?;
        if present.is_empty() {
            pod.output("ip", [family.flag, "rule", "add", "pref", &priority, "fwmark", &mark, "lookup", &table])?;
        }
        pod.output("ip", [family.flag, "route", "replace", "local", family.everything, "dev", "lo", "table", &table])?;
    }
    Ok(())
}

/// Sends what the pod asks name servers to port 15053, too, but for what the node proxy asks itself. That keeps its flows
/// apart from those of the pod in connection tracking.
pub fn redirect_names(pod: &Namespace) -> Result<()> {
    for family in FAMILIES {
        let mut file = tempfile::NamedTempFile::new()?;
        file.write_all(names(family).as_bytes())?;
        pod.output(family.restore, [OsStr::new("--noflush"), file.path().as_os_str()])?;
    }
    Ok(())
}

fn names(family: Family) -> String {
    let (own, loopback) = (format!("{AGENT_MARK:#x}/{MARK_MASK:#x}"), family.loopback);
    format!(
        "*nat
-I ISTIO_OUTPUT 2 ! -o lo -p udp -m udp --dport {NAME_SERVER_PORT} -m mark ! --mark {own} \
         -j REDIRECT --to-ports {DNS_PORT}
-I ISTIO_OUTPUT 3 ! -d {loopback} -p tcp -m tcp --dport {NAME_SERVER_PORT} -m mark ! --mark {own} \
         -j REDIRECT --to-ports {DNS_PORT}
COMMIT
*raw
:ISTIO_PRERT - [0:0]
:ISTIO_OUTPUT - [0:0]
-A PREROUTING -j ISTIO_PRERT
-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_OUTPUT -p udp -m udp --dport {NAME_SERVER_PORT} -m mark --mark {own} -j CT --zone 1
-A ISTIO_PRERT -p udp -m udp --sport {NAME_SERVER_PORT} -m mark ! --mark {own} -j CT --zone 1
COMMIT
"
    )
}

fn rules(family: Family) -> String {
    let (own, answer) = (format!("{AGENT_MARK:#x}/{MARK_MASK:#x}"), format!("{CAPTURED_MARK:#x}/{MARK_MASK:#x}"));
    let Family { loopback, probes, .. } = family;
    let chains = ":ISTIO_PRERT - [0:0]\n:ISTIO_OUTPUT - [0:0]\n-A PREROUTING -j ISTIO_PRERT\n-A OUTPUT -j ISTIO_OUTPUT";
    format!(
        "*mangle
{chains}
-A ISTIO_PRERT -m mark --mark {own} -j CONNMARK --set-xmark {answer}
-A ISTIO_OUTPUT -m connmark --mark {answer} -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff
COMMIT
*nat
{chains}
-A ISTIO_PRERT -s {probes} -p tcp -m tcp -j ACCEPT
-A ISTIO_OUTPUT -d {probes} -p tcp -m tcp -j ACCEPT
-A ISTIO_PRERT ! -d {loopback} -p tcp -m tcp ! --dport {HBONE_PORT} -m mark ! --mark {own} \
         -j REDIRECT --to-ports {PLAINTEXT_PORT}
-A ISTIO_OUTPUT -p tcp -m mark --mark {answer} -j ACCEPT
-A ISTIO_OUTPUT ! -d {loopback} -o lo -j ACCEPT
-A ISTIO_OUTPUT ! -d {loopback} -p tcp -m mark ! --mark {own} -j REDIRECT --to-ports {OUTBOUND_PORT}
COMMIT
"
    )
}
