//! A real Envoy in a pod: as a waypoint it ends tunnels, looks at the HTTP inside and opens tunnels of its own; as the
//! gateway of a network it passes on what is inside its tunnels.
//!
//! What it is told is a static configuration with what istiod would give it, as the protocol note describes it (sections
//! 5 and 6), cut down to what is served here.

mod bootstrap;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::authority::Issued;
use crate::eventually::eventually;
use crate::log::{Line, Log};
use crate::namespace::Namespace;
use crate::process::Process;

/// Names the binary when it is not where `cargo xtask setup` puts it.
pub const VARIABLE: &str = "ENVOY_BIN";
/// Where `cargo xtask setup` puts it, from the project's root.
pub const PLACE: &str = "target/tools/envoy/envoy/_bin/envoy";

const START: Duration = Duration::from_secs(20);
/// A line of the access log is written when its stream or connection has ended.
const LOGGED: Duration = Duration::from_secs(5);

/// Where it takes connections.
#[derive(Clone, Debug)]
pub enum Listener {
    /// HBONE on port 15008: what to do with a CONNECT, by its authority. Others get 404.
    Hbone(Vec<(String, Way)>),
    /// HTTP on a port of the loopback address, after a PROXY header as an application tunnel makes it; requests go plainly
    /// to `to`.
    Announced { port: u16, to: SocketAddr },
}

/// What becomes of the bytes inside a CONNECT.
#[derive(Clone, Debug)]
pub enum Way {
    /// They are HTTP; requests go through a tunnel of Envoy's own, answers get a header [`MARK`].
    Http(Tunnel),
    /// They go through a tunnel of Envoy's own as they are.
    Bytes(Tunnel),
    /// They go on plainly: as the gateway of a network does, and as an application would get them.
    Onward(SocketAddr),
}

/// The header by which an answer tells through which Envoy it came.
pub const MARK: &str = "x-through";

/// A tunnel that Envoy opens under its own identity.
#[derive(Clone, Debug)]
pub struct Tunnel {
    /// Where it goes: port 15008 of a pod.
    pub to: SocketAddr,
    /// What it asks for.
    pub authority: String,
    /// Who must be there.
    pub identity: String,
}

/// A running Envoy.
#[derive(Debug)]
pub struct Envoy {
    process: Process,
    access: Log,
}

impl Envoy {
    /// Starts it in `pod` and waits until it listens. `name` is what it marks answers with; its files go to `directory`.
    pub fn start(
        pod: &Namespace,
        name: &str,
        credentials: &Issued,
        listeners: &[Listener],
        directory: &Path,
    ) -> Result<Self> {
        fs::create_dir_all(directory)?;
        let access = Log::at(&directory.join("access")).from_now();
        let file = directory.join("envoy.json");
        fs::write(&file, bootstrap::of(name, credentials, access.path(), listeners).to_string())?;
        let mut command = pod.command(find()?);
        command.arg("--config-path").arg(&file).args(["--log-level", "warning", "--concurrency", "1"]);
        command.args(["--disable-hot-restart", "--file-flush-interval-msec", "20"]);
        let mut process = Process::spawn(&format!("envoy {name}"), &mut command, &directory.join("envoy.log"))?;
        for listener in listeners {
            let port = match listener {
                Listener::Hbone(_) => bootstrap::HBONE_PORT,
                Listener::Announced { port, .. } => *port,
            };
            let itself = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            eventually(START, || {
                process.check_running()?;
                pod.connect(itself).map(drop).context("envoy does not listen")
            })?;
        }
        Ok(Self { process, access })
    }

    /// A line of its access log since its start.
    pub fn wait(&self, wanted: impl Fn(&Line) -> bool) -> Result<Line> {
        self.access.wait(LOGGED, wanted)
    }

    /// What it has logged of streams and requests that have ended.
    pub fn lines(&self) -> Vec<Line> {
        self.access.lines()
    }

    /// Ends it at once.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }
}

/// The binary: what [`VARIABLE`] names, or [`PLACE`] in a directory above the running program.
pub fn find() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(VARIABLE) {
        return Ok(PathBuf::from(path));
    }
    let own = std::env::current_exe().context("the running program's path")?;
    let work = std::env::current_dir().context("the working directory")?;
    let above = own.ancestors().chain(work.ancestors()).map(|directory| directory.join(PLACE));
    match above.into_iter().find(|path| path.is_file()) {
        Some(path) => Ok(path),
        None => bail!("Envoy is not there: `cargo xtask setup` installs it to {PLACE}; or name it in {VARIABLE}"),
    }
}
