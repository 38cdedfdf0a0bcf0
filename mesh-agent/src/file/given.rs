//! Values that are given with the command line and not in the file: one file serves all nodes of a cluster.
//!
//! `${NAME}` in the file stands for what `--set NAME=VALUE` gives. A name without a value is a mistake, and so is a value
//! that would be more than a part of its line.

use std::collections::BTreeMap;
use std::path::Path;

use super::problem::{Problem, Problems};

/// Values by their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given(BTreeMap<String, String>);

impl Given {
    /// From `NAME=VALUE`, each.
    pub fn read<'a>(settings: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut values = BTreeMap::new();
        for setting in settings {
            let Some((name, value)) = setting.split_once('=').filter(|(name, _)| is_name(name)) else {
                return Err(format!("--set {setting}: expected NAME=VALUE, NAME of letters, digits and underscores"));
            };
            if value.contains(char::is_control) {
                return Err(format!("--set {name}: the value has a line break or another control character"));
            }
            if values.insert(name.to_owned(), value.to_owned()).is_some() {
                return Err(format!("--set {name} is given twice"));
            }
        }
        Ok(Self(values))
    }

    /// The text with its values in their places. Comments are left alone.
    pub(super) fn fill(&self, path: &Path, text: &str) -> Result<String, Problems> {
        let mut problems = Vec::new();
        let mut filled = String::with_capacity(text.len());
        for (line, number) in text.split_inclusive('\n').zip(1..) {
            if line.trim_start().starts_with('#') {
                filled.push_str(line);
                continue;
            }
            let mistake = |reason| problems.push(Problem { line: number, reason });
            self.fill_line(line, &mut filled, mistake);
        }
        if problems.is_empty() { Ok(filled) } else { Err(Problems { path: path.to_owned(), problems }) }
    }

    fn fill_line(&self, line: &str, filled: &mut String, mut mistake: impl FnMut(String)) {
        let mut rest = line;
        while let Some((before, after)) = rest.split_once("${") {
            filled.push_str(before);
            let Some((name, after)) = after.split_once('}').filter(|(name, _)| is_name(name)) else {
                // Not one of ours.
                filled.push_str("${");
                rest = after;
                continue;
            };
            match self.0.get(name) {
                Some(value) => filled.push_str(value),
                None => mistake(format!("${{{name}}} has no value; start the agent with --set {name}=VALUE")),
            }
            rest = after;
        }
        filled.push_str(rest);
    }
}

fn is_name(text: &str) -> bool {
    let first = text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    first && text.chars().all(|one| one.is_ascii_alphanumeric() || one == '_')
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::Given;

    fn filled(settings: &[&str], text: &str) -> Result<String, String> {
        let given = Given::read(settings.iter().copied())?;
        given.fill(Path::new("node.yaml"), text).map_err(|problems| problems.to_string())
    }

    #[test]
    fn values_take_their_places() {
        let settings = ["NODE=n1", "IP=fd00::1"];
        let text = "# ${COMMENT}\nname: ${NODE}\nboth: [${NODE}, \"${IP}\"]\nnone: $NODE ${} ${a b}\n";
        let wanted = "# ${COMMENT}\nname: n1\nboth: [n1, \"fd00::1\"]\nnone: $NODE ${} ${a b}\n";
        assert_eq!(filled(&settings, text).as_deref(), Ok(wanted));
        assert_eq!(filled(&["A=b=c"], "x: ${A}").as_deref(), Ok("x: b=c"), "no end of line, a sign in the value");
        assert_eq!(filled(&["A=${B}"], "x: ${A}").as_deref(), Ok("x: ${B}"), "a value is taken as it is");
    }

    #[test]
    fn what_is_missing_is_told_with_its_line() {
        let error = filled(&["A=1"], "a: ${A}\nb: ${B}\nc: ${C}\n").unwrap_err();
        assert_eq!(
            error,
            "node.yaml:2: ${B} has no value; start the agent with --set B=VALUE; \
             node.yaml:3: ${C} has no value; start the agent with --set C=VALUE"
        );
    }

    #[test]
    fn settings_that_are_none_are_refused() {
        for (settings, reason) in [
            (&["A"][..], "expected NAME=VALUE"),
            (&["=x"], "expected NAME=VALUE"),
            (&["1a=x"], "expected NAME=VALUE"),
            (&["A=x\ny"], "line break"),
            (&["A=x", "A=y"], "given twice"),
        ] {
            let error = filled(settings, "").unwrap_err();
            assert!(error.contains(reason), "{settings:?}: {error}");
        }
    }
}
