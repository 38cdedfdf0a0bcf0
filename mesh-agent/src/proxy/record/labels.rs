//! From the ends of a connection to the values of the traffic labels (protocol note, section 12.1).

use super::{Ends, Reporter, Security};
use crate::model::{Identity, Workload};
use crate::telemetry::traffic::Key;

/// Writes the values in the order of [`crate::telemetry::traffic::LABELS`].
pub(super) fn write(key: &mut Key, ends: &Ends) {
    let (source, destination) = ends.proven();
    key.clear();
    key.push(match ends.reporter {
        Reporter::Source => "source",
        Reporter::Destination => "destination",
    });
    workload(key, ends.source.as_deref(), source);
    let service = match ends.service.as_deref() {
        Some(service) => [&*service.key.hostname, &*service.key.namespace, &*service.name],
        None => [""; 3],
    };
    service.into_iter().for_each(|value| key.push(value));
    workload(key, ends.destination.as_deref(), destination);
    key.push(match ends.security {
        Security::MutualTls => "mutual_tls",
        Security::Plain => "unknown",
    });
}

fn workload(key: &mut Key, workload: Option<&Workload>, proven: Option<&Identity>) {
    let principal = proven.map(Identity::uri).unwrap_or_default();
    let values = match workload {
        Some(w) => [
            &*w.workload_name,
            &w.canonical_name,
            &w.canonical_revision,
            w.namespace(),
            principal,
            // Istio's `app` and `version` labels are the canonical name and revision.
            &w.canonical_name,
            &w.canonical_revision,
            &w.cluster,
            &w.locality.region,
            &w.locality.zone,
        ],
        None => ["", "", "", "", principal, "", "", "", "", ""],
    };
    values.into_iter().for_each(|value| key.push(value));
}
