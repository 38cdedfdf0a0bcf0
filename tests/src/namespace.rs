//! Running things inside a network namespace.
//!
//! Only the network namespace is entered. `ip netns exec` would also mount another /sys, which hides the BPF file system.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::server::{self, Server};

/// Where iproute2 keeps namespaces by name.
const DIRECTORY: &str = "/run/netns";
/// How long a connection may take that should succeed.
const CONNECT: Duration = Duration::from_secs(10);

/// A network namespace with a name. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Namespace {
    name: String,
    file: Arc<File>,
}

impl Namespace {
    /// Opens an existing one.
    pub fn open(name: &str) -> Result<Self> {
        let path = path(name);
        let file = File::open(&path).with_context(|| format!("network namespace {}", path.display()))?;
        Ok(Self { name: name.to_owned(), file: Arc::new(file) })
    }

    /// The name that `ip netns` shows.
    pub fn netns(&self) -> &str {
        &self.name
    }

    /// The file that stands for the namespace.
    pub fn path(&self) -> PathBuf {
        path(&self.name)
    }

    /// Runs `body` on a thread inside the namespace. Sockets made there stay there and can be used from anywhere.
    ///
    /// # Panics
    ///
    /// When `body` panics, with the same payload, and when the namespace cannot be entered.
    pub fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            self.enter().expect("the namespace can be entered: the lab runs as root");
            body()
        };
        std::thread::scope(|scope| match scope.spawn(inside).join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// Moves the calling thread into the namespace, for good.
    pub(crate) fn enter(&self) -> io::Result<()> {
        Ok(move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))?)
    }

    /// A program to be started inside the namespace. The process keeps its pid: it is the program itself.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }

    /// Runs a program to its end and gives what it printed; its failure is an error with all it said.
    pub fn output<A: AsRef<OsStr>>(&self, program: &str, args: impl IntoIterator<Item = A>) -> Result<String> {
        let output = self.command(program).args(args).output().context("nsenter")?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "{program} in {}: {}: {out}{err}", self.name, output.status);
        Ok(out.into_owned())
    }

    /// Connects from inside.
    pub fn connect(&self, to: SocketAddr) -> Result<TcpStream> {
        self.try_connect(to).with_context(|| format!("connecting from {} to {to}", self.name))
    }

    /// Connects from inside, with the error as the kernel gives it.
    pub fn try_connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        self.run(|| TcpStream::connect_timeout(&to, CONNECT))
    }

    /// Listens inside on all addresses, IPv4 and IPv6, on `port`; 0 lets the kernel choose.
    pub fn listen(&self, port: u16) -> Result<TcpListener> {
        let listener = self.run(|| TcpListener::bind(("::", port)));
        listener.with_context(|| format!("listening on port {port} in {}", self.name))
    }

    /// A server whose `answer` gets each connection, on a thread of its own, with the peer's address.
    pub fn serve(
        &self,
        port: u16,
        answer: impl Fn(&TcpStream, SocketAddr) -> io::Result<()> + Send + Sync + 'static,
    ) -> Result<Server> {
        Server::start(self.listen(port)?, answer)
    }

    /// A server that sends back what it gets, and ends its side when the client ends its own.
    pub fn echo(&self, port: u16) -> Result<Server> {
        self.serve(port, |stream, _| server::echo(stream))
    }

    /// A server that says whom it sees as its client, as `ADDRESS:PORT` and a line feed, and closes.
    pub fn report_peer(&self, port: u16) -> Result<Server> {
        self.serve(port, |stream, peer| server::say(stream, &format!("{peer}\n")))
    }

    /// A server that speaks first: sends `text` on each connection and then echoes.
    pub fn greet(&self, port: u16, text: &str) -> Result<Server> {
        let text = text.to_owned();
        self.serve(port, move |stream, _| server::say(stream, &text).and_then(|()| server::echo(stream)))
    }

    /// A server that reads to the end and then answers with the number of bytes and their [`socket::Digest`] as text.
    ///
    /// [`socket::Digest`]: crate::socket::Digest
    pub fn sink(&self, port: u16) -> Result<Server> {
        self.serve(port, |stream, _| server::sink(stream))
    }

    /// A server that sends `length` bytes of [`socket::pattern`] on each connection and closes.
    ///
    /// [`socket::pattern`]: crate::socket::pattern
    pub fn source(&self, port: u16, length: u64) -> Result<Server> {
        self.serve(port, move |stream, _| crate::socket::pattern(&mut &*stream, length).map(drop))
    }

    /// The value of a sysctl such as `net.ipv4.ip_forward` inside.
    pub fn sysctl(&self, name: &str) -> Result<String> {
        let file = sysctl_file(name);
        let value = self.run(|| fs::read_to_string(&file)).with_context(|| file.clone())?;
        Ok(value.trim().to_owned())
    }

    /// Sets sysctls inside.
    pub fn set_sysctls(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.run(|| {
            settings.iter().try_for_each(|(name, value)| {
                fs::write(sysctl_file(name), value).with_context(|| format!("sysctl {name} in {}", self.name))
            })
        })
    }
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(DIRECTORY).join(name)
}

fn sysctl_file(name: &str) -> String {
    format!("/proc/sys/{}", name.replace('.', "/"))
}
