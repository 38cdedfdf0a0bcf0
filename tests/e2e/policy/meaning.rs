//! What policies mean apart from their fields: the empty cases, precedence, scopes, and what layer 4 cannot express
//! (protocol note, sections 8.4 and 14.4).

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use mesh_e2e::Lab;

use super::matrix::{ALICE, ALL, BOB, NONE, OUTSIDE, PLAIN, Row, check, echoes, servers_agent};

/// Rows that need no PeerAuthentication.
fn rows<'a>(rows: &[(&'a str, &'a str, &'a [&'a str])]) -> Vec<Row<'a>> {
    let row = |&(what, authorization, allowed)| Row { what, authorization, peer_authentication: "", allowed };
    rows.iter().map(row).collect()
}

pub(super) fn empty(lab: &Lab) -> Result<()> {
    check(
        lab,
        &rows(&[
            ("no policy", "", ALL),
            ("ALLOW without rules", "- {name: p, action: ALLOW}", NONE),
            ("ALLOW is the default action", "- {name: p, rules: []}", NONE),
            ("DENY without rules", "- {name: p, action: DENY, rules: []}", ALL),
            ("ALLOW by an empty rule", "- {name: p, action: ALLOW, rules: [{}]}", ALL),
            ("DENY by an empty rule", "- {name: p, action: DENY, rules: [{}]}", NONE),
            // An empty match is not "match all": it stands for what layer 4 cannot see.
            ("ALLOW an empty source", "- {name: p, action: ALLOW, rules: [{from: [{source: {}}]}]}", NONE),
            ("DENY an empty source", "- {name: p, action: DENY, rules: [{from: [{source: {}}]}]}", ALL),
            ("DENY an empty operation", "- {name: p, action: DENY, rules: [{to: [{operation: {}}]}]}", ALL),
            ("no clause is no condition", "- {name: p, action: DENY, rules: [{from: [], to: [], when: []}]}", NONE),
            (
                "an empty match spoils its rule only",
                "- {name: p, action: DENY, rules: [{from: [{source: {}}], to: [{operation: {ports: ['80']}}]},
                                                   {from: [{source: {namespaces: [shop]}}]}]}",
                &[ALICE, PLAIN, OUTSIDE],
            ),
        ]),
    )
}

pub(super) fn precedence(lab: &Lab) -> Result<()> {
    check(
        lab,
        &rows(&[
            (
                "DENY beats ALLOW",
                "- {name: everybody, action: ALLOW, rules: [{}]}
                 - {name: not-alice, action: DENY, rules: [{from: [{source: {principals: ['*/alice']}}]}]}",
                &[BOB, PLAIN, OUTSIDE],
            ),
            (
                "whatever their order",
                "- {name: not-alice, action: DENY, rules: [{from: [{source: {principals: ['*/alice']}}]}]}
                 - {name: everybody, action: ALLOW, rules: [{}]}",
                &[BOB, PLAIN, OUTSIDE],
            ),
            (
                "any ALLOW will do",
                "- {name: alice, rules: [{from: [{source: {principals: ['*/alice']}}]}]}
                 - {name: shop, rules: [{from: [{source: {namespaces: [shop]}}]}]}",
                &[ALICE, BOB],
            ),
            (
                "an ALLOW of nobody takes nothing from another",
                "- {name: nobody, rules: []}
                 - {name: alice, rules: [{from: [{source: {principals: ['*/alice']}}]}]}",
                &[ALICE],
            ),
            (
                "a DENY that does not match leaves the ALLOW",
                "- {name: port, action: DENY, rules: [{to: [{operation: {ports: ['81']}}]}]}
                 - {name: bob, rules: [{from: [{source: {principals: ['*/bob']}}]}]}",
                &["bob:80"],
            ),
        ]),
    )
}

/// Which of the three servers a policy is about. Alice asks.
pub(super) fn scopes(lab: &Lab) -> Result<()> {
    const SERVERS: [&str; 3] = ["near", "server", "till"];
    let deny = |rest: &str| format!("- {{name: p, action: DENY, rules: [{{}}], {rest}}}");
    let rows: [(&str, &str, &[&str]); 8] = [
        ("the policy's namespace", "namespace: default", &["till"]),
        ("another namespace", "namespace: shop", &["near", "server"]),
        ("a namespace without workloads", "namespace: empty", &SERVERS),
        ("the root namespace", "namespace: istio-system", &[]),
        ("selected by label", "selector: {app: server}", &["near", "till"]),
        ("selected in another namespace", "namespace: shop, selector: {app: server}", &["near", "server"]),
        ("selected from the root namespace", "namespace: istio-system, selector: {app: server}", &["near"]),
        ("selected by labels that nobody has", "selector: {app: server, tier: x}", &SERVERS),
    ];
    let _servers: Vec<_> = SERVERS.iter().map(|name| lab.pod(name).echo(80)).collect::<Result<_>>()?;
    let mut wrong = Vec::new();
    for (what, rest, allowed) in rows {
        lab.publish(|world| {
            world.clear_policies();
            world.authorize(&deny(rest));
        })?;
        for name in SERVERS {
            let through = echoes(lab.pod("alice"), lab.pod(name).at4(80))?;
            if through != allowed.contains(&name) {
                wrong.push(format!("{what}: {name} is {}", if through { "reached" } else { "not reached" }));
            }
        }
    }
    if wrong.is_empty() { Ok(()) } else { bail!("{}", wrong.join("\n  ")) }
}

pub(super) fn dry_run(lab: &Lab) -> Result<()> {
    let news = servers_agent(lab).log().from_now();
    check(
        lab,
        &rows(&[
            ("a DENY that is only tried", "- {name: tried, action: DENY, dry_run: true, rules: [{}]}", ALL),
            (
                "an ALLOW that is only tried",
                "- {name: tried, dry_run: true, rules: [{from: [{source: {namespaces: [x]}}]}]}",
                ALL,
            ),
            (
                "beside one that is in force",
                "- {name: tried, action: DENY, dry_run: true, rules: [{}]}
                 - {name: bob, rules: [{from: [{source: {principals: ['*/bob']}}]}]}",
                &[BOB],
            ),
        ]),
    )?;
    let told = news.wait(Duration::from_secs(1), |line| {
        line.text.contains("default/tried") && (line.text.contains("dry run") || line.text.contains("dry-run"))
    });
    ensure!(told.is_ok(), "the log does not say what the policy default/tried, which is only tried, would do");
    Ok(())
}

pub(super) fn layer_7(lab: &Lab) -> Result<()> {
    let news = servers_agent(lab).log().from_now();
    check(
        lab,
        &rows(&[
            (
                "ALLOW: the whole rule is dropped, and nothing is allowed",
                "- {name: l7, rules: [{from: [{source: {principals: ['*/alice']}}], to: [{operation: {methods: [GET]}}]}]}",
                NONE,
            ),
            (
                "ALLOW: other rules stay",
                "- {name: l7, rules: [{to: [{operation: {paths: [/x]}}]}, {from: [{source: {namespaces: [shop]}}]}]}",
                &[BOB],
            ),
            ("ALLOW by a header", "- {name: l7, rules: [{when: [{key: 'request.headers[x]', values: [y]}]}]}", NONE),
            ("ALLOW by a token", "- {name: l7, rules: [{from: [{source: {requestPrincipals: ['*']}}]}]}", NONE),
            (
                "DENY: the layer 4 part of an operation stays, and denies more",
                "- {name: l7, action: DENY, rules: [{to: [{operation: {methods: [GET], ports: ['81']}}]}]}",
                &["alice:80 alice6:80 bob:80 plain:80", OUTSIDE],
            ),
            (
                "DENY: the layer 4 part of a source stays",
                "- {name: l7, action: DENY, rules: [{from: [{source: {remoteIpBlocks: [10.0.0.0/8], namespaces: [shop]}}]}]}",
                &[ALICE, PLAIN, OUTSIDE],
            ),
            (
                "DENY: a clause that is left empty never matches",
                "- {name: l7, action: DENY, rules: [{from: [{source: {principals: ['*/alice']}}], to: [{operation: {hosts: [x]}}]}]}",
                ALL,
            ),
            (
                "DENY by a header never matches",
                "- {name: l7, action: DENY, rules: [{when: [{key: 'request.headers[x]', values: [y]}]}]}",
                ALL,
            ),
            (
                "DENY: a layer 4 match beside one of layer 7 stays",
                "- {name: l7, action: DENY, rules: [{to: [{operation: {methods: [GET]}}, {operation: {ports: ['80']}}]}]}",
                &["alice:81 bob:81 plain:81"],
            ),
        ]),
    )?;
    let told = news.wait(Duration::from_secs(1), |line| line.level == "warn" && line.text.contains("default/l7"));
    told.map(drop)
}
