//! `/config_dump`: everything the node knows, in the form that istioctl reads (protocol note, section 12.3). Names and
//! shapes are those of the reference proxy; what it has and istioctl does not read is left out.

mod mesh;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use humantime::format_rfc3339_seconds;
use serde::Serialize;

use super::View;
use crate::admin::documents::{Direction, Flow};
use crate::identity::certs::{CertState, Standing};
use crate::identity::tls::Described;
use crate::model::Identity;
use crate::proxy::record::documents;
use mesh::{Policies, Services, Workloads};

/// The whole document.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Dump {
    workloads: Workloads,
    services: Services,
    policies: Policies,
    certificates: Vec<Certificate>,
    workload_state: BTreeMap<String, Pod>,
    version: Version,
}

#[derive(Serialize)]
struct Version {
    version: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Certificate {
    identity: String,
    state: String,
    cert_chain: Vec<Cert>,
    root_certs: Vec<Cert>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Cert {
    /// PEM, in base64.
    pem: String,
    serial_number: String,
    /// RFC 3339.
    valid_from: String,
    expiration_time: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Pod {
    state: &'static str,
    connections: Connections,
    info: Info,
}

#[derive(Default, Serialize)]
struct Connections {
    inbound: Vec<Connection>,
    outbound: Vec<Connection>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Connection {
    src: String,
    original_dst: String,
    actual_dst: String,
    protocol: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Info {
    name: String,
    namespace: String,
    service_account: String,
    trust_domain: String,
}

/// Collects it; encoding it is the caller's.
pub(super) async fn collect(view: &View) -> Dump {
    let world = Arc::clone(&view.worlds.borrow());
    let snapshots = view.shards.ask(|books| books.snapshot()).await;
    let flows = documents(&snapshots, None);
    Dump {
        certificates: view.certs.list().iter().map(|(identity, state)| certificate(identity, state)).collect(),
        workload_state: pods(view, flows),
        workloads: Workloads(Arc::clone(&world)),
        services: Services(Arc::clone(&world)),
        policies: Policies(world),
        version: Version { version: env!("CARGO_PKG_VERSION") },
    }
}

fn pods(view: &View, flows: Vec<Flow>) -> BTreeMap<String, Pod> {
    let world = view.worlds.borrow();
    let mut pods = BTreeMap::new();
    for status in view.pods.borrow().iter() {
        let spec = &status.spec;
        let workload = world.local_workload(&spec.namespace, &spec.name);
        let info = Info {
            name: spec.name.clone(),
            namespace: spec.namespace.clone(),
            service_account: workload.map(|one| one.identity.service_account().to_owned()).unwrap_or_default(),
            trust_domain: workload.map(|one| one.identity.trust_domain().to_owned()).unwrap_or_default(),
        };
        let state = if status.state.is_captured() { "Up" } else { "Pending" };
        pods.insert(spec.uid.to_string(), Pod { state, connections: Connections::default(), info });
    }
    for flow in flows {
        let own = if flow.direction == Direction::Outbound { &flow.source } else { &flow.destination };
        let is_own = |pod: &&mut Pod| {
            Some(&pod.info.name) == own.workload.as_ref() && Some(&pod.info.namespace) == own.namespace.as_ref()
        };
        if let Some(pod) = pods.values_mut().find(is_own) {
            pod.connections.add(flow);
        }
    }
    pods
}

impl Connections {
    fn add(&mut self, flow: Flow) {
        let connection = Connection {
            protocol: if flow.hbone.is_some() { "HBONE" } else { "TCP" },
            src: flow.source.address,
            original_dst: flow.original,
            actual_dst: flow.destination.address,
        };
        match flow.direction {
            Direction::Inbound => self.inbound.push(connection),
            Direction::Outbound => self.outbound.push(connection),
        }
    }
}

fn certificate(identity: &Identity, state: &CertState) -> Certificate {
    let name = match state.standing(SystemTime::now()) {
        Standing::Valid => "Available".to_owned(),
        Standing::Expired(None) => "Unavailable: expired".to_owned(),
        Standing::Expired(Some(error)) | Standing::Failed(error) => format!("Unavailable: {error}"),
        Standing::Pending => "Initializing".to_owned(),
    };
    let certs = |described: &[Described]| described.iter().map(cert).collect();
    let held = state.credentials.as_deref();
    Certificate {
        identity: identity.uri().to_owned(),
        state: name,
        cert_chain: held.map(|held| certs(&held.chain)).unwrap_or_default(),
        root_certs: held.map(|held| certs(&held.anchors)).unwrap_or_default(),
    }
}

fn cert(described: &Described) -> Cert {
    Cert {
        pem: BASE64_STANDARD.encode(&described.pem),
        serial_number: described.serial.clone(),
        valid_from: format_rfc3339_seconds(described.validity.not_before).to_string(),
        expiration_time: format_rfc3339_seconds(described.validity.not_after).to_string(),
    }
}
