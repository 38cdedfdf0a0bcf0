//! The documents of the admin socket, made from the view at the moment they are asked for.

use std::sync::Arc;
use std::time::SystemTime;

use mesh_common::abi::{HBONE_PORT, OUTBOUND_PORT, PLAINTEXT_PORT};

use super::{View, kubernetes};
use crate::admin::documents::{
    Certificate, Config, Connections, Counter, Flows, Istiod, Kubernetes, Outside, Pod, Rejected, Revocation, Status,
};
use crate::cni::install::{Installer, Standing};
use crate::identity::certs::{self, CertState};
use crate::kubernetes::LinkState;
use crate::model::{Captured, Identity, Inbound, Programs, WhenDown};
use crate::pods::driver::{PodState, PodStatus};
use crate::pods::members::{Remark, What};
use crate::proxy::record::documents;
use crate::xds::{self, Link};

pub(super) async fn status(view: &View) -> Status {
    let pods = pods(view);
    Status {
        node: view.node.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_s: view.started.elapsed().as_secs(),
        shards: u32::try_from(view.shards.homes().count()).unwrap_or(u32::MAX),
        pending: view.ready.pending(),
        config: config(view),
        istiod: view.istiod.as_ref().map(|istiod| self::istiod(&istiod.status.borrow())),
        kubernetes: view.kubernetes.as_ref().map(kubernetes),
        pods,
        certificates: certificates(view),
        revocation: revocation(view),
        connections: connections(view).await,
        capture: capture(view),
        log_filter: view.log.current().unwrap_or_else(|error| error.to_string()),
    }
}

pub(super) async fn flows(view: &View) -> Flows {
    let snapshots = view.shards.ask(|books| books.snapshot()).await;
    Flows { node: view.node.name.clone(), flows: documents(&snapshots, view.facts.as_deref()) }
}

pub(super) fn pods(view: &View) -> Vec<Pod> {
    view.pods.borrow().iter().map(|status| pod(status, view)).collect()
}

fn pod(status: &PodStatus, view: &View) -> Pod {
    let spec = &status.spec;
    // What is not known of a pod that somebody else redirects is left empty.
    let (by, programs) = match &spec.captured {
        Captured::ByPrograms(programs) => (view.mechanism.as_str(), programs.clone()),
        Captured::ByRules => ("rules", Programs::default()),
    };
    let (state, error) = match &status.state {
        PodState::Enrolled => ("captured", None),
        PodState::Adopted => ("captured (taken over)", None),
        PodState::Draining => ("retiring", None),
        PodState::Outdated(error) => ("captured, a change failed", Some(error.clone())),
        PodState::Failed(error) => ("failed", Some(error.clone())),
    };
    let serving = status.state.is_captured();
    Pod {
        namespace: spec.namespace.clone(),
        name: spec.name.clone(),
        addresses: programs.addresses.iter().map(ToString::to_string).collect(),
        netns: spec.netns.to_string(),
        interface: programs.interface,
        state: state.to_owned(),
        capture: serving.then(|| by.to_owned()),
        bypasses_inbound: programs.inbound == Inbound::Bypassed,
        virtual_interfaces: programs.virtual_interfaces,
        missing_interfaces: if serving { view.capture.missing(&spec.uid) } else { Vec::new() },
        when_down: match programs.when_down {
            WhenDown::Refuse => "refuse".to_owned(),
            WhenDown::Pass => "pass".to_owned(),
        },
        listeners: if serving { vec![OUTBOUND_PORT, PLAINTEXT_PORT, HBONE_PORT] } else { Vec::new() },
        error,
    }
}

pub(super) fn certificates(view: &View) -> Vec<Certificate> {
    let now = SystemTime::now();
    view.certs.list().into_iter().map(|(identity, state)| certificate(&identity, &state, now)).collect()
}

fn certificate(identity: &Identity, state: &CertState, now: SystemTime) -> Certificate {
    let held = state.credentials.as_deref();
    let name = match state.standing(now) {
        certs::Standing::Valid => "valid",
        certs::Standing::Expired(_) => "expired",
        certs::Standing::Failed(_) => "failed",
        certs::Standing::Pending => "pending",
    };
    Certificate {
        identity: identity.uri().to_owned(),
        state: name.to_owned(),
        serial: held.map(|credentials| credentials.serial.clone()),
        expires_s: held.map(|credentials| seconds_until(credentials.validity.not_after, now)),
        renews_s: state.next.map(|next| seconds_until(next, now)),
        error: state.last_error.clone(),
    }
}

/// Negative once `then` has passed.
fn seconds_until(then: SystemTime, now: SystemTime) -> i64 {
    let seconds = |length: std::time::Duration| i64::try_from(length.as_secs()).unwrap_or(i64::MAX);
    match then.duration_since(now) {
        Ok(left) => seconds(left),
        Err(passed) => -seconds(passed.duration()),
    }
}

fn config(view: &View) -> Config {
    let load = view.loads.borrow().clone();
    let (workloads, services, policies) = view.worlds.borrow().size();
    let ago = |at: SystemTime| at.elapsed().unwrap_or_default().as_secs();
    Config {
        file: load.path.display().to_string(),
        loaded_s: ago(load.loaded),
        workloads: workloads as u64,
        services: services as u64,
        policies: policies as u64,
        rejected: load.rejected.map(|problems| Rejected {
            ago_s: ago(load.read),
            line: problems.problems.first().map(|problem| problem.line).filter(|line| *line > 0),
            reason: problems.to_string(),
        }),
    }
}

fn revocation(view: &View) -> Option<Revocation> {
    let state = view.revocations.state()?;
    let ago = |at: SystemTime| at.elapsed().unwrap_or_default().as_secs();
    Some(Revocation {
        file: state.path.display().to_string(),
        entries: state.lists.entries() as u64,
        loaded_s: state.loaded.map(ago),
        rejected: state.rejected.map(|(at, reason)| Rejected { ago_s: ago(at), line: None, reason }),
    })
}

fn istiod(status: &xds::Status) -> Istiod {
    let now = SystemTime::now();
    let ago = |at: SystemTime| now.duration_since(at).unwrap_or_default().as_secs();
    let (state, since_s, retry_s) = match status.link {
        Link::Connecting { since } => ("connecting", Some(ago(since)), None),
        Link::Connected { since } => ("connected", Some(ago(since)), None),
        Link::Waiting { until } => ("disconnected", None, Some(seconds_until(until, now))),
    };
    Istiod {
        address: status.address.clone(),
        state: state.to_owned(),
        since_s,
        retry_s,
        last_message_s: status.last_message.map(ago),
        // What went wrong before it was put right concerns nobody.
        error: status.last_error.as_ref().filter(|_| state != "connected").map(|(_, error)| error.clone()),
        rejected: status.refusals.iter().map(|refusal| format!("{}: {}", refusal.name, refusal.reason)).collect(),
    }
}

fn kubernetes(cluster: &kubernetes::View) -> Kubernetes {
    let link = cluster.link.borrow().clone();
    let (state, since) = match link.state {
        LinkState::Connecting { since } => ("connecting", since),
        LinkState::Connected { since } => ("connected", since),
        LinkState::Away { since } => ("disconnected", since),
    };
    Kubernetes {
        address: link.address,
        state: state.to_owned(),
        since_s: since.elapsed().unwrap_or_default().as_secs(),
        error: link.last_error.filter(|_| state != "connected").map(|(_, error)| error),
        plugin: cluster.standing.as_ref().map(|standing| match &*standing.borrow() {
            Standing::Chained(file) => format!("in {file}"),
            Standing::Waiting(reason) => format!("NOT INSTALLED, waiting: {reason}"),
            Standing::Failed(error) => format!("NOT INSTALLED: {error}"),
        }),
        repairs: cluster.installer.as_ref().map(Installer::repairs),
        outside: others(cluster, |what| matches!(what, What::Outside(_))),
        troubled: others(cluster, |what| !matches!(what, What::Outside(_))),
    }
}

fn others(cluster: &kubernetes::View, which: impl Fn(&What) -> bool) -> Vec<Outside> {
    let remarks = Arc::clone(&cluster.remarks.borrow());
    let outside = |remark: &Remark| Outside {
        namespace: remark.namespace.clone(),
        name: remark.name.clone(),
        reason: remark.what.to_string(),
    };
    remarks.iter().filter(|remark| which(&remark.what)).map(outside).collect()
}

async fn connections(view: &View) -> Connections {
    let counts = view.shards.ask(|books| books.counts()).await;
    let sum = |side: fn(&(usize, usize)) -> usize| counts.iter().map(side).sum::<usize>() as u64;
    Connections { outbound: sum(|counts| counts.0), inbound: sum(|counts| counts.1) }
}

/// The capture counters of all pods together.
fn capture(view: &View) -> Vec<Counter> {
    let mut sums: Vec<Counter> = Vec::new();
    for uid in view.pods.borrow().iter().map(|status| &status.spec.uid) {
        for (name, value) in view.capture.counters(uid) {
            match sums.iter_mut().find(|sum| sum.name == name) {
                Some(sum) => sum.value += value,
                None => sums.push(Counter { name: name.to_owned(), value }),
            }
        }
    }
    sums
}
