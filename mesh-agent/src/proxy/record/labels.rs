//! From the ends of a connection to the values of the traffic labels (protocol note, section 12.1).

use super::{Ends, Security};
use crate::model::{Identity, Workload};
use crate::telemetry::traffic::Key;

/// Writes the values in the order of [`crate::telemetry::traffic::LABELS`].
pub(super) fn write(key: &mut Key, ends: &Ends) {
    let (source, destination) = ends.proven();
    key.clear();
    key.push(ends.reporter.as_str());
    workload(key, ends.source.as_deref(), source);
    let service = match ends.service.as_deref() {
        Some(service) => [&*service.key.hostname, &*service.key.namespace, &*service.name],
        None => [""; 3],
    };
    service.into_iter().for_each(|value| key.push(value));
    workload(key, ends.destination.as_deref(), destination);
    key.push(match ends.security {
        // What Istio's dashboards know; the access log tells the two apart.
        Security::MutualTls | Security::Local | Security::Direct => "mutual_tls",
        Security::Plain => "unknown",
    });
}

fn workload(key: &mut Key, workload: Option<&Workload>, proven: Option<&Identity>) {
    let principal = proven.map(Identity::uri).unwrap_or_default();
    let values = match workload {
        Some(workload) => of(workload, principal),
        None => ["", "", "", "", principal, "", "", "", "", ""],
    };
    values.into_iter().for_each(|value| key.push(value));
}

/// The values for one end of a connection, in the order of the labels.
pub(in crate::proxy) fn of<'a>(workload: &'a Workload, principal: &'a str) -> [&'a str; 10] {
    [
        &workload.workload_name,
        &workload.canonical_name,
        &workload.canonical_revision,
        workload.namespace(),
        principal,
        // Istio's `app` and `version` labels are the canonical name and revision.
        &workload.canonical_name,
        &workload.canonical_revision,
        &workload.cluster,
        &workload.locality.region,
        &workload.locality.zone,
    ]
}
