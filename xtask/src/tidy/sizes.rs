//! How long files and functions may be.

use super::source::Source;
use super::{Finding, Rule};

/// Lines of a file that are no test, and lines of a file in all.
const FILE: usize = 400;
const WHOLE_FILE: usize = 600;
const FUNCTION: usize = 80;
/// Nine in ten are at most so long.
const FILES_P90: usize = 430;
const FUNCTIONS_P90: usize = 30;

/// The lengths seen so far.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    files: Vec<usize>,
    functions: Vec<usize>,
}

impl Sizes {
    pub(super) fn check(&mut self, source: &Source, findings: &mut Vec<Finding>) {
        let (all, own) = source.lengths();
        self.files.push(all);
        if own > FILE {
            findings.push(Finding::new(source, 1, Rule::Size, format!("{own} lines without tests, {FILE} at most")));
        } else if all > WHOLE_FILE {
            findings.push(Finding::new(source, 1, Rule::Size, format!("{all} lines, {WHOLE_FILE} at most")));
        }
        for function in source.functions() {
            if !function.test {
                self.functions.push(function.lines);
            }
            if function.lines > FUNCTION {
                let text = format!("fn {} has {} lines, {FUNCTION} at most", function.name, function.lines);
                findings.push(Finding::new(source, function.line, Rule::Size, text));
            }
        }
    }

    /// The distribution in words, and a finding for each budget that it breaks.
    pub(super) fn report(&mut self, findings: &mut Vec<Finding>) -> String {
        let mut part = |what: &str, lengths: &mut Vec<usize>, budget: usize| {
            let p90 = p90(lengths);
            if p90 > budget {
                let text = format!("p90 of {what} is {p90} lines, {budget} at most");
                findings.push(Finding::about(".", Rule::Size, text));
            }
            format!("{} {what}, p90 {p90} lines (at most {budget})", lengths.len())
        };
        let files = part("files", &mut self.files, FILES_P90);
        let functions = part("functions", &mut self.functions, FUNCTIONS_P90);
        format!("{files}; {functions}")
    }
}

fn p90(lengths: &mut [usize]) -> usize {
    lengths.sort_unstable();
    lengths.get(lengths.len() * 9 / 10).copied().unwrap_or(0)
}
