//! Variables, read one by one; which were read, and what is wrong with them.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Map, Value};

use crate::file::duration;
use crate::file::problem::{Problem, Problems};

/// The environment while it is being read.
#[derive(Debug)]
pub(super) struct Vars<'a> {
    all: &'a BTreeMap<String, String>,
    read: RefCell<BTreeSet<String>>,
    problems: RefCell<Vec<String>>,
}

impl<'a> Vars<'a> {
    pub(super) fn new(all: &'a BTreeMap<String, String>) -> Self {
        Self { all, read: RefCell::default(), problems: RefCell::default() }
    }

    /// The mistakes, if there are any.
    pub(super) fn end(self, place: &Path) -> Result<(), Problems> {
        let problems: Vec<_> =
            self.problems.into_inner().into_iter().map(|reason| Problem { line: 0, reason }).collect();
        if problems.is_empty() { Ok(()) } else { Err(Problems { path: place.to_owned(), problems }) }
    }

    pub(super) fn mistake(&self, reason: String) {
        let mut problems = self.problems.borrow_mut();
        if !problems.contains(&reason) {
            problems.push(reason);
        }
    }

    /// A variable that is set and not empty.
    pub(super) fn text(&self, name: &str) -> Option<&'a str> {
        self.read.borrow_mut().insert(name.to_owned());
        self.peek(name)
    }

    /// The same, without counting as read.
    pub(super) fn peek(&self, name: &str) -> Option<&'a str> {
        self.all.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    pub(super) fn required(&self, name: &str) -> Option<&'a str> {
        let value = self.text(name);
        if value.is_none() {
            self.mistake(format!("{name} is not set"));
        }
        value
    }

    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        self.parsed(name, "true or false", |text| match text.to_ascii_lowercase().as_str() {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        })
    }

    pub(super) fn number(&self, name: &str) -> Option<u32> {
        self.parsed(name, "a whole number", |text| text.parse().ok())
    }

    /// As the file writes it.
    pub(super) fn duration(&self, name: &str) -> Option<&'a str> {
        self.parsed(name, "a duration such as 5m", |text| duration::parse(text).ok().map(|_| text))
    }

    pub(super) fn parsed<T>(&self, name: &str, expected: &str, read: impl Fn(&'a str) -> Option<T>) -> Option<T> {
        let text = self.text(name)?;
        let value = read(text);
        if value.is_none() {
            self.mistake(format!("{name} is {text:?}; {expected} is expected"));
        }
        value
    }

    /// All variables that begin so, under the rest of their names.
    pub(super) fn with_prefix(&self, prefix: &str) -> Map<String, Value> {
        let own = self.all.iter().filter_map(|(name, value)| Some((name.strip_prefix(prefix)?, value)));
        own.filter(|(name, _)| !name.is_empty()).map(|(name, value)| (name.to_owned(), value.as_str().into())).collect()
    }

    pub(super) fn was_read(&self, name: &str) -> bool {
        self.read.borrow().contains(name)
    }
}
