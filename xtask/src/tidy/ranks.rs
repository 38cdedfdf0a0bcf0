//! Who may import what inside mesh-agent: only modules of a lower rank. The ranks are those of its lib.rs. Tests may
//! import anything: a test that runs a module against the one that uses it ties no knot in what is shipped.

use std::collections::BTreeMap;

use super::source::{self, Source};
use super::{Finding, Rule};

/// Imports within one rank that are meant, each with its reason.
const MEANT: [(&str, &str, &str); 5] = [
    ("admin", "task", "the admin server's tasks need an owner, and nothing is below both"),
    ("cli", "control", "the command line knows every command"),
    ("cli", "ctl", "the command line knows every command"),
    ("cli", "node", "the command line knows every command"),
    ("task", "sys", "a lane is a thread of its own, and threads are the machine's"),
];
const AGENT: &str = "mesh-agent/src/";

/// Module to rank.
pub(super) type Ranks = BTreeMap<String, u32>;

/// Reads `// Rank N: ...` and the `pub mod` lines under it.
pub(super) fn read(lib: &str) -> Ranks {
    let mut rank = None;
    let mut ranks = Ranks::new();
    for line in lib.lines() {
        if let Some(rest) = line.strip_prefix("// Rank ") {
            rank = rest.split(':').next().and_then(|number| number.parse().ok());
        } else if let (Some(rank), Some(module)) = (rank, line.strip_prefix("pub mod ")) {
            ranks.insert(module.trim_end_matches(';').to_owned(), rank);
        }
    }
    ranks
}

pub(super) fn check(source: &Source, ranks: &Ranks, findings: &mut Vec<Finding>) {
    let Some(inner) = source.path.strip_prefix(AGENT) else { return };
    let Some(module) = inner.split(['/', '.']).next().filter(|module| !matches!(*module, "lib" | "main")) else {
        return;
    };
    let Some(own) = ranks.get(module) else {
        return findings.push(Finding::new(source, 1, Rule::Rank, format!("lib.rs gives module {module} no rank")));
    };
    for (at, target) in imports(source, inner).into_iter().filter(|(at, _)| !source.is_test(*at)) {
        let found = match ranks.get(target) {
            None => format!("{target} is no module of lib.rs"),
            Some(rank) if rank < own || target == module || meant(module, target) => continue,
            Some(rank) => format!("{module} (rank {own}) imports {target} (rank {rank})"),
        };
        findings.push(Finding::new(source, source.line(at), Rule::Rank, found));
    }
}

fn meant(from: &str, to: &str) -> bool {
    MEANT.iter().any(|(importer, imported, _)| (*importer, *imported) == (from, to))
}

/// Every top module that the file names: by `crate::`, or by as many `super::` as lead there.
fn imports<'a>(source: &'a Source, inner: &str) -> Vec<(usize, &'a str)> {
    let by_crate = source.words("crate").flat_map(|at| heads(&source.code, at + "crate".len()));
    let depth = inner.trim_end_matches(".rs").split('/').count();
    let by_super = source.words("super").filter_map(move |at| {
        let chain = source.code[at..].split("::").take_while(|part| *part == "super").count();
        let continued = source.code[..at].ends_with("super::");
        (!continued && chain >= depth).then_some(at + "super::".len() * chain - "::".len())
    });
    by_crate.chain(by_super.flat_map(|at| heads(&source.code, at))).collect()
}

/// The first names after a path's `::`, several when a group follows.
fn heads(code: &str, at: usize) -> Vec<(usize, &str)> {
    let Some(rest) = code[at..].strip_prefix("::") else { return Vec::new() };
    let start = at + "::".len();
    if !rest.starts_with('{') {
        return source::identifier(rest).map(|name| (start, name)).into_iter().collect();
    }
    let end = source::closing(code, start);
    let mut depth = 0_usize;
    let mut fresh = true;
    let mut heads = Vec::new();
    for (offset, byte) in code[start + 1..end - 1].bytes().enumerate() {
        let at = start + 1 + offset;
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            b',' if depth == 0 => fresh = true,
            _ if byte.is_ascii_whitespace() => {}
            _ if fresh => {
                heads.extend(source::identifier(&code[at..]).map(|name| (at, name)));
                fresh = false;
            }
            _ => {}
        }
    }
    heads
}
