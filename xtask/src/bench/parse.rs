//! What the load tools print, read.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// What iperf3 measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Throughput {
    pub(super) gigabits_per_second: f64,
    /// Received in all, in 10^9 bytes.
    pub(super) gigabytes: f64,
}

/// What sockperf measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct RoundTrip {
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    pub(super) p999_us: f64,
}

/// What wrk measured.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Requests {
    pub(super) count: f64,
    pub(super) per_second: f64,
    /// With `--latency` only.
    pub(super) p99_us: Option<f64>,
    /// Connections that broke, in wrk's words.
    pub(super) socket_errors: Option<String>,
}

/// `iperf3 -J`, as the client prints it. Its exit code does not tell a failure, its document does.
pub(super) fn iperf3(text: &str) -> Result<Throughput> {
    let start = text.find('{').with_context(|| said("iperf3", text))?;
    let document: Value = serde_json::from_str(text.get(start..).unwrap_or_default()).context("iperf3's JSON")?;
    if let Some(error) = document.get("error").and_then(Value::as_str) {
        bail!("iperf3: {error}");
    }
    let received = |field: &str| {
        let value = document.pointer(&format!("/end/sum_received/{field}")).and_then(Value::as_f64);
        value.with_context(|| format!("iperf3 does not tell {field}"))
    };
    let throughput =
        Throughput { gigabits_per_second: received("bits_per_second")? / 1e9, gigabytes: received("bytes")? / 1e9 };
    ensure!(throughput.gigabytes > 0.0, "iperf3: nothing was received");
    Ok(throughput)
}

/// `sockperf ping-pong`. It shows half of each round trip.
pub(super) fn sockperf(text: &str) -> Result<RoundTrip> {
    let percentile = |name: &str| {
        let line = text.lines().find(|line| line.contains(&format!("percentile {name}")));
        let half = line.and_then(|line| line.rsplit_once('=')).and_then(|(_, value)| value.trim().parse::<f64>().ok());
        half.map(|half| 2.0 * half).with_context(|| said("sockperf", text))
    };
    Ok(RoundTrip { p50_us: percentile("50.000")?, p99_us: percentile("99.000")?, p999_us: percentile("99.900")? })
}

/// `wrk`, with or without `--latency`.
pub(super) fn wrk(text: &str) -> Result<Requests> {
    let lines = || text.lines().map(str::trim);
    let after = |prefix: &str| lines().find_map(|line| line.strip_prefix(prefix)).map(str::trim);
    let per_second = after("Requests/sec:").and_then(|value| value.parse().ok());
    let count = lines().find_map(|line| line.split_once(" requests in ")?.0.parse::<f64>().ok());
    let (Some(per_second), Some(count)) = (per_second, count) else { bail!(said("wrk", text)) };
    let socket_errors = after("Socket errors:").map(str::to_owned);
    if let Some(refused) = after("Non-2xx or 3xx responses:") {
        bail!("wrk: {refused} of {count} answers are no success");
    }
    ensure!(count > 0.0, "wrk: no answer at all; socket errors: {}", socket_errors.as_deref().unwrap_or("none"));
    Ok(Requests { count, per_second, p99_us: after("99%").and_then(microseconds), socket_errors })
}

/// A time as wrk writes it: `226.00us`, `1.27ms`, `2.01s`, `1.50m`.
fn microseconds(text: &str) -> Option<f64> {
    let (number, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic())?);
    let factor = match unit {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        "m" => 60e6,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * factor)
}

/// A failure in the tool's own words: the last line that it printed.
fn said(tool: &str, text: &str) -> String {
    let last = text.lines().map(str::trim).rfind(|line| !line.is_empty());
    format!("{tool}: {}", last.unwrap_or("it printed nothing"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure<T: std::fmt::Debug>(result: Result<T>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn throughput_is_what_was_received() {
        let seen = iperf3(include_str!("samples/iperf3.json")).unwrap();
        assert_eq!(seen.gigabytes, 2.526_937_088);
        assert!((seen.gigabits_per_second - 20.2041).abs() < 1e-4, "{seen:?}");
    }

    #[test]
    fn a_failed_iperf3_says_why() {
        let refused = iperf3(include_str!("samples/iperf3-refused.json"));
        assert_eq!(failure(refused), "iperf3: unable to connect to server: Connection refused");
        assert_eq!(failure(iperf3("iperf3: not found\n")), "iperf3: iperf3: not found");
        assert_eq!(failure(iperf3("{\"end\": {}}")), "iperf3 does not tell bits_per_second");
    }

    #[test]
    fn a_round_trip_is_twice_what_sockperf_shows() {
        let round_trip = sockperf(include_str!("samples/sockperf.txt")).unwrap();
        let expected = RoundTrip { p50_us: 2.0 * 7.776, p99_us: 2.0 * 22.633, p999_us: 2.0 * 2648.84 };
        assert_eq!(round_trip, expected);
    }

    #[test]
    fn a_failed_sockperf_says_why() {
        let refused = failure(sockperf(include_str!("samples/sockperf-refused.txt")));
        assert!(refused.ends_with("Can`t connect socket (errno=111 Connection refused)"), "{refused}");
        assert_eq!(failure(sockperf("")), "sockperf: it printed nothing");
    }

    #[test]
    fn requests_with_and_without_latencies() {
        let kept = wrk(include_str!("samples/wrk.txt")).unwrap();
        let expected = Requests { count: 48072.0, per_second: 47920.24, p99_us: Some(6880.0), socket_errors: None };
        assert_eq!(kept, expected);
        let closed = wrk(include_str!("samples/wrk-close.txt")).unwrap();
        assert_eq!(closed, Requests { count: 10497.0, per_second: 10366.22, p99_us: None, socket_errors: None });
    }

    #[test]
    fn broken_connections_are_told() {
        let text = include_str!("samples/wrk.txt");
        let text = text.replace("Requests/sec", "  Socket errors: connect 0, read 7, write 0, timeout 1\nRequests/sec");
        let errors = wrk(&text).unwrap().socket_errors;
        assert_eq!(errors.as_deref(), Some("connect 0, read 7, write 0, timeout 1"));
    }

    #[test]
    fn answers_that_are_none_do_not_count() {
        let unavailable = failure(wrk(include_str!("samples/wrk-unavailable.txt")));
        assert!(unavailable.ends_with("answers are no success"), "{unavailable}");
        let closed = failure(wrk(include_str!("samples/wrk-closed.txt")));
        assert!(closed.contains("no answer at all; socket errors: connect 0, read "), "{closed}");
        let refused = failure(wrk("unable to connect to 127.0.0.1:18081 Connection refused\n"));
        assert_eq!(refused, "wrk: unable to connect to 127.0.0.1:18081 Connection refused");
    }

    #[test]
    fn units_of_wrk() {
        for (text, expected) in [("226.00us", 226.0), ("1.27ms", 1270.0), ("2.50s", 2.5e6), ("1.50m", 90e6)] {
            assert_eq!(microseconds(text), Some(expected), "{text}");
        }
        assert_eq!(microseconds("0.00"), None);
    }
}
