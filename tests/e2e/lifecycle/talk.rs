//! What these cases say over a connection, and how they change who is enrolled.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_e2e::socket::exchange;
use mesh_e2e::{Membership, Namespace, World};

/// How long an answer may take that should come at once.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// Changes the world so that the named pods are enrolled.
pub(crate) fn enrol(names: &'static [&'static str]) -> impl FnOnce(&mut World) {
    move |world| names.iter().for_each(|name| world.pod(name).membership = Membership::Enrolled)
}

/// Changes the world so that the named pods are known, but no longer enrolled.
pub(crate) fn leave(names: &'static [&'static str]) -> impl FnOnce(&mut World) {
    move |world| names.iter().for_each(|name| world.pod(name).membership = Membership::Plain)
}

/// A connection to an echo server that works.
pub(crate) fn open(from: &Namespace, to: SocketAddr) -> Result<TcpStream> {
    let stream = from.connect(to)?;
    alive(&stream)?;
    Ok(stream)
}

/// Fails unless the echo server still answers.
pub(crate) fn alive(stream: &TcpStream) -> Result<()> {
    says(stream, "are you there?")
}

/// Sends a text and gets it back.
pub(crate) fn says(stream: &TcpStream, text: &str) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let echo = exchange(stream, text).with_context(|| format!("the connection to {:?}", stream.peer_addr()))?;
    ensure!(echo == text, "other bytes came back: {echo:?}");
    Ok(())
}

/// Connects within `limit`, and gets an answer.
pub(crate) fn try_open(from: &Namespace, to: SocketAddr, limit: Duration) -> Result<TcpStream> {
    let stream = from.run(|| TcpStream::connect_timeout(&to, limit))?;
    stream.set_read_timeout(Some(limit))?;
    ensure!(exchange(&stream, "hello?")? == "hello?", "other bytes came back");
    Ok(stream)
}
