//! What the agents use: CPU time and memory, as the kernel counts them.

use std::fs;

use anyhow::{Context, Result};
use serde::Serialize;

/// The unit of CPU times in `/proc`: `USER_HZ`, which is the same on all architectures that matter here.
const TICKS_PER_SECOND: f64 = 100.0;

/// Which memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resident {
    Now,
    /// The most since the process began.
    Peak,
}

/// What one process holds; memory in MiB.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Held {
    pub(super) resident: f64,
    /// Of which belongs to no file: heap and stacks.
    pub(super) anonymous: f64,
    /// With its share only of what several processes have, such as the program's code.
    pub(super) proportional: f64,
    /// The most that was resident since the process began.
    pub(super) peak: f64,
    pub(super) descriptors: usize,
}

impl Held {
    pub(super) fn by(pid: u32) -> Result<Self> {
        let (status, rollup) = (read(pid, "status")?, read(pid, "smaps_rollup")?);
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).with_context(|| format!("agent {pid} is gone"))?;
        let memory = Self::told(&status, &rollup, descriptors.count());
        memory.with_context(|| format!("agent {pid} has ended"))
    }

    fn told(status: &str, rollup: &str, descriptors: usize) -> Option<Self> {
        let mebibytes = |text, field| Some(kibibytes(text, field)? / 1024.0);
        Some(Self {
            resident: mebibytes(status, "VmRSS:")?,
            anonymous: mebibytes(status, "RssAnon:")?,
            proportional: mebibytes(rollup, "Pss:")?,
            peak: mebibytes(status, "VmHWM:")?,
            descriptors,
        })
    }
}

/// Seconds of CPU that these processes have used so far, in user mode and in the kernel. All threads count, also those
/// that have ended, which their own lines under `task/` would no longer tell. A process that has ended is an error: what
/// was measured meanwhile is worth nothing.
pub(super) fn cpu_seconds(pids: &[u32]) -> Result<f64> {
    let used = |pid: &u32| ticks(&read(*pid, "stat")?).with_context(|| format!("agent {pid} has ended"));
    let ticks: f64 = pids.iter().map(used).sum::<Result<f64>>()?;
    Ok(ticks / TICKS_PER_SECOND)
}

/// The resident memory of these processes together, in MiB.
pub(super) fn mebibytes(pids: &[u32], which: Resident) -> Result<f64> {
    let field = match which {
        Resident::Now => "VmRSS:",
        Resident::Peak => "VmHWM:",
    };
    let used = |pid: &u32| kibibytes(&read(*pid, "status")?, field).with_context(|| format!("agent {pid} has ended"));
    let kibibytes: f64 = pids.iter().map(used).sum::<Result<f64>>()?;
    Ok(kibibytes / 1024.0)
}

fn read(pid: u32, file: &str) -> Result<String> {
    fs::read_to_string(format!("/proc/{pid}/{file}")).with_context(|| format!("agent {pid} is gone"))
}

/// `utime` and `stime`, unless it is a zombie. The program's name, in parentheses, may hold anything.
fn ticks(stat: &str) -> Option<f64> {
    let (_, after) = stat.rsplit_once(')')?;
    let mut fields = after.split_whitespace();
    let state = fields.next()?;
    let mut times = fields.skip(10).map(str::parse::<f64>);
    let ticks = times.next()?.ok()? + times.next()?.ok()?;
    (state != "Z").then_some(ticks)
}

fn kibibytes(status: &str, field: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_follow_a_name_that_holds_anything() {
        let stat = "42 (a) b) S 1 42 42 0 -1 4194304 100 0 3 0 250 75 9 9 20 0 3 0 12345 1000 200 18446744073709551615";
        assert_eq!(ticks(stat), Some(325.0));
        assert_eq!(ticks("42 (a) S 1"), None);
        assert_eq!(ticks(&stat.replace(" S ", " Z ")), None);
    }

    #[test]
    fn memory_by_field() {
        let status = "Name:\ta\nVmHWM:\t   20480 kB\nVmRSS:\t   10240 kB\n";
        assert_eq!(kibibytes(status, "VmRSS:"), Some(10240.0));
        assert_eq!(kibibytes(status, "VmHWM:"), Some(20480.0));
        assert_eq!(kibibytes(status, "VmSwap:"), None);
    }

    #[test]
    fn what_a_process_holds() {
        let status = "VmHWM:\t   20480 kB\nVmRSS:\t   10240 kB\nRssAnon:\t    4096 kB\n";
        let rollup = "1000-2000 ---p 00000000 00:00 0    [rollup]\nRss:     10240 kB\nPss:      7168 kB\n";
        let held = Held { resident: 10.0, anonymous: 4.0, proportional: 7.0, peak: 20.0, descriptors: 12 };
        assert_eq!(Held::told(status, rollup, 12), Some(held));
        assert_eq!(Held::told(status, "", 12), None);
    }

    #[test]
    fn this_process_uses_something() {
        let own = [std::process::id()];
        assert!(cpu_seconds(&own).is_ok());
        assert!(mebibytes(&own, Resident::Now).unwrap() > 0.0);
        assert!(Held::by(std::process::id()).unwrap().descriptors > 2);
        assert!(cpu_seconds(&[u32::MAX]).is_err());
    }
}
