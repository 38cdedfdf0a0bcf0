//! The reference of the configuration has every field that the code takes.

use std::fs;
use std::path::Path;

use anyhow::Result;

use super::{Finding, Rule};

const PAGE: &str = "docs/configuration.md";
const SCHEMAS: [&str; 3] =
    ["mesh-agent/src/file/schema.rs", "mesh-agent/src/file/schema/dns.rs", "mesh-agent/src/control/config.rs"];

pub(super) fn check(root: &Path) -> Result<Vec<Finding>> {
    let Ok(page) = fs::read_to_string(root.join(PAGE)) else { return Ok(Vec::new()) };
    let mut findings = Vec::new();
    for path in SCHEMAS {
        let schema = fs::read_to_string(root.join(path))?;
        findings.extend(missing(&schema, &page).map(|(line, field)| Finding {
            path: path.into(),
            line,
            rule: Rule::Doc,
            text: format!("{PAGE} has no `{field}`"),
        }));
    }
    Ok(findings)
}

/// Fields are written as in Rust, or in the camel case of Kubernetes objects.
fn missing<'a>(schema: &'a str, page: &str) -> impl Iterator<Item = (usize, &'a str)> {
    let fields = schema.lines().enumerate().filter_map(|(number, line)| {
        let (field, _) = line.strip_prefix("    pub ")?.split_once(':')?;
        Some((number + 1, field))
    });
    let shown = |field: &str| page.contains(&format!("`{field}`"));
    fields.filter(move |(_, field)| !shown(field) && !shown(&camel(field)))
}

fn camel(field: &str) -> String {
    let mut words = field.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |name, word| {
        let (initial, rest) = word.split_at(word.len().min(1));
        name + &initial.to_uppercase() + rest
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_without_documentation_is_found() {
        let schema = "pub struct A {\n    pub a_field: u8,\n    pub bare: u8,\n    pub not_ip_blocks: u8,\n}\n";
        let found: Vec<_> = missing(schema, "`a_field` and `notIpBlocks`").collect();
        assert_eq!(found, [(3, "bare")]);
    }
}
