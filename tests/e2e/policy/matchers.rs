//! Each field of a rule, alone and combined (protocol note, section 8.4).

use anyhow::Result;
use mesh_e2e::Lab;

use super::matrix::{ALICE, ALL, BOB, NONE, OUTSIDE, PLAIN, check_rules};

pub(super) fn principals(lab: &Lab) -> Result<()> {
    check_rules(
        lab,
        &[
            ("exact", "from: [{source: {principals: [cluster.local/ns/default/sa/alice]}}]", &[ALICE]),
            ("with scheme", "from: [{source: {principals: ['spiffe://cluster.local/ns/shop/sa/bob']}}]", &[BOB]),
            ("prefix", "from: [{source: {principals: ['cluster.local/ns/default/*']}}]", &[ALICE]),
            ("suffix", "from: [{source: {principals: ['*/sa/bob']}}]", &[BOB]),
            ("presence", "from: [{source: {principals: ['*']}}]", &[ALICE, BOB]),
            ("one of two", "from: [{source: {principals: [x/ns/y/sa/z, '*/sa/alice']}}]", &[ALICE]),
            ("case matters", "from: [{source: {principals: [cluster.local/ns/default/sa/Alice]}}]", NONE),
            ("no part of it", "from: [{source: {principals: [cluster.local/ns/default/sa/alic]}}]", NONE),
            ("other domain", "from: [{source: {principals: [other.local/ns/default/sa/alice]}}]", NONE),
            (
                "not exact",
                "from: [{source: {notPrincipals: [cluster.local/ns/default/sa/alice]}}]",
                &[BOB, PLAIN, OUTSIDE],
            ),
            ("not prefix", "from: [{source: {notPrincipals: ['cluster.local/ns/shop/*']}}]", &[ALICE, PLAIN, OUTSIDE]),
            ("not suffix", "from: [{source: {notPrincipals: ['*/sa/alice']}}]", &[BOB, PLAIN, OUTSIDE]),
            ("not presence", "from: [{source: {notPrincipals: ['*']}}]", &[PLAIN, OUTSIDE]),
            ("all but one", "from: [{source: {principals: ['*'], notPrincipals: ['*/alice']}}]", &[BOB]),
        ],
    )
}

pub(super) fn namespaces(lab: &Lab) -> Result<()> {
    check_rules(
        lab,
        &[
            ("exact", "from: [{source: {namespaces: [shop]}}]", &[BOB]),
            ("prefix", "from: [{source: {namespaces: ['def*']}}]", &[ALICE]),
            ("suffix", "from: [{source: {namespaces: ['*op']}}]", &[BOB]),
            ("presence", "from: [{source: {namespaces: ['*']}}]", &[ALICE, BOB]),
            // Whoever has no identity has the empty namespace.
            ("not", "from: [{source: {notNamespaces: [shop]}}]", &[ALICE, PLAIN, OUTSIDE]),
            ("not presence", "from: [{source: {notNamespaces: ['*']}}]", &[PLAIN, OUTSIDE]),
            ("account of a namespace", "from: [{source: {serviceAccounts: [shop/bob]}}]", &[BOB]),
            ("account of the policy's namespace", "from: [{source: {serviceAccounts: [alice]}}]", &[ALICE]),
            ("account of another namespace", "from: [{source: {serviceAccounts: [bob, shop/alice]}}]", NONE),
            ("not account", "from: [{source: {notServiceAccounts: [shop/bob]}}]", &[ALICE, PLAIN, OUTSIDE]),
        ],
    )
}

pub(super) fn addresses(lab: &Lab) -> Result<()> {
    check_rules(
        lab,
        &[
            ("one address", "from: [{source: {ipBlocks: [10.40.1.11]}}]", &[BOB]),
            ("block of one", "from: [{source: {ipBlocks: [10.40.1.12/32]}}]", &[PLAIN]),
            // Of a tunnel, the address is that of the pod, not the node's.
            ("block", "from: [{source: {ipBlocks: [10.40.1.0/24]}}]", &["alice:80 alice:81", BOB, PLAIN]),
            ("whole family", "from: [{source: {ipBlocks: [0.0.0.0/0]}}]", &["alice:80 alice:81", BOB, PLAIN, OUTSIDE]),
            ("IPv6", "from: [{source: {ipBlocks: ['fd00:40:1::/64']}}]", &["alice6:80"]),
            ("host bits", "from: [{source: {ipBlocks: [172.30.0.254/16]}}]", &[OUTSIDE]),
            ("not", "from: [{source: {notIpBlocks: [10.40.1.0/24]}}]", &["alice6:80", OUTSIDE]),
            ("port", "to: [{operation: {ports: ['81']}}]", &["alice:81 bob:81 plain:81"]),
            ("one of two ports", "to: [{operation: {ports: ['81', '80']}}]", ALL),
            ("not port", "to: [{operation: {notPorts: ['80']}}]", &["alice:81 bob:81 plain:81"]),
        ],
    )
}

pub(super) fn conditions(lab: &Lab) -> Result<()> {
    check_rules(
        lab,
        &[
            ("source.ip", "when: [{key: source.ip, values: [10.40.1.12]}]", &[PLAIN]),
            ("not source.ip", "when: [{key: source.ip, notValues: [10.0.0.0/8]}]", &["alice6:80", OUTSIDE]),
            ("source.namespace", "when: [{key: source.namespace, values: [shop]}]", &[BOB]),
            ("not source.namespace", "when: [{key: source.namespace, notValues: ['*']}]", &[PLAIN, OUTSIDE]),
            ("source.principal", "when: [{key: source.principal, values: ['*/alice']}]", &[ALICE]),
            ("not source.principal", "when: [{key: source.principal, notValues: ['*']}]", &[PLAIN, OUTSIDE]),
            ("destination.ip", "when: [{key: destination.ip, values: ['fd00:40:2::/64']}]", &["alice6:80"]),
            ("not destination.ip", "when: [{key: destination.ip, notValues: [10.40.2.10/32]}]", &["alice6:80"]),
            ("destination.port", "when: [{key: destination.port, values: ['81']}]", &["alice:81 bob:81 plain:81"]),
            (
                "not destination.port",
                "when: [{key: destination.port, notValues: ['81', '82']}]",
                &["alice:80 bob:80 plain:80 alice6:80", OUTSIDE],
            ),
        ],
    )
}

pub(super) fn combined(lab: &Lab) -> Result<()> {
    check_rules(
        lab,
        &[
            (
                "all fields of a source",
                "from: [{source: {principals: ['*'], ipBlocks: [10.40.1.11, 10.40.1.12]}}]",
                &[BOB],
            ),
            ("fields that contradict", "from: [{source: {principals: ['*/alice'], namespaces: [shop]}}]", NONE),
            (
                "any of two sources",
                "from: [{source: {principals: ['*/alice']}}, {source: {ipBlocks: [10.40.1.12]}}]",
                &[ALICE, PLAIN],
            ),
            (
                "from and to",
                "from: [{source: {principals: ['*/alice']}}], to: [{operation: {ports: ['81']}}]",
                &["alice:81"],
            ),
            (
                "from, to and when",
                "from: [{source: {namespaces: ['*']}}], to: [{operation: {ports: ['80']}}], \
                 when: [{key: destination.ip, values: [10.40.2.10]}]",
                &["alice:80 bob:80"],
            ),
            (
                "two conditions",
                "when: [{key: source.namespace, values: [shop]}, {key: destination.port, values: ['80']}]",
                &["bob:80"],
            ),
            (
                "two operations",
                "to: [{operation: {ports: ['81']}}, {operation: {notPorts: ['80', '82']}}], \
                 from: [{source: {notPrincipals: ['*']}}]",
                &["plain:81"],
            ),
            (
                "any of two rules",
                "from: [{source: {principals: ['*/alice']}}], to: [{operation: {ports: ['80']}}]}, \
                 {from: [{source: {principals: ['*/bob']}}], to: [{operation: {ports: ['81']}}]",
                &["alice:80 alice6:80 bob:81"],
            ),
        ],
    )
}
