//! One finding: what was looked at, what was found, how bad that is and what mends it. And how findings look.

use serde::Serialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    Ok,
    /// It works, and there is something to know.
    Warning,
    Wrong,
}

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Group {
    Node,
    Network,
    Agent,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) group: Group,
    pub(super) level: Level,
    pub(super) what: String,
    pub(super) found: String,
    /// What is to be done; unless all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) fix: Option<String>,
}

/// All findings, as `--json` shows them.
#[derive(Debug, Serialize)]
pub(super) struct Document {
    pub(super) findings: Vec<Finding>,
}

/// The findings of one group, in the order in which they are shown.
#[derive(Debug)]
pub(super) struct Report {
    group: Group,
    findings: Vec<Finding>,
}

impl Report {
    pub(super) fn about(group: Group) -> Self {
        Self { group, findings: Vec::new() }
    }

    pub(super) fn ok(&mut self, what: &str, found: impl AsRef<str>) {
        self.add(Level::Ok, what, found.as_ref(), None);
    }

    pub(super) fn warning(&mut self, what: &str, found: impl AsRef<str>, fix: impl AsRef<str>) {
        self.add(Level::Warning, what, found.as_ref(), Some(fix.as_ref()));
    }

    pub(super) fn wrong(&mut self, what: &str, found: impl AsRef<str>, fix: impl AsRef<str>) {
        self.add(Level::Wrong, what, found.as_ref(), Some(fix.as_ref()));
    }

    /// Wrong or only worth a warning, as the case may be.
    pub(super) fn bad(&mut self, level: Level, what: &str, found: impl AsRef<str>, fix: impl AsRef<str>) {
        self.add(level, what, found.as_ref(), Some(fix.as_ref()));
    }

    pub(super) fn finish(self) -> Vec<Finding> {
        self.findings
    }

    fn add(&mut self, level: Level, what: &str, found: &str, fix: Option<&str>) {
        let fix = fix.map(one_line);
        self.findings.push(Finding { group: self.group, level, what: one_line(what), found: one_line(found), fix });
    }
}

/// What others say may have several lines, such as the verifier's output.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The first few of many, and how many there are beside.
pub(super) fn some(all: &[impl AsRef<str>]) -> String {
    const SHOWN: usize = 3;
    let shown: Vec<&str> = all.iter().take(SHOWN).map(AsRef::as_ref).collect();
    let rest = all.len() - shown.len();
    let shown = shown.join(", ");
    if rest == 0 { shown } else { format!("{shown} and {rest} more") }
}

/// A line for each, under the names of the groups.
pub(super) fn render(document: &Document) -> String {
    let width = document.findings.iter().map(|finding| finding.what.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    let mut group = None;
    for finding in &document.findings {
        if group.replace(finding.group) != Some(finding.group) {
            text.push_str(match finding.group {
                Group::Node => "node\n",
                Group::Network => "network\n",
                Group::Agent => "agent\n",
            });
        }
        let level = match finding.level {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Wrong => "WRONG",
        };
        let fix = finding.fix.as_ref().map_or_else(String::new, |fix| format!(". Fix: {fix}"));
        text.push_str(&format!("  {level:<7}  {:<width$}  {}{fix}\n", finding.what, finding.found));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Document, Group, Report, render, some};

    #[test]
    fn a_line_each_under_their_groups() {
        let mut node = Report::about(Group::Node);
        node.ok("kernel", "Linux 6.8.0");
        node.wrong("programs", "refused:\n  R1 invalid", "use a newer kernel");
        let mut network = Report::about(Group::Network);
        network.warning("MTU", "9000 in a pod", "set 1500");
        let findings = [node, network].into_iter().flat_map(Report::finish).collect();
        let text = render(&Document { findings });
        let expected = "node\n  ok       kernel    Linux 6.8.0\n  WRONG    programs  refused: R1 invalid. Fix: use a newer kernel\n\
                        network\n  warning  MTU       9000 in a pod. Fix: set 1500\n";
        assert_eq!(text, expected, "{text}");
    }

    #[test]
    fn many_are_not_all_named() {
        assert_eq!(some(&["a", "b", "c"]), "a, b, c");
        assert_eq!(some(&["a", "b", "c", "d", "e"]), "a, b, c and 2 more");
    }
}
