//! Records of tunnels: what is written is sealed into a buffer, and from the wire opened into the reader's.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use anyhow::{Context as _, Result, bail, ensure};
use mesh_agent::tls::handshake::{accept, connect};
use mesh_agent::tls::stream::Stream;
use rcgen::{CertificateParams, KeyPair};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{PrivatePkcs8KeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{Ask, Case, Portable};

const HOST: &str = "server.example";

pub(crate) fn cases() -> Vec<Case> {
    let case = |name: &str, length: usize, open: bool| {
        let ask = move || if open { sealed_and_opened(length) } else { sealed(length) };
        Case { portable: Portable::No, ..Case::new("record", name, ask) }
    };
    vec![
        case("16 KiB sealed", 16 << 10, false),
        case("16 KiB sealed and opened", 16 << 10, true),
        case("64 bytes sealed", 64, false),
        case("64 bytes sealed and opened", 64, true),
    ]
}

fn sealed(length: usize) -> Result<Ask> {
    let (mut near, _far, wire) = pair()?;
    wire.borrow_mut().closed = true;
    let data = vec![7; length];
    write(&mut near, &data)?;
    Ok(Box::new(move |_| drop(write(&mut near, &data))))
}

fn sealed_and_opened(length: usize) -> Result<Ask> {
    let (mut near, mut far, _) = pair()?;
    let (data, mut back) = (vec![7; length], vec![0; length]);
    write(&mut near, &data)?;
    read(&mut far, &mut back)?;
    ensure!(back == data, "other bytes arrive");
    Ok(Box::new(move |_| drop(write(&mut near, &data).and_then(|()| read(&mut far, &mut back)))))
}

/// One direction of a connection in memory.
#[derive(Debug, Default)]
struct Way {
    bytes: VecDeque<u8>,
    /// What is sent now goes nowhere.
    closed: bool,
}

/// One end of a connection in memory. Nobody is woken: whoever waits is asked again.
struct End {
    to: Rc<RefCell<Way>>,
    from: Rc<RefCell<Way>>,
}

impl AsyncRead for End {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut from = self.from.borrow_mut();
        let (front, _) = from.bytes.as_slices();
        let count = front.len().min(out.remaining());
        if count == 0 {
            return Poll::Pending;
        }
        out.put_slice(&front[..count]);
        from.bytes.drain(..count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for End {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let mut to = self.to.borrow_mut();
        if !to.closed {
            to.bytes.extend(data);
        }
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

type Connection = (Stream<End>, Stream<End>, Rc<RefCell<Way>>);

/// Both ends, and the way from the first to the second.
fn pair() -> Result<Connection> {
    let (client, server) = configs()?;
    let (out, back) = (Rc::<RefCell<Way>>::default(), Rc::<RefCell<Way>>::default());
    let near = End { to: Rc::clone(&out), from: Rc::clone(&back) };
    let far = End { to: back, from: Rc::clone(&out) };
    let name = ServerName::try_from(HOST)?;
    let shaken = finish(async {
        let ends = tokio::try_join!(connect(Arc::new(client), name, near), accept(Arc::new(server), far));
        Ok(ends?)
    });
    let ((near, _), (far, _)) = shaken.context("shaking hands")?;
    Ok((near, far, out))
}

fn write(stream: &mut Stream<End>, data: &[u8]) -> io::Result<()> {
    let cx = &mut Context::from_waker(Waker::noop());
    let mut left = data;
    while !left.is_empty() {
        match Pin::new(&mut *stream).poll_write(cx, left)? {
            Poll::Ready(count) => left = &left[count..],
            Poll::Pending => return Err(io::ErrorKind::WouldBlock.into()),
        }
    }
    match Pin::new(stream).poll_flush(cx) {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

fn read(stream: &mut Stream<End>, out: &mut [u8]) -> io::Result<()> {
    let cx = &mut Context::from_waker(Waker::noop());
    let mut out = ReadBuf::new(out);
    while out.remaining() > 0 {
        match Pin::new(&mut *stream).poll_read(cx, &mut out)? {
            Poll::Ready(()) => {}
            Poll::Pending => return Err(io::ErrorKind::WouldBlock.into()),
        }
    }
    Ok(())
}

/// Runs what only waits for itself.
fn finish<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let mut work = pin!(work);
    let cx = &mut Context::from_waker(Waker::noop());
    for _ in 0..100 {
        if let Poll::Ready(result) = work.as_mut().poll(cx) {
            return result;
        }
    }
    bail!("the handshake does not end")
}

/// Configurations that trust each other.
fn configs() -> Result<(ClientConfig, ServerConfig)> {
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new([HOST.to_owned()])?.self_signed(&key)?;
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone())?;
    let mut client = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut server = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.into()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())?;
    client.enable_secret_extraction = true;
    server.enable_secret_extraction = true;
    Ok((client, server))
}
