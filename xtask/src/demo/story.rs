//! The steps of the demo.

use std::fmt::Write;
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mesh_e2e::{Capture, Lab, Line, Nginx, socket, sweep};

use super::latency::{self, Latency};
use super::screen::Screen;
use crate::lab::shop;

/// What a policy change may take until an open connection is closed.
const REVOCATION: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(5);

/// Denies what was allowed.
const CLOSED: &str = "
    - name: shop-is-closed
      selector: {app: shop}
      action: DENY
      rules: [{}]";

/// The lab and what was seen in it so far.
pub(super) struct Story<'a> {
    screen: &'a Screen,
    lab: Lab,
    _nginx: Nginx,
    /// A connection of the time before the mesh.
    old: Option<TcpStream>,
    without: Option<Latency>,
}

/// How a curl in a pod ended.
struct Curl {
    code: i32,
    text: String,
}

impl<'a> Story<'a> {
    /// Builds the lab, without agents, and draws it.
    pub(super) fn begin(screen: &'a Screen, binary: PathBuf) -> Result<Self> {
        screen.step("The place");
        let lab = Lab::start(shop::topology().binary(binary).without_agents())?;
        let nginx = lab.nginx("shop", shop::PORT, shop::GREETING)?;
        screen.say("Nodes and pods are network namespaces of this machine, joined by a bridge. nginx and curl are");
        screen.say("the real ones, and know nothing of a mesh.\n");
        screen.quote(&shop::picture(&lab));
        Ok(Self { screen, lab, _nginx: nginx, old: None, without: None })
    }

    pub(super) fn tell(&mut self) -> Result<()> {
        self.before()?;
        self.enrolment()?;
        let wire = self.lab.wire("n1")?;
        self.allowed()?;
        self.denied()?;
        self.on_the_wire(&wire.finish()?)?;
        self.revoked()?;
        self.killed()?;
        self.latencies()?;
        self.looking_in()
    }

    /// The logs' ends.
    pub(super) fn logs(&self, lines: usize) -> String {
        self.lab.logs(lines)
    }

    /// Removes the lab, and looks whether anything is left.
    pub(super) fn end(self) -> Result<()> {
        self.screen.step("Everything is removed");
        let (name, screen) = (self.lab.name().to_owned(), self.screen);
        drop(self);
        let left = sweep::leftovers(&name)?;
        ensure!(left.is_empty(), "this is left: {}", left.join(", "));
        screen.passed("No process, namespace, BPF program or mount of the lab is left.");
        Ok(())
    }

    fn before(&mut self) -> Result<()> {
        let Self { screen, lab, .. } = &*self;
        screen.step("Before the mesh: anyone on the way can read along");
        let wire = lab.wire("n1")?;
        let shop = lab.pod("shop").at4(shop::PORT);
        let url = format!("http://{shop}/");
        let answer = self.curl("frontend", &url)?;
        answer.shows(shop::GREETING)?;
        let capture = wire.finish()?;
        let request = capture.showing("GET / HTTP/1.1").next().context("the request was not seen on the wire")?;
        screen.say("\n   tcpdump between the nodes:");
        screen.quote(&format!("{request}: {}", readable(&request.payload)));
        screen.passed(&format!("{} packets, all of them in plaintext.", capture.plaintext().count()));
        screen.say("");
        screen.say(&format!(
            "Measuring for later: {} requests on one connection, {} on one each ...",
            latency::REQUESTS,
            latency::CONNECTIONS
        ));
        let without = latency::measure(lab.pod("frontend"), shop)?;
        let old = lab.pod("frontend").connect(shop)?;
        self.without = Some(without);
        self.old = Some(old);
        Ok(())
    }

    fn enrolment(&mut self) -> Result<()> {
        let old = self.old.take().context("a connection of the time before")?;
        let Self { screen, lab, .. } = &*self;
        screen.step("The agents start");
        screen.say("One on each node. It captures its pods with eBPF inside their namespaces, and fetches a");
        screen.say("certificate for each service account from the authority. No pod is restarted or changed.");
        let start = Instant::now();
        lab.start_agents()?;
        let took = start.elapsed().as_secs_f64();
        screen.passed(&format!("frontend, guest and shop are captured and have certificates, after {took:.2} s."));
        let request = format!("GET / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", lab.pod("shop").v4);
        std::io::Write::write_all(&mut &old, request.as_bytes())?;
        let answer = socket::read_text(&old)?;
        ensure!(answer.ends_with(shop::GREETING), "the old connection answers {answer:?}");
        screen.passed("A connection that was open before still works: nobody was cut off.");
        Ok(())
    }

    fn allowed(&self) -> Result<()> {
        let Self { screen, lab, .. } = self;
        screen.step("Allowed by identity");
        screen.say("The policy of the shop, in Istio's words: only the service account `frontend` may use it.");
        screen.quote(&unindented(shop::POLICY));
        let news = lab.agent("n2").log().from_now();
        let url = format!("http://{}", lab.vip4("shop", shop::SERVICE_PORT).ip());
        self.curl("frontend", &format!("{url}/"))?.shows(shop::GREETING)?;
        let seen = self.curl("frontend", &format!("{url}/whoami"))?;
        seen.shows(&lab.pod("frontend").v4.to_string())?;
        screen.passed("The shop answers, and its nginx sees the address of the pod itself.");
        let line = news.wait(PATIENCE, |line| line.scope == "access")?;
        screen.say("\n   n2's access log:");
        screen.quote(&folded(&line));
        for (field, pod) in [("src.identity", "frontend"), ("dst.identity", "shop")] {
            ensure!(line.field(field) == lab.pod(pod).identity, "{field} is {:?}", line.field(field));
        }
        ensure!(line.field("policy").contains("only-frontend"), "the policy is {:?}", line.field("policy"));
        screen.passed("Both ends are known by their certificates, and the log says which policy let them.");
        Ok(())
    }

    fn denied(&self) -> Result<()> {
        let Self { screen, lab, .. } = self;
        screen.step("Denied by policy");
        let news = lab.agent("n2").log().from_now();
        let answer = self.curl("guest", &format!("http://{}/", lab.vip4("shop", shop::SERVICE_PORT).ip()))?;
        ensure!(answer.code != 0, "the guest was let in: {}", answer.text);
        let line = news.wait(PATIENCE, |line| line.scope == "access" && !line.error().is_empty())?;
        screen.say("\n   n2's access log:");
        screen.quote(&folded(&line));
        ensure!(line.field("src.identity") == lab.pod("guest").identity, "another line: {}", line.text);
        ensure!(line.error().contains("ALLOW policies"), "the reason is {:?}", line.error());
        screen.passed("The guest has a certificate, too, but no policy that allows it.");
        Ok(())
    }

    fn on_the_wire(&self, capture: &Capture) -> Result<()> {
        let Self { screen, lab, .. } = self;
        screen.step("What the wire shows");
        screen.say("tcpdump between the nodes, during the last two steps:\n");
        let first = capture.tunnelled().find(|packet| packet.is_handshake()).context("no TLS handshake was seen")?;
        screen.quote(&format!("{first}: {}", hexadecimal(&first.payload)));
        screen.quote("(16 03 01: a TLS handshake record, the client's hello)\n");
        let (tunnelled, plaintext) = (capture.tunnelled().count(), capture.plaintext().count());
        screen.quote(&format!(
            "{tunnelled:>6} packets of TLS connections to port 15008\n{plaintext:>6} packets in plaintext"
        ));
        ensure!(plaintext == 0, "in plaintext: {}", capture.plaintext().map(ToString::to_string).collect::<String>());
        ensure!(capture.not_tls().is_empty(), "no TLS: {:?}", capture.not_tls().first());
        for text in ["GET /", shop::GREETING.trim()] {
            ensure!(capture.showing(text).next().is_none(), "{text:?} can be read on the wire");
        }
        screen.passed("Neither the request nor its answer can be read.");
        let outside = lab.wire("n1")?;
        screen.say("\nFor contrast, a pod that is not in the mesh:");
        let answer = self.curl("outsider", &format!("http://{}/", lab.pod("shop").at4(shop::PORT)))?;
        ensure!(answer.code != 0, "the outsider was let in: {}", answer.text);
        ensure!(outside.finish()?.plaintext().next().is_some(), "the outsider was not seen on the wire");
        screen.passed("It speaks plaintext, proves no identity, and gets nowhere.");
        Ok(())
    }

    fn revoked(&self) -> Result<()> {
        let Self { screen, lab, .. } = self;
        screen.step("A policy changes under an open connection");
        let stream = lab.pod("frontend").connect(lab.vip4("shop", shop::SERVICE_PORT))?;
        let request = "GET / HTTP/1.1\r\nHost: shop\r\n\r\n";
        std::io::Write::write_all(&mut &stream, request.as_bytes())?;
        ensure!(stream.peek(&mut [0])? == 1, "the shop does not answer");
        let news = lab.agent("n2").log().from_now();
        screen.say("The frontend keeps a connection open. This is added to the nodes' files:");
        screen.quote(&unindented(CLOSED));
        let (closed, ended, changed) = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| (socket::ending(&stream, PATIENCE), Instant::now()));
            let changed = lab.publish(|world| world.authorize(CLOSED));
            let Ok((closed, ended)) = waiting.join() else { bail!("the thread that waits has failed") };
            Ok((closed, ended, changed?))
        })?;
        closed.context("the connection was not closed")?;
        let took = ended.duration_since(changed);
        let line = news.wait(PATIENCE, |line| line.scope == "access" && line.error().contains("policy change"))?;
        screen.say("\n   n2's access log:");
        screen.quote(&folded(&line));
        ensure!(took < REVOCATION, "the connection was closed only after {took:?}");
        screen.passed(&format!("Closed {} ms after the file was written.", took.as_millis()));
        lab.publish(|world| {
            world.clear_policies();
            world.authorize(shop::POLICY);
        })?;
        self.curl("frontend", &format!("http://{}/", lab.vip4("shop", shop::SERVICE_PORT).ip()))?
            .shows(shop::GREETING)?;
        screen.passed("The policy is taken back, and the shop is open again.");
        Ok(())
    }

    fn killed(&self) -> Result<()> {
        let Self { screen, lab, .. } = self;
        screen.step("An agent is killed");
        let url = format!("http://{}/", lab.pod("shop").at4(shop::PORT));
        let wire = lab.wire("n1")?;
        lab.agent("n1").kill()?;
        screen.say("kill -9 on n1. What its eBPF programs captured has nowhere to go:");
        let answer = self.curl("frontend", &url)?;
        ensure!(answer.code != 0, "the request went through: {}", answer.text);
        let plaintext = wire.finish()?.plaintext().count();
        ensure!(plaintext == 0, "{plaintext} packets left in plaintext");
        screen.passed("Packets in plaintext: 0.");
        let start = Instant::now();
        lab.agent("n1").start()?;
        self.curl("frontend", &url)?.shows(shop::GREETING)?;
        screen.passed(&format!("A new agent, and {:.2} s later the shop answers.", start.elapsed().as_secs_f64()));
        Ok(())
    }

    fn latencies(&self) -> Result<()> {
        let Self { screen, lab, .. } = self;
        screen.step("What it costs");
        screen.say("The same requests as before the mesh, between the same pods ...\n");
        let with = latency::measure(lab.pod("frontend"), lab.pod("shop").at4(shop::PORT))?;
        let without = self.without.as_ref().context("a measurement of the time before")?;
        screen.quote(&latency::table(without, &with));
        Ok(())
    }

    fn looking_in(&self) -> Result<()> {
        let Self { screen, lab, .. } = self;
        screen.step("What an agent tells");
        let stream = lab.pod("frontend").connect(lab.vip4("shop", shop::SERVICE_PORT))?;
        std::io::Write::write_all(&mut &stream, b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n")?;
        ensure!(stream.peek(&mut [0])? == 1, "the shop does not answer");
        for verb in ["status", "flows"] {
            screen.command("n2", &format!("mesh-agent ctl {verb}"));
            let output = lab.agent("n2").ctl().arg(verb).output()?;
            ensure!(output.status.success(), "ctl {verb}: {}", String::from_utf8_lossy(&output.stderr));
            screen.quote(&String::from_utf8_lossy(&output.stdout));
        }
        let flows = lab.agent("n2").flows()?;
        let frontend = flows.iter().find(|flow| flow.source.workload.as_deref() == Some("frontend"));
        ensure!(
            frontend.is_some_and(|flow| flow.security == "mutual_tls"),
            "the open connection is not among the flows"
        );
        screen.passed("The frontend's open connection is there, in mutual TLS.");
        Ok(())
    }

    /// Runs curl in a pod, and shows command and answer.
    fn curl(&self, pod: &str, url: &str) -> Result<Curl> {
        self.screen.command(pod, &format!("curl {url}"));
        let output =
            self.lab.pod(pod).command("curl").args(["-sS", "--max-time", "3", "--noproxy", "*", url]).output()?;
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        self.screen.quote(&text);
        Ok(Curl { code: output.status.code().unwrap_or(-1), text: text.into_owned() })
    }
}

impl Curl {
    fn shows(&self, expected: &str) -> Result<()> {
        ensure!(self.code == 0 && self.text.trim() == expected.trim(), "curl: {} (exit code {})", self.text, self.code);
        Ok(())
    }
}

/// A log line without its time, in lines that fit.
fn folded(line: &Line) -> String {
    const WIDTH: usize = 96;
    let (mut text, mut column) = (String::new(), 0);
    for word in line.text.split(['\t', ' ']).skip(1) {
        if column > 0 && column + 1 + word.len() > WIDTH {
            text.push_str("\n   ");
            column = 3;
        }
        let space = if column == 0 { "" } else { " " };
        // Writing to a string cannot fail.
        write!(text, "{space}{word}").unwrap_or_default();
        column += space.len() + word.len();
    }
    text
}

/// The first line of what a packet carries.
fn readable(payload: &[u8]) -> String {
    String::from_utf8_lossy(payload).lines().next().unwrap_or_default().to_owned()
}

fn hexadecimal(payload: &[u8]) -> String {
    let bytes: Vec<String> = payload.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    bytes.join(" ") + " ..."
}

fn unindented(yaml: &str) -> String {
    yaml.lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| line.get(4..).unwrap_or(line))
        .collect::<Vec<_>>()
        .join("\n")
}
