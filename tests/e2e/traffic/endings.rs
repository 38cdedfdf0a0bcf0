//! Connections end as they would without a mesh: half by half, in order, or with a reset that is seen as one, on the
//! tunnel and on both plain ways. Each check is also done between two pods outside the mesh, to show that it asks for
//! nothing that the kernel itself does not do.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mesh_e2e::socket::{self, Ending};
use mesh_e2e::{Lab, RunningPod, Server};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::support::{Records, SOON, connect, must_be_reset, timeouts};
use super::{APP, MESH};
use crate::runner::Case;

pub(super) const CASES: &[Case] = &[
    Case::shared("half_close_by_client", &MESH, |lab| each_way(lab, half_close_by_client)),
    Case::shared("half_close_by_server", &MESH, |lab| each_way(lab, half_close_by_server)),
    Case::shared("close_right_after_writing", &MESH, |lab| each_way(lab, close_right_after_writing)),
    Case::shared("connection_without_bytes", &MESH, |lab| each_way(lab, without_bytes)),
    Case::shared("reset_by_client", &MESH, |lab| each_way(lab, reset_by_client)),
    Case::shared("reset_by_server", &MESH, |lab| each_way(lab, reset_by_server)),
    Case::shared("bytes_before_a_reset", &MESH, |lab| each_way(lab, last_words)),
    Case::shared("reset_by_client_after_half_close", &MESH, |lab| each_way(lab, reset_by_client_half_closed)),
    Case::shared("reset_by_server_after_half_close", &MESH, |lab| each_way(lab, reset_by_server_half_closed)),
    Case::shared("reset_under_back_pressure", &MESH, |lab| each_way(lab, reset_under_back_pressure)),
    Case::shared("close_with_unread_bytes", &MESH, |lab| each_way(lab, close_with_unread_bytes)),
    Case::shared("connection_refused", &MESH, connection_refused),
];

/// Enough to fill no queue on the way.
const SOME: u64 = 300_000;
/// Enough to fill every queue on the way.
const MUCH: usize = 64 << 20;

/// One kind of connection: through the tunnel, or plainly in or out.
#[derive(Clone, Copy)]
struct Way<'a> {
    name: &'static str,
    from: &'a RunningPod,
    to: &'a RunningPod,
}

impl Way<'_> {
    fn serve<T: Send + 'static>(
        &self,
        answer: impl Fn(&TcpStream) -> Result<T> + Send + Sync + 'static,
    ) -> Result<(Server, Receiver<Result<T>>)> {
        let (done, seen) = channel();
        let server = self.to.serve(APP, move |stream, _| {
            let seen = timeouts(stream, Duration::from_secs(20)).map_err(Into::into).and_then(|()| answer(stream));
            // The test may have failed already.
            done.send(seen).ok();
            Ok(())
        })?;
        Ok((server, seen))
    }

    fn connect(&self) -> Result<TcpStream> {
        connect(self.from, self.address())
    }

    fn address(&self) -> SocketAddr {
        self.to.at4(APP)
    }
}

/// What the server has seen.
fn seen<T>(from: &Receiver<Result<T>>) -> Result<T> {
    from.recv_timeout(SOON).context("the server has seen nothing")?.context("at the server")
}

/// Tries all ways, and tells of all that fail.
fn each_way(lab: &Lab, check: fn(Way<'_>) -> Result<()>) -> Result<()> {
    let ways =
        [("tunnel", "client", "server"), ("plaintext in", "plain", "near"), ("plaintext out", "client", "plain")];
    let mut failures = Vec::new();
    for (name, from, to) in ways {
        let records = Records::since_now(lab);
        let way = Way { name, from: lab.pod(from), to: lab.pod(to) };
        let result = check(way).and_then(|()| recorded(&way, &records));
        failures.extend(result.err().map(|error| format!("{name}: {error:#}")));
    }
    if failures.is_empty() { Ok(()) } else { bail!("{}", failures.join("\n  ")) }
}

/// It did go through the agents, in the way that was meant.
fn recorded(way: &Way<'_>, records: &Records) -> Result<()> {
    let (outbound, inbound) = match way.name {
        "tunnel" => (Some("15008"), Some("15008")),
        "plaintext in" => (None, Some("8080")),
        "plaintext out" => (Some("8080"), None),
        _ => (None, None),
    };
    for (direction, node, port) in [("outbound", &way.from.node, outbound), ("inbound", &way.to.node, inbound)] {
        let Some(port) = port else { continue };
        records.wait(node, |line| line.field("direction") == direction && line.field("dst.addr").ends_with(port))?;
    }
    Ok(())
}

fn half_close_by_client(way: Way<'_>) -> Result<()> {
    let (_server, digest) = way.serve(|mut stream| {
        let digest = socket::drain(&mut stream)?;
        std::thread::sleep(Duration::from_millis(300));
        socket::pattern(&mut stream, SOME)?;
        Ok(digest)
    })?;
    let mut stream = way.connect()?;
    let sent = socket::pattern(&mut stream, SOME)?;
    stream.shutdown(Shutdown::Write)?;
    let received = socket::drain(&mut stream).context("after the half close")?;
    ensure!(seen(&digest)? == sent, "other bytes arrived at the server");
    ensure!(received == socket::pattern_digest(SOME), "other bytes arrived at the client: {received}");
    Ok(())
}

fn half_close_by_server(way: Way<'_>) -> Result<()> {
    let (_server, digest) = way.serve(|mut stream| {
        socket::pattern(&mut stream, SOME)?;
        stream.shutdown(Shutdown::Write)?;
        Ok(socket::drain(&mut stream)?)
    })?;
    let mut stream = way.connect()?;
    let received = socket::drain(&mut stream)?;
    ensure!(received == socket::pattern_digest(SOME), "other bytes arrived at the client: {received}");
    std::thread::sleep(Duration::from_millis(300));
    let sent = socket::pattern(&mut stream, SOME).context("writing after the server's half close")?;
    drop(stream);
    ensure!(seen(&digest)? == sent, "other bytes arrived at the server");
    Ok(())
}

/// What was written before an orderly close is not lost, though nobody waits for it.
fn close_right_after_writing(way: Way<'_>) -> Result<()> {
    const LENGTH: u64 = 8 << 20;
    let (server, digest) = way.serve(|mut stream| Ok(socket::drain(&mut stream)?))?;
    let mut stream = way.connect()?;
    let sent = socket::pattern(&mut stream, LENGTH)?;
    drop(stream);
    ensure!(seen(&digest)? == sent, "other bytes arrived at the server");
    drop(server);
    let _server = way.to.source(APP, LENGTH)?;
    let mut stream = way.connect()?;
    ensure!(socket::drain(&mut stream)? == sent, "other bytes arrived at the client");
    Ok(())
}

fn without_bytes(way: Way<'_>) -> Result<()> {
    let (_server, digest) = way.serve(|mut stream| Ok(socket::drain(&mut stream)?))?;
    let stream = way.connect()?;
    drop(stream);
    ensure!(seen(&digest)?.bytes == 0, "bytes from nowhere");
    Ok(())
}

fn reset_by_client(way: Way<'_>) -> Result<()> {
    let (_server, ending) = way.serve(|stream| {
        socket::exchange(stream, "hello")?;
        Ok(socket::ending(stream, SOON)?)
    })?;
    let stream = way.connect()?;
    socket::exchange(&stream, "hello")?;
    socket::reset(stream)?;
    let ending = seen(&ending)?;
    ensure!(ending == Ending::Reset, "the server saw {ending:?}");
    Ok(())
}

fn reset_by_server(way: Way<'_>) -> Result<()> {
    let (_server, _done) = way.serve(|mut stream| {
        socket::exchange(stream, "hello")?;
        // The client has everything by now.
        stream.read_exact(&mut [0; 1])?;
        Ok(rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO))?)
    })?;
    let mut stream = way.connect()?;
    socket::exchange(&stream, "hello")?;
    stream.write_all(b"!")?;
    let ending = socket::ending(&stream, SOON)?;
    ensure!(ending == Ending::Reset, "the client saw {ending:?}");
    Ok(())
}

/// What was written long enough before a reset that the kernel has sent it arrives: a server's last word is often an
/// error message, and its close a reset, because it has not read all of the request.
fn last_words(way: Way<'_>) -> Result<()> {
    const TRIES: usize = 200;
    let (_server, _done) = way.serve(|mut stream| {
        stream.read_exact(&mut [0; 1])?;
        stream.write_all(b"error: too long")?;
        Ok(rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO))?)
    })?;
    let mut lost = 0;
    for _ in 0..TRIES {
        let mut stream = way.connect()?;
        stream.write_all(b"?")?;
        let mut words = Vec::new();
        let error = stream.read_to_end(&mut words).err().map(|error| error.kind());
        ensure!(error == Some(ErrorKind::ConnectionReset), "the client saw {error:?}");
        lost += usize::from(words != b"error: too long");
    }
    ensure!(lost == 0, "in {lost} of {TRIES} connections the bytes before the reset were lost");
    Ok(())
}

/// The server has seen the client's end, and waits for nothing from it; it must still learn that its own bytes have
/// nowhere to go.
fn reset_by_client_half_closed(way: Way<'_>) -> Result<()> {
    let (ended, has_ended) = channel();
    let (_server, broken) = way.serve(move |mut stream| {
        stream.write_all(b"hello")?;
        ensure!(socket::drain(&mut stream)?.bytes == 0, "bytes from nowhere");
        ended.send(())?;
        fault(stream)
    })?;
    let mut stream = way.connect()?;
    stream.read_exact(&mut [0; 5])?;
    stream.shutdown(Shutdown::Write)?;
    has_ended.recv_timeout(SOON).context("the server has not seen the half close")?;
    socket::reset(stream)?;
    seen(&broken)
}

fn reset_by_server_half_closed(way: Way<'_>) -> Result<()> {
    let (go, gone) = channel::<()>();
    let gone = std::sync::Mutex::new(gone);
    let (_server, _done) = way.serve(move |stream| {
        socket::exchange(stream, "hello")?;
        stream.shutdown(Shutdown::Write)?;
        gone.lock().map_err(|_| anyhow::anyhow!("a server before this one panicked"))?.recv_timeout(SOON)?;
        Ok(rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO))?)
    })?;
    let mut stream = way.connect()?;
    socket::exchange(&stream, "hello")?;
    ensure!(socket::drain(&mut stream)?.bytes == 0, "bytes from nowhere");
    go.send(())?;
    fault(&stream)
}

/// Waits until the kernel reports an error of the connection, without reading or writing.
fn fault(stream: &TcpStream) -> Result<()> {
    let limit = Timespec::try_from(SOON)?;
    let mut watched = [PollFd::new(stream, PollFlags::empty())];
    let reported = poll(&mut watched, Some(&limit))?;
    ensure!(reported > 0, "a reset of the other side was not noticed within {SOON:?}");
    let error = stream.take_error()?;
    ensure!(error.is_some(), "the connection is over ({:?}), but not with an error", watched[0].revents());
    Ok(())
}

/// A writer that waits for room learns that there will never be any.
fn reset_under_back_pressure(way: Way<'_>) -> Result<()> {
    let (server, written) = way.serve(|mut stream| {
        stream.read_exact(&mut [0; 1])?;
        Ok(stream.write_all(&vec![7; MUCH]).err().map(|error| error.kind()))
    })?;
    let mut stream = way.connect()?;
    stream.write_all(b"g")?;
    std::thread::sleep(Duration::from_millis(700));
    socket::reset(stream)?;
    let error = seen(&written)?;
    ensure!(error.is_some_and(is_break), "the server's write ended with {error:?}");
    drop(server);
    let (_server, _done) = way.serve(|stream| {
        std::thread::sleep(Duration::from_millis(700));
        Ok(rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO))?)
    })?;
    let mut stream = way.connect()?;
    let error = stream.write_all(&vec![7; MUCH]).err().map(|error| error.kind());
    ensure!(error.is_some_and(is_break), "the client's write ended with {error:?}");
    Ok(())
}

fn is_break(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

/// TCP resets when bytes are thrown away unread: the other side must not take that for an orderly end.
fn close_with_unread_bytes(way: Way<'_>) -> Result<()> {
    let (server, ending) = way.serve(|mut stream| {
        stream.write_all(b"never read")?;
        Ok(socket::ending(stream, SOON)?)
    })?;
    let stream = way.connect()?;
    stream.peek(&mut [0; 1])?;
    drop(stream);
    let ending = seen(&ending)?;
    ensure!(ending == Ending::Reset, "the server saw {ending:?}");
    drop(server);
    let (_server, _done) = way.serve(|stream| Ok(stream.peek(&mut [0; 1])?))?;
    let mut stream = way.connect()?;
    stream.write_all(b"never read")?;
    let ending = socket::ending(&stream, SOON)?;
    ensure!(ending == Ending::Reset, "the client saw {ending:?}");
    Ok(())
}

/// Nobody listens. The client is connected by then, so it gets a reset, and the log says why.
fn connection_refused(lab: &Lab) -> Result<()> {
    for (from, to) in [("client", "server"), ("plain", "near"), ("client", "plain")] {
        let (from, to) = (lab.pod(from), lab.pod(to));
        for address in [to.at4(APP), to.at6(APP)] {
            let records = Records::since_now(lab);
            must_be_reset(from, address).with_context(|| format!("{} to {address}", from.name))?;
            let node = if to.name == "plain" { &from.node } else { &to.node };
            records.wait(node, |line| line.error().contains("refused")).with_context(|| format!("to {address}"))?;
        }
    }
    Ok(())
}
