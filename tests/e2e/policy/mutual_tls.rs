//! PeerAuthentication: who may come without mutual TLS (protocol note, section 14.5).

use anyhow::Result;
use mesh_e2e::Lab;

use super::matrix::{ALICE, ALL, BOB, NONE, OUTSIDE, PLAIN, Row, check};

const MESHED: &[&str] = &[ALICE, BOB];

fn rows<'a>(rows: &[(&'a str, &'a str, &'a [&'a str])]) -> Vec<Row<'a>> {
    let row = |&(what, peer_authentication, allowed)| Row { what, authorization: "", peer_authentication, allowed };
    rows.iter().map(row).collect()
}

pub(super) fn modes(lab: &Lab) -> Result<()> {
    check(
        lab,
        &rows(&[
            ("nothing said", "", ALL),
            ("permissive", "- {name: a, mode: PERMISSIVE}", ALL),
            ("strict", "- {name: a, mode: STRICT}", MESHED),
            // Tunnels are taken in every mode.
            ("disabled", "- {name: a, mode: DISABLE}", ALL),
            ("strict in the whole mesh", "- {name: a, namespace: istio-system, mode: STRICT}", MESHED),
            ("strict in another namespace", "- {name: a, namespace: shop, mode: STRICT}", ALL),
            ("strict for the workload", "- {name: a, selector: {app: server}, mode: STRICT}", MESHED),
            ("strict for another workload", "- {name: a, selector: {app: near}, mode: STRICT}", ALL),
            (
                "the namespace overrides the mesh",
                "- {name: a, namespace: istio-system, mode: STRICT}
                 - {name: b, mode: PERMISSIVE}",
                ALL,
            ),
            (
                "the workload overrides the namespace",
                "- {name: a, mode: STRICT}
                 - {name: b, selector: {app: server}, mode: PERMISSIVE}",
                ALL,
            ),
            (
                "unset inherits",
                "- {name: a, mode: STRICT}
                 - {name: b, selector: {app: server}, mode: UNSET}",
                MESHED,
            ),
            (
                "the first of a level wins",
                "- {name: a, mode: PERMISSIVE}
                 - {name: b, mode: STRICT}",
                ALL,
            ),
        ]),
    )?;
    // Strict mode says who may come at all; authorization goes on from there.
    let both = Row {
        what: "strict, and a policy",
        authorization: "- {name: all-but-alice, rules: [{from: [{source: {notPrincipals: ['*/alice']}}]}]}",
        peer_authentication: "- {name: a, mode: STRICT}",
        allowed: &[BOB],
    };
    check(lab, &[both])
}

pub(super) fn ports(lab: &Lab) -> Result<()> {
    check(
        lab,
        &rows(&[
            (
                "permissive on one port of a strict workload",
                "- {name: a, selector: {app: server}, mode: STRICT, port_level: {81: PERMISSIVE}}",
                &[ALICE, BOB, "plain:81"],
            ),
            (
                "disabled on one port of a strict workload",
                "- {name: a, selector: {app: server}, mode: STRICT, port_level: {80: DISABLE}}",
                &[ALICE, BOB, "plain:80", OUTSIDE],
            ),
            (
                "strict on one port",
                "- {name: a, selector: {app: server}, mode: PERMISSIVE, port_level: {80: STRICT}}",
                &[ALICE, BOB, "plain:81"],
            ),
            (
                "strict on both ports",
                "- {name: a, selector: {app: server}, port_level: {80: STRICT, 81: STRICT}}",
                MESHED,
            ),
            (
                "a port under an inherited mode",
                "- {name: a, mode: STRICT}
                 - {name: b, selector: {app: server}, port_level: {81: PERMISSIVE}}",
                &[ALICE, BOB, "plain:81"],
            ),
            (
                "a port that says the same as its level",
                "- {name: a, selector: {app: server}, mode: STRICT, port_level: {80: STRICT}}",
                MESHED,
            ),
            (
                "ports without a selector mean nothing",
                "- {name: a, mode: PERMISSIVE, port_level: {80: STRICT}}",
                &[ALICE, BOB, PLAIN, OUTSIDE],
            ),
        ]),
    )?;
    check(
        lab,
        &[Row {
            what: "a port exception is no allowance",
            authorization: "- {name: nobody}",
            peer_authentication: "- {name: a, selector: {app: server}, mode: STRICT, port_level: {81: PERMISSIVE}}",
            allowed: NONE,
        }],
    )
}
