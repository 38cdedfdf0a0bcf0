//! What the file says of the node, as its parts take it.

use std::time::Duration;

use super::pods;
use crate::dns::{self, Ipv6, Realm, Upstream};
use crate::file::schema::{self, Node, OnShutdown};
use crate::hbone;
use crate::identity::ca::CaConfig;
use crate::model::{SameNode, SameNodeModes};
use crate::pods::driver::{self, Retry, Settings};
use crate::proxy::shard::{Applications, Habits};
use crate::sys::grace::GracePeriods;
use crate::sys::socket::Keepalive;

/// How long other nodes may take to hear from istiod that a pod has left the mesh: it batches changes for a moment, and a
/// busy one takes some more. Who writes files decides in which order they change.
const LINGER: Duration = Duration::from_secs(5);

pub(super) fn authority(node: &Node) -> CaConfig {
    CaConfig {
        address: node.ca.address.clone(),
        root: node.ca.root.clone(),
        token: node.ca.token.clone(),
        server_name: node.ca.server_name.clone(),
        cluster: node.cluster.clone(),
        headers: node.ca.headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        lifetime: node.ca.certificate_ttl,
    }
}

pub(super) fn driver(node: &Node) -> Settings {
    let on_shutdown = match node.on_shutdown {
        OnShutdown::Keep => driver::OnShutdown::Keep,
        OnShutdown::Withdraw => driver::OnShutdown::Withdraw,
    };
    let linger = if node.kubernetes.is_some() { LINGER } else { Duration::ZERO };
    let retry = Retry::default();
    let settings = Settings { on_shutdown, drain: node.drain, withdrawal: withdrawal(node), linger, retry };
    match node.zds {
        None => settings,
        // What keeps redirected pods captured is not ours to keep or to withdraw.
        Some(_) => Settings { on_shutdown: driver::OnShutdown::Keep, retry: pods::RETRY, ..settings },
    }
}

pub(super) fn grace_periods(node: &Node) -> Option<GracePeriods> {
    node.rcu_expedited.as_deref().map(|switch| GracePeriods::new(switch, &node.run_dir))
}

/// Pods of Kubernetes leave the mesh by a label, and nobody who takes it away means to cut connections.
fn withdrawal(node: &Node) -> Option<Duration> {
    node.kubernetes.is_none().then_some(node.drain)
}

pub(super) fn keepalive(written: &schema::Keepalive) -> Option<Keepalive> {
    let schema::Keepalive { enabled, time, interval, retries } = *written;
    enabled.then_some(Keepalive { time, interval, retries })
}

pub(super) fn same_node(written: &schema::SameNode) -> SameNodeModes {
    let mode = |mode: schema::SameNodeMode| match mode {
        schema::SameNodeMode::Mtls => SameNode::Mtls,
        schema::SameNodeMode::Local => SameNode::Local,
        schema::SameNodeMode::Direct => SameNode::Direct,
    };
    let namespaces = written.namespaces.iter().map(|(namespace, written)| (namespace.clone(), mode(*written)));
    SameNodeModes { default: mode(written.mode), namespaces: namespaces.collect() }
}

pub(super) fn habits(tunnels: &schema::Tunnels) -> Habits {
    Habits {
        tunnels: hbone::Settings {
            stream_window: tunnels.stream_window,
            connection_window: tunnels.connection_window,
            frame_size: tunnels.frame_size,
            streams: tunnels.streams,
            idle: tunnels.idle,
        },
        response_baggage: tunnels.response_baggage,
        applications: match tunnels.applications {
            schema::Applications::Loopback => Applications::Loopback,
            schema::Applications::Address => Applications::Address,
        },
    }
}

pub(super) fn names(dns: &schema::Dns) -> dns::Settings {
    dns::Settings {
        realm: Realm { domain: dns.domain.to_ascii_lowercase(), preferred_namespace: dns.preferred_namespace.clone() },
        upstream: match dns.upstream {
            schema::dns::Upstream::Original => Upstream::Original,
            schema::dns::Upstream::Node => Upstream::Node,
        },
        resolv_conf: dns.resolv_conf.clone(),
        ipv6: match dns.ipv6 {
            schema::dns::Ipv6::On => Ipv6::On,
            schema::dns::Ipv6::Off => Ipv6::Off,
        },
    }
}
