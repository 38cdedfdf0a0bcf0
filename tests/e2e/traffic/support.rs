//! What the traffic cases share: servers, the proof that a connection went through the mesh, measurements.

use std::fs;
use std::io::{self, ErrorKind, Read};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use mesh_e2e::socket::Ending;
use mesh_e2e::{Agent, Capture, Lab, Line, Log, Namespace, RunningPod, Server, eventually, server, socket};

/// How long a record may take from the end of its connection until it is in the log.
const RECORD: Duration = Duration::from_secs(5);
/// How long anything may take that should happen at once: the machine may be busy.
pub(crate) const SOON: Duration = Duration::from_secs(5);

/// A server that says whom it sees as its client, and then sends back what it gets.
pub(crate) fn mirror(pod: &Namespace, port: u16) -> Result<Server> {
    pod.serve(port, |stream, peer| {
        server::say(stream, &format!("{peer}\n"))?;
        server::echo(stream)
    })
}

/// Reads what [`mirror`] says first.
pub(crate) fn greeting(mut stream: &TcpStream) -> Result<SocketAddr> {
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        stream.read_exact(&mut byte).context("the greeting")?;
        if byte == *b"\n" {
            break;
        }
        line.extend(byte);
    }
    let text = String::from_utf8(line)?;
    text.parse().with_context(|| format!("no address: {text}"))
}

/// IPv4 as such, not in its v4-mapped form.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The address of `pod` that is of the same family as `like`.
pub(super) fn same_family(pod: &RunningPod, like: SocketAddr, port: u16) -> SocketAddr {
    if canonical(like).is_ipv4() { pod.at4(port) } else { pod.at6(port) }
}

/// Nothing that a test does may block for ever.
pub(crate) fn timeouts(stream: &TcpStream, limit: Duration) -> io::Result<()> {
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))
}

/// Connects, with time limits on what follows.
pub(crate) fn connect(from: &Namespace, to: SocketAddr) -> Result<TcpStream> {
    let stream = from.connect(to)?;
    timeouts(&stream, Duration::from_secs(30))?;
    Ok(stream)
}

/// Sends so many bytes to an echo, ends this direction, and gets the same bytes back, and their end.
pub(crate) fn echoed(stream: &TcpStream, length: u64) -> Result<()> {
    let digest = thread::scope(|scope| -> Result<_> {
        let sending = scope.spawn(|| -> Result<()> {
            socket::pattern(&mut &*stream, length)?;
            Ok(stream.shutdown(Shutdown::Write)?)
        });
        let digest = socket::drain(&mut &*stream)?;
        sending.join().map_err(|_| anyhow!("the sender panicked"))??;
        Ok(digest)
    })?;
    ensure!(digest == socket::pattern_digest(length), "other bytes came back");
    Ok(())
}

/// Connects to what can only be refused. The reset may come before `connect` returns, or after it.
pub(crate) fn must_be_reset(from: &Namespace, to: SocketAddr) -> Result<()> {
    let stream = match from.try_connect(to) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(()),
        connected => connected?,
    };
    let ending = socket::ending(&stream, SOON)?;
    ensure!(ending == Ending::Reset, "it ended with {ending:?}");
    Ok(())
}

/// What the wire must show of tunnelled connections, and what not.
pub(crate) fn only_tunnelled(capture: &Capture, secret: &str) -> Result<()> {
    let plain: Vec<String> = capture.plaintext().take(3).map(ToString::to_string).collect();
    ensure!(plain.is_empty(), "plaintext on the wire: {plain:?}");
    ensure!(capture.tunnelled().next().is_some(), "nothing was tunnelled");
    ensure!(capture.showing(secret).next().is_none(), "{secret:?} can be read on the wire");
    let other: Vec<String> = capture.not_tls().iter().take(3).map(ToString::to_string).collect();
    ensure!(other.is_empty(), "a tunnel that does not begin with TLS: {other:?}");
    Ok(())
}

/// What the agents have recorded since this was made.
#[derive(Debug)]
pub(crate) struct Records {
    logs: Vec<(String, Log)>,
}

impl Records {
    /// From here on.
    pub(crate) fn since_now(lab: &Lab) -> Self {
        let logs = lab.nodes().iter().map(|node| (node.name.clone(), node.agent().log().from_now()));
        Self { logs: logs.collect() }
    }

    /// The first record of `node` that is as `wanted` says.
    pub(crate) fn wait(&self, node: &str, wanted: impl Fn(&Line) -> bool) -> Result<Line> {
        let (_, log) = self.logs.iter().find(|(name, _)| name == node).with_context(|| format!("no node {node}"))?;
        let is_record = |line: &Line| line.scope == "access" && !line.message.ends_with("opened");
        log.wait(RECORD, |line| is_record(line) && wanted(line)).with_context(|| format!("no such record of {node}"))
    }

    /// The record of the connection that `client` opened, from the client's node.
    pub(crate) fn outbound(&self, node: &str, client: SocketAddr) -> Result<Line> {
        let client = canonical(client).to_string();
        self.wait(node, |line| line.field("direction") == "outbound" && line.field("src.addr") == client)
    }

    /// The record of a connection that came in plaintext from `client`.
    pub(crate) fn inbound(&self, node: &str, client: SocketAddr) -> Result<Line> {
        let client = canonical(client).to_string();
        self.wait(node, |line| line.field("direction") == "inbound" && line.field("src.addr") == client)
    }

    /// Both records of a connection that went through a tunnel: each shows both identities and the same target.
    pub(crate) fn tunnelled(
        &self,
        (from, client): (&RunningPod, SocketAddr),
        (to, target): (&RunningPod, SocketAddr),
    ) -> Result<[Line; 2]> {
        let target = canonical(target).to_string();
        let outbound = self.outbound(&from.node, client)?;
        let inbound = self.wait(&to.node, |line| {
            line.field("direction") == "inbound"
                && line.field("dst.hbone_addr") == target
                && line.field("src.identity") == from.identity
        })?;
        for line in [&outbound, &inbound] {
            fields(
                line,
                &[
                    ("src.identity", &from.identity),
                    ("dst.identity", &to.identity),
                    ("dst.hbone_addr", &target),
                    ("src.workload", &from.name),
                    ("dst.workload", &to.name),
                ],
            )?;
            ensure!(line.field("dst.addr").ends_with(":15008"), "not tunnelled: {}", line.text);
        }
        Ok([outbound, inbound])
    }

    /// All records of `node` so far.
    pub(crate) fn all(&self, node: &str) -> Vec<Line> {
        self.logs.iter().filter(|(name, _)| name == node).flat_map(|(_, log)| log.access()).collect()
    }
}

/// The record's fields must be as `expected`.
pub(crate) fn fields(line: &Line, expected: &[(&str, &str)]) -> Result<()> {
    for (field, value) in expected {
        ensure!(line.field(field) == *value, "{field} is {:?}, not {value:?}, in {}", line.field(field), line.text);
    }
    Ok(())
}

/// Local ports of the connections to the HBONE port that were dialled in a pod's namespace and are open.
pub(crate) fn tunnel_ports(from: &Namespace) -> Result<Vec<String>> {
    let lines = from.output("ss", ["-Htn", "state", "established", "dport", "=", ":15008"])?;
    // The state is left out of the columns when it is filtered for.
    let local = |line: &str| Some(line.split_whitespace().nth(2)?.rsplit_once(':')?.1.to_owned());
    lines.lines().map(|line| local(line).with_context(|| format!("ss prints {line:?}"))).collect()
}

/// How many tunnels a pod has dialled.
pub(crate) fn tunnels(from: &Namespace) -> Result<usize> {
    Ok(tunnel_ports(from)?.len())
}

/// How many files the agents have open.
pub(super) fn open_files(lab: &Lab) -> Result<[usize; 2]> {
    let of = |agent: &Agent| -> Result<usize> { Ok(fs::read_dir(format!("/proc/{}/fd", pid(agent)?))?.count()) };
    Ok([of(lab.agent("n1"))?, of(lab.agent("n2"))?])
}

/// Resident memory of an agent, in MiB.
pub(super) fn resident_mib(agent: &Agent) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", pid(agent)?))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib >> 10)
}

fn pid(agent: &Agent) -> Result<u32> {
    agent.pid().context("the agent does not run")
}

/// Waits until no agent has an open connection: what one case leaves behind must not count in the next.
pub(crate) fn quiet(lab: &Lab) -> Result<()> {
    eventually(Duration::from_secs(10), || {
        for node in lab.nodes() {
            let open = node.agent().status()?.connections;
            ensure!(open.outbound + open.inbound == 0, "{} still has {open:?}", node.name);
        }
        Ok(())
    })
}

/// Measured times.
#[derive(Debug, Default)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    pub(super) fn push(&mut self, time: Duration) {
        self.0.push(time);
    }

    pub(super) fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// The time that `share` of all (of 100) do not exceed.
    pub(crate) fn percentile(&mut self, share: usize) -> Duration {
        self.0.sort_unstable();
        let at = (self.0.len() * share).div_ceil(100).saturating_sub(1);
        self.0.get(at).copied().unwrap_or_default()
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }
}

/// Round trips of one byte, with pauses as of a quiet application: what is measured is what its neighbours cost it.
pub(crate) fn ping_pong(stream: &TcpStream, during: Duration) -> Result<Times> {
    stream.set_nodelay(true)?;
    let end = Instant::now() + during;
    let mut times = Times::default();
    while Instant::now() < end {
        let start = Instant::now();
        socket::exchange(stream, ".").context("a round trip")?;
        times.push(start.elapsed());
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(times)
}
