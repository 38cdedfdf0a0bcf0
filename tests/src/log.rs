//! A process's log file, read while it is written.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, anyhow};
use serde_json::Value;

use crate::eventually::eventually;

/// A log file. Clones read the same one.
#[derive(Clone, Debug)]
pub struct Log {
    path: PathBuf,
    /// Bytes to leave out at the beginning.
    from: u64,
}

/// One line of the agent's log, in either of its formats.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// As it was written.
    pub text: String,
    pub level: String,
    pub scope: String,
    pub message: String,
    pub fields: BTreeMap<String, String>,
}

impl Log {
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_owned(), from: 0 }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The same log from here on: lines that are already there are not seen.
    #[must_use]
    pub fn from_now(&self) -> Self {
        let end = fs::metadata(&self.path).map(|meta| meta.len()).unwrap_or_default();
        Self { path: self.path.clone(), from: end }
    }

    /// Everything, as text. A log that does not exist yet is empty.
    pub fn text(&self) -> String {
        let bytes = fs::read(&self.path).unwrap_or_default();
        let from = usize::try_from(self.from).unwrap_or(usize::MAX).min(bytes.len());
        String::from_utf8_lossy(bytes.get(from..).unwrap_or_default()).into_owned()
    }

    /// The last lines, for error messages.
    pub fn tail(&self, count: usize) -> String {
        let text = self.text();
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(count)..).unwrap_or_default().join("\n")
    }

    /// All complete lines.
    pub fn lines(&self) -> Vec<Line> {
        let text = self.text();
        let complete = text.rfind('\n').and_then(|end| text.get(..end)).unwrap_or_default();
        complete.lines().map(Line::parse).collect()
    }

    /// The lines of the access log that tell how a connection ended.
    pub fn access(&self) -> Vec<Line> {
        self.lines().into_iter().filter(|line| line.scope == "access" && !line.message.ends_with("opened")).collect()
    }

    /// Waits for a line that satisfies `wanted`; without one the end of the log is in the error.
    pub fn wait(&self, limit: Duration, wanted: impl Fn(&Line) -> bool) -> Result<Line> {
        let found = eventually(limit, || {
            self.lines().into_iter().find(|line| wanted(line)).ok_or_else(|| anyhow!("no such line in the log"))
        });
        found.map_err(|error| error.context(format!("{}, which ends with\n{}", self.path.display(), self.tail(12))))
    }
}

impl Line {
    pub fn parse(text: &str) -> Self {
        let parsed = if text.starts_with('{') { Self::parse_json(text) } else { Self::parse_text(text) };
        Self { text: text.to_owned(), ..parsed.unwrap_or_else(|| Self { message: text.to_owned(), ..Self::default() }) }
    }

    /// The value of a field; empty when the line has no such field.
    pub fn field(&self, name: &str) -> &str {
        self.fields.get(name).map(String::as_str).unwrap_or_default()
    }

    /// The field `error`.
    pub fn error(&self) -> &str {
        self.field("error")
    }

    fn parse_json(text: &str) -> Option<Self> {
        let fields: BTreeMap<String, Value> = serde_json::from_str(text).ok()?;
        let mut fields: BTreeMap<String, String> =
            fields.into_iter().map(|(name, value)| (name, plain(value))).collect();
        let mut take = |name: &str| fields.remove(name).unwrap_or_default();
        let (level, scope, message) = (take("level"), take("scope"), take("message"));
        Some(Self { level, scope, message, fields, ..Self::default() })
    }

    fn parse_text(text: &str) -> Option<Self> {
        let mut columns = text.splitn(5, '\t').skip(1);
        let (level, scope, message) = (columns.next()?, columns.next()?, columns.next()?);
        let fields = columns.next().map(parse_fields).unwrap_or_default();
        Some(Self { level: level.into(), scope: scope.into(), message: message.into(), fields, ..Self::default() })
    }
}

fn plain(value: Value) -> String {
    match value {
        Value::String(text) => text,
        other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
            other.to_string()
        }
    }
}

/// Reads `k=v k="quoted v"`.
fn parse_fields(mut rest: &str) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    while let Some((name, tail)) = rest.split_once('=') {
        let (value, after) = match tail.strip_prefix('"') {
            Some(quoted) => unquote(quoted),
            None => {
                let (value, after) = tail.split_once(' ').unwrap_or((tail, ""));
                (value.to_owned(), after)
            }
        };
        fields.insert(name.to_owned(), value);
        rest = after.trim_start();
    }
    fields
}

/// Reads up to the closing quote; gives the rest after it.
fn unquote(text: &str) -> (String, &str) {
    let (mut value, mut characters) = (String::new(), text.char_indices());
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, text.get(at + 1..).unwrap_or_default()),
            '\\' => value.push(match characters.next() {
                Some((_, 'n')) => '\n',
                Some((_, 't')) => '\t',
                Some((_, other)) => other,
                None => break,
            }),
            other => value.push(other),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::Line;

    #[test]
    fn both_formats() {
        let text = "2026-01-01T12:00:00Z\tinfo\taccess\tconnection complete\tsrc.addr=10.0.0.1:4000 error=\"a \\\"b\\\" c=d\" n=1";
        let json = r#"{"level":"info","time":"2026-01-01T12:00:00Z","scope":"access","message":"connection complete","src.addr":"10.0.0.1:4000","error":"a \"b\" c=d","n":1}"#;
        for line in [Line::parse(text), Line::parse(json)] {
            assert_eq!(line.level, "info");
            assert_eq!(line.scope, "access");
            assert_eq!(line.message, "connection complete");
            assert_eq!(line.field("src.addr"), "10.0.0.1:4000");
            assert_eq!(line.error(), "a \"b\" c=d");
            assert_eq!(line.field("n"), "1");
            assert_eq!(line.field("absent"), "");
        }
    }

    #[test]
    fn anything_else_is_a_message() {
        assert_eq!(Line::parse("mesh-agent: no such file").message, "mesh-agent: no such file");
    }
}
