//! The process's own numbers, read from `/proc` on each scrape. What cannot be read is left out.

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use rustix::process::{Resource, getrlimit};

use super::metrics::{Kind, Samples, encode};

/// The kernel's user-visible clock rate: 100 on every architecture that runs eBPF.
const TICKS_PER_SECOND: f64 = 100.0;

/// The collector of the `process_` metrics.
#[derive(Clone, Copy, Debug)]
pub struct Process;

type Metric = ((Kind, &'static str, &'static str), fn() -> Option<f64>);

const METRICS: [Metric; 5] = [
    ((Kind::Gauge, "process_open_fds", "Open file descriptors"), open_fds),
    ((Kind::Gauge, "process_max_fds", "Limit of open file descriptors"), max_fds),
    ((Kind::Gauge, "process_resident_memory_bytes", "Resident memory"), resident_bytes),
    ((Kind::Gauge, "process_threads", "Threads"), threads),
    ((Kind::Counter, "process_cpu_seconds", "Processor time used, user and system"), cpu_seconds),
];

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (descriptor, read) in METRICS {
            if let Some(value) = read() {
                let mut samples = Samples::default();
                samples.add(&[], value);
                encode(&mut encoder, descriptor, &samples)?;
            }
        }
        Ok(())
    }
}

fn open_fds() -> Option<f64> {
    // One of them is the directory itself, open while it is read.
    Some(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as f64)
}

fn max_fds() -> Option<f64> {
    getrlimit(Resource::Nofile).current.map(|limit| limit as f64)
}

fn resident_bytes() -> Option<f64> {
    let kibibytes: f64 = status("VmRSS:")?.parse().ok()?;
    Some(kibibytes * 1024.0)
}

fn threads() -> Option<f64> {
    status("Threads:")?.parse().ok()
}

/// The first word after a field's name in `/proc/self/status`.
fn status(field: &str) -> Option<String> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(field))?;
    value.split_whitespace().next().map(str::to_owned)
}

fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the name in parentheses, which may contain anything; utime and stime are the 14th and 15th.
    let (_, fields) = stat.rsplit_once(')')?;
    let ticks: f64 = fields.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum();
    Some(ticks / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    #[test]
    fn numbers_are_plausible() {
        for ((_, name, _), read) in super::METRICS {
            let value = read().unwrap_or_else(|| panic!("{name} cannot be read"));
            let least = if name == "process_cpu_seconds" { 0.0 } else { 1.0 };
            assert!(value >= least && value < 1e13, "{name} is {value}");
        }
        assert!(super::resident_bytes().unwrap() > 1e6);
        assert!(super::open_fds() <= super::max_fds());
    }
}
