//! The measurements: a load tool in the client's pod, and what the agents used meanwhile.

use std::time::Duration;

use anyhow::Result;

use super::contender::{Contender, HTTP, IPERF3, SOCKPERF};
use super::parse;
use super::row::{Measurement, Row, Target};

/// Beside the measured time: start, warm-up, and a machine that has other things to do.
const SLACK: Duration = Duration::from_secs(20);
/// Connections of wrk at a time.
const CONCURRENCY: &str = "-c16";
/// Bytes of a message of sockperf.
const MESSAGE: &str = "64";

/// What a measurement gives.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) values: Vec<(Row, f64)>,
    /// What a reader should know of them.
    pub(super) remark: Option<String>,
}

/// A load: from a contender's client to one target, for so many seconds.
#[derive(Debug)]
pub(super) struct Load<'a> {
    contender: &'a Contender,
    address: String,
    seconds: u32,
}

impl<'a> Load<'a> {
    pub(super) fn new(contender: &'a Contender, target: Target, seconds: u32) -> Self {
        Self { contender, address: contender.address(target), seconds }
    }

    pub(super) fn run(&self, measurement: Measurement) -> Result<Outcome> {
        match measurement {
            Measurement::Stream => self.throughput("1", (Row::Throughput1, Row::CpuPerGigabyte1)),
            Measurement::Streams => self.throughput("8", (Row::Throughput8, Row::CpuPerGigabyte8)),
            Measurement::RoundTrip => self.round_trip(),
            Measurement::Http => self.http(),
            Measurement::Connections => self.connections(),
        }
    }

    fn throughput(&self, streams: &str, (row, cpu): (Row, Row)) -> Result<Outcome> {
        let (port, seconds) = (IPERF3.to_string(), self.seconds.to_string());
        let arguments = ["-J", "-c", &self.address, "-p", &port, "-t", &seconds, "-P", streams];
        let (text, used) = self.measured("iperf3", &arguments)?;
        let seen = parse::iperf3(&text)?;
        let mut values = vec![(row, seen.gigabits_per_second)];
        values.extend(used.map(|used| (cpu, used / seen.gigabytes)));
        Ok(Outcome { values, remark: None })
    }

    fn round_trip(&self) -> Result<Outcome> {
        let (port, seconds) = (SOCKPERF.to_string(), self.seconds.to_string());
        let arguments = ["ping-pong", "--tcp", "-i", &self.address, "-p", &port, "-m", MESSAGE, "-t", &seconds];
        let (text, _) = self.measured("sockperf", &arguments)?;
        let seen = parse::sockperf(&text)?;
        let values = vec![(Row::RoundTripMedian, seen.p50_us), (Row::RoundTripP99, seen.p99_us)];
        Ok(Outcome { values, remark: None })
    }

    fn http(&self) -> Result<Outcome> {
        let (seen, used) = self.wrk(&["--latency"])?;
        let mut values = vec![(Row::Requests, seen.per_second)];
        values.extend(seen.p99_us.map(|p99| (Row::RequestP99, p99)));
        values.extend(used.map(|used| (Row::CpuPerRequest, used * 1e6 / seen.count)));
        Ok(Outcome { values, remark: seen.socket_errors })
    }

    fn connections(&self) -> Result<Outcome> {
        let (seen, used) = self.wrk(&["-H", "Connection: close"])?;
        let mut values = vec![(Row::Connections, seen.per_second)];
        values.extend(used.map(|used| (Row::CpuPerConnection, used * 1e6 / seen.count)));
        Ok(Outcome { values, remark: seen.socket_errors })
    }

    fn wrk(&self, more: &[&str]) -> Result<(parse::Requests, Option<f64>)> {
        let (duration, url) = (format!("-d{}s", self.seconds), format!("http://{}:{HTTP}/", self.address));
        let (text, used) = self.measured("wrk", &[&["-t1", CONCURRENCY, &duration], more, &[&url]].concat())?;
        Ok((parse::wrk(&text)?, used))
    }

    /// Runs a tool; gives what it printed and the seconds of CPU that the agents used meanwhile, if there are any.
    fn measured(&self, tool: &str, arguments: &[&str]) -> Result<(String, Option<f64>)> {
        let limit = 2 * Duration::from_secs(self.seconds.into()) + SLACK;
        let before = self.contender.cpu_seconds()?;
        let text = self.contender.run(tool, arguments, limit)?;
        let used = self.contender.cpu_seconds()? - before;
        Ok((text, self.contender.has_agents().then_some(used)))
    }
}
