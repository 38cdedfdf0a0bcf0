//! A step of a command: what is done is said before it starts, and how long it took when it ends.

use std::env;
use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// How many lines of a failed command's log are shown.
const TAIL: usize = 30;

/// One line for the reader; progress shares standard output with the results, so that their order holds in a pipe.
pub(crate) fn say(line: impl Display) {
    // Nobody is left to be told when standard output is closed.
    writeln!(io::stdout().lock(), "{line}").ok();
}

/// The cargo that runs this program, or the usual one, in a folder.
pub(crate) fn cargo(folder: &Path) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(folder);
    command
}

/// Runs a command whose output is the reader's progress.
pub(crate) fn run(title: &str, command: &mut Command) -> Result<()> {
    timed(title, || {
        let status = command.stdin(Stdio::null()).status().with_context(|| program(command))?;
        if !status.success() {
            bail!("{} failed ({status})", program(command));
        }
        Ok(())
    })
}

/// Runs a command whose output matters only when it fails: it goes to `log`, and its end is then shown.
pub(crate) fn logged(title: &str, log: &Path, command: &mut Command) -> Result<()> {
    timed(title, || {
        if let Some(folder) = log.parent() {
            fs::create_dir_all(folder)?;
        }
        let file = File::create(log).with_context(|| log.display().to_string())?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let status = command.status().with_context(|| program(command))?;
        if !status.success() {
            let text = String::from_utf8_lossy(&fs::read(log)?).into_owned();
            let lines: Vec<_> = text.lines().collect();
            lines[lines.len().saturating_sub(TAIL)..].iter().for_each(say);
            bail!("{} failed ({status}); all it said is in {}", program(command), log.display());
        }
        Ok(())
    })
}

/// Does `work` between a line that says so and a line that tells its time.
pub(crate) fn timed<T>(title: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    say(format_args!("--- {title} ..."));
    let start = Instant::now();
    let result = work();
    let outcome = if result.is_ok() { "ok" } else { "FAILED" };
    say(format_args!("--- {title}: {outcome}, {:.1} s", start.elapsed().as_secs_f64()));
    result
}

fn program(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}
