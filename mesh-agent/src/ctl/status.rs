//! `ctl status`: one screen that answers "is this node all right?" from top to bottom.

use super::text::{or_dash, seconds, table};
use crate::admin::documents::{Certificate, Config, Counter, Istiod, Kubernetes, Outside, Pod, Revocation, Status};

pub(super) fn render(status: &Status) -> String {
    let mut screen = head(status);
    section(&mut screen, "pods", &status.pods, pods);
    if let Some(kubernetes) = &status.kubernetes {
        section(&mut screen, "pods outside of the mesh", &others(kubernetes), |rows| {
            table(&["POD", "STATE"], rows.to_vec(), &[])
        });
    }
    section(&mut screen, "certificates", &status.certificates, certificates);
    section(&mut screen, "capture counters", &status.capture, capture);
    screen
}

fn section<T>(screen: &mut String, name: &str, rows: &[T], body: impl Fn(&[T]) -> String) {
    let body = if rows.is_empty() { format!("no {name}\n") } else { body(rows) };
    screen.push('\n');
    screen.push_str(&body);
}

fn head(status: &Status) -> String {
    let ready = match status.pending.as_slice() {
        [] => "ready".to_owned(),
        pending => format!("NOT READY, waiting for {}", pending.join(", ")),
    };
    let mut lines = vec![
        ("node", format!("{}, {ready}", status.node)),
        ("agent", format!("{}, pid {}, up {}", status.version, status.pid, seconds(status.uptime_s))),
        ("config", config(&status.config)),
    ];
    if let Some(rejected) = &status.config.rejected {
        let line = rejected.line.map(|line| format!(", line {line}")).unwrap_or_default();
        lines.push(("", format!("EDIT REJECTED {} ago{line}: {}", seconds(rejected.ago_s), rejected.reason)));
    }
    if let Some(istiod) = &status.istiod {
        lines.push(("istiod", self::istiod(istiod)));
        lines.extend(istiod.rejected.iter().map(|rejected| ("", format!("REJECTED {rejected}"))));
    }
    if let Some(kubernetes) = &status.kubernetes {
        lines.push(("kubernetes", self::kubernetes(kubernetes)));
        lines.extend(kubernetes.plugin.as_ref().map(|plugin| match kubernetes.repairs {
            Some(repairs @ 1..) => ("plugin", format!("{plugin}, put right {repairs} times")),
            _ => ("plugin", plugin.clone()),
        }));
    }
    if let Some(revocation) = &status.revocation {
        lines.push(("revocation", self::revocation(revocation)));
        if let Some(rejected) = &revocation.rejected {
            lines.push(("", format!("LIST REJECTED {} ago: {}", seconds(rejected.ago_s), rejected.reason)));
        }
    }
    let open = status.connections;
    let connections = format!("{} outbound, {} inbound, on {} shards", open.outbound, open.inbound, status.shards);
    lines.push(("connections", connections));
    lines.push(("log", status.log_filter.clone()));
    lines.iter().map(|(name, text)| format!("{name:<13}{text}\n")).collect()
}

fn istiod(istiod: &Istiod) -> String {
    let mut text = format!("{} {}", istiod.state, istiod.address);
    if let Some(since) = istiod.since_s {
        text += &format!(" for {}", seconds(since));
    }
    if let Some(last) = istiod.last_message_s {
        text += &format!(", last message {} ago", seconds(last));
    }
    if let Some(retry) = istiod.retry_s {
        text += &format!(", next try in {}", seconds(u64::try_from(retry).unwrap_or_default()));
    }
    match &istiod.error {
        Some(error) => format!("{text}: {error}"),
        None => text,
    }
}

fn kubernetes(kubernetes: &Kubernetes) -> String {
    let text = format!("{} {} for {}", kubernetes.state, kubernetes.address, seconds(kubernetes.since_s));
    match &kubernetes.error {
        Some(error) => format!("{text}: {error}"),
        None => text,
    }
}

/// Rows of those that are looked for, and of those that are not to be in the mesh.
fn others(kubernetes: &Kubernetes) -> Vec<Vec<String>> {
    let row =
        |what: &str, pod: &Outside| vec![format!("{}/{}", pod.namespace, pod.name), format!("{what}: {}", pod.reason)];
    let troubled = kubernetes.troubled.iter().map(|pod| row("trouble", pod));
    troubled.chain(kubernetes.outside.iter().map(|pod| row("outside", pod))).collect()
}

fn revocation(revocation: &Revocation) -> String {
    match revocation.loaded_s {
        None => format!("{}, NOT LOADED: nothing is revoked", revocation.file),
        Some(loaded) => {
            let entries = if revocation.entries == 1 { "certificate" } else { "certificates" };
            format!("{}, loaded {} ago: {} {entries} revoked", revocation.file, seconds(loaded), revocation.entries)
        }
    }
}

fn config(config: &Config) -> String {
    format!(
        "{}, loaded {} ago: {} workloads, {} services, {} policies",
        config.file,
        seconds(config.loaded_s),
        config.workloads,
        config.services,
        config.policies
    )
}

fn pods(pods: &[Pod]) -> String {
    let row = |pod: &Pod| {
        let ports: Vec<_> = pod.listeners.iter().map(u16::to_string).collect();
        let state = match &pod.error {
            Some(error) => format!("{}: {error}", pod.state),
            None => pod.state.clone(),
        };
        vec![
            format!("{}/{}", pod.namespace, pod.name),
            or_dash(Some(&pod.addresses.join(", "))),
            or_dash(pod.capture.as_deref().map(|by| captured(by, pod)).as_deref()),
            or_dash(Some(&ports.join(" "))),
            pod.when_down.clone(),
            state,
        ]
    };
    table(&["POD", "ADDRESSES", "CAPTURE", "LISTENING", "WHEN DOWN", "STATE"], pods.iter().map(row).collect(), &[])
}

/// By what, and what is not as with other pods.
fn captured(by: &str, pod: &Pod) -> String {
    let mut text = by.to_owned();
    if pod.bypasses_inbound {
        text += ", outbound only";
    }
    for interface in &pod.virtual_interfaces {
        let missing = if pod.missing_interfaces.contains(interface) { " (missing)" } else { "" };
        text += &format!(", {interface}{missing}");
    }
    text
}

fn certificates(certificates: &[Certificate]) -> String {
    let row = |certificate: &Certificate| {
        let state = match &certificate.error {
            Some(error) => format!("{}: {error}", certificate.state),
            None => certificate.state.clone(),
        };
        vec![
            certificate.identity.clone(),
            certificate.expires_s.map_or_else(|| "-".to_owned(), in_or_ago),
            certificate.renews_s.map_or_else(|| "-".to_owned(), in_or_ago),
            state,
        ]
    };
    table(&["CERTIFICATE", "EXPIRES", "RENEWS", "STATE"], certificates.iter().map(row).collect(), &[])
}

fn capture(counters: &[Counter]) -> String {
    let row = |counter: &Counter| vec![counter.name.clone(), counter.value.to_string()];
    table(&["CAPTURE", "COUNT"], counters.iter().map(row).collect(), &[1])
}

fn in_or_ago(from_now: i64) -> String {
    let time = seconds(from_now.unsigned_abs());
    if from_now < 0 { format!("{time} ago") } else { format!("in {time}") }
}
