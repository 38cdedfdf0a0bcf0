//! The API server from the machine's own network namespace, for people and their tools: a loopback port that leads to it.
//! Nothing of that namespace is changed.

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};

use anyhow::{Context, Result};

use crate::namespace::Namespace;
use crate::server::Server;

/// A port of 127.0.0.1 that leads to `to`, as seen from `host`, until the server is dropped.
pub(super) fn open(host: &Namespace, to: SocketAddr) -> Result<Server> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("a loopback port")?;
    let host = host.clone();
    Server::start(listener, move |client, _| {
        let server = host.try_connect(to)?;
        std::thread::scope(|scope| {
            scope.spawn(|| carry(client, &server));
            carry(&server, client);
        });
        Ok(())
    })
}

/// One direction, to its end.
fn carry(mut from: &TcpStream, mut to: &TcpStream) {
    // Either side may reset the connection; the other learns it as an end.
    io::copy(&mut from, &mut to).ok();
    to.shutdown(Shutdown::Write).ok();
}
