//! A Rust file as the rules see it: its text, its code with comments and literals blanked, its functions, its tests.

use std::iter;
use std::ops::Range;

use super::lexer;

/// One file.
pub(super) struct Source {
    /// From the repository's top, with slashes.
    pub(super) path: String,
    pub(super) text: String,
    /// As long as the text, line for line, with spaces for comments and for what literals contain.
    pub(super) code: String,
    /// The bytes of items under `#[cfg(test)]`.
    tests: Vec<Range<usize>>,
}

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Function<'a> {
    pub(super) name: &'a str,
    /// Counted from one.
    pub(super) line: usize,
    /// From the line of `fn` to that of the closing brace.
    pub(super) lines: usize,
    pub(super) test: bool,
}

impl Source {
    pub(super) fn new(path: &str, text: &str) -> Self {
        let code = lexer::blank(text);
        let whole = path.ends_with("tests.rs") || path.contains("/tests/") || path.starts_with("tests/");
        let tests = if whole { iter::once(0..code.len()).collect() } else { test_items(&code) };
        Self { path: path.to_owned(), text: text.to_owned(), code, tests }
    }

    /// The line of a byte, counted from one.
    pub(super) fn line(&self, at: usize) -> usize {
        1 + self.code[..at].bytes().filter(|byte| *byte == b'\n').count()
    }

    pub(super) fn is_test(&self, at: usize) -> bool {
        self.tests.iter().any(|range| range.contains(&at))
    }

    /// How many lines the file has, and how many of them are no test.
    pub(super) fn lengths(&self) -> (usize, usize) {
        let all = self.text.lines().count();
        let tests: usize = self.tests.iter().map(|range| self.code[range.clone()].lines().count()).sum();
        (all, all.saturating_sub(tests))
    }

    /// Where `word` stands as an identifier of its own.
    pub(super) fn words<'a>(&'a self, word: &'a str) -> impl Iterator<Item = usize> + 'a {
        words(&self.code, word)
    }

    pub(super) fn functions(&self) -> Vec<Function<'_>> {
        self.words("fn").filter_map(|at| self.function(at)).collect()
    }

    fn function(&self, at: usize) -> Option<Function<'_>> {
        let rest = &self.code[at + 2..];
        let name = identifier(rest.trim_start())?;
        let body = at + 2 + body(rest)?;
        let end = closing(&self.code, body);
        Some(Function { name, line: self.line(at), lines: self.code[at..end].lines().count(), test: self.is_test(at) })
    }
}

/// The identifier that `code` starts with.
pub(super) fn identifier(code: &str) -> Option<&str> {
    let end = code.find(|c: char| !is_word(c)).unwrap_or(code.len());
    (end > 0).then(|| &code[..end])
}

/// The position after the brace that closes the one at `open`.
pub(super) fn closing(code: &str, open: usize) -> usize {
    let mut depth = 0_usize;
    for (offset, byte) in code[open..].bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return open + offset + 1;
        }
    }
    code.len()
}

pub(super) fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word).map(|(at, _)| at).filter(move |at| {
        !code[..*at].chars().next_back().is_some_and(is_word)
            && !code[*at + word.len()..].chars().next().is_some_and(is_word)
    })
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Where a declaration's body opens; none when it ends without one.
fn body(declaration: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, byte) in declaration.bytes().enumerate() {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth = depth.saturating_sub(1),
            b'{' if depth == 0 => return Some(at),
            b';' if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

fn test_items(code: &str) -> Vec<Range<usize>> {
    let attributes = code.match_indices("#[cfg(test)]").map(|(at, text)| (at, at + text.len()));
    attributes
        .map(|(start, after)| {
            let end = match body(&code[after..]) {
                Some(open) => closing(code, after + open),
                None => after + code[after..].find(';').map_or(0, |semicolon| semicolon + 1),
            };
            start..end
        })
        .collect()
}
