//! TCP servers on threads, which end when they are dropped.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::{Builder, JoinHandle};

use anyhow::{Context, Result};

use crate::socket::{CHUNK, drain};

/// Enough for what answers do, and little enough for thousands at once.
const STACK: usize = 128 << 10;

/// A running server.
#[derive(Debug)]
pub struct Server {
    listener: Arc<TcpListener>,
    port: u16,
    open: Arc<Open>,
    accepting: Option<JoinHandle<()>>,
}

/// What the server has accepted.
#[derive(Debug, Default)]
struct Open {
    streams: Mutex<Vec<Weak<TcpStream>>>,
    accepted: AtomicU64,
}

impl Server {
    /// Accepts on `listener` until dropped.
    pub fn start(
        listener: TcpListener,
        answer: impl Fn(&TcpStream, SocketAddr) -> io::Result<()> + Send + Sync + 'static,
    ) -> Result<Self> {
        let port = listener.local_addr().context("a listener has an address")?.port();
        let (listener, open) = (Arc::new(listener), Arc::<Open>::default());
        let accepting = {
            let (listener, open) = (Arc::clone(&listener), Arc::clone(&open));
            let accept = move || accept(&listener, &open, &Arc::new(answer));
            Builder::new().name(format!("accept-{port}")).spawn(accept).context("starting a thread")?
        };
        Ok(Self { listener, port, open, accepting: Some(accepting) })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> u64 {
        self.open.accepted.load(Ordering::Relaxed)
    }

    /// Connections that are being answered.
    pub fn open(&self) -> usize {
        self.open.streams().iter().filter(|stream| stream.strong_count() > 0).count()
    }

    /// Resets all open connections; the server goes on.
    pub fn reset_all(&self) {
        for stream in self.open.take() {
            // Dissolving an association resets it. One that has ended meanwhile cannot be reset, and need not be.
            rustix::net::connect_unspec(&*stream).ok();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Shutting a listener down wakes the thread that accepts on it.
        rustix::net::shutdown(&*self.listener, rustix::net::Shutdown::Both).ok();
        for stream in self.open.take() {
            stream.shutdown(Shutdown::Both).ok();
        }
        if let Some(accepting) = self.accepting.take() {
            accepting.join().ok();
        }
    }
}

impl Open {
    fn streams(&self) -> std::sync::MutexGuard<'_, Vec<Weak<TcpStream>>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Vec<Arc<TcpStream>> {
        self.streams().drain(..).filter_map(|stream| stream.upgrade()).collect()
    }

    fn note(&self, stream: &Arc<TcpStream>) {
        let mut streams = self.streams();
        if streams.len() % 256 == 255 {
            streams.retain(|stream| stream.strong_count() > 0);
        }
        streams.push(Arc::downgrade(stream));
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }
}

fn accept<F>(listener: &TcpListener, open: &Open, answer: &Arc<F>)
where
    F: Fn(&TcpStream, SocketAddr) -> io::Result<()> + Send + Sync + 'static,
{
    loop {
        let (stream, peer) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            // The listener was shut down.
            Err(_) => return,
        };
        let (stream, answer) = (Arc::new(stream), Arc::clone(answer));
        open.note(&stream);
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        // Errors of a connection are what the test provokes; it looks at them from the client's side.
        let body = move || drop(answer(&stream, peer));
        if Builder::new().name("answer".to_owned()).stack_size(STACK).spawn(body).is_err() {
            return;
        }
    }
}

/// Sends back what comes until the other side ends.
pub fn echo(mut stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; CHUNK];
    loop {
        match stream.read(&mut buffer)? {
            0 => return stream.shutdown(Shutdown::Write),
            length => stream.write_all(buffer.get(..length).unwrap_or_default())?,
        }
    }
}

/// Sends a text.
pub fn say(mut stream: &TcpStream, text: &str) -> io::Result<()> {
    stream.write_all(text.as_bytes())
}

/// Reads to the end and answers with the digest of what came.
pub fn sink(mut stream: &TcpStream) -> io::Result<()> {
    let digest = drain(&mut stream)?;
    stream.write_all(digest.to_string().as_bytes())
}
