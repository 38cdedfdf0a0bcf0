//! A process that holds a lab after the command has returned.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mesh_e2e::{eventually, sweep};
use rustix::process::{Pid, Signal, kill_process};

/// The first word of a keeper's report when all went well.
const READY: &str = "ready";

/// Starts this program again as the keeper that `arguments` name, waits until it is ready and gives what it reports. Its
/// log goes to `log`, and it holds nothing of ours open.
pub(crate) fn start(root: &Path, arguments: &[&str], log: &Path) -> Result<String> {
    if let Some(folder) = log.parent() {
        fs::create_dir_all(folder)?;
    }
    let errors = File::create(log).with_context(|| log.display().to_string())?;
    let own = std::env::current_exe().context("this program's own path")?;
    let mut command = Command::new(own);
    command.current_dir(root).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
    let mut keeper = command.spawn()?;
    let mut report = String::new();
    keeper.stdout.take().context("a pipe")?.read_to_string(&mut report)?;
    match report.strip_prefix(READY) {
        Some(rest) => Ok(rest.trim().to_owned()),
        None => {
            keeper.wait()?;
            bail!("{}", fs::read_to_string(log).unwrap_or_default().trim().trim_start_matches("xtask: "))
        }
    }
}

/// Ends the keeper with this pid, and waits until what it holds under `name` is removed.
pub(crate) fn end(keeper: i32, name: &str, limit: Duration) -> Result<()> {
    let pid = Pid::from_raw(keeper).context("a pid")?;
    kill_process(pid, Signal::TERM).with_context(|| format!("ending the keeper of {name}"))?;
    eventually(limit, || {
        ensure!(!sweep::is_owned(name), "the keeper (pid {keeper}) does not end");
        Ok(())
    })
}

/// Called by the keeper: leaves the terminal, so that neither Ctrl-C nor its end concern it.
pub(crate) fn leave_terminal() -> Result<()> {
    rustix::process::setsid().context("a session of its own")?;
    Ok(())
}

/// Called by a keeper whose agents somebody measures: Ctrl-C does not concern it, but it stays in the session. Where the
/// kernel groups tasks by session (`sched_autogroup_enabled`), a session of its own would get half of the machine, however
/// little the others need, and no more, however much it needs: the agents would be measured against the load's tools.
pub(super) fn leave_job() -> Result<()> {
    rustix::process::setpgid(None, None).context("a process group of its own")
}

/// Called by the keeper: tells who started it that all is ready, and closes what it shares with it.
pub(crate) fn report(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{READY} {text}")?;
    out.flush()?;
    let nowhere = File::options().write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(nowhere).context("closing standard output")
}
