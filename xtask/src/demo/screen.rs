//! How the story looks: headings, prose, quotations and check marks; colours only on a terminal that wants them.

use std::cell::Cell;
use std::io::{self, IsTerminal};

use crate::step::say;

/// Where the story is shown.
#[derive(Debug)]
pub(super) struct Screen {
    palette: Palette,
    steps: Cell<u32>,
}

#[derive(Clone, Copy, Debug)]
enum Palette {
    Plain,
    Coloured,
}

impl Screen {
    pub(super) fn new() -> Self {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let coloured = io::stdout().is_terminal() && !unwanted;
        Self { palette: if coloured { Palette::Coloured } else { Palette::Plain }, steps: Cell::new(0) }
    }

    pub(super) fn title(&self, text: &str) {
        say(format_args!("\n{}", self.paint("1", text)));
    }

    /// The heading of the next step.
    pub(super) fn step(&self, text: &str) {
        let number = self.steps.get() + 1;
        self.steps.set(number);
        say(format_args!("\n{}", self.paint("1;36", &format!("{number}. {text}"))));
    }

    pub(super) fn say(&self, text: &str) {
        say(text);
    }

    /// A command as a person would type it in a pod.
    pub(super) fn command(&self, place: &str, command: &str) {
        say(format_args!("\n   {} {}", self.paint("2", &format!("{place}$")), self.paint("1", command)));
    }

    /// What a program or a log says.
    pub(super) fn quote(&self, text: &str) {
        for line in text.trim_end().lines() {
            say(format_args!("   {line}"));
        }
    }

    /// Something that was checked.
    pub(super) fn passed(&self, text: &str) {
        say(format_args!("{} {text}", self.paint("1;32", "✓")));
    }

    pub(super) fn failed(&self, text: &str) {
        say(format_args!("\n{} {text}", self.paint("1;31", "✗")));
    }

    fn paint(&self, code: &str, text: &str) -> String {
        match self.palette {
            Palette::Plain => text.to_owned(),
            Palette::Coloured => format!("\x1b[{code}m{text}\x1b[0m"),
        }
    }
}
