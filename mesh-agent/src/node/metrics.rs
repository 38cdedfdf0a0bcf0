//! The metrics that the node as a whole owns, sampled when they are scraped.

use std::time::UNIX_EPOCH;

use super::View;
use crate::identity::revocation::Tally;
use crate::kubernetes::LinkState;
use crate::pods::driver::PodState;
use crate::telemetry::metrics::{Kind, Metrics, Samples};
use crate::telemetry::reporter::Reporter;
use crate::xds::{Link, Termination};

pub(super) fn register(metrics: &Metrics, view: &View) {
    let add = |kind, name, help, sample: fn(&View, &mut Samples)| {
        let view = view.clone();
        metrics.sample(kind, name, help, move |out| sample(&view, out));
    };
    add(Kind::Gauge, "workload_manager_active_proxy_count", "Pods whose traffic the agent carries", active);
    add(Kind::Gauge, "workload_manager_pending_proxy_count", "Pods that are to be enrolled and are not", pending);
    add(Kind::Counter, "workload_manager_proxies_started", "Pods that were taken up since the agent's start", started);
    let text = "Outbound connections that live on another shard than they came up on";
    add(Kind::Counter, "mesh_connections_moved", text, moved);
    let text = "Times that a shard had too much to do for its core and left it";
    add(Kind::Counter, "mesh_shards_left_home", text, left_home);
    let text = "Times that a connection or a tunnel carried so much that it went on on the lane beside its shard";
    add(Kind::Counter, "mesh_lane_moves", text, to_lanes);
    add(Kind::Counter, "workload_manager_proxies_stopped", "Pods that were given up since the agent's start", stopped);
    add(Kind::Counter, "mesh_capture_events", "What the capture programs did, by pod and event", capture);
    add(Kind::Gauge, "mesh_certificate_expiry_timestamp_seconds", "When each certificate expires", expiry);
    if view.revocations.state().is_some() {
        let rejections = "istio_crl_policy_rejections";
        add(Kind::Counter, rejections, "Peers refused and tunnels closed because of a revoked certificate", revoked);
        let untracked = "istio_crl_untracked_connections";
        add(
            Kind::Counter,
            untracked,
            "Tunnels whose peers are not looked up again when the list changes",
            self::untracked,
        );
        add(Kind::Gauge, "mesh_crl_entries", "Serial numbers in the revocation list", crl_entries);
        add(Kind::Gauge, "mesh_crl_rejected", "1 while the revocation list as it is now is refused", crl_rejected);
    }
    if view.istiod.is_some() {
        let terminations = "istio_xds_connection_terminations";
        add(Kind::Counter, terminations, "Streams to istiod that ended, by reason", xds_terminations);
        add(Kind::Counter, "istio_xds_message", "Responses of istiod, by type", xds_messages);
        add(Kind::Counter, "istio_xds_message_bytes", "Bytes of istiod's responses, by type", xds_bytes);
        add(Kind::Gauge, "mesh_xds_connected", "1 while there is a stream to istiod", xds_connected);
    }
    if view.kubernetes.is_some() {
        let connected = "1 while the API server tells of pods and namespaces";
        add(Kind::Gauge, "mesh_kubernetes_connected", connected, kubernetes_connected);
        let help = "Times that the plugin or the network's configuration was put right";
        add(Kind::Counter, "mesh_cni_repairs", help, repairs);
    }
    add(Kind::Gauge, "mesh_config_rejected", "1 while the last edit of the file is refused", rejected);
    add(Kind::Counter, "mesh_log_lines_dropped", "Log lines lost because their reader was too slow", dropped);
}

fn kubernetes_connected(view: &View, out: &mut Samples) {
    if let Some(cluster) = &view.kubernetes {
        out.add(&[], f64::from(matches!(cluster.link.borrow().state, LinkState::Connected { .. })));
    }
}

fn repairs(view: &View, out: &mut Samples) {
    if let Some(installer) = view.kubernetes.as_ref().and_then(|cluster| cluster.installer.as_ref()) {
        out.add(&[], installer.repairs() as f64);
    }
}

fn active(view: &View, out: &mut Samples) {
    out.add(&[], count(view, |state| !matches!(state, PodState::Failed(_))));
}

fn pending(view: &View, out: &mut Samples) {
    out.add(&[], count(view, |state| matches!(state, PodState::Failed(_))));
}

fn started(view: &View, out: &mut Samples) {
    out.add(&[], view.shards.turnover().0 as f64);
}

fn moved(view: &View, out: &mut Samples) {
    out.add(&[], view.shards.moves().placed as f64);
}

fn left_home(view: &View, out: &mut Samples) {
    out.add(&[], view.shards.moves().left_home as f64);
}

fn to_lanes(view: &View, out: &mut Samples) {
    out.add(&[], view.shards.moves().to_lanes as f64);
}

fn stopped(view: &View, out: &mut Samples) {
    out.add(&[], view.shards.turnover().1 as f64);
}

fn count(view: &View, wanted: impl Fn(&PodState) -> bool) -> f64 {
    view.pods.borrow().iter().filter(|pod| wanted(&pod.state)).count() as f64
}

fn capture(view: &View, out: &mut Samples) {
    for status in view.pods.borrow().iter() {
        let pod = &status.spec;
        for (event, value) in view.capture.counters(&pod.uid) {
            out.add(&[("namespace", &pod.namespace), ("pod", &pod.name), ("event", event)], value as f64);
        }
    }
}

fn expiry(view: &View, out: &mut Samples) {
    for (identity, state) in view.certs.list() {
        if let Some(credentials) = state.credentials {
            let at = credentials.validity.not_after.duration_since(UNIX_EPOCH).unwrap_or_default();
            out.add(&[("identity", identity.uri())], at.as_secs_f64());
        }
    }
}

fn revoked(view: &View, out: &mut Samples) {
    by_reporter(view, out, Tally::rejections);
}

fn untracked(view: &View, out: &mut Samples) {
    by_reporter(view, out, Tally::untracked);
}

fn by_reporter(view: &View, out: &mut Samples, count: fn(&Tally, Reporter) -> u64) {
    for side in Reporter::ALL {
        out.add(&[("reporter", side.as_str())], count(view.revocations.tally(), side) as f64);
    }
}

fn crl_entries(view: &View, out: &mut Samples) {
    if let Some(state) = view.revocations.state() {
        out.add(&[], state.lists.entries() as f64);
    }
}

fn crl_rejected(view: &View, out: &mut Samples) {
    if let Some(state) = view.revocations.state() {
        out.add(&[], if state.rejected.is_some() { 1.0 } else { 0.0 });
    }
}

fn xds_terminations(view: &View, out: &mut Samples) {
    if let Some(istiod) = &view.istiod {
        for why in Termination::ALL {
            out.add(&[("reason", why.reason())], istiod.counters.terminations(why) as f64);
        }
    }
}

fn xds_messages(view: &View, out: &mut Samples) {
    if let Some(istiod) = &view.istiod {
        istiod.counters.messages().for_each(|(url, messages, _)| out.add(&[("url", url)], messages as f64));
    }
}

fn xds_bytes(view: &View, out: &mut Samples) {
    if let Some(istiod) = &view.istiod {
        istiod.counters.messages().for_each(|(url, _, bytes)| out.add(&[("url", url)], bytes as f64));
    }
}

fn xds_connected(view: &View, out: &mut Samples) {
    if let Some(istiod) = &view.istiod {
        let connected = matches!(istiod.status.borrow().link, Link::Connected { .. });
        out.add(&[], if connected { 1.0 } else { 0.0 });
    }
}

fn rejected(view: &View, out: &mut Samples) {
    out.add(&[], if view.loads.borrow().rejected.is_some() { 1.0 } else { 0.0 });
}

fn dropped(view: &View, out: &mut Samples) {
    out.add(&[], view.log.dropped_lines() as f64);
}
