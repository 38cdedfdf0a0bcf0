//! The measurements: a load tool in the client's pod, and what the agents used meanwhile.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};

use super::contender::{Contender, HTTP, IPERF3, SOCKPERF};
use super::parse;
use super::row::{Measurement, Row, Target};

/// Beside the measured time: start, warm-up, and a machine that has other things to do.
const SLACK: Duration = Duration::from_secs(20);
/// Connections of wrk at a time.
const CONCURRENCY: &str = "-c16";
/// Bytes of a message of sockperf.
const MESSAGE: &str = "64";
/// Until a load of bytes is at its height.
const ASCENT: Duration = Duration::from_secs(1);
/// How much longer than a round trip's measurement such a load lasts: the ascent, and the tool's start and warm-up.
const BESIDE: u32 = 4;

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
            Measurement::UnderLoad => self.under_load(),
            Measurement::Http => self.http(),
            Measurement::Connections => self.connections(),
        }
    }

    fn throughput(&self, streams: &str, (row, cpu): (Row, Row)) -> Result<Outcome> {
        let arguments = self.iperf3(self.seconds, streams);
        let (text, used) = self.measured("iperf3", &arguments.each_ref().map(String::as_str))?;
        let seen = parse::iperf3(&text)?;
        let mut values = vec![(row, seen.gigabits_per_second)];
        values.extend(used.map(|used| (cpu, used / seen.gigabytes)));
        Ok(Outcome { values, remark: None })
    }

    /// The arguments of its client.
    fn iperf3(&self, seconds: u32, streams: &str) -> [String; 9] {
        let (port, seconds) = (IPERF3.to_string(), seconds.to_string());
        ["-J", "-c", &self.address, "-p", &port, "-t", &seconds, "-P", streams].map(str::to_owned)
    }

    fn round_trip(&self) -> Result<Outcome> {
        let seen = self.sockperf()?;
        let values =
            [(Row::RoundTripMedian, seen.p50_us), (Row::RoundTripP99, seen.p99_us), (Row::RoundTripP999, seen.p999_us)];
        Ok(Outcome { values: values.into(), remark: None })
    }

    /// Undisturbed right before, so that the machine is the same to both.
    fn under_load(&self) -> Result<Outcome> {
        let idle = self.sockperf()?;
        let arguments = self.iperf3(self.seconds + BESIDE, "8");
        let mut bulk = self.contender.spawn("iperf3", &arguments.each_ref().map(String::as_str))?;
        sleep(ASCENT);
        let seen = self.sockperf()?;
        bulk.check_running().context("the load did not last as long as the round trips")?;
        bulk.wait(self.limit())?;
        let meanwhile = parse::iperf3(&bulk.log().text())?;
        let values = [
            (Row::LoadedMedian, seen.p50_us),
            (Row::LoadedP99, seen.p99_us),
            (Row::LoadedToIdle, seen.p99_us / idle.p99_us),
            (Row::LoadedThroughput, meanwhile.gigabits_per_second),
        ];
        Ok(Outcome { values: values.into(), remark: None })
    }

    fn sockperf(&self) -> Result<parse::RoundTrip> {
        let (port, seconds) = (SOCKPERF.to_string(), self.seconds.to_string());
        let arguments = ["ping-pong", "--tcp", "-i", &self.address, "-p", &port, "-m", MESSAGE, "-t", &seconds];
        parse::sockperf(&self.contender.run("sockperf", &arguments, self.limit())?)
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
        let before = self.contender.cpu_seconds()?;
        let text = self.contender.run(tool, arguments, self.limit())?;
        let used = self.contender.cpu_seconds()? - before;
        Ok((text, self.contender.has_agents().then_some(used)))
    }

    /// How long a tool may take.
    fn limit(&self) -> Duration {
        2 * Duration::from_secs(self.seconds.into()) + SLACK
    }
}
