//! What must be said, and what must not stay: module docs, SAFETY comments, work left for later.

use super::source::Source;
use super::{Finding, Rule};

// Spelt in two halves, or this file would be its own finding.
const LATER: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
const UNWRITTEN: [&str; 2] = [concat!("to", "do"), concat!("unimpl", "emented")];

pub(super) fn check(source: &Source, findings: &mut Vec<Finding>) {
    if !source.text.starts_with("//!") {
        findings.push(Finding::new(source, 1, Rule::Doc, "the file does not start with `//!`".into()));
    }
    safety(source, findings);
    for (number, line) in source.text.lines().enumerate() {
        if let Some(word) = LATER.iter().find(|word| later(line, word)) {
            findings.push(Finding::new(source, number + 1, Rule::Later, format!("{word} without an issue (#N)")));
        }
    }
    for word in UNWRITTEN {
        for at in source.words(word).filter(|at| source.code[at + word.len()..].starts_with('!')) {
            findings.push(Finding::new(source, source.line(at), Rule::Later, format!("{word}!")));
        }
    }
}

/// The word, whole, with no issue's number after it.
fn later(line: &str, word: &str) -> bool {
    super::source::words(line, word).any(|at| {
        let rest = line[at + word.len()..].trim_start_matches(['(', ' ']);
        !rest.strip_prefix('#').is_some_and(|number| number.starts_with(|c: char| c.is_ascii_digit()))
    })
}

fn safety(source: &Source, findings: &mut Vec<Finding>) {
    let lines: Vec<_> = source.text.lines().collect();
    for at in source.words("unsafe") {
        let after = source.code[at + "unsafe".len()..].trim_start();
        let line = source.line(at);
        if (after.starts_with('{') || after.starts_with("impl")) && !explained(&lines[..line]) {
            findings.push(Finding::new(source, line, Rule::Safety, "unsafe without a SAFETY comment".into()));
        }
    }
}

/// Goes up from the last line, through the statement it belongs to, to the comment above it.
fn explained(lines: &[&str]) -> bool {
    let mut upwards = lines.iter().rev().map(|line| line.trim());
    if upwards.next().is_some_and(|own| own.contains("SAFETY:")) {
        return true;
    }
    upwards
        .take_while(|line| line.starts_with("//") || line.starts_with("#[") || !line.ends_with([';', '{', '}']))
        .any(|line| line.starts_with("//") && line.contains("SAFETY:"))
}
