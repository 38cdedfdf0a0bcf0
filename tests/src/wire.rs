//! What crosses a link, by tcpdump.

mod pcap;

use std::fmt;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::eventually::until;
use crate::namespace::Namespace;

/// The port that tunnels go to.
pub const HBONE_PORT: u16 = 15008;
/// A datagram to this port marks the end of a capture: what was sent before it has been seen.
const MARK_PORT: u16 = 9;

/// A running capture. Dropping it ends it.
#[derive(Debug)]
pub struct Wire {
    child: Child,
    node: Namespace,
    mark: SocketAddr,
    packets: Arc<Mutex<Vec<Packet>>>,
    reading: Option<JoinHandle<()>>,
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Capture {
    pub packets: Vec<Packet>,
}

/// One IP packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Seconds of the day and microseconds do not matter to tests: time since the epoch.
    pub time: Duration,
    /// Address and port; port 0 for what has none.
    pub source: SocketAddr,
    pub destination: SocketAddr,
    /// 6 is TCP, 17 is UDP.
    pub protocol: u8,
    /// Flags of TCP.
    pub flags: u8,
    /// Bytes of payload on the wire.
    pub length: usize,
    /// The first of them.
    pub payload: Vec<u8>,
}

impl Wire {
    /// Captures on `interface` until finished; `beyond` is any address that is reached through it.
    pub(crate) fn watch(node: &Namespace, interface: &str, beyond: IpAddr) -> Result<Self> {
        let mut command = node.command("tcpdump");
        // Whole frames do not matter, but the first bytes of each segment do. Root keeps its privileges: there is no
        // file to be written.
        command.args(["-i", interface, "-w", "-", "-U", "--immediate-mode", "-s", "400", "-B", "16384", "-Z", "root"]);
        command.args(["ip", "or", "ip6"]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("nsenter")?;
        let (output, errors) = (child.stdout.take().context("a pipe")?, child.stderr.take().context("a pipe")?);
        let mut errors = BufReader::new(errors);
        let mut line = String::new();
        while !line.contains("listening on") {
            line.clear();
            if errors.read_line(&mut line)? == 0 {
                bail!("tcpdump (Debian package tcpdump) does not start: {line}");
            }
        }
        let packets = Arc::<Mutex<Vec<Packet>>>::default();
        let reading = {
            let packets = Arc::clone(&packets);
            let read = move || {
                let _errors = errors;
                pcap::read(output, |packet| packets.lock().unwrap_or_else(PoisonError::into_inner).push(packet));
            };
            std::thread::Builder::new().name("tcpdump".to_owned()).spawn(read)?
        };
        let mark = SocketAddr::new(beyond, MARK_PORT);
        Ok(Self { child, node: node.clone(), mark, packets, reading: Some(reading) })
    }

    /// All packets that were sent or received before this call.
    pub fn finish(mut self) -> Result<Capture> {
        let any = if self.mark.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        self.node.run(|| UdpSocket::bind(any)?.send_to(&[], self.mark)).context("marking the end of the capture")?;
        let marked = |packets: &Mutex<Vec<Packet>>| {
            let packets = packets.lock().unwrap_or_else(PoisonError::into_inner);
            packets.iter().any(|packet| packet.destination == self.mark)
        };
        until(Duration::from_secs(5), "tcpdump has not seen the end", || marked(&self.packets))?;
        self.end();
        let mut packets = std::mem::take(&mut *self.packets.lock().unwrap_or_else(PoisonError::into_inner));
        packets.retain(|packet| packet.destination != self.mark);
        Ok(Capture { packets })
    }

    fn end(&mut self) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It may have ended.
            kill_process(pid, Signal::TERM).ok();
        }
        self.child.wait().ok();
        if let Some(reading) = self.reading.take() {
            reading.join().ok();
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.reading.is_some() {
            self.end();
        }
    }
}

impl Capture {
    /// Packets of a tunnel between pods.
    pub fn tunnelled(&self) -> impl Iterator<Item = &Packet> {
        self.packets.iter().filter(|packet| packet.is_of_pods() && packet.has_port(HBONE_PORT))
    }

    /// TCP and UDP packets from or to pods outside of any tunnel.
    pub fn plaintext(&self) -> impl Iterator<Item = &Packet> {
        let carries = |packet: &&Packet| matches!(packet.protocol, 6 | 17);
        self.packets.iter().filter(carries).filter(|packet| packet.is_of_pods() && !packet.has_port(HBONE_PORT))
    }

    /// Packets in whose first bytes `text` can be read.
    pub fn showing<'a>(&'a self, text: &'a str) -> impl Iterator<Item = &'a Packet> {
        self.packets.iter().filter(|packet| packet.shows(text))
    }

    /// The first segment of each direction of a tunnel whose beginning was seen, if it is not TLS.
    pub fn not_tls(&self) -> Vec<&Packet> {
        let mut started = std::collections::BTreeMap::new();
        for packet in self.tunnelled() {
            let way = (packet.source, packet.destination);
            if packet.flags & pcap::SYN != 0 {
                started.insert(way, None);
            } else if packet.length > 0
                && let Some(first @ None) = started.get_mut(&way)
            {
                *first = Some(packet);
            }
        }
        started.into_values().flatten().filter(|packet| !packet.is_handshake()).collect()
    }
}

impl Packet {
    /// Whether either end has this port.
    pub fn has_port(&self, port: u16) -> bool {
        self.source.port() == port || self.destination.port() == port
    }

    /// Whether `text` can be read in its first bytes.
    pub fn shows(&self, text: &str) -> bool {
        !text.is_empty() && self.payload.windows(text.len()).any(|window| window == text.as_bytes())
    }

    /// Whether it begins with a TLS handshake record.
    pub fn is_handshake(&self) -> bool {
        self.payload.starts_with(&[0x16, 0x03])
    }

    /// Whether it is the first of a TCP connection.
    pub fn opens(&self) -> bool {
        self.protocol == 6 && self.flags & (pcap::SYN | pcap::ACK) == pcap::SYN
    }

    fn is_of_pods(&self) -> bool {
        [self.source.ip(), self.destination.ip()].iter().any(|address| match address {
            IpAddr::V4(v4) => v4.octets().starts_with(&[10, 40]),
            IpAddr::V6(v6) => v6.segments().starts_with(&[0xfd00, 0x40]),
        })
    }
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} > {} {} bytes", self.source, self.destination, self.length)
    }
}
