//! Facts without which figures mean nothing: the machine, the kernel, the date, the commit.

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde::Serialize;

/// Where and when, as far as it can be found out.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Machine {
    pub(super) date: String,
    /// The commit that ours was built from; `-dirty` when there were changes beside it.
    pub(super) commit: String,
    kernel: String,
    architecture: &'static str,
    cpu: String,
    cores: usize,
    memory_gib: f64,
    congestion_control: String,
    /// The load average of the last minute, before the first measurement.
    load: f64,
}

impl Machine {
    pub(super) fn observe(root: &Path) -> Self {
        let line = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let load = line("/proc/loadavg");
        let git = root.display().to_string();
        Self {
            date: output("date", &["--utc", "+%Y-%m-%dT%H:%M:%SZ"]),
            commit: output("git", &["-C", &git, "describe", "--always", "--dirty"]),
            kernel: line("/proc/sys/kernel/osrelease"),
            architecture: std::env::consts::ARCH,
            cpu: field(&line("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown".to_owned()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_gib: gibibytes(&line("/proc/meminfo")).unwrap_or_default(),
            congestion_control: line("/proc/sys/net/ipv4/tcp_congestion_control"),
            load: load.split_whitespace().next().and_then(|load| load.parse().ok()).unwrap_or_default(),
        }
    }

    /// Others are at work here.
    pub(super) fn is_busy(&self) -> bool {
        self.load > 0.5
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { date, commit, kernel, architecture, cpu, cores, memory_gib, congestion_control, load } = self;
        write!(f, "{date}, commit {commit}; kernel {kernel} {architecture}, {cores} cores ({cpu}), ")?;
        write!(f, "{memory_gib} GiB, {congestion_control}, load {load}")
    }
}

/// What a program says, or `unknown`.
fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success());
    output.map_or_else(|| "unknown".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The value of a line `name : value`.
fn field(text: &str, name: &str) -> Option<String> {
    let values = text.lines().filter_map(|line| line.split_once(':'));
    values
        .map(|(found, value)| (found.trim(), value.trim()))
        .find(|(found, _)| *found == name)
        .map(|(_, value)| value.to_owned())
}

fn gibibytes(meminfo: &str) -> Option<f64> {
    let kibibytes: f64 = field(meminfo, "MemTotal")?.strip_suffix("kB")?.trim().parse().ok()?;
    Some((kibibytes / f64::from(1 << 20)).round())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_proc() {
        assert_eq!(field("processor\t: 0\nmodel name\t: A CPU\nmodel name\t: A CPU\n", "model name").unwrap(), "A CPU");
        assert_eq!(field("model: 1\n", "model name"), None);
        assert_eq!(gibibytes("MemTotal:       25165824 kB\n"), Some(24.0));
    }
}
