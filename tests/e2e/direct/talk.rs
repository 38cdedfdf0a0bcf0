//! How the cases get a direct connection: the first one of two pods is the agent's.

use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mesh_e2e::documents::Flow;
use mesh_e2e::socket::{Ending, ending, exchange};
use mesh_e2e::{Lab, Namespace, Server, World};

use super::APP;
use crate::runner::say;
use crate::traffic::support::mirror;

/// How long anything may take that should come at once.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// What the mesh promises.
pub(super) const PROMISE: Duration = Duration::from_secs(1);

/// A connection that works, and how it is carried.
pub(super) fn open(lab: &Lab, client: &str, to: SocketAddr) -> Result<(TcpStream, String)> {
    let stream = lab.pod(client).connect(to)?;
    works(&stream)?;
    let own = stream.local_addr()?.to_string();
    let flow = shown(lab, |flow| flow.source.address == own)?;
    Ok((stream, flow.security))
}

/// The first live flow of the node that is as `wanted` says.
fn shown(lab: &Lab, wanted: impl Fn(&Flow) -> bool) -> Result<Flow> {
    mesh_e2e::eventually(PATIENCE, || {
        let flows = lab.agent("n1").flows()?;
        flows.into_iter().find(|flow| wanted(flow)).context("no such flow is shown")
    })
}

/// A connection that the kernel carries.
pub(super) fn direct(lab: &Lab, client: &str, to: SocketAddr) -> Result<TcpStream> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (stream, security) = open(lab, client, to)?;
        match &*security {
            "direct" => return Ok(stream),
            "local" => ensure!(Instant::now() < deadline, "connections to {to} are still the agent's"),
            other => bail!("a connection to {to} goes by {other:?}"),
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// Has the next connections of alice to the server carried by the kernel, and gives the server that they meet: a mirror.
pub(super) fn mirrored(lab: &Lab, to: SocketAddr) -> Result<Server> {
    let server = lab.pod("server");
    let echo = server.echo(APP)?;
    drop(direct(lab, "alice", to)?);
    drop(echo);
    mirror(server, APP)
}

pub(super) fn works(stream: &TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    ensure!(exchange(stream, "hello").context("the connection")? == "hello", "other bytes came back");
    Ok(())
}

/// Publishes `change`: it must end the stream within the promised time.
pub(super) fn ended_by(lab: &Lab, stream: &TcpStream, change: impl FnOnce(&mut World)) -> Result<()> {
    ended_after(stream, || lab.publish(change))
}

/// What happens at the time that `change` gives must end the stream within the promised time.
pub(super) fn ended_after(stream: &TcpStream, change: impl FnOnce() -> Result<Instant>) -> Result<()> {
    let (end, when, at) = thread::scope(|scope| -> Result<_> {
        let watch = scope.spawn(|| (ending(stream, PATIENCE), Instant::now()));
        let at = change()?;
        let (end, when) = watch.join().map_err(|_| anyhow::anyhow!("the watching thread panicked"))?;
        Ok((end.context("the connection")?, when, at))
    })?;
    let time = when.saturating_duration_since(at);
    say(format_args!("    ended after {time:?}"));
    ensure!(end == Ending::Reset, "it was closed as if it were complete");
    ensure!(time < PROMISE, "ended after {time:?}");
    Ok(())
}

/// A new connection gets nowhere.
pub(super) fn refused(from: &Namespace, to: SocketAddr) -> Result<()> {
    let Ok(stream) = from.connect(to) else { return Ok(()) };
    let end = ending(&stream, PATIENCE)?;
    ensure!(end == Ending::Reset, "a new connection ends with {end:?}");
    Ok(())
}
