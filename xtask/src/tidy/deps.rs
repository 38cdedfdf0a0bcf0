//! What the workspaces depend on, against `deny.toml`: licences, banned crates, sources. Needs no network.

use std::path::Path;

use anyhow::{Result, bail};

use super::{Finding, Rule};
use crate::step;

const FILE: &str = "deny.toml";

/// The part of `deny.toml` that is checked here.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Terms {
    licences: Vec<String>,
    banned: Vec<String>,
}

/// Checks what is really built for this machine, in both workspaces.
pub(super) fn check(root: &Path) -> Result<Vec<Finding>> {
    let Ok(text) = std::fs::read_to_string(root.join(FILE)) else { return Ok(Vec::new()) };
    let terms = read(&text);
    let mut findings = Vec::new();
    for folder in [".", "mesh-ebpf"] {
        findings.extend(judge(&tree(&root.join(folder))?, &terms));
    }
    Ok(findings)
}

/// One line for each package: `name vVERSION (where from)|licence`.
fn tree(folder: &Path) -> Result<String> {
    let mut cargo = step::cargo(folder);
    cargo.args(["tree", "--workspace", "--locked", "--prefix", "none", "--format", "{p}|{l}"]);
    let output = cargo.output()?;
    if !output.status.success() {
        bail!("cargo tree: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// The quoted words of `allow = [...]`, and the `crate = "..."` of what is banned.
fn read(text: &str) -> Terms {
    let mut terms = Terms::default();
    let mut allowing = false;
    for line in text.lines().map(str::trim) {
        match line.split_once('=') {
            Some((key, _)) if key.trim() == "allow" => allowing = true,
            _ if line == "]" => allowing = false,
            _ if allowing => terms.licences.extend(quoted(line)),
            _ => terms.banned.extend(line.strip_prefix("{ crate = ").and_then(quoted)),
        }
    }
    terms
}

fn quoted(line: &str) -> Option<String> {
    line.split('"').nth(1).map(str::to_owned)
}

fn judge(tree: &str, terms: &Terms) -> Vec<Finding> {
    let mut lines: Vec<_> = tree.lines().map(|line| line.trim_end_matches(" (*)")).collect();
    lines.sort_unstable();
    lines.dedup();
    lines
        .into_iter()
        .filter_map(|line| objection(line, terms))
        .map(|text| Finding::about(FILE, Rule::Depend, text))
        .collect()
}

fn objection(line: &str, terms: &Terms) -> Option<String> {
    let (package, licence) = line.split_once('|')?;
    let name = package.split(' ').next()?;
    // Packages of the registry show no origin; a folder's is absolute, all else is a repository or another registry.
    let origin = package.split_once(" (").map(|(_, origin)| origin).filter(|origin| !origin.starts_with("proc-macro"));
    if terms.banned.iter().any(|banned| banned == name) {
        return Some(format!("{name} is banned"));
    }
    if origin.is_some_and(|origin| !origin.starts_with('/')) {
        return Some(format!("{package} is not from crates.io"));
    }
    let own = origin.is_some();
    (!own && !permitted(licence, &terms.licences)).then(|| format!("{name}: licence {licence:?} is not allowed"))
}

/// Whether an SPDX expression can be met with the allowed licences. `AND` binds stronger than `OR`.
fn permitted(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words: Vec<_> = spaced.split_whitespace().rev().collect();
    !words.is_empty() && either(&mut words, allowed) && words.is_empty()
}

fn either(words: &mut Vec<&str>, allowed: &[String]) -> bool {
    let mut met = both(words, allowed);
    while words.last() == Some(&"OR") {
        words.pop();
        met |= both(words, allowed);
    }
    met
}

fn both(words: &mut Vec<&str>, allowed: &[String]) -> bool {
    let mut met = one(words, allowed);
    while words.last() == Some(&"AND") {
        words.pop();
        met &= one(words, allowed);
    }
    met
}

fn one(words: &mut Vec<&str>, allowed: &[String]) -> bool {
    match words.pop() {
        Some("(") => {
            let met = either(words, allowed);
            words.pop() == Some(")") && met
        }
        // With an exception it is another licence, which is allowed by its whole name.
        Some(name) if words.last() == Some(&"WITH") => {
            words.pop();
            let name = format!("{name} WITH {}", words.pop().unwrap_or_default());
            allowed.contains(&name)
        }
        Some(name) => allowed.iter().any(|licence| licence == name),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: &str = "[licenses]\nallow = [\n    \"MIT\",\n    \"ISC\",\n    \"X WITH y\",\n]\n[bans]\ndeny = [\n    { crate = \"ring\" },\n]\n";

    #[test]
    fn terms_are_read() {
        let expected =
            Terms { licences: vec!["MIT".into(), "ISC".into(), "X WITH y".into()], banned: vec!["ring".into()] };
        assert_eq!(read(TERMS), expected);
    }

    #[test]
    fn licences_are_expressions() {
        let allowed = read(TERMS).licences;
        for (expression, expected) in [
            ("MIT", true),
            ("GPL-2.0-only", false),
            ("", false),
            ("MIT OR GPL-2.0-only", true),
            ("GPL-2.0-only/MIT", true),
            ("MIT AND GPL-2.0-only", false),
            ("(GPL-2.0-only OR MIT) AND ISC", true),
            ("ISC AND (GPL-2.0-only OR LGPL-2.1)", false),
            ("GPL-2.0-only AND MIT OR ISC", true),
            ("MIT WITH some-exception", false),
            ("MIT WITH some-exception OR MIT", true),
            ("X WITH y AND MIT", true),
            ("X", false),
            ("X WITH z", false),
            ("X WITH", false),
            ("MIT)", false),
        ] {
            assert_eq!(permitted(expression, &allowed), expected, "{expression}");
        }
    }

    #[test]
    fn packages_are_judged() {
        let terms = read(TERMS);
        for (line, refused) in [
            ("a v1.0.0|MIT", false),
            ("a v1.0.0 (proc-macro)|MIT", false),
            ("ours v0.1.0 (/somewhere/ours)|GPL-2.0-only", false),
            ("a v1.0.0 (https://example.org/a#1234)|MIT", true),
            ("a v1.0.0 (registry `other`)|MIT", true),
            ("ring v0.17.0|MIT", true),
            ("a v1.0.0|GPL-3.0-only", true),
            ("a v1.0.0|", true),
        ] {
            assert_eq!(judge(line, &terms).len(), usize::from(refused), "{line}");
        }
    }
}
