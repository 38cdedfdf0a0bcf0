//! What is compared: who, between which pods, by which measurements; and the figures that come of it.

use std::fmt;

use clap::ValueEnum;
use serde::{Serialize, Serializer};

/// Those that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Who {
    /// No mesh: the kernel carries the packets.
    Direct,
    Ours,
    Peer,
}

impl Who {
    pub(super) const ALL: [Self; 3] = [Self::Direct, Self::Ours, Self::Peer];

    /// Its name in JSON.
    pub(super) fn id(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Ours => "ours",
            Self::Peer => "peer",
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.id())
    }
}

/// Where the servers are, seen from the client's pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Target {
    /// On the other node
    Far,
    /// On the client's own node
    Near,
}

impl Target {
    /// The pod, and the target's name in JSON.
    pub(super) fn pod(self) -> &'static str {
        match self {
            Self::Far => "far",
            Self::Near => "near",
        }
    }
}

/// One run of a load tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Measurement {
    /// Bytes on one connection, as many as go
    #[value(name = "throughput-1")]
    Stream,
    /// Bytes on eight connections
    #[value(name = "throughput-8")]
    Streams,
    /// 64 bytes to and fro
    RoundTrip,
    /// The same beside bytes on eight connections, as many as go
    UnderLoad,
    /// HTTP requests on kept-alive connections
    Http,
    /// HTTP requests on a connection each
    Connections,
}

impl Measurement {
    pub(super) const ALL: [Self; 6] =
        [Self::Stream, Self::Streams, Self::RoundTrip, Self::UnderLoad, Self::Http, Self::Connections];

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Stream => "throughput, 1 stream",
            Self::Streams => "throughput, 8 streams",
            Self::RoundTrip => "round trip",
            Self::UnderLoad => "round trip, under load",
            Self::Http => "HTTP, kept alive",
            Self::Connections => "new connections",
        }
    }
}

/// One figure: a row of the table. In the order in which they are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Row {
    Throughput1,
    Throughput8,
    CpuPerGigabyte1,
    CpuPerGigabyte8,
    RoundTripMedian,
    RoundTripAdded,
    RoundTripP99,
    RoundTripP999,
    LoadedMedian,
    LoadedP99,
    LoadedToIdle,
    LoadedThroughput,
    Requests,
    RequestP99,
    CpuPerRequest,
    Connections,
    CpuPerConnection,
    MemoryIdle,
    MemoryPeak,
}

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Better {
    Higher,
    Lower,
}

/// How a row looks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    /// Its name in JSON.
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    pub(super) unit: &'static str,
    pub(super) better: Better,
    pub(super) decimals: usize,
}

impl Row {
    pub(super) const ALL: [Self; 19] = [
        Self::Throughput1,
        Self::Throughput8,
        Self::CpuPerGigabyte1,
        Self::CpuPerGigabyte8,
        Self::RoundTripMedian,
        Self::RoundTripAdded,
        Self::RoundTripP99,
        Self::RoundTripP999,
        Self::LoadedMedian,
        Self::LoadedP99,
        Self::LoadedToIdle,
        Self::LoadedThroughput,
        Self::Requests,
        Self::RequestP99,
        Self::CpuPerRequest,
        Self::Connections,
        Self::CpuPerConnection,
        Self::MemoryIdle,
        Self::MemoryPeak,
    ];

    pub(super) fn look(self) -> Look {
        use Better::{Higher, Lower};
        let (id, title, unit, better, decimals) = match self {
            Self::Throughput1 => ("gbps_1", "throughput, 1 stream", "Gb/s", Higher, 2),
            Self::Throughput8 => ("gbps_8", "throughput, 8 streams", "Gb/s", Higher, 2),
            Self::CpuPerGigabyte1 => ("cpu_s_per_gb_1", "agents' CPU, 1 stream", "s/GB", Lower, 3),
            Self::CpuPerGigabyte8 => ("cpu_s_per_gb_8", "agents' CPU, 8 streams", "s/GB", Lower, 3),
            Self::RoundTripMedian => ("rtt_p50_us", "round trip, p50", "us", Lower, 1),
            Self::RoundTripAdded => ("rtt_added_us", "round trip, p50, added", "us", Lower, 1),
            Self::RoundTripP99 => ("rtt_p99_us", "round trip, p99", "us", Lower, 1),
            Self::RoundTripP999 => ("rtt_p999_us", "round trip, p99.9", "us", Lower, 1),
            Self::LoadedMedian => ("loaded_rtt_p50_us", "loaded round trip, p50", "us", Lower, 0),
            Self::LoadedP99 => ("loaded_rtt_p99_us", "loaded round trip, p99", "us", Lower, 0),
            Self::LoadedToIdle => ("loaded_rtt_p99_to_idle", "loaded p99 to idle p99", "x", Lower, 2),
            Self::LoadedThroughput => ("loaded_gbps", "load meanwhile", "Gb/s", Higher, 2),
            Self::Requests => ("http_per_s", "HTTP, kept alive", "req/s", Higher, 0),
            Self::RequestP99 => ("http_p99_us", "HTTP, kept alive, p99", "us", Lower, 0),
            Self::CpuPerRequest => ("cpu_us_per_request", "agents' CPU per request", "us", Lower, 1),
            Self::Connections => ("connections_per_s", "new connections", "conn/s", Higher, 0),
            Self::CpuPerConnection => ("cpu_us_per_connection", "agents' CPU per connection", "us", Lower, 1),
            Self::MemoryIdle => ("rss_idle_mib", "resident, idle", "MiB", Lower, 1),
            Self::MemoryPeak => ("rss_peak_mib", "resident, peak", "MiB", Lower, 1),
        };
        Look { id, title, unit, better, decimals }
    }
}

impl Serialize for Better {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(match self {
            Self::Higher => "higher",
            Self::Lower => "lower",
        })
    }
}
