//! Variables that mean something to Istio's node proxy and nothing here.

use super::mesh::Mesh;
use super::vars::Vars;

/// With the value, if there is one, by which they ask for what is done here anyway.
const UNUSED: [(&str, Option<&str>); 15] = [
    ("AUTHZ_POLICY_INFO_LOGGING", Some("false")),
    ("ENABLE_ORIG_SRC", Some("true")),
    ("ENABLE_PROXY", Some("true")),
    ("FAKE_CA", Some("false")),
    ("INPOD_ENABLED", Some("true")),
    ("INPOD_PORT_REUSE", Some("true")),
    ("LOCAL_XDS", None),
    ("LOCAL_XDS_PATH", None),
    ("PACKET_MARK", Some("1337")),
    ("PROXY_MODE", Some("shared")),
    ("PROXY_WORKLOAD_INFO", None),
    ("SERVICE_ACCOUNT", None),
    ("TLS12_ENABLED", Some("false")),
    ("UNSTABLE_ENABLE_SOCKS5", Some("false")),
    ("USER_TIMEOUT_ENABLED", Some("false")),
];

/// What cannot be had and must not be passed over: an agent that does something else under it would do harm.
pub(super) fn impossible(vars: &Vars<'_>) {
    if let Some(mode) = vars.peek("PROXY_MODE").filter(|mode| *mode != "shared") {
        vars.mistake(format!("PROXY_MODE is {mode:?}; the agent serves a node's pods: shared"));
    }
    if let Some(mark) = vars.peek("PACKET_MARK").filter(|mark| *mark != "1337") {
        vars.mistake(format!("PACKET_MARK is {mark:?}; the agent's sockets are marked 1337"));
    }
    if let Some(policy) = vars.text("COMPLIANCE_POLICY") {
        vars.mistake(format!(
            "COMPLIANCE_POLICY is {policy:?}, which is not kept here: X25519MLKEM768 is preferred and others are taken, too"
        ));
    }
}

/// Those that are set, and do not ask for what is done anyway.
pub(super) fn list(vars: &Vars<'_>, mesh: &Mesh) -> Vec<String> {
    let differs = |name: &str, kept: Option<&str>| {
        vars.peek(name).is_some_and(|value| kept.is_none_or(|kept| !value.eq_ignore_ascii_case(kept)))
    };
    let names = UNUSED.into_iter().filter(|(name, kept)| !vars.was_read(name) && differs(name, *kept));
    let mut names: Vec<_> = names.map(|(name, _)| name.to_owned()).collect();
    if mesh.metadata("DNS_PROXY_ADDR").is_some() {
        names.push("DNS_PROXY_ADDR".to_owned());
    }
    names.sort();
    names
}
