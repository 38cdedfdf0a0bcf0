//! `cargo xtask bench --check`: how many instructions what the hot path asks takes, beside the committed counts. Counts tell
//! of the code alone, where times tell of the machine and the hour as well.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::setup;
use crate::step::{self, say};

/// What was committed: instructions of one question, by case.
const FILE: &str = "mesh-agent/benches/instructions.json";
/// Where callgrind leaves what it counted.
const FOLDER: &str = "target/bench/count";
/// The function of the counted program whose instructions count, and all that it calls.
const FUNCTION: &str = "mesh_count::measured";
/// So much more than what was committed is a loss.
const TOLERANCE: f64 = 0.05;

/// Whether it is asked for, among the arguments of `bench`.
#[derive(Debug, clap::Args)]
pub(super) struct Counting {
    /// Count the instructions of what the hot path asks: 5 % more than the committed ones on any question is a failure
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    bless: Bless,
}

/// What is done with the counts.
#[derive(Debug, clap::Args)]
struct Bless {
    /// Count them, and write them down as those to be compared with
    #[arg(long)]
    bless: bool,
}

type Counts = BTreeMap<String, f64>;

impl Counting {
    pub(super) fn is_given(&self) -> bool {
        self.check || self.bless.bless
    }
}

pub(super) fn run(root: &Path, args: &Counting) -> Result<()> {
    setup::ensure(root)?;
    if !args.bless.bless {
        return check(root);
    }
    let text = serde_json::to_string_pretty(&count(root)?)?;
    fs::write(root.join(FILE), format!("{text}\n")).context(FILE)?;
    say(format_args!("written to {FILE}"));
    Ok(())
}

/// Counts, and compares with what was committed.
pub(crate) fn check(root: &Path) -> Result<()> {
    let text = fs::read_to_string(root.join(FILE)).context(FILE)?;
    let committed: Counts = serde_json::from_str(&text).context(FILE)?;
    let comparison = Comparison::of(&committed, &count(root)?);
    say(comparison.table);
    match comparison.losses.as_slice() {
        [] => Ok(()),
        losses => bail!(
            "{}\nif that is meant, write them down with `cargo xtask bench --bless`, and say why in the commit",
            losses.join("\n")
        ),
    }
}

/// Whether the committed counts are of this machine's kind.
pub(crate) const fn fits() -> bool {
    cfg!(target_arch = "x86_64")
}

/// Instructions of one question of each case.
fn count(root: &Path) -> Result<Counts> {
    ensure!(fits(), "counts are those of x86_64, which this machine is not");
    let mut cargo = step::cargo(root);
    // As the agent is built for the labs: of the agent's library there is then one build for both.
    cargo.args(["build", "--release", "--package", "mesh-bench", "--bin", "mesh-count", "--locked"]);
    step::run("building what is counted (release)", &mut cargo)?;
    let program = crate::lab::agent::beside("mesh-count")?;
    let folder = root.join(FOLDER);
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
    }
    fs::create_dir_all(&folder)?;
    step::timed("counting instructions", || {
        let mut valgrind = Command::new("valgrind");
        valgrind.args(["--tool=callgrind", "--quiet"]);
        valgrind.arg(format!("--toggle-collect={FUNCTION}")).arg(format!("--dump-after={FUNCTION}"));
        valgrind.arg(format!("--callgrind-out-file={}", folder.join("part").display())).arg(program);
        let output = valgrind.stdin(Stdio::null()).output().context("valgrind")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "valgrind failed ({}): {}", output.status, said.trim());
        let part = |number| fs::read_to_string(folder.join(format!("part.{number}"))).ok();
        read(&String::from_utf8_lossy(&output.stdout), part)
    })
}

/// The program says `QUESTIONS CASE` before each case, and callgrind leaves a part after each, the first being part 1.
fn read(said: &str, part: impl Fn(usize) -> Option<String>) -> Result<Counts> {
    let case = |(line, number): (&str, usize)| {
        let (questions, name) = line.split_once(' ').with_context(|| format!("the counted program said {line:?}"))?;
        let questions: f64 = questions.parse().with_context(|| format!("the counted program said {line:?}"))?;
        let total = part(number).and_then(|text| total(&text));
        let total = total.with_context(|| format!("callgrind did not count {name}: is {FUNCTION} in the program?"))?;
        Ok((name.to_owned(), (total / questions * 10.0).round() / 10.0))
    };
    let counts: Counts = said.lines().zip(1..).map(case).collect::<Result<_>>()?;
    ensure!(!counts.is_empty(), "the counted program asked nothing");
    Ok(counts)
}

/// What callgrind counted in all. Nothing is what it counts when it does not know the function.
fn total(part: &str) -> Option<f64> {
    let total = part.lines().find_map(|line| line.strip_prefix("summary: "))?.trim().parse().ok()?;
    (total > 0.0).then_some(total)
}

/// New counts beside the committed ones.
struct Comparison {
    table: String,
    /// One line each.
    losses: Vec<String>,
}

impl Comparison {
    fn of(committed: &Counts, found: &Counts) -> Self {
        let mut all = Self { table: String::new(), losses: Vec::new() };
        let names = committed.keys().chain(found.keys().filter(|name| !committed.contains_key(*name)));
        for name in names {
            all.add(name, committed.get(name).copied(), found.get(name).copied());
        }
        all
    }

    fn add(&mut self, name: &str, before: Option<f64>, now: Option<f64>) {
        let percent = before.zip(now).map(|(before, now)| (now / before - 1.0) * 100.0);
        let shown = |count: Option<f64>| count.map_or_else(|| "-".to_owned(), |count| format!("{count:.1}"));
        let change = percent.map_or_else(String::new, |percent| format!("{percent:+.1} %"));
        let loss = match (before, now) {
            (Some(before), Some(now)) if now >= before * (1.0 + TOLERANCE) => {
                Some(format!("{name}: {now:.1} instructions, {before:.1} are committed ({change})"))
            }
            (Some(_), Some(_)) => None,
            (Some(_), None) => Some(format!("{name} is committed, and no case any more")),
            (None, _) => Some(format!("{name} is not committed")),
        };
        let mark = if loss.is_some() { "  LOSS" } else { "" };
        // Writing to a string cannot fail.
        writeln!(self.table, "{name:<52} {:>10} {:>10} {change:>9}{mark}", shown(before), shown(now))
            .unwrap_or_default();
        self.losses.extend(loss);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(all: &[(&str, f64)]) -> Counts {
        all.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    fn part(number: usize) -> Option<String> {
        let totals = ["4096", "20480", "0"];
        Some(format!("version: 1\npart: {number}\n\nevents: Ir\nsummary: {}\n", totals.get(number - 1)?))
    }

    #[test]
    fn a_count_is_that_of_one_question() {
        let found = read("4096 a/b c\n1000 d/e\n", part).unwrap();
        assert_eq!(found, counts(&[("a/b c", 1.0), ("d/e", 20.5)]));
    }

    #[test]
    fn what_was_not_counted_is_named() {
        let failure = |said| read(said, part).unwrap_err().to_string();
        assert_eq!(failure(""), "the counted program asked nothing");
        assert_eq!(failure("thread panicked"), "the counted program said \"thread panicked\"");
        let uncounted = "callgrind did not count c: is mesh_count::measured in the program?";
        assert_eq!(failure("1 a\n1 b\n1 c\n"), uncounted);
        assert!(failure("1 a\n1 b\n1 a\n1 d\n").starts_with("callgrind did not count"));
    }

    #[test]
    fn a_loss_is_told_with_both_numbers() {
        let committed = counts(&[("better", 100.0), ("gone", 7.0), ("nearly", 100.0), ("worse", 200.0)]);
        let found = counts(&[("better", 80.0), ("nearly", 104.9), ("new", 5.0), ("worse", 210.0)]);
        let comparison = Comparison::of(&committed, &found);
        let losses = [
            "gone is committed, and no case any more",
            "worse: 210.0 instructions, 200.0 are committed (+5.0 %)",
            "new is not committed",
        ];
        assert_eq!(comparison.losses, losses);
        let mut lines = comparison.table.lines();
        let first = "better                                                    100.0       80.0   -20.0 %";
        assert_eq!(lines.next(), Some(first));
        assert!(lines.any(|line| line.ends_with("+5.0 %  LOSS")), "{}", comparison.table);
        assert!(Comparison::of(&committed, &committed).losses.is_empty());
    }
}
