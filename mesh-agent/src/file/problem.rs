//! Mistakes in a file, each with its line and a sentence.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

/// One mistake. Line 0 means the file as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub line: u64,
    pub reason: String,
}

/// All mistakes found in one reading of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    pub path: PathBuf,
    pub problems: Vec<Problem>,
}

impl Problems {
    /// The file cannot be read at all.
    pub fn unreadable(path: &Path, error: &io::Error) -> Self {
        Self::one(path, 0, format!("cannot be read: {error}"))
    }

    pub fn one(path: &Path, line: u64, reason: String) -> Self {
        Self { path: path.to_owned(), problems: vec![Problem { line, reason }] }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{}", self.path.display())?;
            if problem.line > 0 {
                write!(f, ":{}", problem.line)?;
            }
            write!(f, ": {}", problem.reason)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Parses YAML; a mistake in its form is told with its line.
pub fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, Problems> {
    let says = |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    if !text.lines().any(says) {
        return Err(Problems::one(path, 0, "the file is empty".to_owned()));
    }
    if let Some(line) = text.lines().position(|line| line.trim_start_matches(' ').starts_with('\t')) {
        let reason = "indented with a tab; YAML needs spaces".to_owned();
        return Err(Problems::one(path, line as u64 + 1, reason));
    }
    // The plain message: the file and line are put in front by us, for people and for tools.
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let line = error.location().map_or(0, |location| location.line());
        Problems::one(path, line, plain(&error.to_string()))
    })
}

/// Without the parser's own position, which is in front already.
fn plain(message: &str) -> String {
    let first = message.lines().next().unwrap_or(message).trim_start_matches("error: ");
    let text = first.split(" at line ").next().unwrap_or(first).trim_end_matches(':');
    in_plain_words(text).unwrap_or_else(|| text.to_owned())
}

/// The parser's sentences that speak to whoever calls it, said to whoever writes the file.
fn in_plain_words(text: &str) -> Option<String> {
    if let Some(rest) = text.strip_prefix("duplicate mapping key: ") {
        let field = rest.split(',').next().unwrap_or(rest);
        return Some(format!("field `{field}` is written twice"));
    }
    let words = [
        ("multiple YAML documents", "the file has several documents; one is expected"),
        ("expected sequence start", "a list is expected here"),
        ("expected mapping start", "fields are expected here, each as `name: value`"),
        ("expected string scalar", "a single value is expected here"),
        ("unexpected end of input", "the file ends too early"),
        ("invalid u", "a whole number is expected here, not below 0 and not too large"),
        ("invalid i", "a whole number is expected here"),
    ];
    words.iter().find(|(theirs, _)| text.contains(theirs)).map(|(_, ours)| (*ours).to_owned())
}
