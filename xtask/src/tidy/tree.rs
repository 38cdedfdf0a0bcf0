//! The repository's folders: what its top may hold, where the Rust files are, and whether the map shows them all.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::{Finding, Rule};

/// Everything at the top, and nothing else; a reader should see the whole of it at a glance.
const TOP: [&str; 21] = [
    ".cargo",
    ".ci",
    ".gitignore",
    "ARCHITECTURE.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "SECURITY.md",
    "clippy.toml",
    "deny.toml",
    "deploy",
    "docs",
    "mesh-agent",
    "mesh-common",
    "mesh-ebpf",
    "rust-toolchain.toml",
    "rustfmt.toml",
    "tests",
    "xtask",
];
/// What git keeps or ignores there.
const UNTRACKED: [&str; 3] = [".git", ".mesh-lab", "target"];
const GENERATED: &str = "mesh-agent/src/proto/gen/";
const MAP: &str = "ARCHITECTURE.md";

pub(super) fn entries(root: &Path) -> Result<Vec<Finding>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(root)? {
        names.insert(entry?.file_name().to_string_lossy().into_owned());
    }
    Ok(compare(&names))
}

fn compare(names: &BTreeSet<String>) -> Vec<Finding> {
    let finding = |path: &str, text: &str| Finding::about(path, Rule::Tree, text.into());
    let strange = names.iter().filter(|name| !TOP.contains(&name.as_str()) && !UNTRACKED.contains(&name.as_str()));
    let missing = TOP.iter().filter(|name| !names.contains(**name));
    strange
        .map(|name| finding(name, "not one of the entries that the top may have"))
        .chain(missing.map(|name| finding(name, "missing at the top")))
        .collect()
}

/// All Rust files of the repository, by their paths from its top, sorted.
pub(super) fn rust_files(root: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    for folder in ["mesh-agent", "mesh-common", "mesh-ebpf", "tests", "xtask"] {
        walk(root, folder, &mut files)?;
    }
    files.sort();
    Ok(files)
}

fn walk(root: &Path, folder: &str, files: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(root.join(folder)).with_context(|| folder.to_owned())? {
        let entry = entry?;
        let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            if entry.file_name() != "target" {
                walk(root, &path, files)?;
            }
        } else if path.ends_with(".rs") {
            files.push(path);
        }
    }
    Ok(())
}

pub(super) fn generated(path: &str) -> bool {
    path.starts_with(GENERATED)
}

/// The files of mesh-agent that the code map does not name.
pub(super) fn unmapped(root: &Path) -> Result<Vec<Finding>> {
    let Ok(map) = fs::read_to_string(root.join(MAP)) else { return Ok(Vec::new()) };
    Ok(missing(&map, &rust_files(root)?))
}

/// A file is on the map by its path below `src/`, as `proxy/outbound.rs`; tests are not.
fn missing(map: &str, files: &[String]) -> Vec<Finding> {
    let inner = files.iter().filter_map(|path| Some((path, path.strip_prefix("mesh-agent/src/")?)));
    inner
        .filter(|(path, inner)| !generated(path) && !is_test(inner) && !map.contains(&format!("`{inner}`")))
        .map(|(path, inner)| Finding::about(path, Rule::Tree, format!("the code map of {MAP} has no `{inner}`")))
        .collect()
}

fn is_test(inner: &str) -> bool {
    inner.ends_with("tests.rs") || inner.contains("/tests/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strange_entry_and_a_missing_one_are_found() {
        let mut names: BTreeSet<_> = TOP.iter().map(ToString::to_string).collect();
        assert_eq!(compare(&names), []);
        names.remove("README.md");
        names.insert("notes.txt".into());
        let found: Vec<_> = compare(&names).into_iter().map(|finding| finding.path).collect();
        assert_eq!(found, ["notes.txt", "README.md"]);
    }

    #[test]
    fn a_file_off_the_map_is_found() {
        let tests = ["mesh-agent/src/a/tests.rs", "mesh-agent/src/a/tests/b.rs"];
        let others = ["mesh-agent/src/a.rs", "mesh-agent/src/a/b.rs", "xtask/src/c.rs"];
        let files: Vec<_> = others.into_iter().chain(tests).map(String::from).collect();
        let found = missing("see `a.rs`", &files);
        assert_eq!(found.iter().map(|finding| finding.path.as_str()).collect::<Vec<_>>(), ["mesh-agent/src/a/b.rs"]);
    }
}
