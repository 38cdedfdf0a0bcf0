//! `cargo xtask tidy`: the house rules that no lint knows, by a scan of the text. A unit test runs it too.

use std::path::Path;
use std::{fmt, fs};

use anyhow::{Context, Result, bail};

use crate::proto::{self, Mode};
use crate::step::say;
use sizes::Sizes;
use source::Source;

mod deps;
mod docs;
mod fences;
mod lexer;
mod prose;
mod ranks;
mod sizes;
mod source;
mod tree;

/// A rule, by the name that a finding shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// A module imports only lower ranks.
    Rank,
    /// Crates and `unsafe` stay in their rooms.
    Fence,
    /// Files and functions are short.
    Size,
    /// A file says what it is, and what a user may write is documented.
    Doc,
    /// Unsafe code says why it is sound.
    Safety,
    /// Nothing is left for later without an issue.
    Later,
    /// The top of the repository, and the map of it.
    Tree,
    /// Generated code is what its source says.
    Fresh,
    /// Dependencies are those that `deny.toml` lets in.
    Depend,
}

/// What breaks a rule, and where.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    path: String,
    line: usize,
    rule: Rule,
    text: String,
}

impl Finding {
    fn new(source: &Source, line: usize, rule: Rule, text: String) -> Self {
        Self { path: source.path.clone(), line, rule, text }
    }

    /// About a file as a whole, or a folder.
    fn about(path: &str, rule: Rule, text: String) -> Self {
        Self { path: path.into(), line: 1, rule, text }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rule = format!("{:?}", self.rule).to_lowercase();
        write!(formatter, "{}:{}: {rule}: {}", self.path, self.line, self.text)
    }
}

pub(crate) fn run(root: &Path) -> Result<()> {
    let (findings, sizes) = check(root)?;
    findings.iter().for_each(say);
    say(format_args!("tidy: {sizes}"));
    if !findings.is_empty() {
        bail!("tidy: {} findings", findings.len());
    }
    Ok(())
}

fn check(root: &Path) -> Result<(Vec<Finding>, String)> {
    let ranks = ranks::read(&fs::read_to_string(root.join("mesh-agent/src/lib.rs"))?);
    let mut sizes = Sizes::default();
    let mut findings = tree::entries(root)?;
    for path in tree::rust_files(root)? {
        let text = fs::read_to_string(root.join(&path)).with_context(|| path.clone())?;
        let source = Source::new(&path, &text);
        if tree::generated(&path) {
            continue;
        }
        ranks::check(&source, &ranks, &mut findings);
        fences::check(&source, &mut findings);
        sizes.check(&source, &mut findings);
        prose::check(&source, &mut findings);
    }
    findings.extend(tree::unmapped(root)?);
    findings.extend(deps::check(root)?);
    findings.extend(docs::check(root)?);
    if let Err(error) = proto::generate(root, Mode::Check) {
        findings.push(Finding::about("mesh-agent/proto", Rule::Fresh, format!("{error:#}")));
    }
    let report = sizes.report(&mut findings);
    Ok((findings, report))
}

#[cfg(test)]
mod tests;
